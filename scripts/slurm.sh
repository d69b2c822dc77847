#!/usr/bin/env bash
# One pre-training run on GPU nodes of a SLURM cluster (docs/tpu.md):
#
#     sbatch scripts/slurm.sh --config=pretrain/digits.py:look --workdir=/shared/runs/look
#
# One process per GPU. Two minutes before the time limit, and when the job is preempted, SLURM sends
# SIGTERM: the run saves, ends with status 75, and the job is queued again.
#SBATCH --job-name=jaxpt
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

srun "${JAXPT:-jaxpt}" pretrain "$@"
status=$?
if [ "$status" = 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
