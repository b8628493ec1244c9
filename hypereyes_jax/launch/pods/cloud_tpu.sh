#!/usr/bin/env bash
# Run a hypereyes command on every host of a Cloud TPU slice that exists already.
#
#   hypereyes launch tpu [--dry-run] --name my-v5p --zone us-east5-a [--project P] [--package SPEC] [--restarts 10]
#     -- rl --out gs://bucket/run ...
#   hypereyes launch tpu --name my-v5p --zone us-east5-a logs      # the last lines of each host
#   hypereyes launch tpu --name my-v5p --zone us-east5-a stop      # SIGTERM: the run saves and ends
#
# What follows `--` goes to `hypereyes` as it is. The command's --out must be in a bucket (gs://...) or on a file system
# that is mounted alike on all hosts (docs/clusters.md, Storage). Hosts share recorded searches
# by --search.store postgresql://user@host/searches; each reads the password from its ~/.pgpass.
#
# The command goes on when this terminal is closed: on each host it runs in a session of its own, writes to
# ~/hypereyes.log, and is started again when it dies, --restarts times at most. A host that was rebooted (maintenance)
# needs the same command again. Each host gets a Python that fits, in ~/hypereyes-venv, by uv; --package is what pip
# would install there (default: hypereyes-jax[tpu,remote]), and empty leaves what is there as it is.
set -euo pipefail
# shellcheck source=quote.sh
source "$(dirname "${BASH_SOURCE[0]}")/quote.sh"

name="" zone="" project="" package="hypereyes-jax[tpu,remote]" restarts=10 dry_run=0 action=""
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry_run=1; shift; continue ;;
    logs | stop) action=$1; shift; continue ;;
    --) shift; break ;;
  esac
  [ $# -ge 2 ] || { echo "cloud_tpu.sh: $1 needs a value, or is no option" >&2; exit 2; }
  case "$1" in
    --name) name=$2 ;;
    --zone) zone=$2 ;;
    --project) project=$2 ;;
    --package) package=$2 ;;
    --restarts) restarts=$2 ;;
    *) echo "cloud_tpu.sh: unknown option $1 (see the top of this file)" >&2; exit 2 ;;
  esac
  shift 2
done
if [ -z "$name" ] || [ -z "$zone" ] || { [ $# -eq 0 ] && [ -z "$action" ]; }; then
  echo "cloud_tpu.sh: give --name, --zone, and logs, stop or the hypereyes command after --" >&2
  exit 2
fi

# shellcheck disable=SC2016 # these variables are the host's
case "$action" in
  logs) command='tail -n 40 ~/hypereyes.log' ;;
  stop) command='kill -TERM "$(cat ~/hypereyes.pid)"' ;;
  *)
    running='if [ -e ~/hypereyes.pid ] && kill -0 "$(cat ~/hypereyes.pid)" 2>/dev/null; then
  echo "a run is going on here: see ~/hypereyes.log, or stop it first" >&2; exit 1
fi'
    setup='set -e
export PATH="$HOME/.local/bin:$PATH"
command -v uv > /dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
[ -e ~/hypereyes-venv ] || uv venv --python 3.12 ~/hypereyes-venv
uv pip install --python ~/hypereyes-venv/bin/python '
    start='nohup setsid ~/hypereyes-venv/bin/hypereyes launch restart '
    end=' >> ~/hypereyes.log 2>&1 < /dev/null &
echo $! > ~/hypereyes.pid
echo "started; its output goes to ~/hypereyes.log"'
    command="$running"$'\n'
    if [ -n "$package" ]; then
      command+="$setup$(quoted "$package")"$'\n'
    fi
    command+="$start$(quoted --restarts "$restarts" -- "$@" --distributed.join)$end" ;;
esac
run=(gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone" --worker=all "--command=$command")
if [ -n "$project" ]; then
  run+=("--project=$project")
fi
run_or_print "${run[@]}"
