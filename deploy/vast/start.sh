#!/bin/bash
# Rents GPU machines on Vast.ai that work for your scheduler, with Vast's own client (pip install vastai; vastai set
# api-key ...). The cheapest offers that fit are taken.
# Usage: start.sh --image IMAGE --scheduler HOST:PORT --token-file FILE [options]
#   --query TEXT      which offers fit (default: one GPU of 24 GB or more, a driver for CUDA 13, a good line)
#   --count N         machines (default 1)
#   --bid DOLLARS     interruptible, at this price an hour; may be taken back at any time
#   --disk GB         (default 200)
#   --ca FILE         the scheduler's authority, when it is not a public one
#   --idle SECONDS    leave after so long without a job (default 900)
#   --dry-run         print the commands and rent nothing
# HF_TOKEN is passed on when it is set.
set -euo pipefail
die() { echo "start.sh: $*" >&2; exit 2; }
image='' scheduler='' token='' count=1 bid='' disk=200 ca='' idle=900 dry=false
query='num_gpus=1 gpu_ram>=24 cuda_vers>=13.0 inet_down>=500 reliability>0.98 rentable=true'
while [ $# -gt 0 ]; do
  case $1 in
    --image) image=$2; shift ;;
    --scheduler) scheduler=$2; shift ;;
    --token-file) token=$2; shift ;;
    --query) query=$2; shift ;;
    --count) count=$2; shift ;;
    --bid) bid=$2; shift ;;
    --disk) disk=$2; shift ;;
    --ca) ca=$2; shift ;;
    --idle) idle=$2; shift ;;
    --dry-run) dry=true ;;
    *) die "unknown option $1; the file's head lists them" ;;
  esac
  shift
done
[ -n "$image" ] || die "--image: the quantd-worker-cuda image in a public registry"
[ -n "$scheduler" ] || die "--scheduler HOST:PORT: where machines reach your scheduler"
case $scheduler in 127.*|localhost:*) die "--scheduler $scheduler: they cannot reach this machine's loopback" ;; esac
[ -s "$token" ] || die "--token-file: a file with a worker's token (quantctl tokens)"
$dry || command -v vastai >/dev/null || die "vastai is not installed: pip install vastai"

# docker's own words, as Vast takes them.
environment="-e QUANTD_SCHEDULER=$scheduler -e QUANTD_TLS=1 -e QUANTD_TOKEN=$(tr -d '[:space:]' <"$token")"
environment+=" -e QUANTD_WORKER_LABELS=cloud=vast -e QUANTD_EXIT_WHEN_IDLE=$idle"
[ -z "${HF_TOKEN:-}" ] || environment+=" -e HF_TOKEN=$HF_TOKEN"
# Line breaks do not survive there.
[ -z "$ca" ] || environment+=" -e QUANTD_TLS_CA_BASE64=$(base64 -w0 "$ca")"
if $dry; then
  offers=$(seq "$count" | sed 's/^/OFFER-/')
  echo "vastai search offers '$query' --order dph --raw"
else
  offers=$(vastai search offers "$query" --order dph --raw |
    python3 -c 'import json, sys; [print(o["id"]) for o in json.load(sys.stdin)[:int(sys.argv[1])]]' "$count")
  [ -n "$offers" ] || die "no offer fits: $query"
fi
for offer in $offers; do
  command=(vastai create instance "$offer" --image "$image" --disk "$disk" --label quantd-worker
    --env "$environment" --entrypoint start-worker)
  [ -z "$bid" ] || command+=(--bid_price "$bid")
  command+=(--args)
  if $dry; then printf '%q ' "${command[@]}"; echo; else "${command[@]}"; fi
done
