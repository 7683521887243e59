#!/bin/bash
# A slice of TPUs, such as a v5litepod-16 of four hosts, on which metajax is installed:
#   bash examples/cluster/tpu.sh NAME ZONE
# Every host runs the same line, and JAX finds the others. /mnt/shared is a Filestore that all hosts
# have mounted. Where the training was stopped, the same line goes on.
name=$1
zone=$2
gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all --command \
  "cd metajax && exec python examples/cluster/train.py --auto --folder /mnt/shared/run"
