# shellcheck shell=bash
# Sourced by the scripts beside it.

# Words as one shell word each, for any POSIX shell: `printf %q` writes $'...', which dash, Slurm's /bin/sh on Debian,
# does not know.
quoted() {
  local word single="'\\''" line=""
  for word in "$@"; do
    line+="'${word//\'/$single}' "
  done
  printf '%s' "${line% }"
}

# Run a command, or with dry_run=1 print it for a person to read and paste.
run_or_print() {
  # shellcheck disable=SC2154 # the script's that sources this one
  if [ "$dry_run" = 1 ]; then
    quoted "$@"
    echo
  else
    "$@"
  fi
}
