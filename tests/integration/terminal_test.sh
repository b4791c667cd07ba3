#!/bin/sh
# quern top and quern chat in a real terminal (tmux): keys in, the screen compared.
set -u
. tests/support/service.sh
command -v tmux >/dev/null || {
    echo "tmux is not installed"
    exit 77
}
export LC_ALL=C.UTF-8
unset NO_COLOR TMUX
case $BUILD in
/*) quern=$BUILD/quern ;;
*) quern=$PWD/$BUILD/quern ;;
esac
t() {
    tmux -S "$work/tmux" -f /dev/null "$@"
}
keys() {
    t send-keys "$@"
}
shows() { # TEXT: on the screen within 20 s
    tries=0
    until t capture-pane -p | grep -qF -- "$1"; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || { t capture-pane -p; return 1; }
        sleep 0.05
    done
}
gone() { # TEXT: not on the screen, within 20 s
    tries=0
    while t capture-pane -p | grep -qF -- "$1"; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || { t capture-pane -p; return 1; }
        sleep 0.05
    done
}
shows_twice() { # PATTERN: in two lines of the screen, within 20 s
    tries=0
    until [ "$(t capture-pane -p | grep -c -- "$1")" = 2 ]; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || { t capture-pane -p; return 1; }
        sleep 0.05
    done
}
has_empty_prompt() { # as the last line, within 20 s
    tries=0
    until [ "$(t capture-pane -p | grep . | tail -n 1)" = '>' ]; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || { t capture-pane -p; return 1; }
        sleep 0.05
    done
}
has_colours() {
    t capture-pane -e -p | grep -q "$(printf '\033')\[[0-9;]*3[1-7]m"
}
has_no_colours() {
    ! has_colours
}
last_line() {
    t capture-pane -p | tail -n 1
}
shell_is_back() { # CODE: of the command before; the terminal reads lines and echoes again
    gone "q quit" || return # what is typed before is top's
    keys "echo code=\$? modes=\$(stty -a | tr ' ;' '\n\n' | grep -cx 'icanon\|echo')" Enter
    shows "code=$1 modes=2"
}

"$BUILD/tests/tools/make-model" --shape tiny --type q8_0 --seed 3 \
    --vocab tests/golden/qwen2-vocab.bin "$work/toy.gguf" || exit 1
service_start "$work/toy.gguf" --threads 1 --context 32768
"$quern" generate --prompt "The mill" --max-tokens 100 --temperature 0 >/dev/null
t new-session -d -x 80 -y 24 "cd '$work' && exec env PS1='$ ' sh"
trap 't kill-server 2>/dev/null; cleanup' EXIT
trap 'exit 1' TERM

# ---- top of two models ---------------------------------------------------------------------------
service_stop
service_launch --model one="$work/toy.gguf" --model two="$work/toy.gguf" --threads 1 --context 1024
"$quern" generate --model two --prompt "The mill" --max-tokens 4 --temperature 0 >/dev/null
keys "clear; $quern top --interval-ms 100" Enter
check "top counts two models" shows "quern top  2 models"
check "… and has a line for each" shows "$(printf '%-24s %8s' two 0)"
check "… the first one, too" shows "$(printf '%-24s %8s' one 0)"
check "… and what follows" shows "finished 1"
keys q
check "q quits" shell_is_back 0
service_stop
service_start "$work/toy.gguf" --threads 1 --context 32768
"$quern" generate --prompt "The mill" --max-tokens 100 --temperature 0 >/dev/null

# ---- top -----------------------------------------------------------------------------------------
fails "top without a terminal" 64 "$quern" top
keys "clear; $quern top --interval-ms 100" Enter
check "top shows the model" shows "quern top  random tiny, seed 3"
check "… clients" shows "clients 1"
check "… what was asked" shows "finished 1"
check "… pages" shows " cached, "
check "… memory" shows "weights "
check "… latencies" shows "first token"
check "… its keys" shows "q quit   p pause"
check "… in colours" has_colours
equal "… on the last line of 24" "$(t capture-pane -p | grep -n 'q quit' | cut -d: -f1)" 24
[ -z "${SCREENS:-}" ] || t capture-pane -p >"$SCREENS"
"$quern" generate --prompt "The mill" --max-tokens 100 --temperature 0 >/dev/null
check "it goes on" shows "finished 2"
keys p
check "a pause" shows "p go on"
"$quern" generate --prompt "The mill" --max-tokens 100 --temperature 0 >/dev/null
keys ' '
check "a look in a pause" shows "finished 3"
keys p
check "and on" shows "p pause"
t resize-window -x 100 -y 30
check "a larger window" shows "q quit"
tries=0
until last_line | grep -q 'q quit' || [ $((tries += 1)) -gt 400 ]; do sleep 0.05; done
equal "… its last line" "$(t capture-pane -p | grep -n 'q quit' | cut -d: -f1)" 30
t resize-window -x 30 -y 8
check "a small one" shows "q quit"
t resize-window -x 80 -y 24
check "and back" shows "failed 0"
service_stop
check "the service went away" shows "the socket does not exist"
check "… in colour" has_colours
service_start "$work/toy.gguf" --threads 1 --context 32768
check "it is there again" gone "does not exist"
check "… and its figures" shows "finished 0"
keys q
check "q quits, the terminal is as it was" shell_is_back 0
check "… and the screen" gone "q quit"
keys "clear; $quern top" Enter
check "again" shows "q quit"
keys C-c
check "Ctrl-C quits" shell_is_back 130
keys "clear; sh -c 'echo \$\$ >top.pid; exec $quern top'" Enter
check "again" shows "q quit"
kill -TERM "$(cat "$work/top.pid")"
check "SIGTERM quits" shell_is_back 143
"$quern" generate --prompt "The mill" --max-tokens 100 --temperature 0 >/dev/null
keys "clear; NO_COLOR=1 $quern top --count 1000000" Enter
check "NO_COLOR" shows "finished 1"
check "… is kept" has_no_colours
keys q
check "and quits" shell_is_back 0

# ---- a prompt that takes long: its bar, recorded, since it is gone at the end --------------------------
yes "the mill by the river" | head -n 1000 >"$work/long"
t pipe-pane -o "cat >'$work/recorded'"
keys "clear; $quern generate --max-tokens 1 <long >answer; echo rc=\$?" Enter
check "a long prompt" shows "rc=0"
t pipe-pane
check "… has a bar of 30" grep -qE 'reading \[#+\.+\] +[0-9]+ %' "$work/recorded"
check "… that is wiped away" gone "reading ["

# ---- a model that is loaded: the bar of the service on its terminal, and of a client that waits ------
# With the socket open before there is a service, the client is there first and sees all of the load.
grows() { # FILE: its percentages, in the order in which they came
    grep -oE '[0-9]+ %' "$1" | sort -n -c
}
if command -v systemd-socket-activate >/dev/null; then
    "$BUILD/tests/tools/make-model" --shape tiny --type f32 --seed 5 \
        --vocab tests/golden/qwen2-vocab.bin "$work/large.gguf" || exit 1
    t new-window -d -n load "cd '$work' && exec env PS1='$ ' sh"
    t pipe-pane -t load -o "cat >'$work/load.recorded'"
    t send-keys -t load "systemd-socket-activate --seqpacket -l $work/load.sock ${quern}d --model large.gguf" \
        " --image off --huge-pages off" Enter
    tries=0
    until [ -S "$work/load.sock" ] || [ $((tries += 1)) -gt 400 ]; do sleep 0.05; done
    t pipe-pane -o "cat >'$work/wait.recorded'"
    keys "clear; $quern status --wait --socket $work/load.sock | grep ^state" Enter
    check "a client waits for a model that is loaded" shows "$(printf '%-24s %s' state ready)"
    t pipe-pane
    check "… and sees a bar of 30" grep -qE 'loading \[#*\.*\] +[0-9]+ %' "$work/wait.recorded"
    check "… that grows" grows "$work/wait.recorded"
    check "… and is wiped away" gone "loading ["
    t pipe-pane -t load
    check "the service's terminal had a bar of 40" \
        grep -qE '\[#* *\] Loading the model: [0-9]+ % of [0-9]+ MiB' "$work/load.recorded"
    check "… that grows" grows "$work/load.recorded"
    check "… and is wiped away, for a plain line" sh -c "tmux -S '$work/tmux' capture-pane -p -t load |
        grep 'ready: random tiny' && ! tmux -S '$work/tmux' capture-pane -p -t load | grep 'Loading'"
    t send-keys -t load C-c
    tries=0
    until t capture-pane -p -t load | grep . | tail -n 1 | grep -qx '\^\?C\?[$] *'; do
        [ $((tries += 1)) -lt 400 ] || break
        sleep 0.05
    done
    check "Ctrl-C ends the service" [ $tries -lt 400 ]
    t kill-window -t load
else
    echo "note: systemd-socket-activate is not installed; the bars of a load were not looked at"
fi

# ---- chat ----------------------------------------------------------------------------------------
keys "clear; $quern chat --max-tokens 8 --temperature 0" Enter
check "chat has a prompt" shows ">"
keys "first question" Enter "/tokens" Enter
check "/tokens" shows "tokens read, 8 written"
keys Up Up
check "the line before the last comes back" shows_twice '^> first question'
keys C-c
check "Ctrl-C gives a new line" has_empty_prompt
keys "one \\" Enter "two" Enter
keys "/save saved.json" Enter "/tokens" Enter
tries=0
until grep -q 'one \\ntwo' "$work/saved.json" 2>/dev/null || [ $((tries += 1)) -gt 400 ]; do
    sleep 0.05
done
check "two lines are one message" grep -q '"one \\ntwo"' "$work/saved.json"
equal "… after the first one, and answers" "$(grep -c '"role"' "$work/saved.json")" 4
keys "/clear" Enter "/save empty.json" Enter "/load saved.json" Enter
check "/load" shows "4 turns"
equal "/clear" "$(tr -d ' \n' <"$work/empty.json")" "[]"
keys "/system Be brief." Enter "/save system.json" Enter "/help" Enter
check "/help" shows "/load FILE"
equal "/system" "$(tr -d '\n' <"$work/system.json" | tr -s ' ')" \
    '[ { "role": "system", "content": "Be brief." }]'
keys C-d
check "Ctrl-D ends it" shell_is_back 0
keys "clear; $quern chat --max-tokens 30000 --temperature 1 --logit-bias 151643=-inf" \
    " --logit-bias 151645=-inf" Enter
check "again" shows ">"
keys "a long story" Enter
sleep 1
keys C-c
keys "/tokens" Enter
check "Ctrl-C stops the answer and nothing else" shows "tokens read, "
keys C-d
check "Ctrl-D ends it" shell_is_back 0
finish
