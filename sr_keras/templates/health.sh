#!/bin/bash
# Say whether each model is ready: exit status 0 if so.
#     bash health.sh [models.config] [REST port]
config=${1:-/models/models.config}
port=${2:-8501}
names=$(sed -n 's/^ *name: "\(.*\)"$/\1/p' "$config") || exit 1
while IFS= read -r name; do
  exec 3<>"/dev/tcp/127.0.0.1/$port" || exit 1
  printf 'GET /v1/models/%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "${name// /%20}" >&3
  grep -q '"state": "AVAILABLE"' <&3 || { echo "$name is not ready"; exit 1; }
  exec 3>&-
done <<< "$names"
