#!/bin/sh
# Boots a box by unshare, with writable cgroup v1 controllers of its own: limits of its units take effect.
# Used by boxes.py, which sets BOX ROOT LAYERS UPPER OVERLAY KEY.
set -eu
here=$(dirname "$0")
controllers="cpu cpuacct cpuset memory devices freezer blkio pids"

outside() { # join cgroups of the box's own, then leave every namespace
  for one in $controllers systemd unified; do
    group=/sys/fs/cgroup/$one/$BOX
    mkdir -p "$group"
    if [ "$one" = cpuset ]; then
      for file in cpus mems; do cat "/sys/fs/cgroup/cpuset/cpuset.$file" >"$group/cpuset.$file"; done
    fi
    echo $$ >"$group/cgroup.procs"
  done
  exec unshare --mount --pid --fork --kill-child --uts --ipc --net --cgroup --propagation private sh "$0" inside
}

file_systems() {
  mount -t proc proc "$ROOT/proc"
  mount -t sysfs sysfs "$ROOT/sys"
  mount -t tmpfs -o mode=755 tmpfs "$ROOT/run"
  mount -t tmpfs tmpfs "$ROOT/tmp"
  mount -o remount,ro,bind "$ROOT/proc/sys" 2>/dev/null || true
}

cgroups() {
  mount -t tmpfs -o mode=755 tmpfs "$ROOT/sys/fs/cgroup"
  for one in $controllers; do
    mkdir "$ROOT/sys/fs/cgroup/$one"
    mount -t cgroup -o "$one" cgroup "$ROOT/sys/fs/cgroup/$one"
  done
  mkdir "$ROOT/sys/fs/cgroup/systemd" "$ROOT/sys/fs/cgroup/unified"
  mount -t cgroup -o none,name=systemd cgroup "$ROOT/sys/fs/cgroup/systemd"
  mount -t cgroup2 cgroup2 "$ROOT/sys/fs/cgroup/unified"
}

devices() {
  mount -t tmpfs -o mode=755 tmpfs "$ROOT/dev"
  for one in null zero full random urandom tty; do
    touch "$ROOT/dev/$one"
    mount --bind "/dev/$one" "$ROOT/dev/$one"
  done
  mkdir "$ROOT/dev/pts" "$ROOT/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$ROOT/dev/pts"
  mount -t tmpfs tmpfs "$ROOT/dev/shm"
  ln -s pts/ptmx "$ROOT/dev/ptmx"
  ln -s /proc/self/fd "$ROOT/dev/fd"
  ln -s /dev/null "$ROOT/dev/kmsg"
}

if [ "${1:-}" != inside ]; then outside; fi
# shellcheck source=tests/box/root.sh
. "$here/root.sh"
file_systems
cgroups
devices
hostname "$BOX"
cd "$ROOT"
mkdir -p mnt
pivot_root . mnt
umount -l /mnt
exec env -i container=edge-app-box PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=journal
