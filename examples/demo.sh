#!/usr/bin/env bash
# What `./dev demo` runs once everything is built: a scheduler with one worker on loopback, the sweep of
# examples/quick.yaml on the bundled model, the comparison, and a clean end.
# Usage: demo.sh BIN_FOLDER [SWEEP.yaml]
set -euo pipefail
bin=$(cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
sweep=${2:-examples/quick.yaml}
demo=build/demo
rm -rf "$demo"
mkdir -p "$demo"

"$bin/quantd" --standalone --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 --data "$PWD/$demo/data" \
  --ready-file "$PWD/$demo/ready.json" 2>"$demo/quantd.log" &
scheduler=$!
stop() {
  kill -TERM "$scheduler" 2>/dev/null || true
  wait "$scheduler" 2>/dev/null || true
}
trap stop EXIT

for _ in $(seq 600); do
  [ -s "$demo/ready.json" ] && break
  kill -0 "$scheduler" 2>/dev/null || { cat "$demo/quantd.log" >&2; exit 1; }
  sleep 0.1
done
[ -s "$demo/ready.json" ] || { echo "not ready within a minute; the log: $demo/quantd.log" >&2; exit 1; }
address=$(sed -n 's/.*"listen": *"\([^"]*\)".*/\1/p' "$demo/ready.json")

"$bin/quantctl" --scheduler "$address" sweep "$sweep" --output "$demo/result"
echo
echo "Models, results and report: $demo/result    Scheduler's log: $demo/quantd.log"
