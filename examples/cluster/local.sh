#!/bin/bash
# Local processes in the place of hosts, to try a training before it goes to a cluster:
#   bash examples/cluster/local.sh 2 --folder run --steps 2000
# SIGTERM to one of them stops all; the same line goes on from there.
count=$1
shift
port=${PORT:-12355}
export JAX_PLATFORMS=cpu JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo
started=()
for index in $(seq 0 $((count - 1))); do
  python "$(dirname "$0")/train.py" --simulated 1 --coordinator "127.0.0.1:$port" \
    --processes "$count" --index "$index" "$@" &
  started+=($!)
done
trap 'kill "${started[@]}"' INT TERM # they end with a checkpoint
status=0
for process in "${started[@]}"; do
  while true; do
    wait "$process"
    code=$?
    kill -0 "$process" 2>/dev/null || break # a signal ends `wait` before the process
  done
  test "$code" -eq 0 || status=$code
done
exit "$status"
