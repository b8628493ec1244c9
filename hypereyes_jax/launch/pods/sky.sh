#!/usr/bin/env bash
# Run a hypereyes command on any cloud through SkyPilot, as a managed job that is moved when it is preempted.
#
#   hypereyes launch sky [--dry-run] [--accelerators H200:8] [--package SPEC] [--restarts 10] --bucket s3://my-bucket
#     -- rl --out /hypereyes-run/rl ...
#   hypereyes launch sky [--dry-run] [--accelerators H200:8] --nodes 8 --volume my-volume -- rl --out /hypereyes-run/rl ...
#
# What follows `--` goes to `hypereyes` as it is. The bucket or the volume is mounted at /hypereyes-run, so keep --out
# below it. Several nodes need a volume that all may write (docs/clusters.md, Storage). Each node gets a Python that
# fits, by uv; --package is what pip would install there (default: hypereyes-jax[cuda13]).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=quote.sh
source "$here/quote.sh"

nodes=1 accelerators="H200:8" bucket="" volume="" package="hypereyes-jax[cuda13]" restarts=10 dry_run=0
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry_run=1; shift; continue ;;
    --) shift; break ;;
  esac
  [ $# -ge 2 ] || { echo "sky.sh: $1 needs a value, or is no option" >&2; exit 2; }
  case "$1" in
    --nodes) nodes=$2 ;;
    --accelerators) accelerators=$2 ;;
    --bucket) bucket=$2 ;;
    --volume) volume=$2 ;;
    --package) package=$2 ;;
    --restarts) restarts=$2 ;;
    *) echo "sky.sh: unknown option $1 (see the top of this file)" >&2; exit 2 ;;
  esac
  shift 2
done
if [ -z "$bucket$volume" ] || { [ -n "$bucket" ] && [ -n "$volume" ]; } || [ $# -eq 0 ]; then
  echo "sky.sh: give --bucket or --volume, and the hypereyes command after --" >&2
  exit 2
fi
if [ -n "$bucket" ] && [ "$nodes" != 1 ]; then
  echo "sky.sh: through a bucket a node sees late what another wrote; for several nodes give --volume" >&2
  exit 2
fi

command=$(quoted hypereyes launch restart --restarts "$restarts" -- "$@")
run=(sky jobs launch --yes --name hypereyes "--num-nodes=$nodes" "--gpus=$accelerators" "--env=COMMAND=$command"
  "--env=PACKAGE=$package")
if [ -n "$bucket" ]; then
  run+=("--env=BUCKET=$bucket" "$here/sky.yaml")
else
  run+=("--env=VOLUME=$volume" "$here/sky_volume.yaml")
fi
run_or_print "${run[@]}"
