#!/bin/sh
# huge-pages QUERND CONFIG [USER]: makes sure that as many huge pages of 2 MiB are free as the configuration
# asks for (huge-page-pool in [memory]; `quernd pool` counts them), and looks whether they came.
# Fails only where huge pages are required: else quernd takes what there is, and says so.
# USER gets a folder of its own where files on huge pages can lie (quern.conf(5), store).
set -u
folder=${QUERN_HUGEPAGES:-/sys/kernel/mm/hugepages/hugepages-2048kB}
want=$("$1" pool --config "$2") || exit
[ "$want" != 0 ] || exit 0

mount=$(awk '$3 == "hugetlbfs" && $4 ~ /pagesize=2M/ { print $2; exit }' /proc/self/mounts)
if [ -n "${3-}" ] && [ -n "$mount" ] && own=$mount/quern-$(id -u "$3") && mkdir -m 700 "$own" 2>/dev/null; then
    chown "$3:$3" "$own"
fi

free() {
    cat "$folder/free_hugepages" 2>/dev/null || echo 0
}
have=$(free)
if [ "$have" -lt "$want" ]; then
    all=$(($(cat "$folder/nr_hugepages" 2>/dev/null || echo 0) + want - have))
    # hugeadm exits 0 also when it fails: only what is there afterwards counts.
    if [ -z "${QUERN_HUGEPAGES-}" ] && command -v hugeadm >/dev/null; then
        hugeadm --pool-pages-min "2MB:$all" 2>/dev/null
    else
        echo "$all" 2>/dev/null >"$folder/nr_hugepages"
    fi
    have=$(free)
fi
if [ "$have" -ge "$want" ]; then
    echo "$have huge pages are free, $want are wanted"
    exit 0
fi
echo "Only $have of $want huge pages of 2 MiB could be had: memory is short or fragmented, or the" \
    "pool may not be changed here. Boot with hugepages=$want, or lower huge-page-pool in $2." >&2
"$1" pool --required --config "$2" && exit 1
exit 0
