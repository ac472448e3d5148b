#!/bin/bash
# Lays out what the images of the Dockerfile take from the build: one tree an image, and its packages.
# Usage: collect.sh TARGET_FOLDER     (after ./dev build, from the repository's root)
set -euo pipefail
out=$1
mkdir -p "$out"
place() {  # place IMAGE COMPONENT...: the components' files under IMAGE/usr/local
  local image=$1; shift
  for component in "$@"; do
    cmake --install build/release --strip --component "$component" --prefix "$out/$image/usr/local" >/dev/null
  done
}
place scheduler quantctl quantd
place worker quantctl quantd-worker quantd-cuda
install -m 755 deploy/image/start-worker "$out/worker/usr/local/bin/"
for image in scheduler worker; do
  # The programs as installed: their libraries of our own are found beside them and belong to no package.
  deploy/image/runtime_packages.sh "$out/$image/usr/local/bin/"quant* >"$out/$image.packages"
done
cp deploy/image/prepare.sh "$out/"
