#!/usr/bin/env bash
# Run a hypereyes command on any cloud through SkyPilot, as a managed job that is moved when it is preempted.
#
#   launch/sky.sh [--dry-run] [--accelerators H200:8] --bucket s3://my-bucket -- rl --out /hypereyes-run/rl ...
#   launch/sky.sh [--dry-run] [--accelerators H200:8] --nodes 8 --volume my-volume -- rl --out /hypereyes-run/rl ...
#
# What follows `--` goes to `hypereyes` as it is. The bucket or the volume is mounted at /hypereyes-run, so keep --out
# below it. Several nodes need a volume that all may write (launch/README.md, Storage).
set -euo pipefail

nodes=1 accelerators="H200:8" bucket="" volume="" dry_run=0
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry_run=1; shift ;;
    --nodes) nodes=$2; shift 2 ;;
    --accelerators) accelerators=$2; shift 2 ;;
    --bucket) bucket=$2; shift 2 ;;
    --volume) volume=$2; shift 2 ;;
    --) shift; break ;;
    *) echo "sky.sh: unknown option $1 (see the top of this file)" >&2; exit 2 ;;
  esac
done
if [ -z "$bucket$volume" ] || { [ -n "$bucket" ] && [ -n "$volume" ]; } || [ $# -eq 0 ]; then
  echo "sky.sh: give --bucket or --volume, and the hypereyes command after --" >&2
  exit 2
fi
if [ -n "$bucket" ] && [ "$nodes" != 1 ]; then
  echo "sky.sh: through a bucket a node sees late what another wrote; for several nodes give --volume" >&2
  exit 2
fi

printf -v command '%q ' hypereyes "$@"
here=$(cd "$(dirname "$0")" && pwd)
run=(sky jobs launch --yes --name hypereyes "--num-nodes=$nodes" "--gpus=$accelerators" "--env=COMMAND=$command")
if [ -n "$bucket" ]; then
  run+=("--env=BUCKET=$bucket" "$here/sky.yaml")
else
  run+=("--env=VOLUME=$volume" "$here/sky_volume.yaml")
fi

if [ "$dry_run" = 1 ]; then
  printf '%q ' "${run[@]}"
  echo
else
  "${run[@]}"
fi
