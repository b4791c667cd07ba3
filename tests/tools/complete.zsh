# complete.zsh FOLDER PROGRAM WORD…: what a zsh completion of FOLDER gives its helpers for the last
# word: the verbs, or the options, a line each.
_describe() { print -rl -- "${(@)${(@P)2}%%:*}" }
_arguments() { print -rl -- "${(@M)@:#(|\*|\(*\))-*}" | sed 's/^\(\*\|([^)]*)\)*//; s/[=[].*//' }
fpath=($1 $fpath)
shift
words=("$@")
CURRENT=$#
autoload -Uz _$1
_$1
