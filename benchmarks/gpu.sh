#!/usr/bin/env bash
# One command for a machine with a CUDA GPU, ten minutes at most: all figures, or why there are none, in gpu.json.
#     benchmarks/gpu.sh [--output FILE]        with --small: the same at small size, on a CPU, in five minutes at most
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=.venv/bin/python
test -x "$PYTHON" || PYTHON=python3
PYTHONPATH="$PWD" exec "$PYTHON" benchmarks/gpu.py "$@"
