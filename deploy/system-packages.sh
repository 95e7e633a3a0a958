#!/bin/sh
# Installs what pip cannot: GStreamer, its Python binding's headers, the screen for tests.
#   sh deploy/system-packages.sh run      what the program needs
#   sh deploy/system-packages.sh test     and what its tests need besides
#   sh deploy/system-packages.sh test-device   and an emulated Nano
# Without root or apt it says what is missing and goes on: the program then reads files and USB cameras by OpenCV.
set -eu

run="python3-venv libgl1 libglib2.0-0 python3-dev python3-gi gcc pkg-config libgirepository1.0-dev libcairo2-dev
 gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good
 gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly gstreamer1.0-libav gir1.2-gst-rtsp-server-1.0"
test="g++ libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev xvfb chromium
 mosquitto openssl faketime systemd-container mmdebstrap rsync openssh-client iproute2 procps fdisk e2fsprogs"

device="qemu-system-arm qemu-system-x86 ipxe-qemu qemu-user-static binfmt-support fdisk e2fsprogs cpio kmod device-tree-compiler"

case "${1:-run}" in
  run) wanted=$run ;;
  test) wanted="$run $test" ;;
  test-device) wanted="$run $test $device" ;;
  *) echo "usage: $0 run|test|test-device" >&2; exit 64 ;;
esac

command -v dpkg-query >/dev/null || { echo "No dpkg here: install by hand what corresponds to: $wanted"; exit 0; }
missing=
for package in $wanted; do
  # A package may have been renamed (libglib2.0-0t64): what provides it counts.
  dpkg-query -W -f '${Status} ${Provides}\n' "$package" "${package}t64" 2>/dev/null | grep -q '^install ok installed' ||
    missing="$missing $package"
done
[ -z "$missing" ] && exit 0

if [ "$(id -u)" -eq 0 ]; then as_root=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root=sudo
else
  echo "Missing system packages, and no root to install them. Paste this, then run make again:"
  echo "  sudo apt-get install --no-install-recommends$missing"
  exit 0
fi
echo "Installing:$missing"
$as_root apt-get update -qq || echo "The package lists could not be refreshed; going on with the old ones."
# shellcheck disable=SC2086  # a list of words is meant
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
  for package in $missing; do # one unknown name must not cost the others (chromium is a snap on Ubuntu)
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null ||
      echo "Could not install $package; going on without it."
  done
