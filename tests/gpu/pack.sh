#!/bin/sh
# Pack what a GPU machine without a network lacks for run.sh, in folders small enough to travel one at a time.
#
#   sh tests/gpu/pack.sh [PYTHON]    an interpreter of the GPU machine's version (default python3.12), x86-64
#
# Makes build/gpu/pack/1, 2, 3. In 1: pycuda, compiled here, and its helpers, a few MB; in 1, 2 and 3 a part each
# of TensorRT-RTX. Take the repository and folder 1 there, then 2, then 3, and run "sh tests/gpu/run.sh install" each
# time (EDGE_APP_GPU_SITE names a folder that outlives the transfers). NVIDIA's wheels are for development and
# are not to be passed on.
set -eu
cd "$(dirname "$0")/../.."
python=${1:-python3.12}
pack=build/gpu/pack
part_bytes=32000000
rm -rf "$pack" build/gpu/venv
mkdir -p "$pack/1" "$pack/all"
"$python" -m venv build/gpu/venv
venv=build/gpu/venv/bin/python
$venv -m pip install -q --disable-pip-version-check numpy setuptools wheel
sh tests/nvidia/setup.sh "$venv"
cache=${EDGE_APP_CACHE:-build/nvidia}
tag=$($venv -c "import sys; print('cp{}{}'.format(*sys.version_info[:2]))")
cp "$cache"/wheels/pycuda-*-"$tag"-*.whl "$pack/1/"
$venv -m pip download -q --disable-pip-version-check --no-deps -d "$pack/1" \
    pytools mako markupsafe platformdirs siphash24 pyyaml typing-extensions
rtx=1.7.1.116
$venv -m pip download -q --disable-pip-version-check --no-deps -d "$pack/all" \
    tensorrt-rtx-cu12-bindings==$rtx tensorrt-rtx-cu12-libs==$rtx
$venv -m pip wheel -q --disable-pip-version-check --no-deps -w "$pack/all" tensorrt-rtx-cu12==$rtx
tar -C "$pack/all" -cf "$pack/all.tar" .
split -b $part_bytes -d -a 1 "$pack/all.tar" "$pack/rtx."
parts=0
for part in "$pack"/rtx.*; do
    parts=$((parts + 1))
    mkdir -p "$pack/$parts"
    mv "$part" "$pack/$parts/"
done
sha256sum "$pack/all.tar" | cut -d" " -f1 >"$pack/1/rtx.sha256"
rm -r "$pack/all" "$pack/all.tar"
du -sh "$pack"/*
