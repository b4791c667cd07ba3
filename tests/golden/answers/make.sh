#!/bin/sh
# Writes the greedy answers of the shipped model to requests.txt, one line each (a newline in an
# answer becomes "\n"), to standard output. Made with the service itself; llama.cpp's answers to the
# same requests are compared in models/README.md. Needs a service on $QUERN_SOCKET:
#   sh tests/golden/answers/make.sh >tests/golden/answers/answers.txt
set -eu
quern=${BUILD:-build}/quern
while IFS= read -r request; do
    "$quern" ask --temperature 0 --max-tokens 64 "$request" </dev/null |
        awk 'NR > 1 { printf "\\n" } { printf "%s", $0 } END { print "" }'
done <tests/golden/answers/requests.txt
