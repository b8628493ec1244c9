#!/usr/bin/env bash
# Run a hypereyes command on any cloud through SkyPilot, as a managed job that is moved when it is preempted.
#
#   launch/sky.sh [--dry-run] [--nodes 8] [--accelerators H200:8] --bucket s3://my-bucket -- rl --out /run/rl ...
#
# What follows `--` goes to `hypereyes` as it is; the bucket is mounted at /run, so keep --out below it.
set -euo pipefail

nodes=1 accelerators="H200:8" bucket="" dry_run=0
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry_run=1; shift ;;
    --nodes) nodes=$2; shift 2 ;;
    --accelerators) accelerators=$2; shift 2 ;;
    --bucket) bucket=$2; shift 2 ;;
    --) shift; break ;;
    *) echo "sky.sh: unknown option $1 (see the top of this file)" >&2; exit 2 ;;
  esac
done
if [ -z "$bucket" ] || [ $# -eq 0 ]; then
  echo "sky.sh: give --bucket, and the hypereyes command after --" >&2
  exit 2
fi

printf -v command '%q ' hypereyes "$@"
here=$(cd "$(dirname "$0")" && pwd)
run=(sky jobs launch --yes --name hypereyes "--num-nodes=$nodes" "--gpus=$accelerators" "--env=COMMAND=$command"
  "--env=BUCKET=$bucket" "$here/sky.yaml")

if [ "$dry_run" = 1 ]; then
  printf '%q ' "${run[@]}"
  echo
else
  "${run[@]}"
fi
