#!/bin/sh
# Make NVIDIA's real TensorRT Python bindings import on a machine without TensorRT, CUDA or a GPU.
#
#   sh hollow_libraries.sh .../tensorrt_bindings/tensorrt.so FOLDER
#   LD_LIBRARY_PATH=FOLDER python -c "import tensorrt_bindings"
#
# Writes FOLDER/libnvinfer.so.N and the others that the module needs; every function in them returns 0.
# Works: enums, classes, docstrings. Does not: Builder() and Runtime().
set -eu
module=$1
out=$2
mkdir -p "$out"
# What the module leaves undefined, less versioned system symbols (name@GLIBC...), Python's and the C runtime's.
nm -D --undefined-only "$module" | awk '{print $NF}' |
    grep -vE '@|^_?Py|^__gmon|^_ITM|^(__)?pthread|^dl(open|close|sym|error)$' |
    while read -r symbol; do
        printf '.globl %s\n.type %s,@function\n%s: xorl %%eax,%%eax\nret\n' "$symbol" "$symbol" "$symbol"
    done >"$out/hollow.s"
printf '.section .note.GNU-stack,"",@progbits\n' >>"$out/hollow.s"
for library in $(readelf -d "$module" | sed -n 's/.*\[\(libnv.*\)\]/\1/p'); do
    gcc -shared -o "$out/$library" -Wl,-soname,"$library" "$out/hollow.s"
done
