# complete.bash FILE PROGRAM WORD…: what a bash completion offers for the last word, a line each.
. "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
COMPREPLY=()
"_$1"
printf '%s\n' "${COMPREPLY[@]}"
