#!/bin/sh
# Removes what install.sh wrote, and with --purge what boxd wrote as well. Once more does no harm.
#
# Everything is in functions and the last line calls the first of them, so that a script that was cut off does nothing.
set -eu

main() {
  settings "$@"
  name_what_is_purged
  remove_service
  remove_program
  purge
}

usage() {
  cat <<'USAGE'
Removes boxd, as install.sh installed it.

Usage: uninstall.sh [OPTIONS]

  --prefix DIR   /usr/local for root, else ~/.local (BOXD_INSTALL_PREFIX)
  --purge        remove its configuration, connections and state, too
  --dry-run      say what would be removed, change nothing
  --help         this text

Exit codes: 0 removed or not there, 64 usage, 73 something is left, 77 not permitted; that of `boxd service uninstall`
when it fails.
USAGE
}

say() {
  printf 'uninstall: %s\n' "$*" >&2
}

# fail CODE WORDS...
fail() {
  code=$1
  shift
  say "$*"
  exit "$code"
}

# remove OPTIONS FILE: a shell has only the words to tell why it failed.
remove() {
  complaint=$(LC_ALL=C rm "$@" 2>&1) && return
  case $complaint in
    *'Read-only file system'* | *'Permission denied'* | *'not permitted'*) fail 77 "$complaint" ;;
    *) fail 73 "$complaint" ;;
  esac
}

settings() {
  purge=false dry_run=false is_root=false
  [ "$(id -u)" -ne 0 ] || is_root=true
  if [ -n "${BOXD_INSTALL_PREFIX+set}" ]; then
    prefix=$BOXD_INSTALL_PREFIX
  elif $is_root; then
    prefix=/usr/local
  else
    prefix=${HOME:+$HOME/.local}
  fi
  while [ $# -gt 0 ]; do
    case $1 in
      --purge) purge=true ;;
      --dry-run) dry_run=true ;;
      --help | -h)
        usage
        exit 0
        ;;
      --prefix=*) prefix=${1#*=} ;;
      --prefix)
        [ $# -ge 2 ] || fail 64 "$1 needs a value"
        prefix=$2
        shift
        ;;
      *) fail 64 "unknown option $1 (--help shows those there are)" ;;
    esac
    shift
  done
  prefix=$(safe prefix "$prefix") || exit 64
  bin=$prefix/bin
  program=$bin/boxd
  if $purge; then set_purged; fi
}

# safe WHAT DIRECTORY: prints the directory, which is to be absolute and not the root, without slashes at its end.
safe() {
  rest=$2
  while [ "$rest" != "${rest%/}" ]; do rest=${rest%/}; done
  case $rest in
    '') fail 64 "the $1 is empty or /" ;;
    *//*) fail 64 "the $1 $2 has // in it" ;;
    */../* | */.. | */./* | */.) fail 64 "the $1 $2 has . or .. in it" ;;
    /*) printf %s "$rest" ;;
    *) fail 64 "the $1 $2 is not absolute" ;;
  esac
}

# Where boxd keeps its configuration and its state, as it finds them itself.
set_purged() {
  if $is_root; then
    config=${BOXD_CONFIG_DIR-/etc/boxd}
    state=${BOXD_STATE_DIR-/var/lib/boxd}
  else
    config=${BOXD_CONFIG_DIR-${XDG_CONFIG_HOME:-${HOME:+$HOME/.config}}/boxd}
    state=${BOXD_STATE_DIR-${XDG_STATE_HOME:-${HOME:+$HOME/.local/state}}/boxd}
  fi
  config=$(safe 'configuration directory' "$config") || exit 64
  state=$(safe 'state directory' "$state") || exit 64
  for directory in "$config" "$state"; do
    case ${HOME:-}/ in
      "$directory"/*) fail 64 "$directory holds your home: it is not removed" ;;
    esac
    case ${directory#/} in
      */*) ;;
      *) fail 64 "$directory is not boxd's alone: it is not removed" ;;
    esac
  done
  is_ours "$config" config.toml connections machine-identity.ed25519
  is_ours "$state" version token boxd.lock
}

# is_ours DIRECTORY NAME...: refuses one that is there, holds something, and none of what boxd puts there.
is_ours() {
  directory=$1
  shift
  [ -d "$directory" ] || return 0
  [ -n "$(ls -A "$directory")" ] || return 0
  for name in "$@"; do
    [ ! -e "$directory/$name" ] || return 0
  done
  fail 64 "$directory has nothing of boxd's in it: it is not removed"
}

name_what_is_purged() {
  $purge || return 0
  for directory in "$config" "$state"; do
    [ ! -e "$directory" ] || say "with everything in it: $directory"
  done
}

has_manager() {
  if [ "$(uname -s)" = Darwin ]; then
    command -v launchctl >/dev/null 2>&1
  else
    [ -d /run/systemd/system ]
  fi
}

# The program is asked, which knows its unit; it is there for that until the unit is gone.
remove_service() {
  { has_manager && [ -x "$program" ] && has_unit; } || return 0
  if $dry_run; then
    say 'would stop and remove the service'
    return
  fi
  "$program" service uninstall </dev/null >&2 || fail "$?" 'the service could not be removed; boxd is left where it is'
}

has_unit() {
  for unit in /etc/systemd/system/boxd.service /Library/LaunchDaemons/boxd.plist; do
    if $is_root && [ -e "$unit" ]; then return 0; fi
  done
  for unit in "${XDG_CONFIG_HOME:-${HOME:-}/.config}/systemd/user/boxd.service" \
    "${HOME:-}/Library/LaunchAgents/boxd.plist"; do
    if ! $is_root && [ -e "$unit" ]; then return 0; fi
  done
  return 1
}

remove_program() {
  found=false
  # The last four are what an update that was killed leaves.
  for name in boxd boxd.previous .boxd.update .boxd.update.lock .boxd.update.turn .boxd.update.guarded \
    .boxd.update.served .boxd.update.fresh .boxd.staged .boxd.previous; do
    file=$bin/$name
    if [ ! -e "$file" ] && [ ! -h "$file" ]; then continue; fi
    if [ -d "$file" ] && [ ! -h "$file" ]; then fail 73 "$file is a directory, which install.sh does not make"; fi
    found=true
    if $dry_run; then
      say "would remove $file"
      continue
    fi
    remove -f "$file"
    say "removed $file"
  done
  $found || say "there is no boxd in $bin"
  # Of an install that was killed; one that is at work keeps its own.
  owner=$(cat "$bin/.boxd.install/pid" 2>/dev/null) || owner=''
  if [ -n "$owner" ] && kill -0 "$owner" 2>/dev/null; then
    say "left $bin/.boxd.install: process $owner, an install, is at work there"
    return
  fi
  $dry_run || rm -rf "$bin/.boxd.install"
}

purge() {
  $purge || return 0
  for directory in "$config" "$state"; do
    [ -e "$directory" ] || continue
    if $dry_run; then
      say "would remove $directory"
      continue
    fi
    remove -rf "$directory"
    say "removed $directory"
  done
}

{ main "$@"; }
