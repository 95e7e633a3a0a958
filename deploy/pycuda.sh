#!/bin/sh
# Builds pycuda against the CUDA of this Jetson; several minutes on a Nano, once.
#   sh deploy/pycuda.sh FOLDER      (a virtual environment)
# Not by a plain 'pip install pycuda': 2022.1 is the last for Python 3.6, and its own build pins an old numpy that pip
# would then compile from source.
set -eu
python=$1/bin/python
"$python" -c 'import pycuda.driver' 2>/dev/null && exit 0
cuda=${CUDA_ROOT:-/usr/local/cuda}
[ -x "$cuda/bin/nvcc" ] || { echo "No CUDA compiler in $cuda: sudo apt install nvidia-jetpack, then again."; exit 0; }
pip="$python -m pip --disable-pip-version-check -q"
if "$python" -c 'import sys; sys.exit(sys.version_info >= (3, 7))'; then
  pycuda=pycuda==2022.1 pytools="pytools<2022"
else
  pycuda=pycuda pytools=pytools
fi
$pip install "$pytools" mako appdirs platformdirs
CUDA_ROOT=$cuda PATH=$cuda/bin:$PATH $pip install --no-build-isolation --no-deps "$pycuda"
