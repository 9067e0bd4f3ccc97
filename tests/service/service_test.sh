#!/usr/bin/env bash
# The installed service under a systemd that was really booted, in a sandbox that is forgotten afterwards.
# usage: service_test.sh PACKAGES NEXT_PACKAGES    directories with the Debian packages, and with those of the next revision
#        SHMSTATE_SERVICE_CASES="hang reload"      only these cases
set -euo pipefail
source_directory=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
packages=$(realpath "$1") next_packages=$(realpath "$2")
cd "$source_directory"

readonly kSkipped=77 kRunSeconds=1500 kPatienceSeconds=60
readonly kWriters=3 kChunkLines=200

if [[ ${SHMSTATE_IN_SANDBOX-} != 1 ]]; then
  if ((EUID != 0)) || [[ ! -x /lib/systemd/systemd ]]; then
    echo "skipped: needs root, and systemd to be installed"
    exit $kSkipped
  fi
  exec packaging/sandbox --boot env SHMSTATE_IN_SANDBOX=1 SHMSTATE_SERVICE_CASES="${SHMSTATE_SERVICE_CASES-}" \
    timeout "$kRunSeconds" bash tests/service/service_test.sh "$packages" "$next_packages"
fi

# --- what the cases stand on

readonly kMerger=shmstate-merger@plant.service kAgent=shmstate-writer-agent@plant kFollow=shmstate-follow@plant.service

fail() {
  echo "FAILED: $*"
  journalctl --no-pager -o short-precise | tail -n 60
  exit 1
}
expect_equal() { [[ $1 == "$2" ]] || fail "$3: \"$1\", not \"$2\""; }
eventually() {
  local i
  for ((i = 0; i < kPatienceSeconds * 20; ++i)); do
    if "${@:2}" >/dev/null 2>&1; then return; fi
    sleep 0.05
  done
  fail "$1"
}
refuses() { if "$@" >/dev/null 2>&1; then fail "nobody may: $*"; fi; }
logged() { journalctl --no-pager -o cat "$@"; }
property() { systemctl show -P "$2" "$1"; }
as() { setpriv --reuid="$1" --regid="$1" --init-groups -- "${@:2}"; }
get() { as reader shmstatectl -i plant get "$1"; }
holds() { [[ $(get "$1") == "$2" ]]; }
is_restarted() { [[ $(property $kMerger NRestarts) == "$1" && $(property $kMerger ActiveState) == active ]]; }

# Writers that count in one key, each through standard input of an agent of its own, until they are told to end.
count_lines() {
  local chunk lines=0
  chunk=$(yes 'add load 1' | head -n $kChunkLines || true)
  while [[ ! -e /tmp/end-of-load ]]; do
    printf '%s\n' "$chunk"
    lines=$((lines + kChunkLines))
    sleep 0.005
  done
  echo "$lines" >"/tmp/load-$1"
}
start_load() {
  local i
  rm -f /tmp/end-of-load /tmp/load-*
  load=()
  for ((i = 0; i < kWriters; ++i)); do
    count_lines "$i" |
      as writer shmstate-writer-agent plant --stdin --strict --full-timeout 60s --flush-timeout 60s 2>>/tmp/agents.log &
    load+=($!)
  done
}
expect_exact_load() {
  local pid
  touch /tmp/end-of-load
  for pid in "${load[@]}"; do
    wait "$pid" || fail "a writer lost something: $(tail -n 5 /tmp/agents.log)"
  done
  expected_load=$((${expected_load-0} + $(cat /tmp/load-* | paste -sd +)))
  expect_equal "$(get load)" "$expected_load" "all that was added, after $1"
}
load_advances() {
  local before
  before=$(get load 2>/dev/null || echo 0)
  eventually "the load does not advance" bash -c '(($(setpriv --reuid=reader --regid=reader --init-groups -- shmstatectl -i plant get load) > '"$before"'))'
}

build_c_consumer() {
  local option=()
  if [[ $1 == static ]]; then option=(-static); fi
  # shellcheck disable=SC2046  # words
  (cd /tmp && gcc -std=c99 -pedantic -Wall -Wextra -Werror "${option[@]}" consumer.c -o "consumer-c-$1" \
    $(pkg-config "${option[@]/#/-}" --cflags --libs shmstate shmstate-reader)) || fail "gcc with pkg-config, $1"
}

files_of_system() {
  find /usr /etc /var/lib /run -xdev \( -path '/run/systemd/*' -o -path '/run/log/*' -o -path '/run/udev*' -o -path /run/user \
    -o -path '/etc/systemd/system/*.wants' -empty -o -path '/var/lib/dpkg/*' -o -path '/var/lib/systemd/*' \) -prune -o -print | grep -vE '^/etc/(passwd|group|g?shadow|subuid|subgid)-$|/ld.so.cache|/__pycache__' | sort
}

# --- the cases, in this order

# Installing the packages makes the users and groups, and starts nothing.
case_install() {
  rm -f /usr/sbin/policy-rc.d # containers forbid packages to start services
  files_of_system >/tmp/files-before
  dpkg -i "$packages"/*.deb >/tmp/dpkg.log 2>&1 || fail "dpkg: $(cat /tmp/dpkg.log)"
  expect_equal "$(stat -c '%A %U' /etc/shmstate)" "drwxr-xr-x root" "the directory of configurations"
  expect_equal "$(id -nG shmstate)" "shmstate shmstate-readers shmstate-writers" "groups of the merger's user"
  expect_equal "$(systemctl list-units --no-legend 'shmstate*' | wc -l)" 0 "units that run after installing"
  useradd --groups shmstate-readers reader
  useradd --groups shmstate-readers,shmstate-writers writer
  useradd stranger
}

# Documents that are installed lead to each other.
case_documents() {
  local page link
  for page in /usr/share/doc/shmstate/*.md; do
    for link in $(sed 's/`[^`]*`//g; /^    /d' "$page" | grep -o '](\([^)#:]*\)' | sed 's/^](//'); do
      [[ -e /usr/share/doc/shmstate/$link ]] || fail "$page leads to $link, which is not there"
    done
  done
}

# The units are as confined as they can be.
case_hardening() {
  local unit exposure
  echo 'SHMSTATE_FOLLOW=--follow /var/log/plant.state' >/etc/shmstate/plant.follow
  systemctl start $kMerger $kAgent.service $kFollow
  for unit in $kMerger $kAgent.service $kFollow; do
    exposure=$(systemd-analyze security --no-pager "$unit" | sed -n 's/.*Overall exposure level.*: \([0-9.]*\).*/\1/p')
    echo "exposure of $unit: $exposure"
    awk "BEGIN { exit !($exposure <= 1.0) }" || fail "the exposure of $unit is $exposure"
  done
  systemctl stop $kAgent.socket $kAgent.service $kFollow
  rm /etc/shmstate/plant.follow
}

# A unit that has started can be attached to at once: by readers, by writers, and by nobody else.
case_users() {
  systemctl stop $kMerger
  systemctl start $kMerger
  as writer shmstatectl -i plant set greeting hello
  expect_equal "$(get greeting)" hello "what a reader reads"
  refuses as reader shmstatectl -i plant set greeting bye
  refuses as stranger shmstatectl -i plant get greeting
  refuses as stranger shmstatectl -i plant set greeting bye
  property $kMerger StatusText | grep >/dev/null -E '^epoch [0-9]+, 1 entries, [0-9]+ rings, [0-9]+ mutations/s$' ||
    fail "the status is $(property $kMerger StatusText)"
  as writer shmstatectl -i plant set farewell bye
  eventually "the status does not follow" bash -c "systemctl show -P StatusText $kMerger | grep >/dev/null ' 2 entries'"
}

# Programs of others build against the packages, in every way that these offer, and run as a reader and writer.
case_consumers() {
  local linkage
  for linkage in "" _static; do
    cmake -S tests/package -B "/tmp/consumer$linkage" -DSHMSTATE_LINKAGE="$linkage" >/tmp/cmake.log 2>&1 &&
      cmake --build "/tmp/consumer$linkage" >>/tmp/cmake.log 2>&1 || fail "consumer$linkage: $(cat /tmp/cmake.log)"
    as writer "/tmp/consumer$linkage/consumer" plant || fail "the consumer ended with an error"
  done
  # shellcheck disable=SC2046  # words
  g++ -std=c++20 tests/package/consumer.cc -o /tmp/consumer-pc $(pkg-config --cflags --libs shmstate shmstate-reader) ||
    fail "g++ with pkg-config"
  as writer /tmp/consumer-pc plant || fail "the consumer ended with an error"
  ldd /tmp/consumer/consumer | grep >/dev/null libshmstate-reader.so.0 || fail "the consumer does not link the shared library"
  if ldd /tmp/consumer_static/consumer | grep libshmstate; then fail "the static consumer links a shared library"; fi
}

# A C99 program outside the tree builds with pkg-config, shared and static, and has the whole C API.
case_c() {
  local linkage
  cp tests/process/c_api_test.c /tmp/consumer.c
  for linkage in shared static; do
    build_c_consumer $linkage
    systemctl start shmstate-merger@c
    as writer "/tmp/consumer-c-$linkage" /run/shmstate/c || fail "the $linkage C program ended with an error"
    systemctl stop shmstate-merger@c
    rm -r /run/shmstate/c
  done
  ldd /tmp/consumer-c-shared | grep >/dev/null libshmstate-reader.so.0 || fail "the C program does not link the shared library"
  if ldd /tmp/consumer-c-static | grep libshmstate; then fail "the static C program links a shared library"; fi
}

# The agent is started by its socket, which writers may use and others not; what it takes is readable.
case_agent() {
  local send='import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect("/run/shmstate-writer-agent/plant")
s.sendall(b"set agent " + sys.argv[1].encode() + b"\nflush\n")
print(s.recv(100).decode().strip())'
  systemctl start $kAgent.socket
  expect_equal "$(property $kAgent.service ActiveState)" inactive "the agent without a connection"
  expect_equal "$(as writer python3 -c "$send" 1)" ok "the answer to flush"
  expect_equal "$(get agent)" 1 "what the agent pushed"
  refuses as reader python3 -c "$send" 2
  refuses as stranger python3 -c "$send" 2
  systemctl kill --signal=KILL $kAgent.service
  expect_equal "$(as writer python3 -c "$send" 3)" ok "the answer after the agent was killed"
  systemctl stop $kMerger $kAgent.service
  as writer python3 -c "$send" 4 >/dev/null 2>&1 &
  local pid=$!
  eventually "a connection does not start the agent" systemctl -q is-active $kAgent.service
  expect_equal "$(property $kMerger ActiveState)" inactive "a merger that was stopped, after a connection"
  systemctl start $kMerger
  eventually "what was sent meanwhile is not merged" holds agent 4
  wait "$pid" || true
  systemctl stop $kAgent.socket $kAgent.service
}

# A log that is rotated is followed by a unit of its own, also while the merger is down or the agent is killed; without
# its configuration, it does not start.
case_follow() {
  local log=/var/log/plant.state i
  refuses systemctl start $kFollow
  sed "s|/var/log/plant.state|$log --follow $log.other|" /usr/share/doc/shmstate/examples/instance.follow >/etc/shmstate/plant.follow
  install -m 0640 -g adm /dev/null $log
  systemctl start $kFollow
  for ((i = 1; i <= 100; ++i)); do
    mv $log $log.$i
    (umask 0027 && echo 'add rotated 1' >$log && chgrp adm $log)
    sleep 0.01
  done
  eventually "not every file is read" holds rotated 100
  install -m 0640 -g adm /dev/null $log.other
  echo 'other=1' >>$log.other
  eventually "the second file is not read" holds other 1
  logged -u $kFollow | grep >/dev/null 'pushing into /run/shmstate/plant' || fail "the journal does not tell of the agent"
  systemctl stop $kMerger
  echo 'while-down=1' >>$log
  systemctl start $kMerger
  eventually "what was written without a merger is not merged" holds while-down 1
  systemctl kill --signal=KILL $kFollow
  eventually "the agent was not started again" bash -c "[[ \$(systemctl show -P NRestarts $kFollow) == 1 ]]"
  eventually "the agent is not ready" systemctl -q is-active $kFollow
  echo 'again=1' >>$log
  systemctl stop $kFollow
  expect_equal "$(get again)" 1 "what was written right before it was stopped"
  expect_equal "$(property $kFollow Result)" success "the result of stopping"
  rm -f $log $log.* /etc/shmstate/plant.follow
}

# A merger that is killed under load, again and again, is started again; nothing is lost or applied twice.
case_kill() {
  local restarts round
  restarts=$(property $kMerger NRestarts)
  start_load
  for round in 1 2 3; do
    load_advances
    systemctl kill --signal=KILL $kMerger
    eventually "the merger was not started again" is_restarted $((restarts + round))
  done
  expect_exact_load "three kills"
  expect_equal "$(get greeting)" hello "the state from before"
}

# A merger that hangs is noticed by the watchdog and started again; nothing is lost.
case_hang() {
  local restarts
  mkdir -p /run/systemd/system/$kMerger.d
  printf '[Service]\nWatchdogSec=2\n' >/run/systemd/system/$kMerger.d/watchdog.conf
  systemctl daemon-reload
  systemctl restart $kMerger
  restarts=$(property $kMerger NRestarts)
  sleep 5
  is_restarted "$restarts" || fail "the watchdog has ended a healthy merger"
  start_load
  load_advances
  systemctl kill --signal=STOP --kill-whom=main $kMerger
  eventually "the watchdog did not act" is_restarted $((restarts + 1))
  logged -u $kMerger | grep >/dev/null 'Watchdog timeout' || fail "the journal does not tell of the watchdog"
  expect_exact_load "a hang"
  rm -r /run/systemd/system/$kMerger.d
  systemctl daemon-reload
}

# The size of the memory is configured, and changes while everything runs. When it is full, writers are told, the merger
# runs on, and everything goes on when there is room.
case_full() {
  local pid
  pid=$(property $kMerger MainPID)
  mkdir -p /etc/systemd/system/run-shmstate.mount.d
  printf '[Mount]\nOptions=mode=0755,uid=shmstate,gid=shmstate,size=96m,huge=advise\n' \
    >/etc/systemd/system/run-shmstate.mount.d/size.conf
  systemctl daemon-reload
  systemctl reload run-shmstate.mount
  expect_equal "$(findmnt -bno SIZE /run/shmstate)" $((96 << 20)) "the new size of the memory"
  dd if=/dev/zero of=/run/shmstate/fill bs=1M >/dev/null 2>&1 || true
  if as writer shmstatectl -i plant set big "$(head -c 60000 /dev/zero | tr '\0' x)" 2>/tmp/full.log; then
    fail "a value was taken that has no room"
  fi
  grep -q '^shmstate: .*\(memory\|No space\)' /tmp/full.log || fail "the error does not say why: $(cat /tmp/full.log)"
  holds greeting hello || fail "a reader cannot read"
  rm /run/shmstate/fill
  as writer shmstatectl -i plant set big there-is-room
  expect_equal "$(get big)" there-is-room "what was set when there was room"
  expect_equal "$(property $kMerger MainPID)" "$pid" "the merger's process"
  rm -r /etc/systemd/system/run-shmstate.mount.d
  systemctl daemon-reload
  systemctl reload run-shmstate.mount
}

# A reload applies what can change, says what cannot, and leaves a running merger alone; a mistake changes nothing.
# Every line has the priority that fits it.
case_reload() {
  local pid
  pid=$(property $kMerger MainPID)
  printf 'log-level = debug\nspin-time = 100us\nmax-rings = 17\n' >/etc/shmstate/plant.conf
  systemctl reload $kMerger
  eventually "the configuration was not applied" bash -c "journalctl -u $kMerger -o cat | grep >/dev/null 'configuration applied'"
  logged -u $kMerger --priority=warning..warning | grep >/dev/null -- '--max-rings stays "1024"' || fail "no warning of what stays"
  as writer shmstatectl -i plant set reloaded 1
  eventually "the log level was not applied" \
    bash -c "journalctl -u $kMerger -o cat --priority=debug..debug | grep >/dev/null 'ring .*: served'"
  echo 'no-such-option = 1' >/etc/shmstate/plant.conf
  systemctl reload $kMerger
  eventually "the mistake was not reported" \
    bash -c "journalctl -u $kMerger -o cat --priority=err..err | grep >/dev/null 'no-such-option'"
  expect_equal "$(property $kMerger MainPID)" "$pid" "the merger's process"
  expect_equal "$(property $kMerger ActiveState)" active "the unit after reloads"
  rm /etc/shmstate/plant.conf
}

# The example has every option, all of them are taken, and it shows the defaults.
case_example() {
  local option
  for option in $(shmstate-merger --help | sed -n 's/^ *\(-i,\)\?--\([a-z-]*\).*/\2/p' | grep -vE '^(instance|config|check|version)$'); do
    grep -q "^#$option = " /usr/share/doc/shmstate/examples/instance.conf || fail "the example lacks $option"
  done
  sed 's/^#\([a-z]\)/\1/' /usr/share/doc/shmstate/examples/instance.conf >/etc/shmstate/example.conf
  systemctl start shmstate-merger@example
  echo 'buffers = two' >/etc/shmstate/example.conf
  refuses systemctl restart shmstate-merger@example
  systemctl stop shmstate-merger@example
  rm -r /etc/shmstate/example.conf /run/shmstate/example
}

# A mistake, and a state that cannot be used, stop a merger at once; it is not started again and again.
case_mistakes() {
  local unit=shmstate-merger@mistaken.service
  echo 'max-rings = 0' >/etc/shmstate/mistaken.conf
  refuses systemctl start $unit
  expect_equal "$(property $unit ExecMainStatus)" 2 "the exit code of a mistake"
  expect_equal "$(property $unit ActiveState)" failed "the unit after a mistake"
  rm /etc/shmstate/mistaken.conf
  systemctl start $unit
  systemctl stop $unit
  truncate -s 4096 /run/shmstate/mistaken/control
  refuses systemctl start $unit
  expect_equal "$(property $unit ExecMainStatus)" 4 "the exit code of a damaged state"
  expect_equal "$(property $unit ActiveState)" failed "the unit with a damaged state"
  expect_equal "$(property $unit NRestarts)" 0 "restarts"
  systemctl reset-failed $unit
  rm -r /run/shmstate/mistaken
}

# What may pass is tried for ever, about once a second, and works when it has passed.
case_retry() {
  local unit=shmstate-merger@late.service
  mkdir -m 0750 /run/shmstate/late
  systemctl start --no-block $unit
  eventually "the merger is not tried again" bash -c "((\$(systemctl show -P NRestarts $unit) >= 2))"
  sleep 5
  (($(property $unit NRestarts) <= 8)) || fail "the merger is tried again too often: $(property $unit NRestarts) times"
  chown shmstate: /run/shmstate/late
  eventually "the merger does not serve" systemctl -q is-active $unit
  systemctl stop $unit
  rm -r /run/shmstate/late
}

# A stopped merger leaves the state to readers, and a started one goes on with it.
case_stop() {
  as writer shmstatectl -i plant set before-stop 1
  systemctl stop $kMerger
  expect_equal "$(property $kMerger Result)" success "the result of stopping"
  expect_equal "$(get before-stop)" 1 "what a reader reads without a merger"
  systemctl start $kMerger
  logged -u $kMerger | grep >/dev/null 'resumed /run/shmstate/plant' || fail "the state was not resumed"
  expect_equal "$(get before-stop)" 1 "what a reader reads afterwards"
}

# An upgrade replaces the merger while readers and writers run on; nothing is lost.
case_upgrade() {
  local pid
  pid=$(property $kMerger MainPID)
  as reader shmstatectl -i plant watch after >/tmp/watch.log 2>&1 &
  start_load
  load_advances
  dpkg -i "$next_packages"/*.deb >/tmp/dpkg.log 2>&1 || fail "dpkg: $(cat /tmp/dpkg.log)"
  expect_equal "$(property $kMerger ActiveState)" active "the merger after the upgrade"
  [[ $(property $kMerger MainPID) != "$pid" ]] || fail "the old merger still runs"
  expect_exact_load "the upgrade"
  as writer shmstatectl -i plant set after-upgrade 1
  eventually "a reader from before the upgrade sees nothing new" grep -q after-upgrade /tmp/watch.log
  pkill -u reader
}

# Removing the package ends everything that runs, and purging it leaves nothing, also of units that are enabled, and
# while a reader keeps the memory busy.
case_purge() {
  local reader
  systemctl enable -q $kMerger $kAgent.socket
  echo 'SHMSTATE_FOLLOW=--follow /var/log/plant.state' >/etc/shmstate/plant.follow
  systemctl enable -q $kFollow
  systemctl start $kAgent.socket $kAgent.service $kFollow
  dpkg --remove shmstate >/tmp/dpkg.log 2>&1 || fail "dpkg: $(cat /tmp/dpkg.log)"
  expect_equal "$(pgrep -c shmstate || true)" 0 "processes after removing"
  if mountpoint -q /run/shmstate; then fail "the memory is still mounted"; fi
  dpkg -i "$next_packages"/shmstate_*.deb >/tmp/dpkg.log 2>&1 || fail "dpkg: $(cat /tmp/dpkg.log)"
  # As docs/operations.md tells: another size for the memory, the limit of a merger.
  for unit in run-shmstate.mount shmstate-merger@plant.service shmstate-merger@.service; do
    mkdir -p "/etc/systemd/system/$unit.d"
    printf '[Unit]\nDescription=changed\n' >"/etc/systemd/system/$unit.d/override.conf"
  done
  systemctl start $kMerger
  setpriv --reuid=reader --regid=reader --init-groups -- sh -c 'cd /run/shmstate/plant && exec sleep infinity' &
  reader=$!
  eventually "the reader does not keep the memory busy" bash -c "[[ \$(readlink /proc/$reader/cwd) == /run/shmstate/plant ]]"
  dpkg --purge shmstate libshmstate-dev libshmstate0 libshmstate-reader0 >/tmp/dpkg.log 2>&1 || fail "dpkg: $(cat /tmp/dpkg.log)"
  if mountpoint -q /run/shmstate; then fail "the memory is still mounted, for a reader"; fi
  kill "$reader"
  refuses getent passwd shmstate shmstate-agent
  refuses getent group shmstate-readers shmstate-writers
  for user in reader writer stranger; do userdel "$user"; done
  files_of_system >/tmp/files-after
  diff /tmp/files-before /tmp/files-after || fail "these files are left"
}

# ---

declare -a all
mapfile -t all < <(sed -n 's/^case_\([a-z]*\)() {$/\1/p' tests/service/service_test.sh)
for name in "${all[@]}"; do
  if [[ -n ${SHMSTATE_SERVICE_CASES-} && " install $SHMSTATE_SERVICE_CASES " != *" $name "* ]]; then continue; fi
  start=$SECONDS
  systemctl is-active -q $kMerger || { [[ $name == install ]] || systemctl start $kMerger; }
  if [[ $name != install ]]; then as writer shmstatectl -i plant set greeting hello; fi
  "case_$name"
  echo "ok: $name ($((SECONDS - start)) s)"
done
