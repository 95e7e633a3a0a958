#!/bin/sh
# Makes a machine a device; runs there as root, sent by 'make provision'. What is done already is not done again.
#   JetPack 4.6, 5, 6: apt packages, pycuda against the device's CUDA, full power, clocks at every boot, swap
#   Debian, Ubuntu:    apt packages for the CPU detector
#   all:               user edge-app and its groups, limits of the log
#   provision.sh swap            only the swap file of a Jetson
#   provision.sh pycuda FOLDER   only pycuda, into that folder; without root, by PYTHON (python3)
# A step that fails does not keep the others from their turn; a step that was cut short goes on at the next run.
# The last line is UNCHANGED, or DONE and how much was changed, or FAILED and what; then the exit status is 1. Needs the
# internet, unlike a deploy. LOCK_S: whoever else installs packages is waited for so long.
set -eu
umask 022
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
export PATH LC_ALL=C DEBIAN_FRONTEND=noninteractive PIP_ROOT_USER_ACTION=ignore

root=${EDGE_APP_ROOT:-} # another root, for tests of what is written
SWAP_MB=${SWAP_MB:-4096} # of a Jetson; building an engine on 4 GB needs it
LOCK_S=${LOCK_S:-600}
python=${PYTHON:-python3}
changes=0 failed=''

say() { printf '%s\n' "$*"; }
changed() {
  changes=$((changes + 1))
  say "changed: $*"
}

trouble() { # WORDS...: a step failed; the others have their turn
  failed="$failed${failed:+; }$*"
}

now_s() { cut -d. -f1 /proc/uptime; } # the wall clock may be set meanwhile

l4t_of() { sed -n 's/^# R\([0-9]*\).*REVISION: \([0-9.]*\).*/\1.\2/p' "$root/etc/nv_tegra_release" 2>/dev/null || true; }

write() { # PATH MODE < content: true when it was another one
  new=$(mktemp)
  cat >"$new"
  if cmp -s "$new" "$root$1"; then
    rm -f "$new"
    return 1
  fi
  mkdir -p "$(dirname "$root$1")"
  install -m "$2" "$new" "$root$1"
  rm -f "$new"
  changed "wrote $1"
}

# --- packages ------------------------------------------------------------------------------------------------------------

needed_packages() { # GStreamer for Python: the ribbon camera. libgomp1: onnxruntime
  say python3 python3-gi gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base \
    gstreamer1.0-plugins-good libgomp1 python3-venv sudo util-linux
  if [ -z "$l4t" ] && [ "$(uname -m)" = aarch64 ]; then
    say python3-numpy python3-opencv # a release for this Python may leave them to JetPack
  fi
}

more_packages() { # not every system has them. RTSP, clips; of a Jetson what JetPack mostly brings and builds of pycuda need
  say gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-bad gstreamer1.0-libav gstreamer1.0-plugins-ugly
  [ -n "$l4t" ] || return 0
  say python3-numpy python3-dev python3-distutils g++ libopencv-python v4l-utils
  case $l4t in 32.*) ;; *) say python3-libnvinfer ;; esac
}

is_installed() {
  dpkg-query -W -f '${Status} ${Provides}\n' "$1" "${1}t64" 2>/dev/null | grep -q '^install ok installed'
}

apt() { # ARGUMENTS...: apt-get, whose words are then in said; waits for whoever else is at it (updates of the system itself)
  until said=$(apt-get -qq "$@" 2>&1); do
    case $said in
    *'Could not get lock'* | *'nable to lock'* | *'nable to acquire'*)
      [ "$(now_s)" -lt "$lock_until" ] || return 1
      [ -n "$waiting" ] || say "somebody else installs packages: waiting, $LOCK_S s at most"
      waiting=yes
      sleep 3
      ;;
    *'dpkg was interrupted'*) # by a power cut
      [ -z "$configured" ] || return 1
      configured=yes
      dpkg --configure -a >/dev/null 2>&1 || return 1
      ;;
    *) return 1 ;;
    esac
  done
}

install_packages() {
  missing='' unknown='' lost='' words='' waiting='' configured=''
  lock_until=$(($(now_s) + LOCK_S))
  for package in $(needed_packages) $(more_packages); do
    is_installed "$package" || missing="$missing $package"
  done
  [ -n "$missing" ] || return 0
  reached=yes
  if ! apt update || say "$said" | grep -q 'Failed to fetch\|index files failed'; then
    say "the package lists could not be refreshed; going on with the old ones"
    say "$said" | grep '^[WE]:' | sort -u | head -n 3
    # A name that is in none of the old lists may be in the new ones. (Expired keys of others do not hinder us.)
    if say "$said" | grep -Eqi 'resolv|connect|unreachable|timed out'; then reached=; fi
  fi
  # shellcheck disable=SC2086  # a list of words is meant
  apt install -y --no-install-recommends $missing || true
  for package in $missing; do # a name that this system does not know must not cost the others
    if is_installed "$package" || { apt install -y --no-install-recommends "$package" && is_installed "$package"; }; then
      changed "installed $package"
    elif [ -n "$reached" ] && is_unknown && ! needed_packages | tr ' ' '\n' | grep -qxF "$package"; then
      unknown="$unknown $package"
    else
      lost="$lost $package"
      words="$words
$(say "$said" | grep '^E:' || true)"
    fi
  done
  [ -z "$unknown" ] || say "not to be had here:$unknown"
  [ -n "$lost" ] || return 0
  say "$words" | sed '/^$/d' | sort -u | head -n 5
  trouble "not installed:$lost"
}

is_unknown() { # by what apt has said
  case $said in *'Unable to locate package'* | *'no installation candidate'*) ;; *) return 1 ;; esac
}

# --- pycuda, which nobody publishes for a Jetson ---------------------------------------------------------------------------

install_pycuda() { # FOLDER
  cuda=${CUDA_ROOT:-/usr/local/cuda}
  place=$1
  [ -x "$cuda/bin/nvcc" ] || { say "no CUDA compiler in $cuda: sudo apt install nvidia-jetpack, then again" && return 1; }
  stamp="$("$cuda/bin/nvcc" --version | tail -n 1) $("$python" --version 2>&1)"
  [ "$(cat "$place/complete" 2>/dev/null)" != "$stamp" ] || return 0
  rm -rf "$place"
  mkdir -p "$place"
  tools=$(mktemp -d)
  built=
  build_pycuda && built=yes
  rm -rf "$tools"
  [ -n "$built" ] || { say "pycuda could not be built; what went wrong stands above" && return 1; }
  PYTHONPATH=$place "$python" -c 'import pycuda.driver' || { say "pycuda was built and does not load" && return 1; }
  say "$stamp" >"$place/complete"
  changed "built $pycuda against $cuda"
}

build_pycuda() { # into place, with tools
  # JetPack 4's own pip cannot read today's wheels; a newer one lies in an environment that goes again. It sees the numpy
  # that pycuda will meet, is built against, and must not bring along.
  "$python" -m venv --system-site-packages "$tools" || return 1
  "$python" -c 'import numpy, os; print(os.path.dirname(os.path.dirname(numpy.__file__)))' \
    >"$("$tools/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/numpy.pth" || return 1
  if "$python" -c 'import sys; sys.exit(sys.version_info >= (3, 7))'; then
    # 2022.1 is the last for Python 3.6; its own build would pin an old numpy and compile that for hours.
    pycuda=pycuda==2022.1
    pip "pip==21.3.1" "setuptools==59.6.0" "wheel==0.37.1" &&
      pip --target "$place" --no-deps "pytools==2021.2.9" "mako<1.2" "markupsafe<2.1" appdirs "platformdirs<2.5" \
        "typing-extensions<4.2" dataclasses || return 1
  else
    pycuda="pycuda<2025"
    pip -U pip "setuptools<81" wheel &&
      pip --target "$place" --no-deps "pytools<2025" mako markupsafe platformdirs typing-extensions || return 1
  fi
  CUDA_ROOT=$cuda PATH=$cuda/bin:$PATH pip --no-build-isolation --no-deps --target "$place" "$pycuda"
}

pip() { nice -n 5 "$tools/bin/python" -m pip --disable-pip-version-check -q install "$@"; }

# --- a Jetson's power, clocks, swap ------------------------------------------------------------------------------------------

full_power() { # of the Nano; what the modes of an Orin mean depends on the board and on what it is cooled by
  command -v nvpmodel >/dev/null || return 0
  case $l4t in 32.*) ;; *) say "the power mode stays as it is: nvpmodel -q" && return 0 ;; esac
  [ "$(nvpmodel -q 2>/dev/null | tail -n 1)" != 0 ] || return 0
  if nvpmodel -m 0 </dev/null; then
    changed "power mode 0 (all cores, full clocks); it stays over a reboot"
  else
    trouble "no full power: nvpmodel -m 0"
  fi
}

clocks_unit() { # nvpmodel allows the clocks, jetson_clocks holds them there, and forgets at every boot
  command -v jetson_clocks >/dev/null || return 0
  unit=edge-app-clocks.service
  if write /etc/systemd/system/$unit 644 <<X; then systemctl daemon-reload; fi
[Unit]
Description=Clocks of a Jetson at their highest, for edge-app
After=nvpmodel.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=$(command -v jetson_clocks)

[Install]
WantedBy=multi-user.target
X
  if systemctl is-enabled -q $unit 2>/dev/null; then
    :
  elif systemctl enable -q $unit; then
    changed "enabled $unit"
  else
    trouble "systemctl enable $unit"
  fi
  systemctl start $unit || trouble "jetson_clocks failed: journalctl -u $unit"
}

swap_file() { # whole or not at all: a power cut at any moment costs nothing but another run
  file=/var/swap.edge-app
  if [ ! -e "$root$file" ]; then
    # A machine with swap of its own needs none of ours; that of JetPack is half of it, in compressed memory.
    [ "$(awk '/^SwapTotal/ { print int($2 / 1024) }' /proc/meminfo)" -lt "$((SWAP_MB / 2))" ] || return 0
    free_mb=$(df -Pk "$root/var" | awk 'NR == 2 { print int($4 / 1024) }')
    size_mb=$((SWAP_MB <= free_mb / 4 ? SWAP_MB : free_mb / 4))
    [ "$size_mb" -ge 64 ] || { say "no room for a swap file: $free_mb MB free" && return 0; }
    rm -f "$root$file.new"
    if ! { fallocate -l "${size_mb}M" "$root$file.new" && chmod 600 "$root$file.new" && mkswap "$root$file.new" >/dev/null; }; then
      rm -f "$root$file.new"
      trouble "no swap file"
      return 0
    fi
    sync
    mv "$root$file.new" "$root$file"
    changed "a swap file of $size_mb MB"
  fi
  if ! grep -q "^$file " "$root/etc/fstab"; then
    { cat "$root/etc/fstab" && say "$file none swap sw,pri=1 0 0"; } >"$root/etc/fstab.new"
    sync
    mv -f "$root/etc/fstab.new" "$root/etc/fstab"
    changed "the swap file is in fstab"
  fi
  # One that was cut off before it had a header is our own all the same.
  grep -q "^$root$file " /proc/swaps || swapon "$root$file" 2>/dev/null ||
    { mkswap "$root$file" >/dev/null && swapon "$root$file"; } || trouble "no swap: swapon $file"
}

# --- every device ----------------------------------------------------------------------------------------------------------

service_user() {
  if ! id edge-app >/dev/null 2>&1; then
    useradd --system --home-dir /var/lib/edge-app --no-create-home --shell /usr/sbin/nologin edge-app
    changed "the user edge-app, without a shell or a password"
  fi
  for group in video render; do
    getent group "$group" >/dev/null || continue
    id -nG edge-app | tr ' ' '\n' | grep -qx "$group" && continue
    usermod -a -G "$group" edge-app
    changed "edge-app is in the group $group"
  done
}

log_limits() { # a camera daemon in trouble has filled cards with its log, in the journal and once more in syslog
  write /etc/systemd/journald.conf.d/edge-app.conf 644 <<'X' || return 0
[Journal]
Storage=persistent
ForwardToSyslog=no
SystemMaxUse=200M
SystemKeepFree=500M
RuntimeMaxUse=50M
MaxRetentionSec=1month
RateLimitIntervalSec=30s
RateLimitBurst=2000
X
  [ -n "$root" ] || systemctl restart systemd-journald
}

at_the_end() {
  [ -z "$failed" ] || { say "FAILED: $failed" && exit 1; }
  if [ "$changes" -eq 0 ]; then say "UNCHANGED: everything is as it should be"; else say "DONE: $changes changes"; fi
  exit 0
}

case ${1:-} in
swap)
  swap_file
  at_the_end
  ;;
pycuda)
  install_pycuda "$2" || trouble "without pycuda the GPU is not used"
  at_the_end
  ;;
esac
l4t=$(l4t_of)
case $l4t in
32.[67].* | 35.* | 36.* | '') ;;
*) say "L4T $l4t is not JetPack 4.6, 5 or 6; going on, tell us how it went" ;;
esac
say "$(uname -m), L4T ${l4t:-none}, $(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release), $(python3 --version 2>&1)"
install_packages
service_user
log_limits
if [ -n "$l4t" ]; then
  full_power
  clocks_unit
  swap_file
  # Every release of ours has it on its path.
  install_pycuda "$root/opt/edge-app/pycuda" || trouble "without pycuda the GPU is not used"
fi
at_the_end
