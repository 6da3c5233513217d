#!/bin/sh
# Installs what the targets named as arguments need and this Debian or Ubuntu does not have yet.
#
#   tests/setup.sh test|bench|lint|fuzz|proof|packages ...
#
# Silent and instant when nothing is missing. Works as root or through sudo, and never starts a service: the tests run
# their own brokers on their own ports.
set -eu

missing=''

# need PROGRAM PACKAGE...: the packages to install when the program is not there.
need() {
  program=$1
  shift
  # Servers live in sbin, which is not on everybody's path.
  PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null 2>&1 || missing="$missing $*"
}

for group in "$@"; do
  case $group in
    test)
      need cc gcc libc6-dev
      need git git
      need strip binutils
      need nats-server nats-server
      need node nodejs npm
      need npm npm
      need busybox busybox-static
      need vim vim
      need htop htop
      need tmux tmux
      need minisign minisign
      need openssl openssl
      need strace strace
      need faketime faketime
      need systemd-analyze systemd
      need python3 python3
      need curl curl
      need wget wget
      need bash bash
      need unshare util-linux
      need debootstrap debootstrap
      need nginx nginx-light
      need fcgiwrap fcgiwrap
      ;;
    bench)
      need nginx nginx-light
      need git git
      need rg ripgrep
      ;;
    lint)
      need cc gcc libc6-dev
      need git git
      need shellcheck shellcheck
      ;;
    fuzz)
      need c++ g++
      ;;
    proof)
      need cc gcc libc6-dev
      need readelf binutils
      need busybox busybox-static
      need unshare util-linux
      ;;
    packages)
      need buildah buildah
      need debootstrap debootstrap
      need dpkg-deb dpkg
      need groff groff-base
      need minisign minisign
      need unshare util-linux
      ;;
    *)
      echo "setup: no group named '$group' (test, bench, lint, proof, packages)" >&2
      exit 64
      ;;
  esac
done

[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
  echo "setup: please install:$missing (only apt is known here)" >&2
  exit 69
fi

as_root=''
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null 2>&1; then
    echo "setup: not root and no sudo; please install:$missing" >&2
    exit 77
  fi
  as_root=sudo
fi

# Packages of servers start them once installed. A policy that refuses prevents it; one that is there already is
# somebody's, and stays as it is.
policy=/usr/sbin/policy-rc.d
log=$(mktemp)
if [ -e "$policy" ]; then
  trap 'rm -f "$log"' EXIT
else
  trap '$as_root rm -f "$policy"; rm -f "$log"' EXIT
  trap 'exit 130' INT TERM
  printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
  $as_root chmod 755 "$policy"
fi

echo "setup: installing$missing"
install() {
  # shellcheck disable=SC2086 # a list of package names, split on purpose
  $as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
    apt-get install --yes --quiet --no-install-recommends $missing </dev/null >"$log" 2>&1
}
# The package lists of an image are often missing or old, those of a laptop rarely are.
if ! install; then
  $as_root apt-get update --quiet >"$log" 2>&1 || { cat "$log" >&2; exit 69; }
  install || { cat "$log" >&2; exit 69; }
fi
