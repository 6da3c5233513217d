#!/bin/sh
# Proves what is built around a binary: packaging/prove-packages.sh BINARY
#
# Everything that goes out is made by packaging/dist.sh with a key of this run. The manual pages are read by groff, the
# digests are checked, `boxd update` believes the release, the package is installed in a root of its own and purged without
# a trace, and both images are built, without anything being pulled, and serve. Roots see no /run, bus or service manager
# of this machine. The Debian root is made once and kept in target/.
set -eu

fail() {
  echo "prove-packages: $*" >&2
  exit 1
}

[ $# -eq 1 ] || { echo "usage: $0 BINARY" >&2; exit 64; }
[ -x "$1" ] || fail "$1 is no program"
[ "$(id -u)" -eq 0 ] || fail "roots and images are made as root"
for program in buildah dpkg-deb groff minisign unshare; do
  PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || fail "the program $program is missing"
done
cd "$(dirname "$0")/.."
binary=$(realpath "$1")
work=$(mktemp -d)
daemon=''
settings=''
clean_up() {
  [ -z "$daemon" ] || kill -KILL "$daemon" 2>/dev/null || true
  if [ -d "$work/storage" ]; then
    buildah_here rm --all >/dev/null 2>&1 || true
    buildah_here rmi --all --force >/dev/null 2>&1 || true
  fi
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

buildah_here() {
  buildah --storage-driver vfs --root "$work/storage" --runroot "$work/run" "$@"
}

debian=$(packaging/debian-root.sh)

# Everything that goes out.
out=$work/dist
(cd "$work" && minisign -G -W -p key.pub -s key >/dev/null)
BOXD_MINISIGN_KEY=$work/key packaging/dist.sh "$binary" "$out"
(cd "$out" && sha256sum --quiet -c SHA256SUMS) || fail "the digests are wrong"
for page in "$out"/man/*.1; do
  groff -man -Tutf8 -wall -z "$page" 2>"$work/groff" || true
  [ ! -s "$work/groff" ] || fail "$page: $(head -3 "$work/groff")"
done
for page in boxd boxd-run; do [ -s "$out/man/$page.1" ] || fail "$page has no page"; done
[ ! -e "$out/man/boxd-rehearse.1" ] || fail "what is hidden has a page"
for script in "$out"/completions/*; do grep -q boxd "$script" || fail "$script is empty"; done
for words in '"bomFormat": *"CycloneDX"' '"tokio"'; do
  grep -q "$words" "$out/boxd.cdx.json" || fail "the bill of materials does not have $words"
done
checked=$(env -i HOME="$work" BOXD_STATE_DIR="$work/state" BOXD_UPDATE_PUBLIC_KEYS="$(tail -1 "$work/key.pub")" \
  BOXD_UPDATE_BASE_URL="$out/release" "$out/boxd" update --check) || fail "the release is not believed"
echo "prove-packages: pages, completions, digests, bill of materials; the release is believed: $checked"

# The package, in a root of its own.
package=$(echo "$out"/*.deb)
[ -s "$package" ] || fail "there is no package"
[ -z "$(dpkg-deb --field "$package" Depends)" ] || fail "the package needs something"
root=$work/debian
cp -a "$debian" "$root"
cp "$package" "$root/tmp/boxd.deb"
cat >"$root/tmp/steps" <<'STEPS'
set -eu
fail() { echo "prove-packages: $*" >&2; exit 1; }
dpkg -i /tmp/boxd.deb >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log >&2; fail "the package cannot be installed"; }
[ "$(command -v boxd)" = /usr/bin/boxd ] || fail "boxd is not where it belongs"
boxd version
boxd doctor --self-test >/tmp/doctor || { cat /tmp/doctor >&2; fail "boxd doctor fails"; }
grep -q '^ExecStart=/usr/bin/boxd run' /usr/lib/systemd/system/boxd.service || fail "the unit starts something else"
[ ! -e /etc/systemd/system/multi-user.target.wants/boxd.service ] || fail "it was enabled unasked"
mkdir -p /var/lib/boxd /etc/boxd
dpkg --purge boxd >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log >&2; fail "the package cannot be purged"; }
left=$(find / -xdev -name '*boxd*' ! -path '/proc/*' ! -path '/tmp/*' ! -path '/var/log/*' ! -path '/var/cache/*')
[ -z "$left" ] || fail "the purge left $left"
STEPS
# alone ROOT COMMAND...: the first process of its own namespaces, with a /proc of those.
alone() {
  # shellcheck disable=SC2086,SC2016 # settings without blanks; the inner shell's arguments
  exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root $settings \
    unshare --mount --pid --fork --kill-child sh -c 'mount -t proc proc "$1/proc" && exec chroot "$@"' sh "$@" </dev/null
}
(alone "$root" sh /tmp/steps) || fail "the package failed"
rm -rf "$root"
echo "prove-packages: the package installs, works and leaves nothing"

# The images. What is copied into them is where the Dockerfile looks for it.
context=$work/context
mkdir -p "$context/dist" "$context/packaging"
cp "$binary" "$context/dist/boxd"
cp packaging/Dockerfile "$context/packaging/"
base=$(buildah_here from scratch)
buildah_here add --quiet "$base" "$debian" / >/dev/null
buildah_here commit --quiet "$base" localhost/debian >/dev/null
buildah_here rm "$base" >/dev/null

# serve FLAVOUR: the image is built, says what it starts, and that serves and runs a command.
serve() {
  flavour=$1
  shift
  buildah_here build --isolation chroot --pull=never --quiet --build-arg BASE=localhost/debian \
    --target "$flavour" -t "localhost/boxd-$flavour" -f "$context/packaging/Dockerfile" "$context" >/dev/null
  entry=$(buildah_here inspect --type image --format '{{range .OCIv1.Config.Entrypoint}}{{.}} {{end}}' "localhost/boxd-$flavour")
  entry=${entry% }
  case $entry in */boxd\ run) ;; *) fail "the image $flavour starts $entry" ;; esac
  container=$(buildah_here from --pull-never "localhost/boxd-$flavour")
  mounted=$(buildah_here mount "$container")
  [ -d "$mounted/tmp" ] || fail "the image $flavour has no /tmp"
  mkdir -p "$mounted/proc"
  # Its own settings, but for the port, which other containers would not share with us.
  settings='BOXD_HTTP=127.0.0.1:0 BOXD_STATE_DIR=/var/lib/boxd BOXD_WORKSPACE_ROOT=/workspace'
  # shellcheck disable=SC2086 # the words of the entry point
  alone "$mounted" $entry --ready-file /tmp/ready 2>"$work/log" &
  daemon=$!
  settings=''
  tries=0
  until [ -s "$mounted/tmp/ready" ]; do
    tries=$((tries + 1))
    if [ "$tries" -ge 500 ] || ! kill -0 "$daemon" 2>/dev/null; then
      cat "$work/log" >&2
      fail "the image $flavour does not serve"
    fi
    sleep 0.02
  done
  url=$(sed -n 's/.*"\(http:[^"]*\)".*/\1/p' "$mounted/tmp/ready")
  said=$(env -i HOME="$work" "$binary" call --url "$url" --token-file "$mounted/var/lib/boxd/token" exec -- "$@")
  case $said in "boxd "*) ;; *) fail "a command in the image $flavour says $said" ;; esac
  inside=$(cat "/proc/$daemon/task/$daemon/children")
  kill -TERM "${inside% }"
  wait "$daemon" || fail "the image $flavour does not stop with status 0"
  daemon=''
  buildah_here umount "$container" >/dev/null
  buildah_here rm "$container" >/dev/null
  echo "prove-packages: the image $flavour serves as \"$entry\""
}
serve scratch /boxd version
serve debian sh -c 'exec boxd version'
