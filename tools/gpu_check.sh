#!/usr/bin/env bash
# Checks one GPU in about ten minutes, on a machine with a driver, Python 3.11 or later, and no network.
#
#   tools/gpu_check.sh download WHEELS            # where there is a network: everything that the check installs
#   tools/gpu_check.sh run WHEELS OUT             # on the machine with the card
#   tools/gpu_check.sh try OUT                    # on a CPU, in the present environment, with a tiny model
#
# It runs the tests of the kernels on the card (`pytest -m gpu`: each against a plain form, in float32 and bfloat16,
# values and gradients), then benchmarks/card.py: decode at several numbers of slots (against transformers where WHEELS
# hold torch), a training step, kernels by the profiler, memory against the plan. OUT gets tests.txt, card.json and
# table.md, whose rows are for docs/hardware.md. Exit code: 0 if all tests passed and all figures were made.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,13p' "${BASH_SOURCE[0]}" | cut -c3-; exit 2; }

check() { # PYTHON OUT PLATFORM [arguments of card.py]
    local python=$1 out=$2 platform=$3
    shift 3
    mkdir -p "$out"
    export JAX_PLATFORMS=$platform PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
    local failed=0
    # References in float32 must not be rounded to 19 bits, as a card's matmuls are by default.
    JAX_DEFAULT_MATMUL_PRECISION=highest timeout 300 "$python" -m pytest -m gpu -n 0 -q tests/models tests/rollout \
        2>&1 | tee "$out/tests.txt" || failed=1
    timeout 420 "$python" benchmarks/card.py "$@" --out "$out/card.json" || failed=1
    "$python" benchmarks/card.py --table "$out/card.json" > "$out/table.md" || failed=1
    cat "$out/table.md"
    return $failed
}

case "${1:-}" in
    download)
        [ $# = 2 ] || usage
        python3 -m pip download --dest "$2" '.[test]' 'jax[cuda13]'
        ;;
    run)
        [ $# = 3 ] || usage
        nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
        python3 -m venv "$3/venv"
        "$3/venv/bin/pip" install --quiet --no-index --find-links "$2" '.[test]' 'jax[cuda13]'
        check "$3/venv/bin/python" "$3" cuda
        ;;
    try)
        [ $# = 2 ] || usage
        check "${PYTHON:-python3}" "$2" cpu --size tiny --slots 2 4 --context 64 --row-length 256 --rows 2 --calls 1
        ;;
    *) usage ;;
esac
