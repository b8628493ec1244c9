#!/usr/bin/env bash
# Run a hypereyes command on a GKE cluster with TPU slices, through xpk (https://github.com/AI-Hypercomputer/xpk).
#
#   hypereyes launch gke [--dry-run] --cluster C --type v5p-128 [--slices 1] [--image IMAGE] [--package SPEC]
#     [--restarts 10] [--grace 300] -- rl --out gs://bucket/run ...
#
# What follows `--` goes to `hypereyes` as it is. The command's --out must be in a bucket (gs://...) or on a file system
# that all pods mount (docs/clusters.md, Storage). A workload that dies is started again, and goes on from the last
# checkpoint of its --out; before Kubernetes ends a pod the run has --grace seconds to save.
#
# Without --image the pods start from a plain Debian with Python, and set the package up themselves by uv, which takes
# minutes a start; --package is what pip would install (default: hypereyes-jax[tpu,remote]). An image that has the
# package, such as the one of this project's Dockerfile, starts at once.
set -euo pipefail
# shellcheck source=quote.sh
source "$(dirname "${BASH_SOURCE[0]}")/quote.sh"

cluster="" type="" slices=1 image="" package="hypereyes-jax[tpu,remote]" restarts=10 grace=300 dry_run=0
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry_run=1; shift; continue ;;
    --) shift; break ;;
  esac
  [ $# -ge 2 ] || { echo "gke.sh: $1 needs a value, or is no option" >&2; exit 2; }
  case "$1" in
    --cluster) cluster=$2 ;;
    --type) type=$2 ;;
    --slices) slices=$2 ;;
    --image) image=$2 ;;
    --package) package=$2 ;;
    --restarts) restarts=$2 ;;
    --grace) grace=$2 ;;
    *) echo "gke.sh: unknown option $1 (see the top of this file)" >&2; exit 2 ;;
  esac
  shift 2
done
if [ -z "$cluster" ] || [ -z "$type" ] || [ $# -eq 0 ]; then
  echo "gke.sh: give --cluster, --type, and the hypereyes command after --" >&2
  exit 2
fi

# `exec`: Kubernetes sends its SIGTERM to the first process only.
command="exec $(quoted hypereyes "$@" --distributed.join)"
if [ -z "$image" ]; then
  image=python:3.12-slim
  install=$(quoted uv pip install --system "$package")
  command="pip install -q uv && $install && $command"
fi
run_or_print xpk workload create "--cluster=$cluster" "--workload=hypereyes-$1-$(date +%m%d%H%M)" "--tpu-type=$type" \
  "--num-slices=$slices" "--docker-image=$image" "--max-restarts=$restarts" \
  "--termination-grace-period-seconds=$grace" "--command=$command"
