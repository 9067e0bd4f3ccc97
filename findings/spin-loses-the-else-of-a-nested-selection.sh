#!/usr/bin/env bash
# spin 6.5.2 (Debian 12): when an option of a selection begins with another selection that has an `else`, that `else`
# counts for the outer selection. It can then only be taken when no outer option can, so beside an option that is always
# executable it never is. The search says "errors: 0" without having looked at what lies behind it; the only sign is a
# line among the states that were not reached. Expected: the inner `else` is taken when the other inner options cannot
# be, as it is when the outer option begins with `true ->`.
set -euo pipefail

readonly kVersion=6.5.2+dfsg-1
dir=$(mktemp -d)
chmod 755 "$dir"
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq "spin=$kVersion" >/dev/null 2>&1
dpkg -x spin_*.deb unpacked
export PATH=$PWD/unpacked/usr/bin:$PATH

model() { # model BEGIN: the outer option begins with BEGIN
  cat <<MODEL
byte reached, other
active proctype P() {
  if
  :: other = 1
  :: $1 if
     :: other == 2
     :: else -> reached = 1
     fi
  fi;
  assert(reached == 0)
}
MODEL
}
search() { # search BEGIN: the number of errors, and of states behind an else that were not reached
  model "$1" >model.pml
  spin -a model.pml >/dev/null
  gcc -w -DSAFETY -o pan pan.c
  ./pan >report
  echo "$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' report) errors, $(grep -c 'reached = 1' report || true) unreached"
}

nested=$(search '')
guarded=$(search 'true ->')
echo "an assertion behind the inner else: $nested"
echo "the same, the outer option beginning with \"true ->\": $guarded"
[[ $nested == "0 errors, 1 unreached" && $guarded == "1 errors, 0 unreached" ]] || {
  echo "changed: this was 0 errors, 1 unreached; and 1 errors, 0 unreached" >&2
  exit 1
}
