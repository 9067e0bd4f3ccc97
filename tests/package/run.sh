#!/usr/bin/env bash
# A project of somebody else that takes shmstate as sources builds, and its program writes and reads.
# usage: run.sh add_subdirectory|FetchContent BUILD_DIRECTORY MERGER
set -euo pipefail
way=$1 build=$2/consumer-$1 merger=$3
root=$(mktemp -d /dev/shm/shmstate-package-test-XXXXXX)
trap 'kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; rm -rf "$root"' EXIT

"$merger" --instance "$root/plant" --memory-limit 64m &
pid=$!
launcher=()
if command -v ccache >/dev/null; then launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
cmake -S "$(dirname "${BASH_SOURCE[0]}")" -B "$build" -DSHMSTATE_FROM="$way" "${launcher[@]}"
cmake --build "$build" -j "$(nproc)"
"$build/consumer" "$root/plant"
