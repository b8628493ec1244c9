#!/usr/bin/env bash
# Run a hypereyes command on every host of a Cloud TPU slice that exists already.
#
#   launch/cloud_tpu.sh [--dry-run] --name my-v5p --zone us-east5-a [--project P] -- rl --out /shared/run ...
#
# What follows `--` goes to `hypereyes` as it is. The command's --out must be on a file system that is mounted alike on
# all hosts, Filestore for one (launch/README.md, Storage): paths like gs://... are refused. The package must be installed
# on the hosts:
#   gcloud compute tpus tpu-vm ssh NAME --zone ZONE --worker all --command "pip install 'hypereyes-jax[tpu]'"
set -euo pipefail

name="" zone="" project="" dry_run=0
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry_run=1; shift ;;
    --name) name=$2; shift 2 ;;
    --zone) zone=$2; shift 2 ;;
    --project) project=$2; shift 2 ;;
    --) shift; break ;;
    *) echo "cloud_tpu.sh: unknown option $1 (see the top of this file)" >&2; exit 2 ;;
  esac
done
if [ -z "$name" ] || [ -z "$zone" ] || [ $# -eq 0 ]; then
  echo "cloud_tpu.sh: give --name, --zone, and the hypereyes command after --" >&2
  exit 2
fi

printf -v command '%q ' hypereyes "$@" --distributed.join
run=(gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone" --worker=all "--command=$command")
if [ -n "$project" ]; then
  run+=("--project=$project")
fi

if [ "$dry_run" = 1 ]; then
  printf '%q ' "${run[@]}"
  echo
else
  "${run[@]}"
fi
