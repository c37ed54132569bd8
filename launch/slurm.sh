#!/usr/bin/env bash
#SBATCH --job-name=silc
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --signal=USR1@600
#
# Many nodes under SLURM: one launcher a node, no ssh between them.
#   sbatch launch/slurm.sh --preset silc_vit_b16 'data.shards=["/shared/pairs/{00000..09999}.tar"]' train.out=/shared/runs/b16 train.resume=auto
# train.resume=auto goes on from the newest whole checkpoint when the job is submitted again, with the same number of GPUs.
# 600 seconds before the time is over SLURM sends USR1 to each node's shell below, which passes it to its training
# processes: they save a checkpoint after the step they are at and leave with status 75.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
export VENV="${VENV:-.venv}"
PATH="$(cd "$VENV" && pwd)/bin:$PATH"
MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
MASTER_PORT="${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}"
GPUS="${SLURM_GPUS_ON_NODE:-8}"
export PATH MASTER_ADDR MASTER_PORT GPUS

hosts="$(mktemp -p "$PWD" hostfile.XXXXXX)"
trap 'rm -f "$hosts"' EXIT
scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/\$/ slots=$GPUS/" > "$hosts"
export hosts

# The launcher itself does not know USR1 and would die of it; its children are launch.py, whose children are the ranks.
srun --kill-on-bad-exit=1 bash -c '
  deepspeed --hostfile "$hosts" --no_ssh --node_rank "$SLURM_NODEID" \
    --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" launch/train.py "$@" &
  launcher=$!
  trap "pkill -USR1 -P \$(pgrep -d, -P $launcher)" USR1
  while kill -0 "$launcher" 2> /dev/null; do
    wait "$launcher" && status=0 || status=$?
  done
  exit "$status"' _ "$@"
