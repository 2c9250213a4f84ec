#!/usr/bin/env bash
# The release: what is started, and its configuration.
set -euo pipefail
mkdir -p dist
cp service.yml dist/
cat > dist/start <<START
#!/bin/sh
exec "$SAMPLE_SERVICE" sample-service --config service.yml
START
chmod +x dist/start
echo "built $(sed -n 's/^version: *//p' service.yml)"
