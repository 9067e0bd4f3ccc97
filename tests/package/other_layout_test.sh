#!/usr/bin/env bash
# What is compiled into programs belongs to one layout: a program that was compiled for another one does not link with
# these libraries, instead of misreading what they share.
#
#   other_layout_test.sh COMPILER INCLUDE_DIRECTORY... -- LIBRARY...
set -euo pipefail

compiler=$1
shift
includes=()
while [[ $1 != -- ]]; do
  includes+=("-I$1")
  shift
done
shift
libraries=("$@")

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cat >"$directory/writer.cc" <<'CODE'
#include "shmstate/writer.h"
int main() {
  shmstate::Writer writer("plant");
  return writer.set("key", 1) == shmstate::Status::kOk ? 0 : 1;
}
CODE
cat >"$directory/reader.cc" <<'CODE'
#include "shmstate/reader.h"
int main() {
  shmstate::Reader reader("plant");
  std::int64_t value = 0;
  return reader.read("key", value) == shmstate::Status::kOk ? 0 : 1;
}
CODE

link() { # OPTION_OR_FILE...
  "$compiler" -std=c++20 -O1 "${includes[@]}" "$@" "${libraries[@]}" -o "$directory/program" 2>"$directory/messages"
}
fail() {
  echo "$1" >&2
  cat "$directory/messages" >&2
  exit 1
}

name=$(grep -hroE 'inline namespace layout_[0-9]+' "${includes[@]#-I}" | sort -u)
name=${name#inline namespace }
[[ $name =~ ^layout_[0-9]+$ ]] || fail "the headers have not one name of the layout, but: $name"
for program in writer reader; do
  link "$directory/$program.cc" || fail "a $program does not link"
  if link "-D$name=layout_of_another_version" "$directory/$program.cc"; then
    fail "a $program that was compiled for another layout links"
  fi
  grep -q "undefined reference to .*layout_of_another_version" "$directory/messages" || fail "another reason:"
done
