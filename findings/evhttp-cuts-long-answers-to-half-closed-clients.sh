#!/usr/bin/env bash
# libevent 2.1.12 (Debian 12), evhttp: a client that has sent its request and shuts down its sending side, as `nc -N`
# and socat do at the end of their input, gets an answer of up to 16 KiB as a whole, and only the beginning of a long
# one: after each write of 16 KiB, evhttp takes the end of what the client sends for the end of the connection, and
# closes. The Content-Length announced the rest; nothing is logged. Expected: who still reads gets the whole answer, or
# none whatever its size.
set -euo pipefail

readonly kVersion=2.1.12-stable-8+deb12u1
dir=$(mktemp -d)
chmod 755 "$dir"
server=
trap '[[ -z $server ]] || kill "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq {libevent-dev,libevent-2.1-7}="$kVersion" >/dev/null 2>&1
for package in *.deb; do dpkg -x "$package" unpacked; done
triplet=$(gcc -print-multiarch)
libraries=$PWD/unpacked/usr/lib/$triplet

cat >server.c <<'CODE'
#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

static char data[8 << 20];
static void answer(struct evhttp_request* request, void* unused) { /* /N: N bytes */
  struct evbuffer* body = evbuffer_new();
  evbuffer_add_reference(body, data, atoi(evhttp_request_get_uri(request) + 1), NULL, NULL);
  evhttp_send_reply(request, 200, "OK", body);
  evbuffer_free(body);
}
int main(void) {
  struct event_base* base = event_base_new();
  struct evhttp* http = evhttp_new(base);
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
  evhttp_set_gencb(http, answer, NULL);
  evhttp_bind_listener(http, evconnlistener_new_bind(base, NULL, NULL, LEV_OPT_CLOSE_ON_FREE, 16,
                                                     (struct sockaddr*)&address, sizeof address));
  event_base_dispatch(base);
}
CODE
gcc -I unpacked/usr/include -I "unpacked/usr/include/$triplet" server.c -o server -L "$libraries" -levent
LD_LIBRARY_PATH=$libraries ./server 2>log &
server=$!
for ((i = 0; i < 100; ++i)); do [[ -S socket ]] && break || sleep 0.1; done

ask() { # for $1 bytes; $2: shut the sending side down, or keep it
  python3 - "$@" <<'PYTHON'
import socket, sys
size = int(sys.argv[1])
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect("socket")
    connection.settimeout(10)
    connection.sendall(f"GET /{size} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    if sys.argv[2] == "shut":
        connection.shutdown(socket.SHUT_WR)
    answer = b""
    while len(answer.partition(b"\r\n\r\n")[2]) < size and (piece := connection.recv(1 << 16)):
        answer += piece
    whole = len(answer.partition(b"\r\n\r\n")[2]) == size
    print("whole" if whole else "cut")
PYTHON
}
expect() {
  printf '%-36s %s\n' "$1" "$3"
  [[ $2 == "$3" ]] || { echo "changed: expected $2"; exit 1; }
}

echo "libevent $kVersion"
expect "10,000 bytes, sending side shut:" "whole" "$(ask 10000 shut)"
expect "1,000,000 bytes, still open:" "whole" "$(ask 1000000 keep)"
expect "1,000,000 bytes, sending side shut:" "cut" "$(ask 1000000 shut)"
expect "lines in the server's log:" 0 "$(wc -l <log)"
