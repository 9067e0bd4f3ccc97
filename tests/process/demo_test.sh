#!/usr/bin/env bash
# The demo as a user runs it: it ends when told to, says what it merged, and leaves nothing behind.
# usage: demo_process_test.sh BUILD_DIRECTORY
set -euo pipefail
build_dir=$(realpath "$1")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

SHMSTATE_ROOT=$(mktemp -d /dev/shm/shmstate-demo-test-XXXXXX)
export SHMSTATE_ROOT
output=$(mktemp)
trap 'kill -KILL $(participants) 2>/dev/null || true; rm -rf "$SHMSTATE_ROOT" "$output"' EXIT

# All processes that have the root of this test in their environment, other than this one and its children in bash.
participants() {
  local environment pid
  for environment in /proc/[0-9]*/environ; do
    pid=${environment//[^0-9]/}
    if [[ $pid != "$$" && $(readlink "/proc/$pid/exe") != "$(readlink /proc/$$/exe)" ]] &&
      tr '\0' '\n' <"$environment" 2>/dev/null | grep -qx "SHMSTATE_ROOT=$SHMSTATE_ROOT"; then
      echo "$pid"
    fi
  done 2>/dev/null
}

participant() { pgrep -f "^$build_dir/$1" | grep -xF -f <(participants) | head -n 1; }

fail() {
  printf 'FAILED: %s\n' "$*"
  cat "$output"
  exit 1
}

expect_output() { grep -Eq -- "$1" "$output" || fail "$2: nothing in the output matches \"$1\""; }

expect_no_residue() {
  [[ -z $(ls -A "$SHMSTATE_ROOT") ]] || fail "$1 left files: $(ls -AR "$SHMSTATE_ROOT")"
  [[ -z $(participants) ]] || fail "$1 left processes: $(ps -fp "$(participants | paste -sd ,)")"
}

run_in_background() {
  : >"$output"
  env --default-signal=INT demo/run --build-dir "$build_dir" "$@" >>"$output" 2>&1 &
  run_pid=$!
}

expect_status() {
  local status=0
  wait "$run_pid" || status=$?
  [[ $status == "$1" ]] || fail "$2 ended with status $status, not $1"
}

wait_for_output() {
  local i
  for ((i = 0; i < 3000; ++i)); do
    if grep -Eq -- "$1" "$output"; then return; fi
    sleep 0.01
  done
  fail "no line of the output matches \"$1\""
}

# A run with --seconds ends by itself with status 0 and a summary in which the counts add up.
run_in_background --seconds 2
expect_status 0 "a run of 2 seconds"
expect_output '^mutations +[0-9,]{4,} merged' "a run of 2 seconds"
expect_output '^staleness +p50 .*p99 ' "a run of 2 seconds"
expect_output '^snapshots +[1-9].* 0 with a part of a batch' "a run of 2 seconds"
expect_no_residue "a run of 2 seconds"

# Ctrl-C and SIGTERM end a run in the same way.
for signal in INT TERM; do
  run_in_background
  wait_for_output 'mutations \([1-9]'
  kill -"$signal" "$run_pid"
  expect_status 0 "a run with SIG$signal"
  expect_output '^mutations +[0-9,]{4,} merged' "a run with SIG$signal"
  expect_no_residue "a run with SIG$signal"
done

# A signal is obeyed at any time, also while the participants start.
for delay in 0.01 0.03 0.06 0.1 0.15 0.2; do
  run_in_background
  sleep "$delay"
  kill -TERM "$run_pid" || true
  status=0
  wait "$run_pid" || status=$?
  [[ $status == 0 || $status == 143 ]] || fail "a run with a signal after $delay s ended with status $status"
  expect_no_residue "a run with a signal after $delay s"
done

# Whichever participant dies, the run says which, and fails.
while read -r program name; do
  run_in_background --seconds 60
  wait_for_output 'mutations \([1-9]'
  kill -KILL "$(participant "$program")"
  expect_status 1 "a run whose $name died"
  expect_output "^shmstate: the $name.* was killed by SIGKILL" "a run whose $name died"
  expect_no_residue "a run whose $name died"
done <<'PARTICIPANTS'
merger/shmstate-merger merger
demo/shmstate-proc-producer producer
writer-agent/shmstate-writer-agent writer-agent
demo/shmstate-live-view live view
PARTICIPANTS

# A run that was killed leaves its files to the next one, which removes them.
run_in_background
wait_for_output 'mutations \([1-9]'
kill -KILL "$run_pid"
wait "$run_pid" 2>/dev/null || true
while [[ -n $(participants) ]]; do sleep 0.05; done
[[ -n $(ls -A "$SHMSTATE_ROOT") ]] || fail "a killed run left no files: this test tests nothing"
run_in_background --seconds 0.5
expect_status 0 "the run after a killed one"
expect_no_residue "the run after a killed one"

echo "all runs ended as they should"
