#!/usr/bin/env bash
# Run a hypereyes command on Slurm, one process a node with all its GPUs: the paper's layout is 8 nodes x 8 H20.
#
#   launch/slurm.sh [--dry-run] [--nodes 8] [--gpus 8] [--partition NAME] [--time 48:00:00] -- rl --out /shared/run ...
#
# What follows `--` goes to `hypereyes` as it is. The command's --out must be on a file system that all nodes share:
# after a crash or a preemption the job is queued again and goes on from the last checkpoint.
set -euo pipefail

nodes=8 gpus=8 partition="" limit="48:00:00" dry_run=0
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry_run=1; shift ;;
    --nodes) nodes=$2; shift 2 ;;
    --gpus) gpus=$2; shift 2 ;;
    --partition) partition=$2; shift 2 ;;
    --time) limit=$2; shift 2 ;;
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
# --kill-on-bad-exit: one dead process ends all, and Slurm queues the job again.
printf -v command '%q ' srun --kill-on-bad-exit=1 hypereyes "$@" --distributed.join
submit+=("--wrap=$command")

if [ "$dry_run" = 1 ]; then
  printf '%q ' "${submit[@]}"
  echo
else
  "${submit[@]}"
fi
