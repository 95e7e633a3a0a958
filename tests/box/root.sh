# Sourced by the two ways to boot, in a mount namespace of the box's own: lays the overlay at ROOT and makes it a
# machine called BOX that KEY opens. Nothing of this is seen outside.
mount -t overlay overlay -o "lowerdir=$LAYERS,upperdir=$UPPER,workdir=$OVERLAY" "$ROOT"
echo "$BOX" >"$ROOT/etc/hostname"
printf '127.0.0.1 localhost %s\n' "$BOX" >"$ROOT/etc/hosts"
keys=$ROOT$(echo ~root)/.ssh
install -d -m 700 "$keys"
install -m 600 "$KEY" "$keys/authorized_keys"
# Its udev would give the cable a new address; this machine's stale neighbour entry then costs half a minute.
mkdir -p "$ROOT/etc/systemd/network"
printf '[Match]\nOriginalName=host0\n[Link]\nNamePolicy=\nMACAddressPolicy=none\n' \
  >"$ROOT/etc/systemd/network/10-host0.link"
