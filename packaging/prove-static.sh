#!/bin/sh
# Proves that a binary needs nothing: packaging/prove-static.sh BINARY BYTES
#
# Its file asks for no interpreter and no library, is stripped and has no more than BYTES. Then it runs in a root
# that holds only busybox and itself, without /dev and /proc: it serves HTTP, runs a command, finds a host by a name that
# only /etc/hosts knows, and stops when asked. A library that it wanted to open would not be there.
set -eu

name=boxd.in.an.empty.root

fail() {
  echo "prove-static: $*" >&2
  exit 1
}

[ $# -eq 2 ] || { echo "usage: $0 BINARY BYTES" >&2; exit 64; }
binary=$1 limit=$2
[ -f "$binary" ] || fail "$binary is missing"
for program in readelf busybox unshare chroot; do
  PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || fail "the program $program is missing"
done

# The file itself.
if readelf --program-headers --wide "$binary" | grep -q INTERP; then fail "it asks for an interpreter"; fi
if readelf --dynamic --wide "$binary" | grep -q NEEDED; then fail "it asks for libraries"; fi
if readelf --sections --wide "$binary" | grep -qE '\.(symtab|debug_info)'; then fail "it is not stripped"; fi
size=$(wc -c <"$binary")
[ "$size" -le "$limit" ] || fail "it has $size bytes, over $limit"
echo "prove-static: static, stripped, $size bytes"

# The root: everything in it is listed here.
root=$(mktemp -d)
namespace=''
clean_up() {
  # Its process namespace takes all its children with it.
  [ -z "$namespace" ] || kill -KILL "$namespace" 2>/dev/null || true
  rm -rf "$root"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
mkdir "$root/bin" "$root/etc" "$root/tmp"
cp "$(command -v busybox)" "$root/bin/busybox"
if readelf --program-headers --wide "$root/bin/busybox" | grep -q INTERP; then
  fail "busybox is not static here: install busybox-static"
fi
cp "$binary" "$root/bin/boxd"
echo "127.0.0.1 $name" >"$root/etc/hosts"

# The steps, as a client in the same root takes them.
cat >"$root/steps" <<'STEPS'
name=$1
busybox() { /bin/busybox "$@"; }
fail() { echo "prove-static: $*" >&2; exit 1; }

url=$(busybox sed -n 's/.*"\(http:[^"]*\)".*/\1/p' /tmp/ready)
port=${url##*:}
file=$(busybox sed -n 's/.*"tokenFile": *"\([^"]*\)".*/\1/p' /tmp/ready)
[ -n "$url" ] && [ -s "$file" ] || fail "the ready file is odd: $(busybox cat /tmp/ready)"

answer=$(busybox wget -q -O - "http://127.0.0.1:$port/v1/health") || fail "health does not answer"
case $answer in *'"ok"'*) ;; *) fail "health answers $answer" ;; esac
echo "prove-static: it serves HTTP"

answer=$(busybox wget -q -O - --header "Authorization: Bearer $(busybox cat "$file")" \
  --header "Content-Type: application/json" \
  --post-data '{"command":"/bin/busybox","args":["sh","-c","/bin/busybox printf 6*7=%d $((6*7))"]}' \
  "http://127.0.0.1:$port/v1/processes/run") || fail "processes/run does not answer"
case $answer in *'6*7=42'*) ;; *) fail "processes/run answers $answer" ;; esac
echo "prove-static: it runs a command"

/bin/boxd call --url "http://$name:$port" --token-file "$file" ping || fail "the name $name is not found"
printed=$(/bin/boxd call --url "http://$name:$port" --token-file "$file" exec -- /bin/busybox basename /a/b) ||
  fail "boxd call exec does not work"
[ "$printed" = b ] || fail "boxd call exec printed $printed"
echo "prove-static: it finds $name in /etc/hosts"
STEPS

# Becomes a program that sees only the root. Without the right to change it, a user namespace gives one.
map=''
[ "$(id -u)" -eq 0 ] || map=--map-root-user
inside() {
  # shellcheck disable=SC2086 # an option or nothing
  exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin BOXD_HTTP_HOSTS="$name" \
    unshare $map --mount "$@" </dev/null
}

# The daemon is the first process of its namespace, as in a container without an init.
inside --pid --fork --kill-child chroot "$root" /bin/boxd run --http 127.0.0.1:0 --state-dir /tmp/state \
  --config-dir /tmp/config --workspace-root /tmp --ready-file /tmp/ready 2>"$root/tmp/log" &
namespace=$!
complain() {
  cat "$root/tmp/log" >&2
  fail "$*"
}
tries=0
until [ -s "$root/tmp/ready" ]; do
  tries=$((tries + 1))
  if [ "$tries" -ge 500 ] || ! kill -0 "$namespace" 2>/dev/null; then complain "it did not start"; fi
  sleep 0.02
done
(inside chroot "$root" /bin/busybox sh /steps "$name") || complain "the steps failed"

daemon=$(cat "/proc/$namespace/task/$namespace/children")
kill -TERM "${daemon% }"
status=0
wait "$namespace" || status=$?
namespace=''
[ "$status" -eq 0 ] || complain "it stopped with status $status"
echo "prove-static: it stops with status 0"
