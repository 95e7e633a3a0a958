#!/bin/sh
# Makes or refreshes a virtual environment; does nothing when it is up to date.
#   sh deploy/venv.sh PYTHON FOLDER REQUIREMENTS...
# Names ending in gstreamer*.txt may fail to build: the program then goes on without GStreamer, and says so; the next run
# tries again.
set -eu
python=$1 folder=$2
shift 2

# Each list that is installed leaves its sum in $folder/ready.
stamp() { cat deploy/venv.sh setup.cfg "$1" | sha256sum | cut -d' ' -f1; }
missing=
for requirements in "$@"; do
  grep -qs "$(stamp "$requirements")" "$folder/ready" || missing="$missing $requirements"
done
[ -z "$missing" ] && exit 0

echo "Preparing $folder with $($python --version 2>&1)"
own=
[ -e /etc/nv_tegra_release ] && own=--system-site-packages # JetPack's numpy, cv2, gi and tensorrt
# shellcheck disable=SC2086  # nothing, or one word
[ -x "$folder/bin/python" ] || "$python" -m venv $own "$folder"
pip="$folder/bin/python -m pip --disable-pip-version-check -q"
if "$folder/bin/python" -c 'import sys; sys.exit(sys.version_info >= (3, 7))'; then
  # pip 18 of Python 3.6 cannot see manylinux2014 wheels, and newer build tools do not run there.
  $pip install pip==21.3.1 setuptools==59.6.0 wheel==0.37.1
  pip="$pip --no-python-version-warning"
  build=--no-build-isolation
else
  $pip install "setuptools<81" wheel
  build=
fi
installed=
for requirements in $missing; do
  case $requirements in
    *gstreamer*)
      # One after the other: PyGObject looks for an installed pycairo when it builds.
      # shellcheck disable=SC2086
      sed 's/#.*//;/^$/d' "$requirements" | { while read -r one; do
        $pip install $build "$one" || exit 1
      done; } >"$folder/gstreamer.log" 2>&1 || {
        echo "PyGObject did not build (see $folder/gstreamer.log): without it there is no CSI camera and no RTSP."
        continue
      } ;;
    *) $pip install --prefer-binary -r "$requirements" ;;
  esac
  installed="$installed $requirements"
done
$pip install --no-deps --no-build-isolation -e .
[ -e /etc/nv_tegra_release ] || "$folder/bin/python" -c 'import cv2' 2>/dev/null || {
  echo "opencv-python does not load here (no libGL?): taking opencv-python-headless, which has no window."
  $pip uninstall -y opencv-python
  $pip install --prefer-binary opencv-python-headless
}
for requirements in $installed; do stamp "$requirements" >>"$folder/ready"; done
