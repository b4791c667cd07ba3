# bash completion of quernd(8). tests/integration/completions_test.sh compares it with quernd --help.
_quernd() {
    local verbs='inspect bench logits perplexity quantize pack verify pool'
    local settings='--model --socket --threads --policy --verbose --metrics --drain-s --exit-on-idle-s
        --huge-pages --numa --huge-page-pool --memory-limit --kv --kv-bytes --image --store
        --rope-scaling --rope-factor --rope-original --context --sequences --token-gap-ms --queue
        --connections --connections-per-user --requests-per-user --share-prefixes --config'
    local run='--model --threads --kv --chunk --huge-pages --rope-scaling --rope-factor --rope-original'
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} verb=${COMP_WORDS[1]}
    case " $verbs " in
    *" $verb "*) [ "$COMP_CWORD" -gt 1 ] || verb='' ;;
    *) verb='' ;;
    esac

    local words='' files=
    case $before in
    --model | --socket | --config | --policy | --image | --store | --metrics | --out | --text | --chat)
        files=yes
        case $before in
        --config | --policy | --metrics) words=off ;;
        --image) words='auto off' ;;
        --store) words='auto off hugetlbfs' ;;
        esac
        ;;
    --huge-pages) words='prefer require off' ;;
    --huge-page-pool) words='auto off' ;;
    --numa) words='interleave off' ;;
    --kv) words='f32 f16 q8_0' ;;
    --rope-scaling) words='file none linear yarn' ;;
    --threads | --drain-s | --exit-on-idle-s | --memory-limit | --kv-bytes | --rope-factor | \
        --rope-original | --context | --sequences | --token-gap-ms | --queue | --connections | \
        --connections-per-user | --requests-per-user | --chunk | --prompt | --generate | --depth | \
        --reps | --tokens | --window | --stride) return ;;
    *)
        case $verb in
        inspect) words='--tensors --help' files=yes ;;
        bench) words="--prompt --generate --depth --reps --json $run --help" ;;
        logits) words="--tokens --out $run --help" ;;
        perplexity) words="--text --chat --window --stride --json $run --help" ;;
        quantize)
            words='--help' files=yes
            [ "$COMP_CWORD" != 4 ] || words='f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q2_k q3_k q4_k
                q5_k q6_k iq4_nl iq4_xs' files=
            ;;
        pack) words='--threads --huge-pages --help' files=yes ;;
        verify) words='--help' files=yes ;;
        pool) words="--required $settings --help" ;;
        *)
            words="$settings --check-config --drop-weights --help --version"
            [ "$COMP_CWORD" != 1 ] || words="$verbs $words"
            ;;
        esac
        ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
    if [ -n "$files" ]; then
        compopt -o filenames 2>/dev/null
        mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$word")
    fi
}
complete -F _quernd quernd
