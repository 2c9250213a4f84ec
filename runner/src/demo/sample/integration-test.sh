#!/usr/bin/env bash
# Asks staging, through the proxy, as its users do.
set -euo pipefail
source ./ask.sh

for _ in 1 2 3 4 5 6 7 8 9 10; do
    answer=$(ask "$PROXY" greeter.staging.localhost /)
    if [[ $answer != *"HTTP/1.1 200"*"\"version\":\"$(version)\""* ]]; then
        echo "staging should answer with version $(version), but answered:"
        echo "$answer"
        exit 1
    fi
done
echo "staging answers with version $(version)"
