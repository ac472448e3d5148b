#!/usr/bin/env bash
# measure.sh BIN STORE [quantd_load's PARTS and flags]: a scheduler on a fresh folder under quantd_load, then its
# restart with everything in the store. STORE is sqlite, postgres (a server of its own, fsync on) or s3 (SQLite, and
# artifacts in a bucket of moto's server, whose own speed is measured beside it; needs QUANTD_S3_SERVER).
set -euo pipefail
bin=$1 store=$2; shift 2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d /tmp/quantd_measure_XXXXXX)
pids=()
postgres=$(echo /usr/lib/postgresql/*/bin)
clean() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; done
  if [ "$store" = postgres ]; then as_postgres "$postgres/pg_ctl" -D "$folder/pg/data" -m immediate stop >/dev/null || true; fi
  rm -rf "$folder"
}
trap clean EXIT
as_postgres() { if [ "$(id -u)" = 0 ]; then setpriv --reuid postgres --regid postgres --clear-groups "$@"; else "$@"; fi; }

more=()
case $store in
  sqlite) ;;
  postgres)
    chmod 755 "$folder"; mkdir "$folder/pg"
    if [ "$(id -u)" = 0 ]; then chown postgres "$folder/pg"; fi
    as_postgres "$postgres/initdb" -D "$folder/pg/data" -A trust -U quantd >/dev/null
    as_postgres "$postgres/pg_ctl" -w -D "$folder/pg/data" -l "$folder/pg/log" start \
      -o "-k $folder/pg -c listen_addresses= -c max_connections=200" >/dev/null
    psql -qh "$folder/pg" -U quantd postgres -c 'create database q'
    more=(--store "postgres://quantd@/q?host=$folder/pg") ;;
  s3)
    export AWS_ACCESS_KEY_ID=test-key AWS_SECRET_ACCESS_KEY=test-secret
    "$QUANTD_S3_SERVER/bin/python" "$here/../artifacts/testing/s3_server.py" 0 "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY" \
      >"$folder/s3" 2>"$folder/s3.log" &
    pids+=($!)
    until [ -s "$folder/s3" ]; do sleep .1; done
    endpoint=http://127.0.0.1:$(cat "$folder/s3")
    "$QUANTD_S3_SERVER/bin/python" "$here/s3_alone.py" "$endpoint" 512
    more=(--artifacts "s3://bucket/quantd?endpoint=$endpoint") ;;
  *) echo "measure.sh: STORE is sqlite, postgres or s3" >&2; exit 2 ;;
esac

start() {
  rm -f "$folder/ready"
  local began; began=$(date +%s.%N)
  "$bin/quantd" --listen 127.0.0.1:0 --metrics-listen off --data "$folder/data" --ready-file "$folder/ready" \
    "${more[@]}" >>"$folder/log" 2>&1 &
  quantd=$!; pids+=("$quantd")
  until [ -e "$folder/ready" ]; do kill -0 "$quantd" || { cat "$folder/log"; exit 1; }; sleep .01; done
  echo "start: $(echo "$(date +%s.%N) - $began" | bc) s"
}
start
"$bin/quantd_load" "$folder/ready" "$@"
kill -KILL "$quantd"; wait "$quantd" 2>/dev/null || true
echo "after kill -9:"
start
