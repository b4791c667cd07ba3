#!/bin/sh
# The AVX-512 code, executed on a processor without it: Debian's Bochs boots Debian's cloud kernel with
# the operator tests (toy sizes) and a whole toy model, its logits compared between the sets. Where the
# processor has AVX-512 the ordinary tests have run that code, and this is skipped unless EMULATE=1.
# Bochs 2.7 knows AVX-512 up to VNNI, and no AMX: AMX code runs on real processors alone, and here
# it is seen that QUERN_ISA=amx is refused.
#
# Installs bochs and what makes its boot image if they are missing. The kernel is unpacked from its
# package into the cache folder, not installed. Two to three minutes of one core; attention, minutes
# more, only with EMULATE=1. F16 is left out of it: Bochs rounds to float16 otherwise than processors.
set -eu
build=${BUILD:-build}
if [ "${EMULATE:-0}" != 1 ] && grep -qw avx512_vnni /proc/cpuinfo; then
    echo "AVX-512 ran natively in the other tests (make emulate runs this one)"
    exit 77
fi

packages="bochs bochs-term bochsbios vgabios isolinux syslinux-common xorriso cpio"
missing=
for p in $packages; do
    dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing="$missing $p"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ]; then sudo=; else sudo="sudo -n"; fi
    # shellcheck disable=SC2086
    if ! { $sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends $missing; } >/dev/null 2>&1; then
        echo "no AVX-512 here, and the emulator cannot be installed:$missing"
        exit 77
    fi
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/quern-emulator.XXXXXX")
emulator=
trap '[ -z "$emulator" ] || kill "$emulator" 2>/dev/null || :; rm -rf "$work"' EXIT
mkdir -p "$work/initrd/bin" "$work/initrd/quern/build/tests/tools" "$work/iso/isolinux"
. tests/support/kernel.sh
if ! kernel_get; then
    echo "no AVX-512 here, and the emulator's kernel cannot be fetched: linux-image-cloud-amd64"
    exit 77
fi

# ---- the guest: our programs, their libraries and a shell ------------------------------------
with_libraries() { # with_libraries PROGRAM PLACE
    cp "$1" "$work/initrd/$2"
    ldd "$1" | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) (.*/\1/p' | while read -r library; do
        mkdir -p "$work/initrd/$(dirname "$library")"
        cp -L -n "$library" "$work/initrd/$library"
    done
}
"${CC:-gcc}" -O2 -static -o "$work/initrd/init" tests/emulator/init.c
with_libraries /bin/sh bin/sh
with_libraries "$build/quernd" quern/build/quernd
with_libraries "$build/tests/tools/make-model" quern/build/tests/tools/make-model
for t in tests/emulator/matmul_toy tests/emulator/vector_toy tests/emulator/attention_toy \
    tests/unit/rope_test tests/unit/select_test; do
    with_libraries "$build/$t" "quern/${t##*/}"
done
strip "$work"/initrd/quern/*_t* "$work"/initrd/quern/build/quernd "$work"/initrd/quern/build/tests/tools/*
with_libraries "$(command -v cmp)" bin/cmp
cat >"$work/initrd/tests" <<'END'
export PATH=/bin; build/tests/tools/make-model --mix q4_k_m /tmp/m.gguf && for isa in scalar avx2 avx512 avx512vnni; do QUERN_ISA=$isa build/quernd logits --model /tmp/m.gguf --tokens 5,17,99 --kv f32 --huge-pages off --out /tmp/$isa || exit 1; cmp /tmp/scalar /tmp/$isa || exit 1; done
! QUERN_ISA=amx build/quernd logits --model /tmp/m.gguf --tokens 1 --out /tmp/l
./vector_toy
./rope_test
./select_test
./matmul_toy
END
# The rest has not the time of an ordinary test.
[ "${EMULATE:-0}" != 1 ] || echo ./attention_toy >>"$work/initrd/tests"
(cd "$work/initrd" && find . | cpio -o -H newc --quiet) | gzip -1 >"$work/iso/isolinux/initrd"

# ---- the machine -----------------------------------------------------------------------------
# clearcpuid: Bochs 2.7 misreports leaf 0xD; without it the kernel turns XSAVE off, and every AVX-512
# instruction traps.
cp "$kernel/vmlinuz" /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/iso/isolinux/"
cat >"$work/iso/isolinux/isolinux.cfg" <<'END'
default t
prompt 0
timeout 0
label t
  kernel vmlinuz
  append initrd=initrd console=ttyS0,115200 clearcpuid=fsrm,pku,xsaves,xsavec quiet loglevel=3 nokaslr mitigations=off nosmp tsc=reliable lpj=1000000 no_timer_check random.trust_cpu=on cryptomgr.notests
END
xorriso -as mkisofs -quiet -o "$work/boot.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot \
    -boot-load-size 4 -boot-info-table "$work/iso" >/dev/null 2>&1
cat >"$work/bochsrc" <<END
config_interface: textconfig
display_library: rfb, options="timeout=0"
plugin_ctrl: unmapped=1, biosdev=1, speaker=0, extfpuirq=0, parallel=0, serial=1, iodebug=0
cpu: model=corei7_icelake_u, count=1, ips=100000000, reset_on_triple_fault=0, ignore_bad_msrs=1
memory: guest=512, host=512
romimage: file=/usr/share/bochs/BIOS-bochs-latest, options=fastboot
vgaromimage: file=/usr/share/vgabios/vgabios-stdvga.bin
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path=$work/boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/serial
clock: sync=none, time0=1700000000
log: $work/bochs.log
panic: action=fatal
error: action=report
info: action=report
debug: action=ignore
END
echo c >"$work/commands"
started=$(date +%s)
timeout "${EMULATOR_TIMEOUT_S:-1500}" bochs-bin -q -f "$work/bochsrc" -rc "$work/commands" \
    </dev/null >"$work/console" 2>&1 &
emulator=$!
wait "$emulator" || :
emulator=
tr -d '\r' <"$work/serial" | sed -n '/^BEGIN/,$p'

# ---- what came of it -------------------------------------------------------------------------
wanted=$(wc -l <"$work/initrd/tests")
passed=$(tr -d '\r' <"$work/serial" | grep -c '^EXIT 0$' || :)
if [ "$passed" != "$wanted" ] || ! grep -q '^END' "$work/serial"; then
    echo "$passed of $wanted programs passed"
    tail -5 "$work/console" "$work/bochs.log" 2>/dev/null || :
    exit 1
fi
echo "note: $wanted programs with AVX-512 under Bochs in $(($(date +%s) - started)) s"
