#!/bin/sh
# Runs on the device, as root, and does there what must not be done by halves.
#   activate.sh missing MANIFEST RELEASE-CARD   what of a release is not here yet, one path a line
#   activate.sh install ARCHIVE.tar             check, unpack, rehearse, switch, watch; back to the old one if it fails
#   activate.sh rollback [NAME]                 to the release before, or to a named one that is still here
#   activate.sh status                          key=value lines
#   activate.sh logs [LINES]                    the last of the service's log
# Exit status: 0 done or nothing to do; 1 the release failed and the old one runs; 2 release and device do not fit, nothing
# was changed; 3 the release failed and there is no healthy one to go back to; 75 another deploy is at work.
# Settings by environment: HEALTH_S, START_S, RATE_HZ, SILENT_S, KEEP, as below.
# 'install' and 'rollback' go on when the connection is lost: the device ends up with the old or the new release.
set -eu
umask 022
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
export PATH LC_ALL=C PIP_ROOT_USER_ACTION=ignore

root=${EDGE_APP_ROOT:-} # another root, for tests
base=$root/opt/edge-app
etc=$root/etc/edge-app
state=$root/var/lib/edge-app
engines=$state/engines
units=$root/etc/systemd/system
unit=edge-app.service
user=edge-app
lock=$root/run/lock/edge-app-deploy
HEALTH_S=${HEALTH_S:-20} # a new release is watched for so long after its first frame
START_S=${START_S:-180}  # its first frame must come within
RATE_HZ=${RATE_HZ:-5}    # frames it must look at in a second
SILENT_S=${SILENT_S:-5}  # without a frame for so long it is taken to hang
KEEP=${KEEP:-3}          # releases that stay on the device
spare_kib=65536          # what stays free on the disk

say() { printf '%s\n' "$*"; }
die() { # STATUS WORDS...
  status=$1
  shift
  say "$*"
  exit "$status"
}
card() { sed -n "s/^$2=//p" "$1" | head -n 1; } # CARD KEY
target_of() { readlink "$base/$1" 2>/dev/null | sed 's|^releases/||' || true; }
show() { systemctl show --value -p "$1" "$unit" 2>/dev/null || true; }
now_s() { cut -d. -f1 /proc/uptime; } # the wall clock may be set meanwhile, by months on a device without a battery
free_kib() { # FOLDER: of the file system it is, or will be, on
  folder=$1
  while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
  df -Pk "$folder" | awk 'NR == 2 { print $4 }'
}

# --- what is here already -------------------------------------------------------------------------------------------

has_packages() { [ -e "$base/packages/$1/complete" ]; }

source_of() { # SUM PATH: a file of a release that is here and has this content
  for found in "$base"/packages/*/.wheels/"$1"; do
    [ ! -e "$found" ] || [ ! -e "${found%/.wheels/*}/complete" ] || { say "$found" && return; }
  done
  for manifest in "$base"/releases/*/manifest; do
    found=$(dirname "$manifest")/$2
    if [ ! -e "$found" ] || [ ! -e "$(dirname "$manifest")/complete" ]; then continue; fi
    if grep -qxF "$1  $2" "$manifest"; then say "$found" && return; fi
  done
}

needed_kib() { # CARD
  needed=$(card "$1" kib)
  has_packages "$(card "$1" packages)" || needed=$((2 * needed + $(card "$1" packages_kib)))
  say "$needed"
}

leftovers() { # of deploys that were cut, one path a line; nothing that the current or the previous release needs
  kept=$(for link in current previous; do target_of $link && card "$base/$link/release" packages; done 2>/dev/null || true)
  for place in "$base"/releases/.partial "$base"/releases/* "$base"/packages/*; do
    if [ ! -d "$place" ] || [ -e "$place/complete" ]; then continue; fi
    say "$kept" | grep -qxF "${place##*/}" || say "$place"
  done
  for place in "$engines/next" "$engines/before"; do [ ! -d "$place" ] || say "$place"; done
}

clear_leftovers() { # by who holds the lock
  leftovers | while read -r place; do rm -rf "$place"; done
}

check_space() { # CARD
  needed=$(($(needed_kib "$1") + spare_kib))
  litter=$(leftovers | tr '\n' '\0' | du -sck --files0-from=- 2>/dev/null | awk 'END { print $1 + 0 }')
  free=$(($(free_kib "$base") + litter))
  [ "$free" -ge "$needed" ] ||
    die 2 "the disk is too full: $((free / 1024)) MB are free on $base, $((needed / 1024)) MB are needed"
}

check_fit() { # CARD
  name=$(card "$1" name)
  case $name in
  '' | .* | -* | *[!A-Za-z0-9.+_-]*) die 2 "not a release: its name is '$name'" ;;
  esac
  [ "$(card "$1" machine)" = "$(uname -m)" ] ||
    die 2 "$name is for $(card "$1" machine), this device is $(uname -m): build target cp..-$(uname -m)"
  python_of "$1" >/dev/null || die 2 "$name needs Python $(card "$1" python), which is not installed here"
}

python_of() { # CARD: the interpreter a release is for
  for python in "python$(card "$1" python)" python3; do
    path=$(command -v "$python") || continue
    found=$("$path" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    [ "$found" != "$(card "$1" python)" ] || { say "$path" && return 0; }
  done
  return 1
}

missing() { # MANIFEST CARD
  check_fit "$2"
  if [ ! -e "$base/releases/$(card "$2" name)/complete" ]; then check_space "$2"; fi
  packages=$(card "$2" packages)
  while read -r sum path; do
    case $path in wheels/*) ! has_packages "$packages" || continue ;; esac
    [ -n "$(source_of "$sum" "$path")" ] || say "$path"
  done <"$1"
}

# --- one release: unpacked, checked, complete ------------------------------------------------------------------------

unpack() { # ARCHIVE: sets name, packages and release, and fresh where it was not here yet
  scratch=$(mktemp -d)
  tar -xf "$1" -C "$scratch" manifest release 2>/dev/null || die 2 "$1 is not a release: it has no manifest"
  check_fit "$scratch/release"
  name=$(card "$scratch/release" name)
  packages=$(card "$scratch/release" packages)
  release=$base/releases/$name
  same=
  if [ -e "$release/complete" ] && cmp -s "$scratch/manifest" "$release/manifest"; then same=yes; fi
  [ -n "$same" ] || check_space "$scratch/release"
  [ -z "$same" ] || return 0
  fresh=yes
  [ "$name" != "$(target_of current)" ] || die 2 "$name runs here with other content; give the new release a name of its own"
  work=$base/releases/.partial
  rm -rf "$work"
  mkdir -p "$work"
  tar -xf "$1" -C "$work" --no-same-owner
  complete_from_others "$work"
  verify "$work"
  install_packages "$work"
  rm -rf "$release" "$work/wheels"
  mv "$work" "$release"
  install_program "$release"
  sync_folder "$release"
  : >"$release/complete"
  sync_folder "$release"
}

complete_from_others() { # FOLDER: what did not travel, since it is here
  while read -r sum path; do
    [ ! -e "$1/$path" ] || continue
    source=$(source_of "$sum" "$path")
    [ -n "$source" ] || continue
    mkdir -p "$(dirname "$1/$path")"
    cp "$source" "$1/$path"
  done <"$1/manifest"
}

verify() { # FOLDER: every file is what the manifest says, and there is no other
  manifest=$1/manifest
  if has_packages "$(card "$1/release" packages)"; then
    rm -rf "$1/wheels"
    grep -v '  wheels/' "$1/manifest" >"$1/manifest.rest"
    manifest=$1/manifest.rest
  fi
  bad=$(cd "$1" && sha256sum -c --quiet "$manifest" 2>&1) ||
    die 2 "the release is damaged: $(say "$bad" | head -n 3 | tr '\n' ';')"
  extra=$(cd "$1" && find . ! -type d ! -name 'manifest*' | sed 's|^\./||' | sort >"$1/.found" &&
    sed 's/^[0-9a-f]*  //' "$manifest" | sort | comm -23 .found - | grep -vx '.found' || true)
  rm -f "$1/.found" "$1/manifest.rest"
  [ -z "$extra" ] || die 2 "the release holds what its manifest does not name: $(say "$extra" | head -n 3 | tr '\n' ' ')"
}

install_packages() { # FOLDER: the wheels it needs, once for all releases that need the same
  if has_packages "$packages"; then return; fi
  python=$(python_of "$1/release")
  place=$base/packages/$packages
  rm -rf "$place"
  mkdir -p "$place"
  set -- "$1"/wheels/*.whl
  for pip in "$@"; do case $pip in */pip-*) break ;; esac done
  "$python" "$pip/pip" --disable-pip-version-check -q install --no-index --no-deps --no-warn-script-location \
    --target "$place" "$@" 2>&1 || die 2 "the packages of $name could not be installed"
  mkdir "$place/.wheels" # they stay, by their sums: the next release needs most of them again
  for wheel in "$@"; do mv "$wheel" "$place/.wheels/$(sha256sum "$wheel" | cut -d' ' -f1)"; done
  sync_folder "$place"
  : >"$place/complete"
}

install_program() { # RELEASE: a virtual environment that sees the packages, pycuda and what the system brings
  python=$(python_of "$1/release")
  "$python" -m venv --without-pip --system-site-packages "$1/venv"
  library=$("$1/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  printf '%s\n' "$base/packages/$packages" "$base/pycuda" >"$library/edge-app.pth"
  "$1/venv/bin/python" -m pip --disable-pip-version-check -q install --no-index --no-deps "$1"/app/*.whl 2>&1 ||
    die 2 "the program of $name could not be installed"
}

sync_folder() { sync -f "$1" 2>/dev/null || sync; }

# --- the device around it ----------------------------------------------------------------------------------------------

prepare_device() {
  if ! id "$user" >/dev/null 2>&1; then
    useradd --system --home-dir /var/lib/edge-app --no-create-home --shell /usr/sbin/nologin "$user"
    say "made the user $user"
  fi
  if getent group video >/dev/null; then usermod -a -G video "$user"; fi
  install -d -m 750 -o "$user" -g "$user" "$state" "$engines"
  install -d -m 750 -o root -g "$user" "$etc"
}

choose_config() { # RELEASE [CONFIG]: sets offered, which comes with this deploy, and config, with which it is rehearsed
  offered=${2:-$1/config/edge-app.yaml}
  config=$etc/edge-app.yaml
  seen=$base/default.yaml # the last one that was offered
  rm -f "$config.offered"
  if [ -s "$config" ] && { [ -n "$old" ] || ! cmp -s "$config" "$seen"; }; then return; fi
  # There is none, or one of a deploy that came to nothing and that nobody has touched since.
  config=$config.offered
  put_config "$offered" edge-app.yaml.offered
}

install_config() { # never over one that is somebody's; a new default goes beside it
  if [ "$config" != "$etc/edge-app.yaml" ]; then
    mv -f "$config" "$etc/edge-app.yaml"
    config=$etc/edge-app.yaml
    say "wrote $config"
  elif ! cmp -s "$offered" "$seen" && ! cmp -s "$offered" "$config"; then
    put_config "$offered" edge-app.yaml.new
    say "$config stays as it is; what is new lies beside it in edge-app.yaml.new"
  fi
  cmp -s "$offered" "$seen" || { cp "$offered" "$seen.tmp" && chmod 600 "$seen.tmp" && mv -f "$seen.tmp" "$seen"; }
}

put_config() { # SOURCE NAME: on the disk before it has its name; a power cut would else leave an empty one
  install -m 640 -o root -g "$user" "$1" "$etc/$2.tmp"
  sync_folder "$etc"
  mv -f "$etc/$2.tmp" "$etc/$2"
}

units_of() { # RELEASE: paths below systemd/, as far as this machine's systemd knows them
  (cd "$1/systemd" && find . -type f | sed 's|^\./||' | sort) | while read -r file; do
    case $file in *newer-systemd.conf) [ "$(systemd_version)" -ge 240 ] || continue ;; esac
    say "$file"
  done
}

systemd_version() { systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p'; }

install_units() { # RELEASE: its units and none of another release; whether anything changed is in units_changed
  units_changed=
  list=$base/units # what we have put there
  wanted=$(units_of "$1")
  for file in $wanted; do
    cmp -s "$1/systemd/$file" "$units/$file" && continue
    units_changed=yes
    mkdir -p "$(dirname "$units/$file")"
    install -m 644 "$1/systemd/$file" "$units/$file.tmp"
    mv -f "$units/$file.tmp" "$units/$file"
  done
  if [ -e "$list" ]; then
    while read -r file; do
      say "$wanted" | grep -qxF "$file" && continue
      units_changed=yes
      systemctl disable -q --now "$(basename "$file")" 2>/dev/null || true
      rm -f "$units/$file"
    done <"$list"
  fi
  say "$wanted" | cmp -s - "$list" || { say "$wanted" >"$list.tmp" && mv -f "$list.tmp" "$list"; }
  [ -z "$units_changed" ] || systemctl daemon-reload
  for file in $wanted; do
    case $file in */*) continue ;; esac
    if grep -q '^\[Install\]' "$units/$file" && ! systemctl is-enabled -q "$file"; then
      units_changed=yes
      systemctl enable -q "$file" 2>&1
      case $file in *.path | *.timer) systemctl start "$file" ;; esac
    fi
  done
}

# --- before the switch: the new release shows what it can, beside the old one --------------------------------------------

rehearse() { # RELEASE CONFIG
  stage_engines
  say "rehearsing $(basename "$1")"
  said=$(cd / && nice -n 10 runuser -u "$user" -- env HOME="$state" XDG_CACHE_HOME="$state/cache" \
    PATH="$PATH:/usr/local/cuda/bin" "$1/venv/bin/python" "$1/rehearse.py" "$1" "$2" "$engines/next" 2>&1) ||
    { say "$said" | tail -n 8 && rm -rf "$engines/next" && return 1; }
  say "$said" | tail -n 1
}

# Engines of the current release lie in engines/, those of the previous one in engines/previous if they are others. In
# engines/next are those of the release that is to be switched to, in engines/before those of the previous one until that
# has gone well.

stage_engines() { # into next: what the new release may find of use
  source=.
  if [ "$name" = "$older" ] && [ -d "$engines/previous" ]; then source=previous; fi
  rm -rf "$engines/next"
  install -d -m 750 -o "$user" -g "$user" "$engines/next"
  find "$engines/$source" -maxdepth 1 -type f -exec cp -p {} "$engines/next/" \;
}

take_engines() {
  taken=
  rm -rf "$engines/before"
  if [ "$name" = "$old" ]; then
    move_engines next .
  else
    [ ! -d "$engines/previous" ] || mv "$engines/previous" "$engines/before"
    if ! diff -rq -x next -x before "$engines" "$engines/next" >/dev/null; then
      taken=yes
      move_engines . previous
      move_engines next .
    fi
  fi
  rm -rf "$engines/next"
}

give_back_engines() { # after a switch that failed
  if [ -n "$taken" ]; then
    find "$engines" -maxdepth 1 -type f -delete
    move_engines previous .
    rm -rf "$engines/previous"
  fi
  [ ! -d "$engines/before" ] || mv "$engines/before" "$engines/previous"
}

move_engines() { # FROM TO: below engines/
  install -d -m 750 -o "$user" -g "$user" "$engines/$2"
  find "$engines/$1" -maxdepth 1 -type f -exec mv -f {} "$engines/$2/" \;
}

# --- the switch ------------------------------------------------------------------------------------------------------------

point() { # LINK NAME: by rename, so that there always is one
  ln -sfn "releases/$2" "$base/.$1"
  mv -Tf "$base/.$1" "$base/$1"
}

switch_to() { # NAME: units, links, restart; true when it is healthy
  switching=yes
  install_units "$base/releases/$1"
  point current "$1"
  sync_folder "$base"
  systemctl reset-failed "$unit" 2>/dev/null || true
  systemctl stop edge-app-again.timer 2>/dev/null || true
  systemctl restart --no-block "$unit" || { why="systemd refuses to start it" && return 1; }
  healthy
}

healthy() { # first frame within START_S, then frames at RATE_HZ for HEALTH_S; sets why and rate
  why='' rate=''
  deadline=$(($(now_s) + START_S))
  while [ "$(show ActiveState)" != active ] || has_job; do
    died && return 1
    [ "$(now_s)" -lt "$deadline" ] || { why="no frame within $START_S s: $(show StatusText)" && return 1; }
    sleep 0.5
  done
  first=$(show StatusText) # of one frame; it says nothing of a rate
  watched=0 fed=$(show WatchdogTimestampMonotonic) silent=0
  while [ "$watched" -lt "$HEALTH_S" ] || { [ -z "$rate" ] && [ "$watched" -lt $((HEALTH_S + 15)) ]; }; do
    sleep 1
    watched=$((watched + 1))
    died && return 1
    now=$(show WatchdogTimestampMonotonic)
    if [ "$now" = "$fed" ]; then silent=$((silent + 1)); else silent=0 fed=$now; fi
    [ "$silent" -lt "$SILENT_S" ] || { why="it has not looked at a frame for $silent s: $(show StatusText)" && return 1; }
    said=$(show StatusText)
    [ "$said" = "$first" ] || rate=$(say "$said" | sed -n 's/.*detect \([0-9.]*\) fps.*/\1/p')
  done
  [ -n "$rate" ] || { why="it does not say how many frames it looks at: $(show StatusText)" && return 1; }
  awk "BEGIN { exit !($rate >= $RATE_HZ) }" ||
    { why="it looks at $rate frames a second, $RATE_HZ are expected" && return 1; }
}

runs() { # whether what is current runs, or does all it can without a camera; a start that is under way gets START_S
  deadline=$(($(now_s) + START_S))
  until [ "$(show ActiveState)" = active ] || waits_for_camera; do
    ! died && [ "$(now_s)" -lt "$deadline" ] || return 1
    sleep 0.5
  done
}

waits_for_camera() { # and for nothing else
  [ "$(show ActiveState)/$(show SubState)" = activating/start ] || return 1
  case $(show StatusText) in
  *'waiting for detector'*) return 1 ;;
  'waiting for camera: '*) ;;
  *) return 1 ;;
  esac
}

facts() { # RELEASE: what runs now and how fast, for the table of whoever deploys
  say "release=$1"
  say "rate=${rate:-0}"
}

unchanged() {
  facts "$name"
  if waits_for_camera; then die 0 "UNCHANGED: $name runs and waits for its camera"; fi
  die 0 "UNCHANGED: $name runs"
}

has_job() { show Job | grep -q '[1-9]'; }

died() {
  case $(show ActiveState)/$(show SubState)/$(show NRestarts) in
  failed/* | inactive/dead/* | */auto-restart/* | */*/[1-9]*) ;;
  *) return 1 ;;
  esac
  # A start that is queued behind the old service's end looks dead for a moment.
  [ "$(show Result)" != success ] || ! has_job || return 1
  why="it ended: result $(show Result), exit status $(show ExecMainStatus)"
}

last_words() { # of the service since it was started for the last time
  invocation=$(show InvocationID)
  journalctl "_SYSTEMD_INVOCATION_ID=$invocation" + "INVOCATION_ID=$invocation" -n 12 -o cat --no-pager 2>/dev/null |
    sed 's/^/  | /' || true
}

go_back() { # NAME: after a failed switch, with what was previous before it in older; never returns
  if [ -n "$older" ]; then point previous "$older"; else rm -f "$base/previous"; fi
  if [ -z "$1" ] || [ ! -e "$base/releases/$1/complete" ]; then
    systemctl stop "$unit" 2>/dev/null || true
    rm -f "$base/current"
    sync_folder "$base"
    discard "$name"
    die 3 "FAILED: $failure; there is no release to go back to, the service is stopped"
  fi
  give_back_engines
  failed=$name
  if switch_to "$1"; then
    discard "$failed"
    facts "$1"
    die 1 "FAILED: $failure; ROLLED BACK to $1, which looks at $rate frames a second"
  fi
  last_words
  discard "$failed"
  facts "$1"
  die 3 "FAILED: $failure; ROLLED BACK to $1, which is not healthy either: $why"
}

discard() { # NAME: a release that failed takes no room if it came with this deploy; it can be sent again
  [ -z "$fresh" ] || [ "$1" = "$(target_of current)" ] || [ "$1" = "$(target_of previous)" ] || rm -rf "${base:?}/releases/$1"
}

prune() { # all but KEEP releases, never the current or the previous one; then packages that nobody needs
  # By name: the dates of files say when a release was built, not when it came here.
  find "$base/releases" -mindepth 1 -maxdepth 1 -type d ! -name '.*' -printf '%f\n' | sort -rV | tail -n +$((KEEP + 1)) |
    while read -r one; do
      [ "$one" = "$(target_of current)" ] || [ "$one" = "$(target_of previous)" ] || rm -rf "${base:?}/releases/$one"
    done
  for place in "$base"/packages/*; do
    grep -qxF "packages=$(basename "$place")" "$base"/releases/*/release || rm -rf "$place"
  done
}

# --- commands ----------------------------------------------------------------------------------------------------------------

do_install() { # ARCHIVE [CONFIG]
  fresh=
  old=$(target_of current)
  older=$(target_of previous)
  clear_leftovers
  unpack "$1"
  prepare_device
  choose_config "$release" "${2:-}"
  if [ "$name" = "$old" ] && runs; then
    install_config
    install_units "$release"
    [ -n "$units_changed" ] || unchanged
  fi
  if ! rehearse "$release" "$config"; then
    discard "$name"
    rm -f "$etc/edge-app.yaml.offered"
    die 2 "REFUSED: $name does not pass its rehearsal; ${old:-nothing} runs as before"
  fi
  install_config
  take_engines
  if [ -n "$old" ] && [ "$old" != "$name" ]; then point previous "$old"; fi
  if switch_to "$name"; then
    rm -rf "$engines/before"
    prune
    facts "$name"
    die 0 "DEPLOYED: $name looks at $rate frames a second"
  fi
  failure="$name: $why"
  last_words
  if [ "$name" = "$old" ]; then # it has worked here, and nothing else is known to do better
    if waits_for_camera; then unchanged; fi
    die 1 "FAILED: $name still runs, or tries to: $why"
  fi
  go_back "$old"
}

do_rollback() { # [NAME]
  fresh=
  old=$(target_of current)
  older=$(target_of previous)
  name=${1:-$(target_of previous)}
  [ -n "$name" ] || die 2 "there is no release before ${old:-this} on this device"
  case $name in */* | .*) die 2 "'$name' is not a release" ;; esac
  [ -e "$base/releases/$name/complete" ] ||
    die 2 "no release $name on this device; here are: $(find "$base/releases" -mindepth 1 -maxdepth 1 -printf '%f ')"
  [ "$name" != "$old" ] || unchanged
  # The release before has worked here, with the engine that lies ready.
  if [ "$name" = "$older" ] && [ -d "$engines/previous" ]; then
    stage_engines
  elif ! rehearse "$base/releases/$name" "$etc/edge-app.yaml"; then
    die 2 "REFUSED: $name does not pass its rehearsal; ${old:-nothing} runs as before"
  fi
  take_engines
  if [ -n "$old" ]; then point previous "$old"; fi
  if switch_to "$name"; then
    rm -rf "$engines/before"
    facts "$name"
    die 0 "ROLLED BACK to $name, which looks at $rate frames a second"
  fi
  failure="$name: $why"
  last_words
  go_back "$old"
}

status() {
  say "release=$(target_of current)"
  say "previous=$(target_of previous)"
  say "state=$(show ActiveState)"
  say "status=$(show StatusText)"
  say "restarts=$(show NRestarts)"
  say "since=$(show ActiveEnterTimestamp)"
  say "free_mb=$(($(free_kib "$base") / 1024))"
  say "new_config=$([ ! -e "$etc/edge-app.yaml.new" ] || say yes)"
  say "busy=$(flock -n "$lock" true 2>/dev/null || [ ! -e "$lock" ] || say yes)"
}

# Everything that changes the device runs in a session of its own: what becomes of this connection is no matter.
detached() { # COMMAND ARGUMENTS...
  mkdir -p "$(dirname "$lock")"
  output=$(mktemp "${TMPDIR:-/tmp}/edge-app-deploy.XXXXXX")
  task=_$1
  shift
  setsid sh "$0" "$task" "$@" >"$output" 2>&1 </dev/null &
  worker=$!
  tail -n +1 -f --pid="$worker" -s 0.2 "$output" || true
  result=0
  wait "$worker" || result=$?
  rm -f "$output"
  exit "$result"
}

scratch='' switching=''
at_the_end() { # what ended without a word of ours, as for want of room, has changed nothing unless the switch had begun
  status=$?
  [ -z "$scratch" ] || rm -rf "$scratch"
  case $status in 0 | 2 | 75) return ;; esac
  [ -n "$switching" ] || die 2 "REFUSED: it ended before the switch, for the reason above (status $status); nothing was changed"
}

alone() { # go on as the only deploy on this device
  trap at_the_end EXIT
  exec 9>>"$lock"
  flock -n 9 || die 75 "another deploy is at work on this device ($(cat "$lock" 2>/dev/null)); try again when it is done"
  printf 'since %s, process %s\n' "$(date '+%H:%M:%S')" $$ >"$lock"
}

command=${1:-}
[ "$#" -eq 0 ] || shift
case $command in
missing) missing "$1" "$2" ;;
install | rollback)
  [ "$(id -u)" -eq 0 ] || die 2 "activate.sh $command needs root"
  detached "$command" "$@"
  ;;
_install)
  alone
  do_install "$@"
  ;;
_rollback)
  alone
  do_rollback "$@"
  ;;
status) status ;;
logs) exec journalctl -u "$unit" -n "${1:-50}" --no-pager -o short-iso ;;
*)
  sed -n '2,8s/^# *//p' "$0" >&2
  exit 64
  ;;
esac
