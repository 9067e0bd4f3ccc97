#!/usr/bin/env bash
# The completion of bash offers commands, options of the command and names of instances, and nothing else. Names are
# quoted.
# Usage: ctl_completion_test.sh SHMSTATECTL COMPLETION
set -euo pipefail

PATH=$(dirname "$1"):$PATH
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/plant" "$root/plane" "$root/no-instance" "$root/.plan.new"
touch "$root/plant/control" "$root/plane/control" "$root/.plan.new/control"
export SHMSTATE_ROOT=$root

# shellcheck source=/dev/null
source "$2"

status=0
# expect WANTED WORD...: what is offered for the last word, sorted, on one line.
expect() {
  local wanted=$1 offered
  shift
  COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
  _shmstatectl shmstatectl || true
  offered=$(printf '%s\n' "${COMPREPLY[@]}" | sort | paste -sd ' ')
  [[ $offered == "$wanted" ]] && return
  printf '%s: offered "%s" instead of "%s"\n' "$*" "$offered" "$wanted" >&2
  status=1
}

expect "status" shmstatectl stat
expect "set" shmstatectl -i plant se
expect "set" shmstatectl --json se
expect "--timeout --ttl --type" shmstatectl set --t
expect "--raw" shmstatectl get --r
expect "top" shmstatectl to
expect "instances" shmstatectl ins
expect "--interval" shmstatectl watch --int
expect "--interval" shmstatectl top --int
expect "--instance" shmstatectl list --inst
expect "plane plant" shmstatectl -i pla
expect "plane" shmstatectl get --instance plane
shopt -s dotglob
expect "" shmstatectl -i .pl
shopt -u dotglob
expect "plane plant" shmstatectl --instance = pla
expect "plane plant" shmstatectl --instance =
expect "set" shmstatectl --instance = plant se
expect "--json" shmstatectl --j
expect "--json" shmstatectl get --j
expect "int" shmstatectl set --type i
expect "int" shmstatectl set --type = i
expect "" shmstatectl get key
expect "--initial" shmstatectl watch --ini
expect "--if-empty" shmstatectl load --if
expect "--connect" shmstatectl --con
expect "--version" shmstatectl del --versi
expect "set" shmstatectl --connect /run/agent.sock se
expect "$root/plant" shmstatectl --connect "$root/plant"

# A directory's name was expanded as the shell does, and what it said was executed.
export executed=$root/executed
for name in 'evil$(touch $executed)' 'two words'; do
  mkdir "$root/$name"
  touch "$root/$name/control"
done
expect 'evil\$\(touch\ \$executed\)' shmstatectl -i evil
expect 'two\ words' shmstatectl -i two
if [[ -e $executed ]]; then
  echo "the name of a directory was executed" >&2
  status=1
fi

# Somebody else's directory was taken for this user's own.
if ((EUID == 0)); then
  user=64999 # nobody's
  foreign=/dev/shm/shmstate-$user
  trap 'rm -rf "$root" "$foreign"' EXIT
  mkdir -p "$foreign/foreign"
  touch "$foreign/foreign/control"
  complete='COMP_WORDS=(shmstatectl -i f) COMP_CWORD=2; _shmstatectl; echo "${COMPREPLY[*]}"'
  offered=$(env -u SHMSTATE_ROOT setpriv --reuid=$user --clear-groups bash -c "$(<"$2")"$'\n'"$complete")
  if [[ $offered == *foreign* ]]; then
    echo "an instance in a directory of root is offered to user $user" >&2
    status=1
  fi
fi

expect "$root/plant" shmstatectl load "$root/plant"
exit $status
