#!/bin/bash
# Two nodes with eight GPUs each, and one process for each GPU, which is what JAX expects of SLURM:
#   sbatch examples/cluster/slurm.sh
# Two minutes before the time is over SLURM sends SIGTERM to the processes. They write a checkpoint
# and exit with 75, and the job is put back into the queue. Where a node fails, JAX ends the other
# processes, and SLURM puts the job back by itself.
#SBATCH --job-name=metajax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

folder=${SCRATCH:-$HOME}/metajax-run # one that all nodes see
srun python examples/cluster/train.py --auto --folder "$folder"
status=$?
if [ "$status" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
