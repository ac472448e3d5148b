#!/bin/sh
# Prints the packages that hold the shared libraries a program needs, one a line, on the distribution that built it:
# the images' run-time stages install just these, so that no list of them can grow stale.
# Usage: runtime_packages.sh PROGRAM...
set -eu
for program in "$@"; do
  ldd "$program" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p'
done | sort -u | while read -r library; do
  # /lib is a link to /usr/lib, and dpkg knows a file by either name.
  real=$(readlink -f "$library")
  dpkg-query -S "$library" "$real" "${real#/usr}" 2>/dev/null | sed -n '1s/: .*//p'
done | sed 's/:.*//' | sort -u
