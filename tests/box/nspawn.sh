#!/bin/sh
# Boots a box by systemd-nspawn. Used by boxes.py, which sets BOX ROOT LAYERS UPPER OVERLAY KEY.
set -eu
here=$(dirname "$0")
# A process namespace around it: systemd-nspawn's own children outlive a systemd-nspawn that is killed.
if [ "${1:-}" != inside ]; then
  exec unshare --mount --pid --fork --kill-child --mount-proc --propagation private sh "$0" inside
fi
# shellcheck source=tests/box/root.sh
. "$here/root.sh"
exec systemd-nspawn -q -D "$ROOT" --boot --register=no --keep-unit --private-network --machine="$BOX" \
  --console=passive --kill-signal=SIGRTMIN+4
