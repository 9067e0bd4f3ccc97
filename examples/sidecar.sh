#!/bin/sh
# A producer that links nothing: it reports the load of this host once a second, through the writer-agent.
# usage: sidecar.sh INSTANCE [SECONDS]
set -eu
instance=$1
left=${2:-10}

report() {
  read -r one five fifteen _ </proc/loadavg
  echo begin # the three become visible together
  echo "host/load/1=$one"
  echo "host/load/5=$five"
  echo "host/load/15=$fifteen"
  echo commit
  echo "add host/reports 1"
}

while [ "$left" -gt 0 ]; do
  report
  left=$((left - 1))
  if [ "$left" -gt 0 ]; then sleep 1; fi
done | "${SHMSTATE_AGENT:-shmstate-writer-agent}" "$instance"
