#!/bin/bash
# Two nodes with eight GPUs each, and one process a node:
#   sbatch examples/cluster/slurm.sh
# Two minutes before the time is over SLURM sends SIGTERM. The training writes a checkpoint and exits
# with 75, and the job is put back into the queue. A node that fails ends the job, which is then put
# back by SLURM itself.
#SBATCH --job-name=metajax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

folder=${SCRATCH:-$HOME}/metajax-run # one that all nodes see
srun --kill-on-bad-exit=1 python examples/cluster/train.py --auto --folder "$folder"
status=$?
if [ "$status" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
