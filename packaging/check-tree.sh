#!/bin/sh
# Rules on the tree itself that no other linter knows. Prints every offending line and fails.
set -eu
cd "$(dirname "$0")/.."
status=0

# Which server packages come from is the machine's own setting (a mirror, a proxy), never the repository's.
hosts='registry[.]npmjs|registry[.]yarnpkg|(index|static)[.]crates[.]io|crates[.]io/api|pythonhosted[.]org|pypi[.]org/simple|proxy[.]golang[.]org|"resolved": *"http'
if git grep --untracked -nIE "$hosts" -- . ':!packaging/check-tree.sh'; then
  echo 'check-tree: these lines name the host of a package registry' >&2
  status=1
fi

scripts=$(git grep --untracked -lIE '^#!.*[ /](ba|da)?sh( |$)' -- . ':!*.rs' ':!*.md')
# shellcheck disable=SC2086 # a list of paths without blanks, split on purpose
shellcheck $scripts || status=1

exit "$status"
