#!/usr/bin/env bash
# Run a hypereyes command on Slurm, one process a node with all its GPUs: the paper's layout is 8 nodes x 8 H20.
#
#   launch/slurm.sh [--dry-run] [--nodes 8] [--gpus 8] [--partition NAME] [--time 48:00:00] [--restarts 10]
#     -- rl --out /shared/run ...
#
# What follows `--` goes to `hypereyes` as it is. The command's --out must be on a file system that all nodes share:
# after a crash, a preemption or a node's failure the job is queued again and goes on from the last checkpoint. After
# --restarts of them a crash ends it. What only its user can put right (exit code 2) ends it at once.
set -euo pipefail

nodes=8 gpus=8 partition="" limit="48:00:00" restarts=10 dry_run=0
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry_run=1; shift ;;
    --nodes) nodes=$2; shift 2 ;;
    --gpus) gpus=$2; shift 2 ;;
    --partition) partition=$2; shift 2 ;;
    --time) limit=$2; shift 2 ;;
    --restarts) restarts=$2; shift 2 ;;
    --) shift; break ;;
    *) echo "slurm.sh: unknown option $1 (see the top of this file)" >&2; exit 2 ;;
  esac
done
if [ $# -eq 0 ]; then
  echo "slurm.sh: give the hypereyes command after --" >&2
  exit 2
fi

submit=(sbatch --job-name=hypereyes "--nodes=$nodes" --ntasks-per-node=1 "--gpus-per-node=$gpus" --exclusive
  "--time=$limit" --requeue --open-mode=append "--output=hypereyes-%j.log")
if [ -n "$partition" ]; then
  submit+=("--partition=$partition")
fi
# --kill-on-bad-exit: one dead process ends all. Slurm's own --requeue is for preemption and failed nodes; after any other
# failure the job asks for it. srun gives the highest exit code of all, and that of a killed process is higher than 2.
# shellcheck disable=SC2016 # these variables are the job's
task='"$@"; code=$?; [ $code -ne 2 ] || code=255; exit $code'
printf -v command '%q ' srun --kill-on-bad-exit=1 bash -c "$task" hypereyes hypereyes "$@" --distributed.join
# shellcheck disable=SC2016
again='[ $code -ne 255 ] || exit 2; [ "${SLURM_RESTART_COUNT:-0}" -ge %d ] || scontrol requeue "$SLURM_JOB_ID"; exit $code'
# shellcheck disable=SC2059
printf -v again "$again" "$restarts"
submit+=("--wrap=$command || { code=\$?; $again; }")

if [ "$dry_run" = 1 ]; then
  printf '%q ' "${submit[@]}"
  echo
else
  "${submit[@]}"
fi
