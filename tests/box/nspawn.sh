#!/bin/sh
# Boots a box by systemd-nspawn. Used by boxes.py, which sets BOX ROOT LAYERS UPPER OVERLAY KEY.
set -eu
here=$(dirname "$0")
if [ "${1:-}" != inside ]; then exec unshare --mount --propagation private sh "$0" inside; fi
# shellcheck source=tests/box/root.sh
. "$here/root.sh"
exec systemd-nspawn -q -D "$ROOT" --boot --register=no --keep-unit --private-network --machine="$BOX" \
  --console=passive --kill-signal=SIGRTMIN+4
