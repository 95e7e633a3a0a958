"""Compile a CUDA C file into a host library that runs its kernels on the CPU (Python 3.6+, g++).

    python3 cuda_cpu.py nms.cu LIBRARY          prints the kernels in it

Every __global__ function K gets two C entry points; both return NULL or the text of an error:
    K__launch(unsigned grid[3], unsigned block[3], unsigned dynamic_bytes, int order, void** pointers)
    K__packed(unsigned grid[3], unsigned block[3], unsigned dynamic_bytes, int order, void* packed)
The first is for ctypes, the second for libcuda.c (pycuda hands its arguments over packed).
"""

import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
FLAGS = ("-std=c++14", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-ffp-contract=off", "-I", HERE)

ENTRY_POINTS = """
struct {name}__arguments {{ {fields} }};
extern "C" const char* {name}__launch(const unsigned* g, const unsigned* b, unsigned bytes, int order, void** a) {{
    return emu::launch(dim3(g[0], g[1], g[2]), dim3(b[0], b[1], b[2]), bytes, order,
                       [=] {{ {name}({by_pointer}); }});
}}
extern "C" const char* {name}__packed(const unsigned* g, const unsigned* b, unsigned bytes, int order, void* p) {{
    {name}__arguments* a = ({name}__arguments*)p;
    return emu::launch(dim3(g[0], g[1], g[2]), dim3(b[0], b[1], b[2]), bytes, order,
                       [=] {{ {name}({by_field}); }});
}}
"""


def find_kernels(source):
    """[(name, [argument type, ...]), ...] of every __global__ function in the text."""
    code = re.sub(r"/\*.*?\*/|//[^\n]*", " ", source, flags=re.S)
    code = re.sub(r"__launch_bounds__\s*\([^)]*\)", " ", code)
    kernels = []
    for name, arguments in re.findall(r"__global__\s+void\s+(\w+)\s*\(([^)]*)\)\s*\{", code):
        kernels.append((name, [_type_of(a) for a in arguments.split(",") if a.strip()]))
    if not kernels:
        raise ValueError("no __global__ function with a body found")
    return kernels


def _type_of(argument):
    return re.sub(r"\w+\s*$", "", argument.replace("__restrict__", " ").strip()).strip()


def host_source(source, name):
    """(the .cu text as C++ followed by the entry points, names of the kernels).

    ``extern __shared__ T x[];`` becomes a pointer to the block's dynamic memory.
    """
    kernels = find_kernels(source)
    body = re.sub(
        r"extern\s+__shared__\s+([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;",
        r"\1* const \2 = (\1*)emu::dyn;",
        source,
    )
    parts = ['#include "cuda_cpu.h"', '#line 1 "{}"'.format(name), body]
    for kernel, types in kernels:
        parts.append(
            ENTRY_POINTS.format(
                name=kernel,
                fields=" ".join("{} f{};".format(t, i) for i, t in enumerate(types)),
                by_pointer=", ".join("*({}*)a[{}]".format(t, i) for i, t in enumerate(types)),
                by_field=", ".join("a->f{}".format(i) for i in range(len(types))),
            )
        )
    return "\n".join(parts), [kernel for kernel, _ in kernels]


def build(cu, library):
    """Compile ``cu`` (a path) into ``library``; return the names of its kernels.

    Raises:
        ValueError: it holds no kernel, or does not compile; the message is the compiler's.
    """
    with open(cu, encoding="utf-8") as file:
        text, kernels = host_source(file.read(), os.path.basename(cu))
    host = library + ".cpp"
    with open(host, "w", encoding="utf-8") as file:
        file.write(text)
    command = ["g++", "-O1", "-g", "-fPIC", "-shared"] + list(FLAGS)
    run = subprocess.run(
        command + ["-o", library, host, os.path.join(HERE, "cuda_cpu.cpp")],
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    if run.returncode:
        raise ValueError(run.stderr)
    return kernels


if __name__ == "__main__":
    print(*build(sys.argv[1], sys.argv[2]))
