#!/bin/sh
# Makes a device of its own out of a card that was written from an image (deploy/image.py). Run as root by
# edge-app-first-boot.service, from /opt/edge-app/first-boot, at each boot until every step has succeeded once.
#   first-boot.sh           all steps; one that fails does not keep the others from their turn
#   first-boot.sh STEP      one step
# Each step looks at what is there and does what is missing: a power cut at any moment costs nothing but the time of
# one boot. When all are done this folder and the unit remove themselves.
# With EDGE_APP_SWAP_MB the size of the swap file; 4096 by default, never more than a quarter of what is free.
set -eu
umask 022
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
unit=edge-app-first-boot.service
steps="host_keys login name grow swap provision release"

say() { printf 'first boot: %s\n' "$*"; }
put() { # PATH MODE: standard input becomes the file, whole or not at all
  cat >"$1.new"
  chmod "$2" "$1.new"
  sync
  mv -f "$1.new" "$1"
}

host_keys() { # of this card alone; a power cut may have left empty ones
  for key in /etc/ssh/ssh_host_*_key; do
    if [ ! -s "$key" ] || [ ! -s "$key.pub" ]; then rm -f "$key" "$key.pub"; fi
  done
  ls /etc/ssh/ssh_host_*_key >/dev/null 2>&1 && return 0
  ssh-keygen -A >/dev/null
  sync
  # It may have given up for want of keys.
  systemctl reset-failed ssh.service 2>/dev/null || true
  systemctl --no-block restart ssh.service
  say "made host keys"
}

login() { # a user with the key of the image, who needs no password and has none
  user=$(cat "$here/user")
  id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$user"
  # '*' is no password that could be typed; '!' would lock the account, also for keys where sshd does not use PAM.
  usermod --password '*' "$user"
  for group in sudo video; do
    if getent group "$group" >/dev/null; then usermod --append --groups "$group" "$user"; fi
  done
  home=$(getent passwd "$user" | cut -d: -f6)
  install -d -m 700 -o "$user" -g "$user" "$home" "$home/.ssh"
  put "$home/.ssh/authorized_keys" 600 <"$here/authorized_keys"
  chown "$user:$user" "$home/.ssh/authorized_keys"
  mkdir -p /etc/sudoers.d
  printf '%s ALL=(ALL) NOPASSWD: ALL\n' "$user" | put /etc/sudoers.d/edge-app-login 440
  say "$user logs in with the key $(ssh-keygen -l -f "$here/authorized_keys" | cut -d' ' -f2)"
}

name() { # of the host, from the serial number of the board, else from its network address
  serial=$(tr -d '\0' </proc/device-tree/serial-number 2>/dev/null | tr "[:upper:]" "[:lower:]" | tr -cd "[:alnum:]" || true)
  if [ -z "$serial" ]; then
    for card in /sys/class/net/*/device; do
      serial=$(tr -d ':\n' <"$(dirname "$card")/address" 2>/dev/null) && break
    done
  fi
  [ -n "$serial" ] || { say "no serial number and no network card: the host keeps its name" && return 0; }
  host=edge-$(printf '%s' "$serial" | tail -c 20)
  printf '%s\n' "$host" | put /etc/hostname 644
  { grep -v '^127\.0\.1\.1[[:space:]]' /etc/hosts 2>/dev/null || true; printf '127.0.1.1\t%s\n' "$host"; } | put /etc/hosts 644
  hostname "$host"
  say "the name of this host is $host"
}

grow() { # the partition of / up to the end of the card, then its file system
  part=$(basename "$(readlink -f "/sys/dev/block/$(mountpoint -d /)")")
  number=$(cat "/sys/class/block/$part/partition" 2>/dev/null) || { say "/ is no partition, nothing to grow" && return 0; }
  disk=$(basename "$(readlink -f "/sys/class/block/$part/..")")
  start=$(cat "/sys/class/block/$part/start")
  end=$((start + $(cat "/sys/class/block/$part/size")))
  for other in /sys/class/block/"$disk"/"$disk"*/start; do
    [ "$(cat "$other")" -le "$start" ] || { say "$part is not the last on $disk, its size stays" && return 0; }
  done
  if [ $(($(cat "/sys/class/block/$disk/size") - end)) -gt 16384 ]; then
    # The table as it is, without this partition's size and the old end of the disk: both become what there is.
    # sfdisk writes the copy at the end first and the one at the start last, so there always is a valid one.
    sfdisk --dump "/dev/$disk" >"$here/partitions"
    sed -e '/^last-lba:/d' -e "/^\/dev\/$part /s/size=[^,]*,//" "$here/partitions" |
      sfdisk --quiet --no-reread --force --wipe never --wipe-partitions never "/dev/$disk"
    sync
    partx --update --nr "$number" "/dev/$disk"
  fi
  resize2fs "/dev/$part" 2>&1
  say "$part has $(($(cat "/sys/class/block/$part/size") / 2048)) MB"
}

swap() { # for the build of the engine: CPU and GPU share 4 GB
  SWAP_MB=${EDGE_APP_SWAP_MB:-4096} sh "$here/provision.sh" swap
}

provision() { # packages and pycuda, from the internet; what fails here does not keep the release from its turn
  [ ! -e "$here/offline" ] || return 0
  tries=0
  until ip route show default | grep -q .; do
    tries=$((tries + 1))
    [ "$tries" -le 60 ] || { say "no way to the internet, which packages and pycuda come from" && return 1; }
    sleep 1
  done
  wait_for_time
  sh "$here/provision.sh"
}

wait_for_time() { # apt and pip refuse what is signed in the future; a board without a battery wakes up in the past
  command -v timedatectl >/dev/null || return 0
  tries=0
  until timedatectl status 2>/dev/null | grep -q 'synchronized: yes'; do
    tries=$((tries + 1))
    [ "$tries" -le 120 ] || { say "no time server has answered; going on, it is $(date)" && return 0; }
    sleep 1
  done
}

release() { # unpacked, its engine built, started and watched, by the script that also does so for make deploy
  tar -xf "$here/release.tar" -C "$here" activate.sh
  ln -f "$here/release.tar" "$here/installing.tar" # it is removed once it is unpacked
  sh "$here/activate.sh" install "$here/installing.tar"
}

all() {
  failed=
  for step in $steps; do
    sh "$here/first-boot.sh" "$step" || failed="$failed $step"
    sync
  done
  if [ -n "$failed" ]; then
    say "failed:$failed. The next boot tries again; or: sudo systemctl restart $unit"
    exit 1
  fi
  mv "$here" "$here.done" # the unit's condition
  sync
  rm -rf "$here.done"
  rm -f "/etc/systemd/system/multi-user.target.wants/$unit" "/etc/systemd/system/$unit"
  say "done"
}

case ${1:-all} in
all | host_keys | login | name | grow | swap | provision | release) "${1:-all}" ;;
*)
  sed -n '2,9s/^# *//p' "$0" >&2
  exit 64
  ;;
esac
