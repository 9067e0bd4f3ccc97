#!/usr/bin/env bash
# The shared libraries export the public API, under one version, and nothing else.
# usage: exports_test.sh LIBRARY ...
set -euo pipefail
readonly kPublic='^(shmstate::(layout_2::(Writer|Batch|Verbs<shmstate::layout_2::(Writer|Batch)>|Reader|Snapshot)|Watch|EntryView|ChangeSampler)::[^:]*(\(|\[)|shmstate::internal::layout_2::hash_of\(|shmstate::layout_2::Snapshot::Iterator::(operator|look_up_more\(|next_slab\(|take_other\(|fail_unkept\()|shmstate::(inspect|list_instances)\b|(typeinfo|typeinfo name|vtable) for shmstate::Error@|shmstate_[a-z0-9_]+@)'

status=0
for library in "$@"; do
  exported=$(nm --dynamic --demangle --defined-only "$library" | cut -d ' ' -f 3- | grep -v '^SHMSTATE_0$')
  [[ -n $exported ]] || { echo "$library exports nothing" && status=1; }
  if grep -vE "$kPublic" <<<"$exported"; then echo "$library exports these, too" && status=1; fi
  if grep -v '@@SHMSTATE_0$' <<<"$exported"; then echo "$library exports these without a version" && status=1; fi
done
exit $status
