#!/usr/bin/env bash
# Run a hypereyes command on Slurm, one process a node with all its GPUs: the paper's layout is 8 nodes x 8 H20.
#
#   hypereyes launch slurm [--dry-run] [--nodes 8] [--gpus 8] [--time 48:00:00] [--grace 600] [--restarts 10]
#     [--setup COMMANDS] [--account A] [--partition P] [--qos Q] [--mem 0] [other options of sbatch]
#     -- rl --out /shared/run ...
#
# What follows `--` goes to `hypereyes` as it is. The command's --out must be on a file system that all nodes share.
# Your environment goes along: API keys, and PGPASSWORD of a --search.store postgresql://user@host/searches, which all
# nodes may share (an SQLite file they can't).
# --setup is run in the shell of every task first: "source /shared/venv/bin/activate", "module load cuda".
#
# --grace seconds before the time limit, and at a preemption, Slurm sends SIGTERM: the run saves, ends with code 75, and
# is queued again, however often. After a crash or a node's failure it is queued again, too, --restarts times at most.
# What only its user can put right (code 2) ends it at once. A job that is cancelled stays so.
set -euo pipefail
# shellcheck source=quote.sh
source "$(dirname "${BASH_SOURCE[0]}")/quote.sh"

nodes=8 gpus=8 limit="48:00:00" grace=600 restarts=10 setup="" dry_run=0
submit=()
# Options of sbatch that take a value, passed on as they are. Others can be given as --name=value, or by --sbatch.
passed="account partition qos mem mem-per-gpu cpus-per-task cpus-per-gpu constraint reservation nodelist exclude gres
  licenses begin deadline dependency nice comment wckey mail-type mail-user chdir output error job-name switches export
  cluster clusters tmp priority container-image"
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry_run=1; shift; continue ;;
    --) shift; break ;;
    --nodes | --gpus | --time | --grace | --restarts | --setup | --sbatch)
      [ $# -ge 2 ] || { echo "slurm.sh: $1 needs a value" >&2; exit 2; } ;;
  esac
  case "$1" in
    --nodes) nodes=$2; shift 2 ;;
    --gpus) gpus=$2; shift 2 ;;
    --time) limit=$2; shift 2 ;;
    --grace) grace=$2; shift 2 ;;
    --restarts) restarts=$2; shift 2 ;;
    --setup) setup=$2; shift 2 ;;
    --sbatch) submit+=("$2"); shift 2 ;;
    --*)
      name=${1#--}
      if [[ " ${passed//$'\n'/ } " != *" ${name%%=*} "* ]]; then
        echo "slurm.sh: unknown option $1 (see the top of this file; --sbatch $1 passes it to sbatch)" >&2
        exit 2
      fi
      if [[ $name == *=* ]]; then
        submit+=("$1"); shift
      elif [ $# -ge 2 ] && [ "$2" != "--" ]; then
        submit+=("$1=$2"); shift 2
      else
        echo "slurm.sh: $1 needs a value" >&2
        exit 2
      fi ;;
    *) echo "slurm.sh: $1 is no option; the hypereyes command comes after --" >&2; exit 2 ;;
  esac
done
if [ $# -eq 0 ]; then
  echo "slurm.sh: give the hypereyes command after --" >&2
  exit 2
fi
for number in "$nodes" "$gpus" "$grace" "$restarts"; do
  [[ $number =~ ^[0-9]+$ ]] || { echo "slurm.sh: --nodes, --gpus, --grace and --restarts are whole numbers" >&2; exit 2; }
done

# The options above come last: sbatch takes the last one given of each.
submit=(sbatch --job-name=hypereyes --ntasks-per-node=1 --exclusive --mem=0 --requeue --open-mode=append
  "--output=hypereyes-%j.log" "--nodes=$nodes" "--gpus-per-node=$gpus" "--time=$limit" "--signal=TERM@$grace"
  ${submit[@]+"${submit[@]}"})

# srun gives the highest exit code of all tasks, and --kill-on-bad-exit ends the others with 137 or 143. So a task's 2
# becomes 255, which nothing beats, and its 75 becomes 254.
# shellcheck disable=SC2016 # these variables are the job's
task='"$@"; code=$?; case $code in 2) code=255;; 75) code=254;; esac; exit $code'
if [ -n "$setup" ]; then
  task="$setup || exit 255; $task"
fi
command=$(quoted srun --kill-on-bad-exit=1 bash -c "$task" hypereyes hypereyes "$@" --distributed.join)
# shellcheck disable=SC2016
again='case $(squeue -h -o %%T -j "$SLURM_JOB_ID") in CANCELLED|COMPLETING) exit $code;; esac
if [ $code -eq 255 ]; then exit 2; fi
if [ $code -eq 254 ]; then scontrol requeue "$SLURM_JOB_ID"; exit 75; fi
if [ "${SLURM_RESTART_COUNT:-0}" -lt %d ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $code'
# shellcheck disable=SC2059
printf -v again "$again" "$restarts"
submit+=("--wrap=$command || { code=\$?
$again
}")
run_or_print "${submit[@]}"
