#!/bin/sh
# Everything that needs an NVIDIA GPU: kernels against NumPy, leaks, engine, timings, compute-sanitizer.
#
#   sh tests/gpu/run.sh                      all steps
#   sh tests/gpu/run.sh STEP...              some of them, in this order:
#       install     what is missing of pycuda and TensorRT-RTX, from build/gpu/pack (see pack.sh) or from PyPI
#       tests       kernels, detector, leaks; nothing else on the GPU disturbs them
#       engine      FP16 by TensorRT with its parity gate, the whole detector with it, and which targets run here
#       measure     timings and free memory; wants the GPU for itself
#       sanitizers  memcheck with leaks, racecheck, synccheck
#
# Results in build/gpu (OUT names another folder). Each step has its own time limit, and a step that fails does not
# keep the next from running. Needs python3 (3.8 or later) with numpy, pytest, onnx, onnxruntime, PyYAML and OpenCV,
# and nvcc or NVRTC. EDGE_APP_GPU_SITE: folder of what is installed. Without a GPU it says so and succeeds.
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
out=${OUT:-build/gpu}
site=${EDGE_APP_GPU_SITE:-$PWD/build/gpu/site}
pack=build/gpu/pack
mkdir -p "$out" "$site/parts"

if ! nvidia-smi -L >/dev/null 2>&1; then
    echo "*******************************************************************************"
    echo "* No NVIDIA GPU here: the CUDA path was NOT tested on a GPU and NOT measured. *"
    echo "* 'make test' runs it on the CPU instead. On a GPU: make gpu-test.            *"
    echo "*******************************************************************************"
    exit 0
fi
nvidia-smi --query-gpu=name,driver_version,memory.used,utilization.gpu --format=csv,noheader || true
PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
EDGE_APP_GPU_TEST=1
PYTHONUNBUFFERED=1
PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
export PYTHONPATH EDGE_APP_GPU_TEST PYTHONUNBUFFERED PYTEST_DISABLE_PLUGIN_AUTOLOAD

missing() { ! "$python" -c "import $1" >/dev/null 2>&1; }
unpacked() { for wheel in "$@"; do "$python" -m zipfile -e "$wheel" "$site"; done; }
from_pypi() { "$python" -m pip install -q --disable-pip-version-check --target "$site" "$@"; }
importable() { # importable MODULE: say so, or why not
    "$python" -c "import $1 as it; print('$1', getattr(it, '__version__', ''), it.__file__)" 2>&1 | tail -n 1
}

packed_rtx() { # when all its parts have arrived, in however many transfers
    for part in "$pack"/*/rtx.[0-9]; do [ ! -e "$part" ] || cp "$part" "$site/parts/"; done
    [ ! -e "$pack/1/rtx.sha256" ] || cp "$pack/1/rtx.sha256" "$site/parts/"
    cat "$site/parts"/rtx.[0-9] >"$site/parts/all.tar" 2>/dev/null || true
    if [ "$(sha256sum "$site/parts/all.tar" | cut -d" " -f1)" = "$(cat "$site/parts/rtx.sha256" 2>/dev/null)" ]; then
        tar -C "$site/parts" -xf "$site/parts/all.tar"
        unpacked "$site/parts"/*.whl
        rm "$site/parts"/*
    else
        rm "$site/parts/all.tar"
        echo "TensorRT-RTX: $(ls "$site/parts" | grep -c '^rtx.[0-9]') parts are here, others are to come"
    fi
}

install() {
    if [ -d "$pack" ] || [ -n "$(ls "$site/parts")" ]; then
        if missing pycuda.driver && [ -d "$pack/1" ]; then unpacked "$pack"/1/*.whl; fi
        if missing tensorrt && missing tensorrt_rtx; then packed_rtx; fi
    else
        if missing pycuda.driver; then from_pypi pycuda || true; fi
        if missing tensorrt && missing tensorrt_rtx; then from_pypi tensorrt-rtx-cu12==1.7.1.116 || true; fi
    fi
    importable pycuda.driver
    missing tensorrt || importable tensorrt
    importable tensorrt_rtx
    cc -shared -fPIC -O1 -o "$site/ledger.so" tests/gpu/ledger.c -ldl || echo "no cc: allocations are not counted"
}

status=0
step() { # step NAME SECONDS COMMAND...: run it, keep its output, go on after a failure
    name=$1 limit=$2
    shift 2
    echo "== $name (at most $limit s)"
    started=$(date +%s)
    if timeout -k 10 "$limit" "$@" >"$out/$name.log" 2>&1; then
        tail -n 15 "$out/$name.log"
        echo "== $name: $(($(date +%s) - started)) s"
    else
        code=$?
        status=1
        tail -n 60 "$out/$name.log"
        echo "== $name FAILED with $code after $(($(date +%s) - started)) s (124: it ran out of time)"
    fi
}
gpu_pytest() { # gpu_pytest -k WHICH...: warnings of the machine's own libraries are only shown
    set -- "$python" -m pytest -q -rs -m gpu -W default -p no:cacheprovider --durations=5 "$@" tests/gpu
    [ ! -e "$site/ledger.so" ] || set -- env LD_PRELOAD="$site/ledger.so" "$@"
    step "$label" "$limit" "$@"
}
sanitizer() { # sanitizer TOOL WHICH OPTIONS...
    tool=$1 which=$2
    shift 2
    step "$tool" 75 compute-sanitizer --tool "$tool" --error-exitcode 9 --launch-timeout 60 "$@" \
        "$python" -m pytest -q -m gpu -W default -p no:cacheprovider -k "$which" tests/gpu
}

do_step() {
    case $1 in
    install) install 2>&1 | tee "$out/install.log" ;;
    tests) label=tests limit=240 && gpu_pytest -k "not sanitized and not engine and not alone" ;;
    engine)
        label=engine limit=120 && gpu_pytest -s -k "engine and not alone"
        missing tensorrt_rtx || step targets 100 "$python" tests/gpu/targets.py
        ;;
    measure)
        step measure 200 "$python" tests/gpu/measure.py
        label=alone limit=90 && gpu_pytest -k alone
        cat "$out/measure.log"
        ;;
    sanitizers)
        if command -v compute-sanitizer >/dev/null; then
            sanitizer memcheck sanitized --leak-check full
            sanitizer racecheck sanitized_kernels
            sanitizer synccheck sanitized_kernels
        else
            echo "== compute-sanitizer is not here: NOT RUN"
        fi
        ;;
    *) echo "run.sh: no step $1: install, tests, engine, measure, sanitizers" && exit 2 ;;
    esac
}
for wanted in ${*:-install tests engine measure sanitizers}; do do_step "$wanted"; done
[ "$status" != 0 ] || echo "== nothing failed; what was left out is said above; measure.log is for docs/results.md"
exit "$status"
