#!/usr/bin/env bash
# Runs tests/model/crash.pml under spin: `holds` checks it in several sizes, `mutants` expects a violation of each
# mutant.
set -euo pipefail
kModel=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/crash.pml
readonly kModel
readonly kRecovery="-DREADS=0 -DMUTATIONS=4 -DDEATHS=3"
readonly kReading="-DREADS=2 -DMUTATIONS=2 -DDEATHS=1"
readonly kTwoRings="-DREADS=0 -DRINGS=2 -DMUTATIONS=1 -DDEATHS=2"
readonly kThreeBuffers="-DREADS=1 -DBUFFERS=3 -DMUTATIONS=1 -DDEATHS=1"

for tool in spin gcc; do
  if ! command -v $tool >/dev/null; then
    echo "skipped: $tool is not installed; ./dev setup installs it"
    exit 77
  fi
done
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
cp "$kModel" .

# build NAME SIZE: makes the checker ./NAME.
build() {
  # shellcheck disable=SC2086  # several options
  spin -a $2 crash.pml
  gcc -O1 -w -DSAFETY -DCOLLAPSE -DNOFAIR -o "$1" pan.c
}

# check NAME [MUTANT]: whether all states are visited and none violates anything. Ends the test if not all are visited.
check() {
  MUTANT=${2:-0} "./$1" -m100000 >report 2>&1 || true
  if grep -q "errors: 0" report && ! grep -q "max search depth too small\|out of memory" report; then return 0; fi
  if grep -q "^pan:1: " report && ! grep -q "max search depth too small\|out of memory" report; then return 1; fi
  cat report
  echo "the search was not complete"
  exit 1
}

holds() {
  local size states status=0
  for size in "$kRecovery" "$kReading" "$kTwoRings" "$kThreeBuffers"; do
    build model "$size"
    if check model; then
      states=$(sed -n 's/^ *\([0-9]*\) states, stored.*/\1/p' report)
      echo "$size: holds in $states states"
      echo "explored: $states states of the crash model"
    else
      echo "$size: VIOLATED"
      cat report
      ./model -r | tail -n 200  # the steps that lead there
      status=1
    fi
  done
  return $status
}

mutants() {
  local name number status=0
  build recovery "$kRecovery"
  build reading "$kReading"
  while read -r name number; do
    if check recovery "$number" && check reading "$number"; then
      echo "$name: SURVIVES; a property is missing, or the step is not needed"
      status=1
    else
      echo "$name: $(sed -n 's/^pan:1: \(.*\) (at depth.*/\1/p' report)"
    fi
  done < <(sed -n 's/^#define \([A-Z_]*\) (mutant == \([0-9]*\)).*/\1 \2/p' "$kModel")
  return $status
}

case ${1:-} in
  holds | mutants) "$1" ;;
  *)
    echo "usage: crash_model.sh holds | mutants" >&2
    exit 2
    ;;
esac
