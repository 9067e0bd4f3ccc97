#!/usr/bin/env bash
# socat 1.7.4.4 (Debian 12), as the client of a service that answers a line: half a second after the end of its standard
# input it closes the connection and exits with 0, although no answer has come. `echo request | socat -
# UNIX-CONNECT:path && next` goes on as if the request had succeeded. Expected: it waits for the server to close, or
# fails. `-t SECONDS` sets how long it waits.
set -euo pipefail

dir=$(mktemp -d)
chmod 755 "$dir"
server=
trap '[[ -z $server ]] || kill "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq socat=1.7.4.4-2 libwrap0=7.6.q-32 >/dev/null 2>&1
for package in *.deb; do dpkg -x "$package" root; done
libraries=$(find "$PWD/root" -name 'lib*.so*' -printf '%h\n' | sort -u | paste -sd :)

# Answers each connection's line with "ok", two seconds later.
python3 - <<'PYTHON' &
import socket, time
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind("socket")
    listener.listen()
    for _ in range(2):
        connection, _ = listener.accept()
        connection.recv(100)
        time.sleep(2)
        try:
            connection.sendall(b"ok\n")
        except BrokenPipeError:
            pass
        connection.close()
PYTHON
server=$!
for ((i = 0; i < 100; ++i)); do [[ -S socket ]] && break || sleep 0.1; done

ask() {
  local status=0
  echo request | LD_LIBRARY_PATH=$libraries root/usr/bin/socat "$@" - UNIX-CONNECT:socket >answer || status=$?
  echo "answer '$(cat answer)', exit status $status"
}
expect() {
  printf '%-16s %s\n' "$1" "$3"
  [[ $2 == "$3" ]] || { echo "changed: expected $2"; exit 1; }
}

LD_LIBRARY_PATH=$libraries root/usr/bin/socat -V | sed -n 2p
expect "by default:" "answer '', exit status 0" "$(ask)"
sleep 2
expect "with -t 10:" "answer 'ok', exit status 0" "$(ask -t 10)"
