#!/bin/sh
# The protocol model, small sizes, and every mutant of it. Deeper: `make model-check`.
cd "$(dirname "$0")/../.." || exit 1
if ! command -v spin >/dev/null; then
    echo "spin is not installed (make deps)"
    exit 77
fi
exec sh tests/spin/run.sh
