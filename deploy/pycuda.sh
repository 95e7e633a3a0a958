#!/bin/sh
# Makes pycuda, built against the CUDA of this Jetson, visible in a virtual environment; several minutes on a Nano, once.
#   sh deploy/pycuda.sh FOLDER      (a virtual environment)
# How it is built, and of which versions: deploy/provision.sh.
set -eu
folder=$(cd "$1" && pwd)
python=$folder/bin/python
"$python" -c 'import pycuda.driver' 2>/dev/null && exit 0
cuda=${CUDA_ROOT:-/usr/local/cuda}
[ -x "$cuda/bin/nvcc" ] || { echo "No CUDA compiler in $cuda: sudo apt install nvidia-jetpack, then again."; exit 0; }
PYTHON=$python sh "$(dirname "$0")/provision.sh" pycuda "$folder/pycuda"
echo "$folder/pycuda" >"$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/pycuda.pth"
