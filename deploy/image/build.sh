#!/bin/bash
# Builds the images of the Dockerfile with docker or buildah, whichever is there. The tag is the version and the
# commit; time stamps inside are the commit's, so that the same commit gives the same layers.
# Usage: build.sh [scheduler|worker|worker-cuda]...     (scheduler and worker by default; from the repository's root)
#
# QUANTD_IMAGE_ARGS holds further arguments for the builder, as --build-arg DEBIAN_IMAGE=... for another base.
set -euo pipefail
version=$(sed -n 's/^project(quantd VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
commit=$(git rev-parse --short=12 HEAD)
stamp=$(git log -1 --format=%ct)
read -ra more <<<"${QUANTD_IMAGE_ARGS:-}"
[ $# -gt 0 ] || set -- scheduler worker
for target in "$@"; do
  options=(--target "$target" --tag "quantd-$target:$version-$commit" --tag "quantd-$target:latest"
    --label "org.opencontainers.image.version=$version" --label "org.opencontainers.image.revision=$commit"
    --label "org.opencontainers.image.licenses=Apache-2.0" "${more[@]}")
  if command -v docker >/dev/null; then
    docker build --build-arg "SOURCE_DATE_EPOCH=$stamp" "${options[@]}" .
  elif command -v buildah >/dev/null; then
    # Health checks exist in docker's format only.
    buildah build --format docker --timestamp "$stamp" "${options[@]}" .
  else
    echo "need docker or buildah to build images" >&2
    exit 1
  fi
done
