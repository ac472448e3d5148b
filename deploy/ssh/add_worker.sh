#!/bin/bash
# Turns a machine with Ubuntu 24.04 or Debian 12 into a worker, over ssh: copies these sources there, builds them,
# and installs a systemd service that starts with the machine. The same command again brings it up to date.
# Usage: add_worker.sh [USER@]HOST (--scheduler HOST:PORT | --tunnel [HOST:PORT]) [options]
#   --scheduler       where the machine reaches your scheduler, over TLS
#   --tunnel          your scheduler is here, on loopback (127.0.0.1:7717): this script stays and holds an ssh tunnel
#   --token-file FILE a worker's token (quantctl tokens)
#   --ca FILE         the scheduler's authority, when it is not a public one
#   --name NAME, --labels KEY=VALUE,...   as for quant-worker
#   --ssh COMMAND     instead of ssh, for ports and keys: --ssh "ssh -p 2222 -i key"
# HF_TOKEN is passed on when it is set. The user there has to be root or to have sudo without a password.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'add_worker.sh: %s\n' "$*" >&2; exit 2; }
host='' scheduler='' tunnel='' token='' ca='' name='' labels='' ssh=ssh
while [ $# -gt 0 ]; do
  case $1 in
    --scheduler) scheduler=$2; shift ;;
    --tunnel)
      tunnel=127.0.0.1:7717
      case ${2:-} in '' | --*) ;; *) tunnel=$2; shift ;; esac ;;
    --token-file) token=$2; shift ;;
    --ca) ca=$2; shift ;;
    --name) name=$2; shift ;;
    --labels) labels=$2; shift ;;
    --ssh) ssh=$2; shift ;;
    -*) die "unknown option $1; the file's head lists them" ;;
    *) [ -z "$host" ] || die "one machine at a time: $host, $1"; host=$1 ;;
  esac
  shift
done
[ -n "$host" ] || die "which machine? [USER@]HOST"
[ -n "$scheduler$tunnel" ] || die "--scheduler HOST:PORT or --tunnel: how does it reach the scheduler?"
[ -z "$scheduler" ] || [ -z "$tunnel" ] || die "--scheduler and --tunnel: choose one"
[ -z "$token" ] || [ -s "$token" ] || die "--token-file $token: no such file"
[ -z "$ca" ] || [ -s "$ca" ] || die "--ca $ca: no such file"
read -ra ssh_words <<<"$ssh"
remote() { "${ssh_words[@]}" "$host" "$@"; }

say "looking at $host"
remote bash -s <<'REMOTE' || die "$host will not do; see above"
set -eu
. /etc/os-release
case $ID-$VERSION_ID in
  ubuntu-24.04 | debian-12) ;;
  *) echo "$PRETTY_NAME: only Ubuntu 24.04 and Debian 12 have the libraries" >&2; exit 1 ;;
esac
[ "$(id -u)" = 0 ] || sudo -n true || { echo "user $(id -un) needs sudo without a password" >&2; exit 1; }
free=$(df --output=avail -k /opt | tail -1)
[ "$free" -gt 20000000 ] || { echo "only $((free / 1000000)) GB are free in /opt: 20 are needed" >&2; exit 1; }
if [ -e /dev/nvidiactl ]; then
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader >&2 || echo "a GPU without a driver" >&2
else
  echo "no NVIDIA GPU: it will work on the CPU" >&2
fi
REMOTE

say "copying the sources"
git archive --format=tar HEAD | gzip | remote 'rm -rf .quantd-source && mkdir .quantd-source && tar -xzC .quantd-source'

say "building there; the first time takes half an hour"
remote bash -s <<'REMOTE'
set -eu
cd .quantd-source
root=; [ "$(id -u)" = 0 ] || root="sudo -n"
./dev build
for component in quantctl quantd-worker quantd-cuda; do
  $root cmake --install build/release --strip --component $component --prefix /opt/quantd >/dev/null
done
REMOTE

say "installing the service"
environment() {  # What /etc/default/quant-worker says: read by systemd as root, by nobody else.
  echo "QUANTD_SCHEDULER=${scheduler:-127.0.0.1:7717}"
  echo "QUANT_WORKER_OPTIONS=--log-format json${name:+ --name $name}${labels:+ --labels $labels}"
  [ -z "$token" ] || echo "QUANTD_TOKEN=$(tr -d '[:space:]' <"$token")"
  [ -z "$scheduler" ] || echo "QUANTD_TLS=1"
  [ -z "$ca" ] || echo "QUANTD_TLS_CA=/etc/quantd/scheduler-ca.pem"
  [ -z "${HF_TOKEN:-}" ] || echo "HF_TOKEN=$HF_TOKEN"
}
environment | remote 'umask 077; cat >.quantd-environment'
if [ -n "$ca" ]; then remote 'cat >.quantd-ca.pem' <"$ca"; fi
remote bash -s <<'REMOTE'
set -eu
root=; [ "$(id -u)" = 0 ] || root="sudo -n"
$root install -m 600 -o root .quantd-environment /etc/default/quant-worker
rm .quantd-environment
if [ -e .quantd-ca.pem ]; then
  $root install -D -m 644 .quantd-ca.pem /etc/quantd/scheduler-ca.pem
  rm .quantd-ca.pem
fi
sed 's|/usr/bin/|/opt/quantd/bin/|' .quantd-source/deploy/systemd/quant-worker.service >.quantd-unit
$root install -m 644 .quantd-unit /etc/systemd/system/quant-worker.service
rm .quantd-unit
$root systemctl daemon-reload
$root systemctl enable quant-worker
$root systemctl restart quant-worker
REMOTE

if [ -n "$tunnel" ]; then
  say "the worker runs; holding the tunnel to $tunnel. Ctrl-C ends it, and the worker waits for the next one"
  exec "${ssh_words[@]}" -N -o ExitOnForwardFailure=yes -o ServerAliveInterval=15 -R "127.0.0.1:7717:$tunnel" "$host"
fi
say "waiting for the worker to reach $scheduler"
for _ in $(seq 30); do
  if remote /opt/quantd/bin/quantctl doctor --only worker 2>/dev/null; then exit; fi
  sleep 2
done
remote /opt/quantd/bin/quantctl doctor --only worker || true
die "it does not reach the scheduler yet; its log: ssh $host journalctl -u quant-worker"
