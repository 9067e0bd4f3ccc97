#!/usr/bin/env bash
# libevent 2.1.12 (Debian 12), evhttp: the answer to HEAD that a handler gives with evhttp_send_reply() carries the
# body. HEAD is among the methods that a server allows by default, and one handler is asked for GET and HEAD alike. By
# HTTP/1.1 an answer to HEAD ends with its header, so on a kept-alive connection the client takes those bytes for the
# beginning of the next answer. Expected: no body, as with evhttp_send_reply_start() and evhttp_send_reply_chunk(),
# which do leave it out.
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
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

static void whole(struct evhttp_request* request, void* unused) {
  struct evbuffer* text = evbuffer_new();
  evbuffer_add_printf(text, "hello\n");
  evhttp_send_reply(request, 200, "OK", text);
  evbuffer_free(text);
}
static void pieces(struct evhttp_request* request, void* unused) {
  struct evbuffer* text = evbuffer_new();
  evbuffer_add_printf(text, "hello\n");
  evhttp_send_reply_start(request, 200, "OK");
  evhttp_send_reply_chunk(request, text);
  evhttp_send_reply_end(request);
  evbuffer_free(text);
}
int main(void) {
  struct event_base* base = event_base_new();
  struct evhttp* http = evhttp_new(base);
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
  evhttp_set_cb(http, "/whole", whole, NULL);
  evhttp_set_cb(http, "/pieces", pieces, NULL);
  evhttp_bind_listener(http, evconnlistener_new_bind(base, NULL, NULL, LEV_OPT_CLOSE_ON_FREE, 16,
                                                     (struct sockaddr*)&address, sizeof address));
  event_base_dispatch(base);
}
CODE
gcc -I unpacked/usr/include -I "unpacked/usr/include/$triplet" server.c -o server -L "$libraries" -levent
LD_LIBRARY_PATH=$libraries ./server &
server=$!
for ((i = 0; i < 100; ++i)); do [[ -S socket ]] && break || sleep 0.1; done

after_header() { # of the answer to HEAD $1, within a second
  python3 - "$1" <<'PYTHON'
import socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect("socket")
    connection.settimeout(1)
    connection.sendall(f"HEAD {sys.argv[1]} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    answer = b""
    try:
        while piece := connection.recv(4096):
            answer += piece
    except TimeoutError:
        pass
    header, _, rest = answer.partition(b"\r\n\r\n")
    print(header.split(b"\r\n")[0].decode(), "and then", len(rest), "bytes", rest.decode().split())
PYTHON
}
expect() {
  printf '%-32s %s\n' "$1" "$3"
  [[ $2 == "$3" ]] || { echo "changed: expected $2"; exit 1; }
}

echo "libevent $kVersion"
expect "HEAD, evhttp_send_reply:" "HTTP/1.1 200 OK and then 6 bytes ['hello']" "$(after_header /whole)"
expect "HEAD, evhttp_send_reply_chunk:" "HTTP/1.1 200 OK and then 0 bytes []" "$(after_header /pieces)"
