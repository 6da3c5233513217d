#!/bin/sh
# A fresh Debian or Ubuntu of this machine's own suite: what is always there and openssl. Made by debootstrap once, from where
# this machine has its own packages, and kept in target/; prints its path. Nobody writes to it.
set -eu
cd "$(dirname "$0")/.."

fail() {
  echo "debian-root: $*" >&2
  exit 1
}

PATH="$PATH:/usr/sbin:/sbin"
for program in debootstrap apt-get flock; do
  command -v "$program" >/dev/null || fail "the program $program is missing"
done
suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
[ -n "$suite" ] || fail "/etc/os-release names no suite"
mkdir -p target
root=$(pwd)/target/debootstrap-$suite
# One makes it, and the others wait.
exec 9>"$root.lock"
flock 9
if [ ! -d "$root" ]; then
  # shellcheck disable=SC2016 # apt's own variables
  mirror=$(apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' | sed -n "s/^$suite main //p" | head -1)
  [ -n "$mirror" ] || fail "apt-get knows no source of $suite main"
  rm -rf "$root.draft"
  debootstrap --variant=minbase --include=openssl "$suite" "$root.draft" "$mirror" >"$root.log" 2>&1 9>&- || {
    tail -5 "$root.log" >&2
    fail "debootstrap failed"
  }
  mv "$root.draft" "$root"
fi
echo "$root"
