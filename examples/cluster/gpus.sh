#!/bin/bash
# One host with eight GPUs. One process drives all of them; nothing has to be started beside it.
#   bash examples/cluster/gpus.sh --folder run
# Ctrl-C or SIGTERM stops it after a checkpoint, and the same line goes on from there.
exec python "$(dirname "$0")/train.py" "$@"
