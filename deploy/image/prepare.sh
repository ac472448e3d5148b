#!/bin/sh
# Makes a bare distribution ready for one of the images: the packages named in a file, the certificates of public
# servers, and a user that owns nothing but the data folder. Leaves no trace that differs from run to run.
# Usage: prepare.sh PACKAGES_FILE
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2046
apt-get install -y -qq --no-install-recommends ca-certificates $(cat "$1") >/dev/null
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/cache/debconf/*-old /var/lib/dpkg/*-old \
  /var/log/* /tmp/image /usr/share/man/* /usr/share/locale/* /usr/share/info/*
# Licences stay.
find /usr/share/doc -type f ! -name copyright -delete
find /usr/share/doc -depth -type d -empty -delete
groupadd --system --gid 7717 quantd
useradd --system --uid 7717 --gid quantd --home-dir /var/lib/quantd --shell /usr/sbin/nologin quantd
install -d -o quantd -g quantd -m 750 /var/lib/quantd
rm -f /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow-
