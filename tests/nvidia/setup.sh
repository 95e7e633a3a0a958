#!/bin/sh
# Fetch and build what the tests in this folder need of NVIDIA's software, for one interpreter; no GPU, no driver.
#
#   sh tests/nvidia/setup.sh PYTHON          (the interpreter of a virtual environment that has numpy)
#
# Everything lands in build/nvidia (EDGE_APP_CACHE names another folder) and is kept: a second run only looks.
#   toolkit/             NVRTC 11.8, ptxas 11.8 and the CUDA headers, from NVIDIA's wheels
#   cpXY/site/           the real pycuda, compiled here against a stand-in libcuda: 2022.1 on Python 3.6, else 2026.1
#   cpXY/bindings-V/     NVIDIA's TensorRT binding wheel V, alone: 8.6.1 on Python 3.6, else 10.3.0 and 11.4.0.106
#   cpXY/rtx/            TensorRT-RTX (not on Python 3.6)
# The wheels are NVIDIA's: for development, never to be passed on.
set -eu
python=$1
here=$(cd "$(dirname "$0")" && pwd)
cache=${EDGE_APP_CACHE:-$here/../../build/nvidia}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
tag=$("$python" -c "import sys; print('cp{}{}'.format(*sys.version_info[:2]))")
own=$cache/$tag
mkdir -p "$own" "$cache/wheels"
exec 9>"$cache/.lock"
flock 9                                          # several processes of a suite may start together

target() {  # target FOLDER REQUIREMENT...: install once, whole or not at all
    folder=$1
    shift
    [ -e "$folder.done" ] && return
    rm -rf "$folder"
    "$python" -m pip install -q --disable-pip-version-check --no-deps --target "$folder" "$@"
    touch "$folder.done"
}

target "$cache/toolkit" nvidia-cuda-nvrtc-cu11==11.8.89 nvidia-cuda-nvcc-cu11==11.8.89 \
    nvidia-cuda-runtime-cu11==11.8.89 nvidia-cuda-profiler-api-cu11==11.8.86
cuda=$cache/toolkit/nvidia/cuda_runtime
cp -n "$cache/toolkit"/nvidia/cuda_profiler_api/include/*.h "$cuda/include/"
chmod +x "$cache/toolkit/nvidia/cuda_nvcc/bin/ptxas"

exec 9>"$own/.lock"                              # what follows is this interpreter's: the other need not wait
flock 9
if [ "$tag" = cp36 ]; then
    pycuda=pycuda==2022.1
    builders="pip==21.3.1 setuptools==59.6.0 wheel numpy<1.20"
    helpers="pytools<2022 mako<1.2 markupsafe<2.1 appdirs dataclasses"
else
    pycuda=pycuda==2026.1
    builders="setuptools wheel numpy"
    helpers="pytools mako markupsafe platformdirs siphash24"
fi
wheel() { ls "$cache/wheels/pycuda-${pycuda#*==}-$tag-"*.whl 2>/dev/null | head -n 1; }
if [ -z "$(wheel)" ]; then                       # half a minute to a minute of compiling
    "$python" -m venv "$own/builder"
    for builder in $builders; do                 # pip first: the 18.1 of Python 3.6 cannot see newer wheels
        "$own/builder/bin/pip" install -q --disable-pip-version-check "$builder"
    done
    mkdir -p "$own/home"
    "$python" "$here/standin/libcuda.py" "$own/lib"
    cat >"$own/home/.aksetup-defaults.py" <<X
CUDA_ROOT = "$cuda"
CUDA_ENABLE_CURAND = False
CUDADRV_LIB_DIR = ["$own/lib"]
CXXFLAGS = ["-O1", "-w"]
X
    # Without --no-build-isolation pip would compile numpy 1.12.1 first on Python 3.6, for ten minutes.
    HOME=$own/home "$own/builder/bin/pip" wheel -q --disable-pip-version-check \
        --no-build-isolation --no-deps -w "$cache/wheels" "$pycuda"
    rm -rf "$own/builder" "$own/home"
fi
# shellcheck disable=SC2086
target "$own/site" "$(wheel)" $helpers

if [ "$tag" = cp36 ]; then
    target "$own/bindings-8.6.1" tensorrt-bindings==8.6.1
else
    target "$own/bindings-10.3.0" tensorrt-cu12-bindings==10.3.0
    target "$own/bindings-11.4.0.106" tensorrt-cu12-bindings==11.4.0.106
    rtx=1.7.1.116
    target "$own/rtx" tensorrt-rtx-cu12==$rtx tensorrt-rtx-cu12-libs==$rtx tensorrt-rtx-cu12-bindings==$rtx
fi
echo "$own"
