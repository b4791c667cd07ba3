# bash completion of quern(1). tests/integration/completions_test.sh compares it with quern --help.
_quern() {
    local verbs='ask chat generate tokenize detokenize score render status embed bench top prefix pull models'
    local sampling='--max-tokens --temperature --top-k --top-p --min-p --repetition-penalty
        --presence-penalty --frequency-penalty --min-tokens --logit-bias --seed --stop --stop-id
        --priority --deadline-ms --model'
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} verb='' i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        --socket) ((i++)) ;;
        -*) ;;
        *)
            verb=${COMP_WORDS[i]}
            break
            ;;
        esac
    done

    local words=''
    case $verb:$before in
    *:--folder | *:--socket | chat:--tools | render:--tools | render:--messages | render:--template)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
        ;;
    generate:--output) words='text ids json' ;;
    *:--output) words='text json' ;;
    *:--priority) words='interactive normal batch' ;;
    *:--family) words='qwen2 qwen1.5 qwen1.5-early qwen2.5 qwen2.5-base qwen2.5-math' ;;
    *:--language) words='en zh' ;;
    *:--max-tokens | *:--temperature | *:--top-k | *:--top-p | *:--min-p | *:--*-penalty | \
        *:--min-tokens | *:--logit-bias | *:--seed | *:--stop | *:--stop-id | *:--deadline-ms | \
        *:--model | *:--system | *:--prompt | *:--tokens | *:--count | *:--parallel | *:--interval-ms | *:--sha256 | \
        *:--prefix) return ;;
    ask:*) words="--system --prefix $sampling" ;;
    chat:*) words="--system --tools --family --language --parallel-calls $sampling" ;;
    generate:*) words="--prompt --tokens --output --json --echo --prefix $sampling" ;;
    detokenize:*) words='--model' ;;
    tokenize:* | score:*) words='--output --json --model' ;;
    render:*) words='--messages --tools --family --template --ids --language --parallel-calls
        --no-generation-prompt --model' ;;
    status:*) words='--output --json --wait' ;;
    embed:*) words='--mean --normalize --output --json --model' ;;
    bench:*) words='--count --parallel --max-tokens --prompt --output --json --model' ;;
    top:*) words='--interval-ms --count' ;;
    prefix:*) words='pin fork unpin --tokens --system --model' ;;
    pull:*) words='--folder --sha256' ;;
    models:*) words='list verify pack remove --folder --output --json' ;;
    :--help) words=$verbs ;;
    :*) words="$verbs --version" ;;
    esac
    case $before in
    --output | --priority | --family | --language | --help) ;;
    *) words="$words --socket --help" ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
complete -F _quern quern
