#!/bin/sh
# Everything that needs an NVIDIA GPU: kernels against NumPy, leaks, compute-sanitizer, engine, timings.
#
#   sh tests/gpu/run.sh              results in build/gpu (OUT names another folder)
#
# Needs python3 (3.8 or later) with numpy, pytest, onnx, onnxruntime, PyYAML and OpenCV, and nvcc or NVRTC. What is
# missing of pycuda and TensorRT-RTX is taken from build/gpu/pack (see pack.sh) or, without that, from PyPI.
# Without a GPU it says so and succeeds.
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
out=${OUT:-build/gpu}
site=$PWD/build/gpu/site
mkdir -p "$out" "$site"

if ! nvidia-smi -L >/dev/null 2>&1; then
    echo "*******************************************************************************"
    echo "* No NVIDIA GPU here: the CUDA path was NOT tested on a GPU and NOT measured. *"
    echo "* 'make test' runs it on the CPU instead. On a GPU: make gpu-test.            *"
    echo "*******************************************************************************"
    exit 0
fi
nvidia-smi -L

missing() { ! PYTHONPATH=$site "$python" -c "import $1" >/dev/null 2>&1; }
install() { "$python" -m pip install -q --disable-pip-version-check --no-deps --upgrade --target "$site" "$@"; }
pack=build/gpu/pack
if [ -d "$pack/1" ]; then
    [ -e "$pack/1/rtx.part" ] && [ -e "$pack/2/rtx.part" ] &&
        cat "$pack/1/rtx.part" "$pack/2/rtx.part" >"$pack/$(cat "$pack/1/rtx.name")"
    missing pycuda && install "$pack"/1/*.whl
    missing tensorrt_rtx && install "$pack"/2/*.whl "$pack"/*.whl
else
    missing pycuda && "$python" -m pip install -q --target "$site" pycuda
    missing tensorrt_rtx && "$python" -m pip install -q --target "$site" tensorrt-rtx-cu12==1.7.1.116
fi
PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
EDGE_APP_GPU_TEST=1
export PYTHONPATH EDGE_APP_GPU_TEST

status=0
step() { # step NAME COMMAND...: run it, keep its output, go on after a failure
    name=$1
    shift
    echo "== $name"
    if "$@" >"$out/$name.log" 2>&1; then tail -n 12 "$out/$name.log"; else
        status=1
        tail -n 60 "$out/$name.log"
        echo "== $name FAILED"
    fi
}
step tests "$python" -m pytest -q -rs -m gpu tests/gpu
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck synccheck; do
        step "$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 --launch-timeout 120 \
            "$python" -m pytest -q -m gpu -k sanitized tests/gpu
    done
else
    echo "== compute-sanitizer is not here: NOT RUN"
fi
step measure "$python" tests/gpu/measure.py
[ "$status" = 0 ] && echo "== all passed; $out/measure.log belongs into docs/results.md"
exit "$status"
