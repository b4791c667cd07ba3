#!/bin/sh
# quern installed with `make install` under a real systemd: what inside.sh checks there.
set -eu
. tests/support/container.sh
container_make
make -s install BUILD="$BUILD" PREFIX=/usr DESTDIR="$root" >/dev/null
systemd-sysusers --root="$root" "$root/usr/lib/sysusers.d/quern.conf"
"$BUILD/tests/tools/make-model" --shape tiny --type q8_0 --seed 4 \
    --vocab tests/golden/qwen2-vocab.bin "$root/usr/share/quern/toy.gguf"
if [ ! -e "$root/usr/share/quern/quern-tldr.gguf" ]; then
    "$BUILD/tests/tools/make-model" --shape tiny --vocab tests/golden/qwen2-vocab.bin \
        "$root/usr/share/quern/quern-tldr.gguf"
fi
container_pages 96
container_run tests/systemd/inside.sh
