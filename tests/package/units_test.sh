#!/usr/bin/env bash
# The installed units start the installed programs, wherever these are installed.
# usage: units_test.sh BUILD_DIRECTORY
set -euo pipefail
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
DESTDIR=$root cmake --install "$1" --component programs >/dev/null

status=0 count=0
while read -r program _; do
  ((++count))
  [[ -x $root$program ]] || { echo "a unit starts $program, which is not installed" && status=1; }
done < <(find "$root" -name '*.service' -exec sed -n 's/^ExecStart=//p' {} +)
((count == 3)) || { echo "$count units start programs, not 3" && status=1; }
exit $status
