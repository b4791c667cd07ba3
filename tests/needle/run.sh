#!/bin/sh
# `make needle`: a service on a socket of its own, and the map of what its model finds.
#   MODEL=FILE    another model than the shipped one       CONTEXT=N  its length (the model's own)
#   PNG=FILE      where the picture goes                    TRIALS=N   needles a cell (3)
set -eu
. tests/support/service.sh
model=${MODEL:-models/quern-tldr.gguf}
service_start "$model" ${CONTEXT:+--context "$CONTEXT"}
python3 tests/needle/needle.py --quern "$BUILD/quern" --trials "${TRIALS:-3}" --png "${PNG:-$BUILD/needle.png}"
echo "picture: ${PNG:-$BUILD/needle.png}"
finish
