#!/usr/bin/env bash
# Starts the service on a free port and asks it what it must be able to answer.
set -euo pipefail
source ./ask.sh

"$SAMPLE_SERVICE" sample-service --config service.yml --port 0 > started.txt &
trap 'kill %1' EXIT
until grep -q '^listening' started.txt; do sleep 0.02; done
address=$(sed -n 's|^listening on http://||p' started.txt)

ask "$address" localhost /healthz | grep -q '^HTTP/1.1 200'
ask "$address" localhost / | grep -q "\"version\":\"$(version)\""
ask "$address" localhost '/stream?seconds=1' | grep -q '^end'
echo "version $(version) passes its tests"
