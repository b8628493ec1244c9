#!/usr/bin/env bash
# Run a hypereyes command on a GKE cluster with TPU slices, through xpk (https://github.com/AI-Hypercomputer/xpk).
#
#   launch/gke.sh [--dry-run] --cluster C --type v5p-128 [--slices 1] --image IMAGE -- rl --out /shared/run ...
#
# What follows `--` goes to `hypereyes` as it is. The command's --out must be on a file system that all pods mount,
# Filestore for one (launch/README.md, Storage): paths like gs://... are refused. A workload that dies is started again,
# and goes on from the last checkpoint of its --out.
set -euo pipefail

cluster="" type="" slices=1 image="" restarts=10 dry_run=0
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry_run=1; shift ;;
    --cluster) cluster=$2; shift 2 ;;
    --type) type=$2; shift 2 ;;
    --slices) slices=$2; shift 2 ;;
    --image) image=$2; shift 2 ;;
    --restarts) restarts=$2; shift 2 ;;
    --) shift; break ;;
    *) echo "gke.sh: unknown option $1 (see the top of this file)" >&2; exit 2 ;;
  esac
done
if [ -z "$cluster" ] || [ -z "$type" ] || [ -z "$image" ] || [ $# -eq 0 ]; then
  echo "gke.sh: give --cluster, --type, --image, and the hypereyes command after --" >&2
  exit 2
fi

printf -v command '%q ' hypereyes "$@" --distributed.join
run=(xpk workload create "--cluster=$cluster" "--workload=hypereyes-$1-$(date +%m%d%H%M)" "--tpu-type=$type"
  "--num-slices=$slices" "--docker-image=$image" "--max-restarts=$restarts" "--command=$command")

if [ "$dry_run" = 1 ]; then
  printf '%q ' "${run[@]}"
  echo
else
  "${run[@]}"
fi
