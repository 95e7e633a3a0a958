#!/bin/sh
# Pack what a GPU machine without a network needs for run.sh, in two folders of less than 64 MiB each.
#
#   sh tests/gpu/pack.sh PYTHON      an interpreter of the GPU machine's version (default python3.12), x86-64
#
# Take the repository and build/gpu/pack/1 there, then build/gpu/pack/2, then run tests/gpu/run.sh. In 1: pycuda,
# compiled here, its helpers, and half of TensorRT-RTX; in 2 the other half and its bindings. NVIDIA's wheels are for
# development and are not to be passed on.
set -eu
cd "$(dirname "$0")/../.."
python=${1:-python3.12}
pack=build/gpu/pack
rm -rf "$pack" build/gpu/venv
mkdir -p "$pack/1" "$pack/2"
"$python" -m venv build/gpu/venv
venv=build/gpu/venv/bin/python
$venv -m pip install -q --disable-pip-version-check numpy setuptools wheel
sh tests/nvidia/setup.sh "$venv"
cache=${EDGE_APP_CACHE:-build/nvidia}
tag=$($venv -c "import sys; print('cp{}{}'.format(*sys.version_info[:2]))")
cp "$cache"/wheels/pycuda-*-"$tag"-*.whl "$pack/1/"
$venv -m pip download -q --disable-pip-version-check --no-deps -d "$pack/1" \
    pytools mako markupsafe platformdirs siphash24 pyyaml
rtx=1.7.1.116
$venv -m pip download -q --disable-pip-version-check --no-deps -d "$pack/2" tensorrt-rtx-cu12-bindings==$rtx
$venv -m pip wheel -q --disable-pip-version-check --no-deps -w "$pack/2" tensorrt-rtx-cu12==$rtx
$venv -m pip download -q --disable-pip-version-check --no-deps -d "$pack" tensorrt-rtx-cu12-libs==$rtx
libs=$(ls "$pack"/tensorrt_rtx_cu12_libs-*.whl)
basename "$libs" >"$pack/1/rtx.name"
split -n 2 -d "$libs" "$pack/half."
mv "$pack/half.00" "$pack/1/rtx.part"
mv "$pack/half.01" "$pack/2/rtx.part"
rm "$libs"
du -sh "$pack/1" "$pack/2"
