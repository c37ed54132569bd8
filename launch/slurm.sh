#!/usr/bin/env bash
#SBATCH --job-name=silc
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=USR1@600
#SBATCH --requeue
#
# Many nodes under SLURM: srun starts a rank a GPU, no ssh between nodes.
#   sbatch launch/slurm.sh --preset silc_vit_b16 'data.shards=["/shared/pairs/{00000..09999}.tar"]' train.out=/shared/runs/b16
# Options of sbatch go before launch/slurm.sh and win over the lines above; without GPUs: --gpus-per-node=0.
#
# 600 seconds before the time is over SLURM sends USR1 to the ranks: they save a checkpoint after the step they are at and
# leave with status 75. The job is then queued again, and its next part resumes from the newest whole checkpoint. So it is
# after a preemption. scancel ends it, after the same save if SLURM's KillWait leaves the time for it.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
VENV="${VENV:-.venv}"
PATH="$(cd "$VENV" && pwd)/bin:$PATH"
export PATH

if ((${SLURM_RESTART_COUNT:-0} > 0)); then
  set -- "$@" train.resume=auto
fi
# srun takes the number of tasks from the job, but not that of cores. It must not kill the others when the first rank
# leaves with 75, but five minutes later.
srun --kill-on-bad-exit=0 --wait=300 ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
  python launch/train.py "$@" &
step=$!
trap 'kill -USR1 "$step"' USR1 # sent to this shell alone by --signal=B:USR1@600; srun passes it on
trap : TERM                    # SLURM ends the ranks by itself; this shell waits for their save
while kill -0 "$step" 2> /dev/null; do
  wait "$step" && status=0 || status=$?
done

# A job that is cancelled or preempted is no longer RUNNING; SLURM itself decides whether it comes back.
if ((status == 75)) && [[ "$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T)" == RUNNING ]]; then
  trap - TERM
  scontrol requeue "$SLURM_JOB_ID"
  sleep 60 # until SLURM ends this shell: an end of its own would end the job
fi
exit "$status"
