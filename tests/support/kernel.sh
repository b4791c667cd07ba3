# Sourced by tests that boot a machine of their own: kernel_get unpacks Debian's cloud kernel from its
# package into the cache folder, once (nothing is installed); then $kernel has vmlinuz and modules/.
# Fails where it cannot be fetched. $work is a folder for what lies around meanwhile.
kernel_get() {
    kernel=${XDG_CACHE_HOME:-$HOME/.cache}/quern-kernel
    [ ! -e "$kernel/vmlinuz" ] || return 0
    mkdir -p "$kernel"
    image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
    (cd "$work" && apt-get download -qq "$image" && dpkg -x "$image"_*.deb kernel) >/dev/null 2>&1 || return 1
    rm -rf "$kernel/modules"
    cp -r "$work"/kernel/lib/modules/*/kernel "$kernel/modules"
    cp "$work"/kernel/boot/vmlinuz-* "$kernel/vmlinuz.tmp"
    mv "$kernel/vmlinuz.tmp" "$kernel/vmlinuz"
    rm -rf "$work/kernel"
}
