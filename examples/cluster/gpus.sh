#!/bin/bash
# One host with eight GPUs. One process drives all of them; nothing has to be started beside it.
#   bash examples/cluster/gpus.sh --folder run
export XLA_PYTHON_CLIENT_MEM_FRACTION=0.9
until python "$(dirname "$0")/train.py" "$@"; do
  test $? -eq 75 || exit 1 # 75: it was stopped, and goes on from its checkpoint
done
