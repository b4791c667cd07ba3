#!/bin/sh
# The completions of bash, zsh and fish offer, for both programs and each verb, the verbs and options
# that --help names, no others; and words where an option has a few. zsh and fish where they are
# installed.
set -u
BUILD=${BUILD:-build}
folder=client/completions
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failures=0
same() { # NAME, of "$work/want" and "$work/have"
    if cmp -s "$work/want" "$work/have"; then
        echo "ok    $1"
    else
        echo "FAIL  $1"
        diff "$work/want" "$work/have"
        failures=$((failures + 1))
    fi
}
offers() { # SHELL PROGRAM WORD...: sorted
    shell=$1
    shift
    case $shell in
    bash) bash tests/tools/complete.bash "$folder/$1.bash" "$@" ;;
    zsh) zsh -f tests/tools/complete.zsh "$folder" "$@" ;;
    fish)
        env HOME="$work" fish --no-config -c "source '$folder/$1.fish'; complete -C '$*'" | cut -f1
        ;;
    esac | sort -u
}
options_of() { # of help on standard input
    grep -oE '(^|[^a-z-])--[a-z][a-z0-9-]*' | sed 's/^[^-]*//'
    echo --help
}

shells=bash
for shell in zsh fish; do
    if command -v $shell >/dev/null; then
        shells="$shells $shell"
    else
        echo "note: $shell is not installed; its completion was not tried"
    fi
done
quern_verbs=$("$BUILD/quern" --help | sed -n 's/^  \([a-z]\{3,\}\) .*/\1/p')
quernd_verbs=$("$BUILD/quernd" --help | sed -n 's/^quernd VERB … *//p' | tr -d ,)
[ -n "$quern_verbs" ] && [ -n "$quernd_verbs" ] || exit 1
for shell in $shells; do
    for program in quern quernd; do
        case $program in
        quern) verbs=$quern_verbs ;;
        quernd) verbs=$quernd_verbs ;;
        esac
        printf '%s\n' $verbs | sort >"$work/want"
        offers $shell $program '' | grep -v '^-' >"$work/have"
        same "$shell: verbs of $program"
        for verb in $verbs; do
            "$BUILD/$program" "$verb" --help | options_of >"$work/all"
            # quernd pool takes what the service takes
            [ "$verb" != pool ] || "$BUILD/quernd" --help | options_of |
                grep -vxE -e '--(check-config|drop-weights|version)' >>"$work/all"
            sort -u "$work/all" >"$work/want"
            offers $shell $program "$verb" -- | grep '^--' >"$work/have"
            same "$shell: options of $program $verb"
        done
    done
    "$BUILD/quernd" --help | options_of | sort -u >"$work/want"
    offers $shell quernd -- | grep '^--' >"$work/have"
    same "$shell: options of quernd"
    printf '%s\n' --help --socket --version | sort >"$work/want"
    offers $shell quern -- | grep '^--' >"$work/have"
    same "$shell: options of quern"
done

words() { # WANTED PROGRAM WORD...
    printf '%s\n' $1 | sort >"$work/want"
    shift
    for shell in $shells; do
        [ $shell != zsh ] || continue # whose helpers stand in for it here
        offers $shell "$@" >"$work/have"
        same "$shell: words after $*"
    done
}
words 'text ids json' quern generate --output ''
words 'text json' quern score --output ''
words 'interactive' quern --socket /x ask --priority i
words 'qwen2.5 qwen2.5-base qwen2.5-math' quern render --family qwen2.5
words 'prefer require off' quernd --huge-pages ''
words 'f16 f32' quernd bench --kv f
words 'iq4_nl iq4_xs' quernd quantize a b iq
words 'inspect' quernd ins
[ "$failures" = 0 ]
