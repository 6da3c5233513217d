#!/bin/sh
# Installs boxd, or a newer one over an older one.
#
#   curl -fsSL BASE/install.sh | sh -s -- --base-url BASE --public-key RW...
#
# Nothing that was downloaded runs before its signature and its digest were verified by a program that was here before. It
# is put in place by one rename; whatever fails before that leaves the prefix as it was. Every option, environment variable
# and exit code is in docs/operations.md.
#
# Everything is in functions and the last line calls the first of them, so that a script that was cut off does nothing.
set -eu

# A release fills these in; until then, and for other publishers, they are given.
built_in_base_url=''
built_in_public_key=''

main() {
  settings "$@"
  find_target
  find_downloader
  umask 077
  work='' questions='' child='' made='' new_lock=''
  trap 'leave $?' EXIT
  heed_signals
  find_verifier
  make_room
  release
  if is_due; then
    download_program
    if $dry_run; then
      say "would install boxd $version as $program"
    else
      enroll "$work/boxd"
      put_in_place
    fi
  elif ! $dry_run; then
    enroll "$program"
  fi
  if $dry_run; then
    plan_the_rest
    return
  fi
  set_service
  case :$PATH: in
    *:"$bin":*) ;;
    *) say "$bin is not in PATH" ;;
  esac
}

usage() {
  cat <<'USAGE'
Installs boxd, or a newer one over an older one.

Usage: install.sh [OPTIONS]

  --base-url URL        where releases are: https://, file:// or a directory (BOXD_INSTALL_BASE_URL)
  --public-key KEY      the minisign key of releases, RW... (BOXD_INSTALL_PUBLIC_KEY)
  --channel NAME        stable when not given (BOXD_INSTALL_CHANNEL)
  --prefix DIR          /usr/local for root, else ~/.local (BOXD_INSTALL_PREFIX)
  --force               install the version that is there already once more
  --allow-downgrade     install a version that is older than what is there
  --dry-run             verify everything, say what would be done, change nothing
  --no-service          leave the service manager alone
  --token-file FILE     enroll with the token in it (BOXD_ENROLL_TOKEN holds one as well)
  --api-url URL         the control plane to enroll with
  --workspace-id ID     the workspace to enroll for
  --name NAME           what the machine is called there
  --help                this text

BOXD_INSTALL_SHA256, from somewhere else than the releases, is the digest of the program; it stands in where
neither minisign, rsign nor openssl 3 is there to verify signatures.

Exit codes: 0 installed or there already, 64 usage, 65 a signature, digest, manifest or version is refused,
69 no verifier, no release or no network, 73 no room, 75 another install is at work, 77 not permitted.
USAGE
}

say() {
  printf 'install: %s\n' "$*" >&2
}

# fail CODE WORDS...
fail() {
  code=$1
  shift
  say "$*"
  exit "$code"
}

# change COMMAND...: one that changes the disk. A shell has only the words to tell why it failed.
change() {
  complaint=$(LC_ALL=C "$@" 2>&1) && return
  case $complaint in
    *'Read-only file system'* | *'Permission denied'* | *'not permitted'*) fail 77 "$complaint" ;;
    *) fail 73 "$complaint" ;;
  esac
}

settings() {
  base_url=${BOXD_INSTALL_BASE_URL:-$built_in_base_url}
  public_key=${BOXD_INSTALL_PUBLIC_KEY:-$built_in_public_key}
  channel=${BOXD_INSTALL_CHANNEL:-stable}
  given_digest=${BOXD_INSTALL_SHA256:-}
  token=${BOXD_ENROLL_TOKEN:-}
  # The token is for `boxd connect` alone, and boxd takes no variable that it does not know.
  unset BOXD_ENROLL_TOKEN BOXD_INSTALL_BASE_URL BOXD_INSTALL_PUBLIC_KEY BOXD_INSTALL_CHANNEL BOXD_INSTALL_SHA256
  token_file='' api_url='' workspace_id='' name=''
  force=false allow_downgrade=false dry_run=false with_service=true
  if [ -n "${BOXD_INSTALL_PREFIX+set}" ]; then
    prefix=$BOXD_INSTALL_PREFIX
  elif [ "$(id -u)" -eq 0 ]; then
    prefix=/usr/local
  else
    prefix=${HOME:+$HOME/.local}
  fi
  unset BOXD_INSTALL_PREFIX
  while [ $# -gt 0 ]; do
    case $1 in
      --force) force=true ;;
      --allow-downgrade) allow_downgrade=true ;;
      --dry-run) dry_run=true ;;
      --no-service) with_service=false ;;
      --help | -h)
        usage
        exit 0
        ;;
      --*=*)
        option=${1%%=*} value=${1#*=}
        shift
        set -- "$option" "$value" "$@"
        continue
        ;;
      --base-url | --public-key | --channel | --prefix | --token-file | --api-url | --workspace-id | --name)
        [ $# -ge 2 ] || fail 64 "$1 needs a value"
        case $1 in
          --base-url) base_url=$2 ;;
          --public-key) public_key=$2 ;;
          --channel) channel=$2 ;;
          --prefix) prefix=$2 ;;
          --token-file) token_file=$2 ;;
          --api-url) api_url=$2 ;;
          --workspace-id) workspace_id=$2 ;;
          --name) name=$2 ;;
        esac
        shift
        ;;
      *) fail 64 "unknown option $1 (--help shows those there are)" ;;
    esac
    shift
  done
  check_settings
  set_source
}

check_settings() {
  case $channel in
    '' | *[!a-z0-9-]* | -*) fail 64 "'$channel' is no name of a channel" ;;
  esac
  prefix=$(without_slashes "$prefix")
  case $prefix in
    '') fail 64 'the prefix is empty or /: name a directory by --prefix' ;;
    /*) ;;
    *) fail 64 "the prefix $prefix is not absolute" ;;
  esac
  bin=$prefix/bin
  program=$bin/boxd
  if [ -n "$public_key" ]; then
    case $public_key in
      *[!A-Za-z0-9+/]* | [!R]* | R[!W]*) fail 64 'the public key is no minisign key, RW...' ;;
    esac
    [ ${#public_key} -eq 56 ] || fail 64 'the public key is no minisign key of 56 characters'
  fi
  given_digest=$(printf %s "$given_digest" | tr A-F a-f)
  case $given_digest in
    '') ;;
    *[!0-9a-f]*) fail 64 'BOXD_INSTALL_SHA256 is no digest in hex' ;;
    *) [ ${#given_digest} -eq 64 ] || fail 64 'BOXD_INSTALL_SHA256 has not 64 digits' ;;
  esac
  [ -n "$public_key$given_digest" ] ||
    fail 64 'whose signature is to be believed? Give the key of the releases by --public-key'
  if [ -n "$token$token_file" ]; then
    [ -n "$api_url" ] || fail 64 'to enroll, --api-url is needed as well'
    [ -n "$workspace_id" ] || fail 64 'to enroll, --workspace-id is needed as well'
    [ -z "$token_file" ] || [ -r "$token_file" ] || fail 64 "the token file $token_file cannot be read"
  elif [ -n "$api_url$workspace_id$name" ]; then
    fail 64 'to enroll, a token is needed: --token-file or BOXD_ENROLL_TOKEN; without one, run boxd connect afterwards'
  fi
}

# Where releases come from: `directory`, or `url` to download from.
set_source() {
  directory='' url=''
  base_url=$(without_slashes "$base_url")
  case $base_url in
    '') fail 64 'where are the releases? Give a URL or a directory by --base-url' ;;
    file:///*%*) fail 64 'a file:// URL with escapes is not understood: give the directory itself' ;;
    file:///*) directory=${base_url#file://} ;;
    /*) directory=$base_url ;;
    https://?*) url=$base_url ;;
    http://*)
      host=${base_url#http://}
      host=${host%%/*}
      port=${host##*:}
      case $port in
        *[!0-9]*) ;;
        *) host=${host%:*} ;;
      esac
      case $host in
        127.0.0.1 | localhost | '[::1]') url=$base_url ;;
        *) fail 64 "$base_url is not encrypted: use https:// (http:// is for this machine alone)" ;;
      esac
      ;;
    *) fail 64 "$base_url is neither an https:// or file:// URL nor an absolute directory" ;;
  esac
}

without_slashes() {
  rest=$1
  while [ "$rest" != "${rest%/}" ]; do rest=${rest%/}; done
  printf %s "$rest"
}

find_target() {
  system=$(uname -s) machine=$(uname -m)
  case $machine in
    x86_64 | amd64) machine=x86_64 ;;
    aarch64 | arm64) machine=aarch64 ;;
    *) fail 69 "there is no boxd for the processor $machine" ;;
  esac
  case $system in
    Linux) target=$machine-unknown-linux-gnu ;;
    Darwin)
      # A translated shell calls an Apple processor x86_64.
      if [ "$(sysctl -n sysctl.proc_translated 2>/dev/null)" = 1 ]; then machine=aarch64; fi
      target=$machine-apple-darwin
      ;;
    *) fail 69 "there is no boxd for $system" ;;
  esac
}

is_here() {
  command -v "$1" >/dev/null 2>&1
}

find_downloader() {
  if [ -n "$directory" ]; then
    [ -d "$directory" ] || fail 69 "$directory is no directory"
    downloader=copy
  elif is_here curl; then
    downloader=curl
  elif is_here wget; then
    downloader=wget
    case $(wget --help 2>&1) in
      *BusyBox*) downloader=small-wget ;;
    esac
  else
    fail 69 'neither curl nor wget is here to download with'
  fi
}

find_verifier() {
  if is_here sha256sum; then
    hasher=sha256sum
  elif is_here shasum; then
    hasher=shasum
  elif is_here openssl; then
    hasher=openssl
  else
    fail 69 'neither sha256sum, shasum nor openssl is here to compute a digest'
  fi
  verifier=digest
  if [ -n "$public_key" ]; then
    if is_here minisign; then
      verifier=minisign
    elif is_here rsign; then
      verifier=rsign
    elif openssl_can_verify; then
      verifier=openssl
    elif [ -z "$given_digest" ]; then
      fail 69 'neither minisign, rsign nor openssl 3 is here to verify signatures: install one of them, or give the' \
        'digest of the program, from somewhere else than the releases, as BOXD_INSTALL_SHA256'
    fi
  fi
  [ "$verifier" != digest ] || say 'signatures are not verified; the digest that was given decides'
}

# Whether openssl knows the answers to two questions: the second test of RFC 8032, section 7.1, and a digest of its message.
openssl_can_verify() {
  is_here openssl || return 1
  questions=$(mktemp -d "${TMPDIR:-/tmp}/boxd-install.XXXXXX") || fail 73 'a temporary directory cannot be made'
  answer=0
  openssl_answers "$questions" || answer=1
  rm -rf "$questions"
  questions=''
  return "$answer"
}

openssl_answers() {
  write_key 'PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=' "$1/key"
  printf r >"$1/message"
  printf s >"$1/other"
  printf '%s\n' kqAJqfDUyrhyDoILX2QlQKKye1QWUD+Ps3YiI+vbadoIWsHkPhWZbkWPNhPQ8R2MOHsurrQwKu6wDSkWErsMAA== |
    openssl base64 -d -A >"$1/signature" 2>/dev/null &&
    openssl_believes "$1/key" "$1/message" "$1/signature" &&
    ! openssl_believes "$1/key" "$1/other" "$1/signature" || return 1
  digest=$(openssl dgst -blake2b512 -binary "$1/message" 2>/dev/null | openssl base64 -A)
  [ "$digest" = '+vpXOkyqptA2fxIqP0DXSmFRPPp7rQUln/5nTrfBCuOLXkJxKHx0ty2I95AZAErPlTFtQUIpTbCzLLadETnzdg==' ]
}

# Makes the directory that everything is downloaded into: in the file system of the prefix, so that a rename puts the
# program in place, and the only one there, so that it keeps others out.
make_room() {
  if $dry_run; then
    work=$(mktemp -d "${TMPDIR:-/tmp}/boxd-install.XXXXXX") || fail 73 'a temporary directory cannot be made'
    return
  fi
  for directory_wanted in "$prefix" "$bin"; do
    [ ! -e "$directory_wanted" ] || [ -d "$directory_wanted" ] || fail 73 "$directory_wanted is no directory"
  done
  nearest=$bin
  while [ ! -e "$nearest" ]; do
    nearest=${nearest%/*}
    nearest=${nearest:-/}
  done
  # Ours until the program is in place.
  made=$nearest
  umask 022
  change mkdir -p "$bin"
  umask 077
  if [ -d "$program" ] || [ -h "$program" ]; then fail 73 "$program is a directory or a symbolic link"; fi
  take_turn
  work=$bin/.boxd.install
  echo $$ >"$work/pid" || fail 73 "$work cannot be written to"
}

# Makes the directory when nobody else is at work: by the lock that `boxd update` takes where there is a flock program, else
# by the directory itself and who made it.
take_turn() {
  tries=0 nameless=0
  room=$bin/.boxd.install
  if is_here flock; then
    lock=$bin/.boxd.update.lock was_there=true
    [ -e "$lock" ] || was_there=false
    until hold_lock; do wait_for_turn; done
    $was_there || new_lock=$lock
    change rm -rf "$room"
    change mkdir "$room"
    return
  fi
  until mkdir "$room" 2>/dev/null; do
    owner=$(cat "$room/pid" 2>/dev/null) || owner=''
    if [ ! -d "$room" ]; then
      change mkdir "$room"
      return
    elif [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then
      take_over
    elif [ -z "$owner" ] && [ "$nameless" -ge 5 ]; then
      # Whoever made it was killed before it could say who it is.
      take_over
      nameless=0
    else
      nameless=$((nameless + 1))
      [ -z "$owner" ] || nameless=0
      wait_for_turn
    fi
  done
}

# A file of its owner alone: whoever may only read the directory holds nobody up. Who made it and failed removes it, and one
# that was removed keeps nobody out.
hold_lock() {
  make_lock "$lock"
  exec 9>>"$lock"
  flock -n 9 || return 1
  # Of stat itself, which has it from us; where that is not shown, being there has to do.
  held=$(stat -Lc %i /proc/self/fd/9 2>/dev/null) || held=''
  there=$(stat -c %i "$lock" 2>/dev/null) || there=''
  [ -e "$lock" ] && [ "${held:-$there}" = "${there:-$held}" ]
}

# make_lock FILE: root makes it for whose directory it is, who is to go on from there.
make_lock() {
  [ ! -h "$1" ] || fail 73 "$1 is a symbolic link"
  [ -w "$1" ] || change touch "$1"
  # Where root may not give it away, it stays root's.
  if [ "$(id -u)" -eq 0 ]; then
    owner=$(stat -c %u:%g "$bin" 2>/dev/null) || owner=''
    [ -z "$owner" ] || [ "${owner%%:*}" -eq 0 ] || chown -h "$owner" "$1" 2>/dev/null || true
  fi
}

# Removes the room of an install that was killed: of two who try, one moves it away.
take_over() {
  mv "$room" "$room.$$" 2>/dev/null || return 0
  moved=$(cat "$room.$$/pid" 2>/dev/null) || moved=''
  if [ "$moved" = "$owner" ]; then
    change rm -rf "$room.$$"
  else
    # Somebody else was faster, and is at work in it.
    change mv "$room.$$" "$room"
  fi
}

wait_for_turn() {
  tries=$((tries + 1))
  [ "$tries" -le 60 ] || fail 75 "another install or update of $program is at work; an update may wait until nothing runs," \
    'which boxd update --force ends'
  attend sleep 1
}

# Runs a command so that a signal is heard before it ends.
attend() {
  # The locks are ours alone: who outlives us holds up nobody.
  "$@" </dev/null 8>&- 9>&- &
  child=$!
  result=0
  wait "$child" || result=$?
  child=''
  return "$result"
}

heed_signals() {
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

# The end, whatever it is.
leave() {
  trap '' HUP INT TERM
  trap - EXIT
  [ -z "$child" ] || kill "$child" 2>/dev/null || true
  [ -z "$work" ] || rm -rf "$work"
  [ -z "$questions" ] || rm -rf "$questions"
  [ -z "$new_lock" ] || rm -f "$new_lock"
  # Directories that were made for nothing; only empty ones go.
  if [ -n "$made" ]; then
    empty=$bin
    while [ "$empty" != "$made" ] && rmdir "$empty" 2>/dev/null; do
      empty=${empty%/*}
      empty=${empty:-/}
    done
  fi
  exit "$1"
}

# Whether that many bytes fit. A file system that does not say has room.
has_room_for() {
  free=$(df -Pk "$work" 2>/dev/null | awk 'NR == 2 { print $4 }')
  case $free in
    '' | *[!0-9]*) return 0 ;;
  esac
  [ "$free" -ge $(($1 / 1024 + 64)) ]
}

# fetch PATH FILE LIMIT: PATH below the base becomes FILE, of at most LIMIT bytes.
fetch() {
  try=1
  until attend download "$1" "$2" "$3" 2>"$work/said"; do
    size_here=0
    [ ! -f "$2" ] || size_here=$(wc -c <"$2")
    [ "$size_here" -le "$3" ] || fail 65 "$1 is larger than the $3 bytes that it may have"
    has_room_for $(($3 - size_here)) || fail 73 "no room for $1 in $work"
    said=$(tail -n 1 "$work/said" 2>/dev/null) || said=''
    case $downloader:$said in
      copy:* | *'returned error: 4'* | *' 404 '*) try=3 ;;
    esac
    [ "$try" -lt 3 ] || fail 69 "$1 cannot be had from $base_url${said:+: $said}"
    attend sleep "$try"
    try=$((try + 1))
  done
}

# In a process of its own, which becomes the program that does it and cannot write much more than it may.
download() {
  ulimit -f $(($3 / 512 + 2))
  rm -f "$2"
  case $downloader in
    copy) exec cp "$directory/$1" "$2" ;;
    curl)
      encrypted='=https'
      case $url in http://*) encrypted='=http,https' ;; esac
      exec curl --fail --silent --show-error --location --proto "$encrypted" --proto-redir '=https' --max-redirs 5 \
        --connect-timeout 15 --speed-limit 1 --speed-time 30 --max-time 1800 --output "$2" "$url/$1"
      ;;
    wget) exec wget -q -T 30 -t 1 -O "$2" "$url/$1" ;;
    # Some builds of it end by a fault when they are given a limit of time.
    small-wget) exec wget -q -O "$2" "$url/$1" ;;
  esac
}

# believe PATH FILE: stops unless FILE, which was fetched from PATH, was signed by the key of the releases.
believe() {
  [ "$verifier" != digest ] || return 0
  fetch "$1.minisig" "$2.minisig" 8192
  case $verifier in
    minisign) minisign -V -q -P "$public_key" -m "$2" -x "$2.minisig" ;;
    # What was signed before digests were is believed, too, as minisign and boxd itself do.
    rsign)
      rsign verify -q -l -P "$public_key" -x "$2.minisig" "$2" ||
        rsign verify -q -P "$public_key" -x "$2.minisig" "$2"
      ;;
    openssl) openssl_verifies "$2" "$2.minisig" ;;
  esac </dev/null >/dev/null 2>&1 ||
    fail 65 "$1 was not signed by the key of the releases (asked $verifier)"
}

# openssl_verifies FILE SIGNATURE: minisign's format, both kinds of it, and the comment that is signed as well.
openssl_verifies() {
  [ "$(wc -l <"$2")" -eq 4 ] || return 1
  printf '%s\n' "$public_key" | openssl base64 -d -A >"$work/key.raw" &&
    sed -n 2p "$2" | openssl base64 -d -A >"$work/signature.raw" &&
    sed -n 4p "$2" | openssl base64 -d -A >"$work/global" || return 1
  [ "$(wc -c <"$work/key.raw")" -eq 42 ] && [ "$(wc -c <"$work/signature.raw")" -eq 74 ] &&
    [ "$(wc -c <"$work/global")" -eq 64 ] || return 1
  # The number of the key that signed.
  part 2 8 "$work/key.raw" >"$work/key.id"
  part 2 8 "$work/signature.raw" >"$work/signature.id"
  cmp -s "$work/key.id" "$work/signature.id" || return 1
  part 10 64 "$work/signature.raw" >"$work/signature"
  write_key "$(part 10 32 "$work/key.raw" | openssl base64 -A)" "$work/key"
  case $(part 0 2 "$work/signature.raw" | od -An -tx1 | tr -d ' \n') in
    4564) message=$1 ;;
    4544)
      openssl dgst -blake2b512 -binary "$1" >"$work/message" || return 1
      message=$work/message
      ;;
    *) return 1 ;;
  esac
  openssl_believes "$work/key" "$message" "$work/signature" || return 1
  comment=$(sed -n '3s/^trusted comment: //p' "$2")
  { cat "$work/signature" && printf %s "$comment"; } >"$work/commented"
  openssl_believes "$work/key" "$work/commented" "$work/global"
}

# openssl_believes KEY MESSAGE SIGNATURE
openssl_believes() {
  openssl pkeyutl -verify -pubin -inkey "$1" -rawin -in "$2" -sigfile "$3" </dev/null >/dev/null 2>&1
}

# write_key BASE64 FILE: an Ed25519 key as openssl reads it.
write_key() {
  printf -- '-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA%s\n-----END PUBLIC KEY-----\n' "$1" >"$2"
}

# part OFFSET LENGTH FILE
part() {
  dd if="$3" bs=1 skip="$1" count="$2" 2>/dev/null
}

digest_of() {
  case $hasher in
    sha256sum) sha256sum <"$1" ;;
    shasum) shasum -a 256 <"$1" ;;
    openssl) openssl dgst -sha256 -r <"$1" ;;
  esac | cut -c 1-64
}

# Sets version, size and sha256 to what the signed manifest of the channel says.
release() {
  fetch "agent/$channel/manifest.json" "$work/manifest.json" 65536
  believe "agent/$channel/manifest.json" "$work/manifest.json"
  facts=$(TARGET=$target LC_ALL=C read_manifest <"$work/manifest.json") ||
    fail 65 "the manifest of $channel has not the shape of one"
  # shellcheck disable=SC2086 # words without blanks or patterns, as read_manifest has seen to
  set -- $facts
  [ "$1" = "$channel" ] || fail 65 "the manifest is of channel $1, $channel was asked for"
  version=$2 size=$3 sha256=$4
  [ "$size" != - ] || fail 69 "boxd $version has nothing for $target"
  [ -z "$given_digest" ] || [ "$given_digest" = "$sha256" ] ||
    fail 65 "boxd $version has the digest $sha256, BOXD_INSTALL_SHA256 is another"
}

# Reads a manifest strictly and prints four words: channel, version, and size and digest of what is for TARGET, or dashes.
read_manifest() {
  awk '
    { text = text $0 "\n" }
    END {
      value("")
      blanks()
      if (text != "") exit 1
      channel = get(".channel", "string", "^[a-z0-9-]+$")
      version = get(".version", "string", "^[0-9A-Za-z.+-]+$")
      if (!is_version(version)) exit 1
      size = digest = "-"
      for (i = 0; (".artifacts." i) in kind; i++) {
        if (get(".artifacts." i ".target", "string", "^[0-9a-z_-]+$") != ENVIRON["TARGET"]) continue
        if (size != "-") exit 1
        size = get(".artifacts." i ".size", "number", "^[1-9][0-9]*$")
        digest = get(".artifacts." i ".sha256", "string", "^[0-9a-f]+$")
        if (length(size) > 10 || length(digest) != 64) exit 1
      }
      if (!(".artifacts" in kind) || kind[".artifacts"] != "array") exit 1
      print channel, version, size, digest
    }
    function get(path, wanted, shape) {
      if (!(path in kind) || kind[path] != wanted || found[path] !~ shape) exit 1
      return found[path]
    }
    function is_version(version, core, before, n, numbers, i) {
      core = version
      sub(/[-+].*/, "", core)
      n = split(core, numbers, ".")
      if (n != 3) return 0
      for (i = 1; i <= 3; i++) if (numbers[i] !~ /^(0|[1-9][0-9]*)$/) return 0
      before = substr(version, length(core) + 1)
      sub(/\+.*/, "", before)
      sub(/^-/, ".", before)
      if (before ~ /\.0[0-9]+(\.|$)/) return 0
      return substr(version, length(core) + 1) ~ /^(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$/
    }
    function value(path, first, i, key) {
      blanks()
      if (path in kind) exit 1
      first = substr(text, 1, 1)
      if (first == "{") {
        kind[path] = "object"
        step()
        if (substr(text, 1, 1) == "}") { step(); return }
        for (;;) {
          key = string()
          if (key !~ /^[A-Za-z0-9_]+$/) exit 1
          blanks()
          if (substr(text, 1, 1) != ":") exit 1
          step()
          value(path "." key)
          if (ends("}")) return
        }
      } else if (first == "[") {
        kind[path] = "array"
        step()
        if (substr(text, 1, 1) == "]") { step(); return }
        for (i = 0; ; i++) {
          value(path "." i)
          if (ends("]")) return
        }
      } else if (first == "\"") {
        kind[path] = "string"
        found[path] = string()
      } else if (match(text, /^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?/)) {
        kind[path] = "number"
        found[path] = substr(text, 1, RLENGTH)
        text = substr(text, RLENGTH + 1)
      } else if (match(text, /^(true|false|null)/)) {
        kind[path] = "word"
        text = substr(text, RLENGTH + 1)
      } else exit 1
    }
    function ends(closing, next_one) {
      blanks()
      next_one = substr(text, 1, 1)
      if (next_one != closing && next_one != ",") exit 1
      step()
      return next_one == closing
    }
    function string(content) {
      if (!match(text, /^"([^"\\\n]|\\[^\n])*"/)) exit 1
      content = substr(text, 2, RLENGTH - 2)
      text = substr(text, RLENGTH + 1)
      return content
    }
    function step() {
      text = substr(text, 2)
      blanks()
    }
    function blanks() { sub(/^[ \t\r\n]+/, "", text) }
  '
}

# Whether the release is to be installed over what is there.
is_due() {
  [ -e "$program" ] || return 0
  there=$("$program" version </dev/null 2>/dev/null | sed -n '1s/^boxd \([0-9A-Za-z.+-]*\)$/\1/p') || there=''
  if [ -z "$there" ]; then
    $force || fail 65 "$program does not say its version; --force replaces it"
    return 0
  fi
  case $(THERE=$there RELEASE=$version LC_ALL=C compare) in
    newer) return 0 ;;
    same)
      $force && return 0
      say "boxd $there is already there"
      return 1
      ;;
  esac
  $allow_downgrade || fail 65 "$program is $there, $version is older; --allow-downgrade installs it all the same"
}

# Prints whether RELEASE is newer than THERE, the same or older: the precedence of Semantic Versioning 2.0.0, section 11.
compare() {
  awk '
    BEGIN {
      order = compare(ENVIRON["RELEASE"], ENVIRON["THERE"])
      print (order > 0 ? "newer" : order < 0 ? "older" : "same")
    }
    function compare(one, two, ones, twos, n, m, i, order) {
      sub(/\+.*/, "", one)
      sub(/\+.*/, "", two)
      split(core(one), ones, ".")
      split(core(two), twos, ".")
      for (i = 1; i <= 3; i++) if (order = numbers(ones[i], twos[i])) return order
      one = substr(one, length(core(one)) + 2)
      two = substr(two, length(core(two)) + 2)
      # A release comes after what was before it.
      if (one == "" || two == "") return (one == "") - (two == "")
      n = split(one, ones, ".")
      m = split(two, twos, ".")
      for (i = 1; i <= n && i <= m; i++) if (order = words(ones[i], twos[i])) return order
      return (n > m) - (n < m)
    }
    function core(version) {
      sub(/-.*/, "", version)
      return version
    }
    function numbers(one, two) {
      if (length(one) != length(two)) return length(one) > length(two) ? 1 : -1
      return texts(one, two)
    }
    function words(one, two, is_one, is_two) {
      is_one = one ~ /^[0-9]+$/
      is_two = two ~ /^[0-9]+$/
      if (is_one && is_two) return numbers(one, two)
      if (is_one || is_two) return is_two - is_one
      return texts(one, two)
    }
    function texts(one, two) {
      # As text even where they look like numbers.
      one = one "."
      two = two "."
      return (one > two) - (one < two)
    }
  '
}

# Leaves the verified program, able to run here, as $work/boxd.
download_program() {
  has_room_for "$size" || fail 73 "no room for the $size bytes of boxd $version in $work"
  artifact=agent/$version/boxd-$target
  say "downloading boxd $version for $target"
  fetch "$artifact" "$work/boxd" "$size"
  [ "$(wc -c <"$work/boxd")" -eq "$size" ] || fail 65 "$artifact has not the $size bytes that were signed"
  [ "$(digest_of "$work/boxd")" = "$sha256" ] || fail 65 "$artifact has not the digest that was signed"
  believe "$artifact" "$work/boxd"
  # Temporary directories may not be for programs, the prefix is.
  if $dry_run; then return; fi
  chmod 755 "$work/boxd"
  answer=$("$work/boxd" version </dev/null 2>"$work/said") || answer="$answer $(cat "$work/said")"
  [ "$answer" = "boxd $version" ] || fail 65 "boxd $version does not run here: $answer"
}

put_in_place() {
  sync "$work/boxd" 2>/dev/null || sync
  # Not between the look and the step of a daemon that takes back what was here before.
  if is_here flock; then
    make_lock "$bin/.boxd.update.turn"
    exec 8>>"$bin/.boxd.update.turn"
    until flock -n 8; do wait_for_turn; done
  fi
  # From here on it is done or undone, not left.
  trap '' HUP INT TERM
  if [ -e "$program" ]; then
    # A file system without hard links gets a copy.
    ln "$program" "$work/previous" 2>/dev/null || cp -p "$program" "$work/previous" ||
      fail 73 "$program cannot be kept as boxd.previous"
  fi
  change mv -f "$work/boxd" "$program"
  if [ -e "$work/previous" ] && ! mv -f "$work/previous" "$program.previous"; then
    mv -f "$work/previous" "$program"
    fail 73 "the boxd before cannot be kept as $program.previous"
  fi
  made='' new_lock=''
  sync "$bin" 2>/dev/null || sync
  exec 8>&-
  heed_signals
  say "installed boxd $version as $program"
}

# enroll PROGRAM: before it is in place, so that a token that is refused leaves nothing.
enroll() {
  [ -n "$token$token_file" ] || return 0
  if "$1" connections </dev/null | URL=$(without_slashes "$api_url") WORKSPACE=$workspace_id awk '
    $2 == ENVIRON["WORKSPACE"] && $4 == ENVIRON["URL"] { found = 1 }
    END { exit !found }'; then
    say "already enrolled for $workspace_id with $api_url"
    return
  fi
  connecting=$1
  set -- connect --api-url "$api_url" --workspace-id "$workspace_id"
  [ -z "$name" ] || set -- "$@" --name "$name"
  [ -z "$token_file" ] || set -- "$@" --token-file "$token_file"
  attend connect "$connecting" "$@" || fail "$?" 'enrollment failed; nothing was changed'
  say "enrolled for $workspace_id with $api_url"
}

connect() {
  # Of the environment alone, which only root and this user can read.
  if [ -z "$token_file" ]; then export BOXD_ENROLL_TOKEN="$token"; fi
  exec "$@" >&2
}

has_manager() {
  if [ "$system" = Darwin ]; then is_here launchctl; else [ -d /run/systemd/system ]; fi
}

set_service() {
  if ! $with_service; then
    say "start it by: $program run"
  elif ! has_manager; then
    say "no service manager runs here; start it by: $program run"
  elif "$program" service status >/dev/null 2>&1 </dev/null; then
    # Starting it anew would end the commands that it runs.
    attend "$program" service install >&2 || fail "$?" "boxd is installed, its service is not"
    say "the service runs and goes on with what it was started with; \`boxd service restart\` ends its commands and starts $version"
  else
    attend "$program" service install --now >&2 ||
      fail "$?" "boxd is installed, its service is not; try again by: $program service install --now"
    say 'the service runs'
  fi
}

plan_the_rest() {
  [ -z "$token$token_file" ] || say "would enroll for $workspace_id with $api_url"
  if $with_service && has_manager; then say 'would install and start the service'; fi
  say 'nothing was changed'
}

{ main "$@"; }
