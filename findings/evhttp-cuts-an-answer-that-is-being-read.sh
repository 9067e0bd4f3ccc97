#!/usr/bin/env bash
# libevent 2.1.12 (Debian 12), evhttp_set_timeout("Set the timeout for an HTTP request"): while an answer is written,
# the time in which the client sends nothing counts, too, although it has nothing to send. An answer that takes longer
# than the timeout is cut, also when the client takes data all the time; without an error on either side but the missing
# bytes. Expected: a connection on which data moves is not idle. (An answer in pieces lives on, since each
# evhttp_send_reply_chunk() restarts the time.)
#
# Seen with a timeout of 2 s: 8 MiB taken at 2 MiB/s are cut; the same without a timeout is whole.
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
static void answer(struct evhttp_request* request, void* unused) {
  struct evbuffer* body = evbuffer_new();
  evbuffer_add_reference(body, data, sizeof data, NULL, NULL);
  evhttp_send_reply(request, 200, "OK", body);
  evbuffer_free(body);
}
int main(int argc, char** argv) {
  struct event_base* base = event_base_new();
  struct evhttp* http = evhttp_new(base);
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
  evhttp_set_gencb(http, answer, NULL);
  if (argc > 1) evhttp_set_timeout(http, atoi(argv[1]));
  evhttp_bind_listener(http, evconnlistener_new_bind(base, NULL, NULL, LEV_OPT_CLOSE_ON_FREE, 16,
                                                     (struct sockaddr*)&address, sizeof address));
  event_base_dispatch(base);
}
CODE
gcc -I unpacked/usr/include -I "unpacked/usr/include/$triplet" server.c -o server -L "$libraries" -levent

ask() { # what a client gets that takes 2 MiB/s; arguments for the server
  rm -f socket
  LD_LIBRARY_PATH=$libraries ./server "$@" 2>log &
  server=$!
  for ((i = 0; i < 100; ++i)); do [[ -S socket ]] && break || sleep 0.1; done
  python3 - <<'PYTHON'
import socket, time
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect("socket")
    connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer, begin = b"", time.monotonic()
    while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < 8 << 20:
        piece = connection.recv(1 << 16)
        if not piece:
            break
        answer += piece
        time.sleep(1 / 32)
    size = len(answer.partition(b"\r\n\r\n")[2])
    told = f"Content-Length: {8 << 20}".encode() in answer
    print("8 MiB announced," if told else "not announced,", "whole" if size == 8 << 20 else "cut")
PYTHON
  kill "$server"
  wait "$server" 2>/dev/null || true
  echo "$(wc -l <log) lines in its log"
}
expect() {
  printf '%-20s %s\n' "$1" "$3"
  [[ $2 == "$3" ]] || { echo "changed: expected $2"; exit 1; }
}

echo "libevent $kVersion"
expect "timeout of 2 s:" "8 MiB announced, cut, 0 lines in its log" "$(ask 2 | paste -sd ' ' | sed 's/ 0 lines/, 0 lines/')"
expect "no timeout:" "8 MiB announced, whole, 0 lines in its log" "$(ask | paste -sd ' ' | sed 's/ 0 lines/, 0 lines/')"
