#!/usr/bin/env bash
# rsyslog 8.2302 (Debian 12), output module ompipe: it opens a named pipe for reading and writing. So it is a reader of
# its own pipe, and nothing that a reader does reaches it:
#   1 what it writes while nobody reads is neither refused nor dropped: the next reader gets it;
#   2 readers never see an end of the stream from it;
#   3 when the pipe is removed and re-created under the same name, it goes on writing into the removed one, silently.
# Expected: an error when the last reader goes (EPIPE), and the name opened again after it. Whoever reads a pipe of
# rsyslog must never replace it, or have rsyslog told (HUP).
set -euo pipefail

packages=(rsyslog=8.2302.0-1+deb12u2 libestr0=0.1.11-1 libfastjson4=1.2304.0-1)
dir=$(mktemp -d)
chmod 755 "$dir"
daemon=
trap '[[ -z $daemon ]] || kill "$daemon" 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq "${packages[@]}" >/dev/null 2>&1
for package in *.deb; do dpkg -x "$package" root; done
libraries=$(find "$PWD/root" -name 'lib*.so*' -printf '%h\n' | sort -u | paste -sd :)

cat >conf <<CONF
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="$dir/in")
template(name="text" type="string" string="%msg%\n")
action(type="ompipe" Pipe="$dir/pipe" template="text")
CONF
mkfifo pipe
LD_LIBRARY_PATH=$libraries root/usr/sbin/rsyslogd -n -f "$dir/conf" -i "$dir/pid" -M "$(dirname "$(find "$PWD/root" -name imuxsock.so)")" >log 2>&1 &
daemon=$!
for ((i = 0; i < 100; ++i)); do [[ -S in ]] && break || sleep 0.1; done

tell() {
  python3 - "$dir/in" "<13>Nov 29 12:00:00 test: $1" <<'PYTHON'
import socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
    s.connect(sys.argv[1])
    s.send(sys.argv[2].encode())
PYTHON
  sleep 1
}
seen() { # what a reader that comes now gets within two seconds, and how its reading ends
  local status=0
  timeout 2 cat pipe >got || status=$?
  echo "$(tr -d ' \n' <got) $([[ $status == 124 ]] && echo no-end || echo end)"
}
expect() {
  printf '%-62s %s\n' "$1" "$3"
  [[ $2 == "$3" ]] || { echo "changed: expected $2"; exit 1; }
}

LD_LIBRARY_PATH=$libraries root/usr/sbin/rsyslogd -v | sed -n 1p
tell one
expect "1, 2 sent while nobody read, then read:" "one no-end" "$(seen)"
rm pipe
mkfifo pipe
timeout 6 cat pipe >new || true & # a reader is there before the message
reader=$!
sleep 1
tell two
wait "$reader"
expect "3 sent after the pipe was re-created, bytes at its reader:" 0 "$(stat -c %s new)"
expect "3 it holds the removed one:" 1 "$(find "/proc/$daemon/fd" -lname '*pipe (deleted)' | wc -l)"
expect "3 lines in its log:" 0 "$(wc -l <log)"
