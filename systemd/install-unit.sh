#!/bin/sh
# install-unit.sh VERSION FROM TO NAME=VALUE...: a unit for this version of systemd. A line that
# begins with "#systemd>=N# " or "#systemd<N# " counts for those versions alone, since a version
# complains about settings that it does not know; @NAME@ is replaced by VALUE.
set -eu
version=$1 from=$2 to=$3
shift 3
awk -v version="$version" -v pairs="$*" '
BEGIN {
    n = split(pairs, p, " ")
    for (i = 1; i <= n; i++) {
        split(p[i], kv, "=")
        values[kv[1]] = kv[2]
    }
}
match($0, /^#systemd(>=|<)[0-9]+# /) {
    bound = $0
    sub(/^#systemd(>=|<)/, "", bound)
    sub(/#.*/, "", bound)
    holds = index($0, ">=") == 9 ? version + 0 >= bound + 0 : version + 0 < bound + 0
    if (!holds)
        next
    $0 = substr($0, RLENGTH + 1)
}
{
    for (name in values)
        gsub("@" name "@", values[name])
    print
}' "$from" >"$to"
