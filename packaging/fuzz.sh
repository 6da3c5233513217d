#!/bin/sh
# Runs one fuzzer: fuzz.sh PROGRAM CORPUS SECONDS. What it finds interesting goes to a directory that is thrown away; an input
# that makes it fail is kept beside the program and named.
set -eu
program=$1 corpus=$2 seconds=$3

scratch=$(mktemp -d "${TMPDIR:-/tmp}/boxd-fuzz.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/found"
if "$program" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024 -max_len=65536 -artifact_prefix="$program-" \
  "$scratch/found" "$corpus" >"$scratch/said" 2>&1; then
  grep -E '^(Done|#[0-9]+.*DONE)' "$scratch/said" | tail -n 1
else
  tail -n 40 "$scratch/said"
  echo "fuzz: $program fails; $program-* holds the input" >&2
  exit 1
fi
