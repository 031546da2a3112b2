#!/usr/bin/env bash
# Pretrain on several machines under SLURM, and go on by itself after preemption or the end of the job's time:
#     sbatch --nodes 4 scripts/slurm_pretrain.sh run_mlm_wwm.py --do_train --train_dir CORPUS --output_dir RUN ...
# Submitted from the repository's root; for run_mlm_wwm.py, run_electra.py and run_clm.py, with their flags.
# One task a GPU, which srun starts itself: torchrun in between would hide the script's exit code behind its own 1, and
# kill processes that write a checkpoint after 30 seconds. PREEMPTED (75) is the exit code of a run that SIGUSR1 or
# SIGTERM has stopped with a checkpoint: the job is queued again then, and the same command goes on.
#SBATCH --job-name=pretrain
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?is set by sbatch, which starts this: sbatch scripts/slurm_pretrain.sh run_mlm_wwm.py FLAGS}"
[ -f "${1:-}" ] || { echo "usage: sbatch scripts/slurm_pretrain.sh SCRIPT FLAGS, from the folder of SCRIPT" >&2; exit 2; }
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
MASTER_ADDR=${hosts%%$'\n'*} # by no `head`, which may end before scontrol has written all: pipefail would end the job
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT
trap : TERM USR1 # the tasks hear them, and this waits for their exit code
code=0
# shellcheck disable=SC2016
srun --wait=120 bash -c 'export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS \
    LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE; exec python "$@"' task "$@" || code=$?
[ "$code" != 75 ] || scontrol requeue "$SLURM_JOB_ID"
exit "$code"
