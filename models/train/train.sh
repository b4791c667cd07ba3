#!/bin/sh
# From the data in this folder to models/quern-tldr.gguf: what `make model` runs. An interrupted run goes on where it
# was. From the environment: OUT (checkpoints, logs), STEPS, or MINUTES to plan by time instead, NICE, and PYTHON, which must
# have torch.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
models=$(dirname "$here")
OUT=${OUT:-$here/out}
STEPS=${STEPS:-5000}
PYTHON=${PYTHON:-/usr/bin/python3}

if ! "$PYTHON" -c 'import matplotlib, numpy, regex, torch' 2>/dev/null; then
    echo "needed: apt install python3-torch libopenblas0-pthread python3-numpy python3-regex python3-matplotlib" >&2
    exit 1
fi
# Without OpenBLAS, torch falls back to a plain BLAS and trains ten times slower.
if ! ldconfig -p | grep -q libopenblas; then
    echo "warning: libopenblas0-pthread is not installed; training will be very slow" >&2
fi

command -v cc >/dev/null || { echo "needed: a C compiler, for kernels.c" >&2; exit 1; }

# Keep freed memory: giving it back to the kernel and faulting it in again cost a third of the time.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=68719476736 MALLOC_TOP_PAD_=268435456
# A thread that waits must sleep: spinning at low priority, it keeps the other from the core that is free.
export OMP_WAIT_POLICY=passive PYTHONDONTWRITEBYTECODE=1

mkdir -p "$OUT"
cd "$here"
"$PYTHON" split.py
"$PYTHON" check_kernels.py
nice -n "${NICE:-19}" "$PYTHON" train.py "$OUT" --steps "$STEPS" ${MINUTES:+--minutes "$MINUTES"}
# The last checkpoints lie in the falling part of the rate; their average is a little better than the last alone.
last=$(ls "$OUT"/step-*.pt | sort -t- -k2 -V | tail -n 3)
"$PYTHON" export.py "$OUT/quern-tldr-f32.gguf" F32 $last
"$PYTHON" export.py "$models/quern-tldr.gguf" Q8_0 $last
"$PYTHON" plot.py "$OUT/log.csv" "$models/loss.png"
cp "$OUT/log.csv" "$models/training-log.csv"
"$PYTHON" evaluate.py "$models/quern-tldr.gguf" --json "$OUT/answers.json" | tee "$models/scores.txt"
"$PYTHON" evaluate.py "$models/quern-tldr.gguf" --requests "$models/requests.tsv" | tee "$models/answers.txt"
