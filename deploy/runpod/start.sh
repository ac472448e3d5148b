#!/bin/bash
# Rents GPU pods on RunPod that work for your scheduler: template.json with your settings, one request a pod.
# Usage: RUNPOD_API_KEY=... start.sh --image IMAGE --scheduler HOST:PORT [options]
#   --gpu TYPE        as RunPod names it; may be repeated, the first to be had is taken (default NVIDIA L40S)
#   --count N         pods (default 1)
#   --spot            interruptible: cheaper, and may be taken back at any time
#   --ca FILE         the scheduler's authority, when it is not a public one
#   --idle SECONDS    leave after so long without a job (default 900)
#   --dry-run         print the request and send nothing
# The worker's token is RunPod's secret "quantd_token", the Hub's "hf_token": make them in RunPod's console.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
die() { echo "start.sh: $*" >&2; exit 2; }
image='' scheduler='' count=1 spot=false ca='' idle=900 dry=false gpus=()
while [ $# -gt 0 ]; do
  case $1 in
    --image) image=$2; shift ;;
    --scheduler) scheduler=$2; shift ;;
    --gpu) gpus+=("$2"); shift ;;
    --count) count=$2; shift ;;
    --ca) ca=$2; shift ;;
    --idle) idle=$2; shift ;;
    --spot) spot=true ;;
    --dry-run) dry=true ;;
    *) die "unknown option $1; the file's head lists them" ;;
  esac
  shift
done
[ -n "$image" ] || die "--image: the quantd-worker-cuda image in a registry that RunPod can reach"
[ -n "$scheduler" ] || die "--scheduler HOST:PORT: where pods reach your scheduler"
case $scheduler in 127.*|localhost:*) die "--scheduler $scheduler: pods cannot reach this machine's loopback" ;; esac
[ ${#gpus[@]} -gt 0 ] || gpus=("NVIDIA L40S")
request=$(python3 - "$here/template.json" "$image" "$scheduler" "$spot" "$ca" "$idle" "${gpus[@]}" <<'PYTHON'
import json, pathlib, sys
template, image, scheduler, spot, ca, idle, *gpus = sys.argv[1:]
pod = json.loads(pathlib.Path(template).read_text())
for key in ("category", "isServerless", "readme"):  # Of templates, not of pods.
    del pod[key]
pod.update(imageName=image, gpuTypeIds=gpus, gpuCount=1, interruptible=spot == "true", cloudType="SECURE")
pod["env"].update(QUANTD_SCHEDULER=scheduler, QUANTD_EXIT_WHEN_IDLE=idle)
if ca:
    pod["env"]["QUANTD_TLS_CA_PEM"] = pathlib.Path(ca).read_text()
print(json.dumps(pod))
PYTHON
)
if $dry; then echo "$request"; exit; fi
[ -n "${RUNPOD_API_KEY:-}" ] || die "RUNPOD_API_KEY is not set"
for _ in $(seq "$count"); do
  # The key goes in through a file descriptor: arguments can be read by everyone on this machine.
  curl --fail-with-body --silent --show-error --request POST "${RUNPOD_API:-https://rest.runpod.io/v1}/pods" \
    --header @<(printf 'Authorization: Bearer %s' "$RUNPOD_API_KEY") \
    --header 'Content-Type: application/json' --data "$request"
  echo
done
