#!/bin/sh
# Everything that goes out with a binary: packaging/dist.sh BINARY DIRECTORY
#
# Manual pages, completions, the Debian package, a bill of materials (CycloneDX) of the crates that are linked, and the
# digests of all of it. With BOXD_MINISIGN_KEY, the file of a minisign secret key without a password, also the release that
# installer and `boxd update` read: DIRECTORY/release/agent/..., signed. RELEASE_CHANNEL names its channel (stable),
# RELEASE_ROLLOUT the share of machines that take it at once (100).
set -eu
umask 022

fail() {
  echo "dist: $*" >&2
  exit 1
}

[ $# -eq 2 ] || { echo "usage: $0 BINARY DIRECTORY" >&2; exit 64; }
[ -x "$1" ] || fail "$1 is no program"
cd "$(dirname "$0")/.."
: "${CARGO:=cargo}" "${CARGO_DEB:=cargo-deb}" "${CARGO_CYCLONEDX:=cargo-cyclonedx}"
case $2 in /*) out=$2 ;; *) out=$(pwd)/$2 ;; esac
mkdir -p "$out"
cmp -s "$1" "$out/boxd" || cp "$1" "$out/boxd"
boxd=$out/boxd
version=$("$boxd" version | sed 's/^boxd //')
target=$("$boxd" version --json | sed -n 's/.*"target": *"\([^"]*\)".*/\1/p')
if [ -z "$version" ] || [ -z "$target" ]; then fail "$boxd does not say what it is"; fi

rm -rf "$out/man" "$out/completions" "$out/deb"
mkdir "$out/man" "$out/completions" "$out/deb"
"$boxd" man "$out/man"
for shell in bash zsh fish; do
  "$boxd" completions "$shell" >"$out/completions/boxd.$shell"
done

# The package: its sources are named in Cargo.toml, below dist/deb.
stage=dist/deb
mkdir -p "$stage/man"
cp "$boxd" "$stage/boxd"
cp "$out"/completions/boxd.* "$stage/"
for page in "$out"/man/*.1; do
  gzip -9nc "$page" >"$stage/man/$(basename "$page").gz"
done
"$boxd" service print --system --binary /usr/bin/boxd >"$stage/boxd.service"
"$CARGO_DEB" deb --no-build --no-strip --locked --quiet --output "$out/"
rm -rf "$stage"
rmdir "$out/deb" 2>/dev/null || true

"$CARGO_CYCLONEDX" cyclonedx --quiet --format json --no-build-deps --target "$target" --override-filename boxd-sbom
mv boxd-sbom.json "$out/boxd.cdx.json"

if [ -n "${BOXD_MINISIGN_KEY:-}" ]; then
  channel=${RELEASE_CHANNEL:-stable}
  artifact=$out/release/agent/$version/boxd-$target
  manifest=$out/release/agent/$channel/manifest.json
  mkdir -p "${artifact%/*}" "${manifest%/*}"
  cp "$boxd" "$artifact"
  digest=$(sha256sum "$artifact")
  digest=${digest%% *}
  printf '%s  %s\n' "$digest" "${artifact##*/}" >"$artifact.sha256"
  # Every target of this version that is here: run for one after the other, all of them are in it.
  artifacts=''
  for file in "${artifact%/*}"/boxd-*; do
    case $file in *.sha256 | *.minisig) continue ;; esac
    digest=$(sha256sum "$file")
    artifacts="$artifacts,$(printf '{"target":"%s","url":"","size":%s,"sha256":"%s","minisig_url":""}' \
      "${file##*/boxd-}" "$(wc -c <"$file" | tr -d ' ')" "${digest%% *}")"
  done
  printf '{"channel":"%s","version":"%s","min_supported":"","rollout_percent":%s,"cohort_salt":"%s","artifacts":[%s],"notes_url":"","signed_at_ms":%s,"force":false}\n' \
    "$channel" "$version" "${RELEASE_ROLLOUT:-100}" "$version" "${artifacts#,}" "$(date +%s)000" >"$manifest"
  for file in "$artifact" "$manifest"; do
    minisign -S -s "$BOXD_MINISIGN_KEY" -m "$file" >/dev/null
  done
fi

# Last: what is listed is what goes out.
(
  cd "$out"
  rm -f SHA256SUMS
  find . -type f ! -path './release/*' | LC_ALL=C sort | sed 's|^\./||' | xargs sha256sum >"$out.sums"
  mv "$out.sums" SHA256SUMS
)
echo "dist: boxd $version for $target in $out"
