#!/usr/bin/env bash
# The examples do what they say.
# usage: examples_test.sh DIRECTORY_OF_PROGRAMS MERGER AGENT
set -euo pipefail
programs=$(realpath "$1") merger=$(realpath "$2")
SHMSTATE_AGENT=$(realpath "$3")
export SHMSTATE_AGENT
cd "$(dirname "${BASH_SOURCE[0]}")/../../examples"
root=$(mktemp -d /dev/shm/shmstate-examples-test-XXXXXX)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$root"' EXIT
"$merger" --instance "$root/plant" --memory-limit 64m &

fail() {
  printf 'FAILED: %s\n' "$*"
  exit 1
}
expect() { grep -qxE -- "$1" "$2" || fail "$2 has no line \"$1\": $(cat "$2")"; }

"$programs/example-writer" "$root/plant" 2 >"$root/writer" &
writer=$!
for ((i = 0; i < 600; ++i)); do
  if "$programs/example-reader-c" "$root/plant" >"$root/reader-c" && grep -q '^pump/7/rpm' "$root/reader-c"; then break; fi
  sleep 0.1
done
"$programs/example-reader" "$root/plant" 3 >"$root/reader"
wait $writer || fail "the writer: $(cat "$root/writer")"
expect 'flush: ok' "$root/writer"
expect 'pump/7/starts = 1' "$root/reader"
expect 'pump/7/rpm = 148[0-9]' "$root/reader"
expect '[0-9]+ entries at epoch [0-9]+' "$root/reader"

./sidecar.sh "$root/plant" 2
"$programs/example-reader-c" "$root/plant" >"$root/reader-c"
expect 'the pump makes 1489 turns a minute' "$root/reader-c"
expect 'pump/7/power = 372.25' "$root/reader-c"
expect 'host/reports = 2' "$root/reader-c"
expect 'host/load/15 = [0-9.]+' "$root/reader-c"
if "$programs/example-reader-c" "$root/nobody" 2>"$root/error"; then fail "a missing instance is no error"; fi
expect 'shmstate: .*nobody.*' "$root/error"
echo "all examples did what they say"
