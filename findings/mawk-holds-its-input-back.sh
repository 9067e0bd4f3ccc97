#!/usr/bin/env bash
# mawk 1.3.4-20200120, the awk of Debian 12: it reads a pipe until a buffer of some KiB is full, and hands no line on
# before, whatever the script flushes. `producer | awk '{print; fflush()}' | consumer` gets nothing of a slow producer.
# Expected: fflush() is enough, as with other implementations of awk. With `-W interactive` each line goes on at once.
set -euo pipefail

dir=$(mktemp -d)
chmod 755 "$dir"
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq mawk=1.3.4.20200120-3.1 >/dev/null 2>&1
dpkg -x mawk_*.deb root

first_line_comes() { # before the second is written, 3 seconds later?
  local script=$1
  shift
  mkfifo out
  { echo 1; sleep 3; echo 2; } | root/usr/bin/mawk "$@" "$script" >out &
  exec 3<out
  if read -r -t 2 _ <&3; then echo "at once"; else echo "not within 2 s"; fi
  cat <&3 >/dev/null
  exec 3<&-
  rm out
}
expect() {
  printf '%-30s %s\n' "$1" "$3"
  [[ $2 == "$3" ]] || { echo "changed: expected $2"; exit 1; }
}

root/usr/bin/mawk -W version 2>&1 | head -n 1
expect "{print; fflush()}:" "not within 2 s" "$(first_line_comes '{print; fflush()}')"
expect "-W interactive {print}:" "at once" "$(first_line_comes '{print}' -W interactive)"
