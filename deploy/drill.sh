#!/usr/bin/env bash
# See whether a backup would do: restore a registry and its scores from it into a folder of its own, and verify them.
#
#     deploy/drill.sh BACKUP/models/nightly BACKUP/nightly/scores.zarr [SOURCE]
#
# The backup is only read. With SOURCE, the data that were scored, a hundredth of the scores is made anew with the
# restored model and compared ($SHARE says another share). Exit code 0: it would do; 1: it would not; 2: it cannot be
# told.
set -euo pipefail

[ $# -ge 2 ] && [ $# -le 3 ] || { echo "usage: $0 REGISTRY SCORES [SOURCE]" >&2; exit 2; }
registry=${1%/} scores=${2%/} source=${3:-}
for given in "$registry" "$scores"; do
    [ -d "$given" ] || { echo "drill.sh: there is no folder $given: name what the backup holds" >&2; exit 2; }
done
work=$(mktemp -d "${TMPDIR:-/tmp}/dgmm-drill.XXXXXX")
trap 'rm -rf "$work"' EXIT
name=$(basename "$registry")
mkdir "$work/models"
cp -a "$registry" "$work/models/$name"
cp -a "$scores" "$work/scores.zarr"

anew=()
if [ -n "$source" ]; then
    anew=(--recompute "${SHARE:-1%}" --model "$work/models/$name@champion" --source "$source")
fi
worst=0
dgmm models list "$work/models/$name" || worst=$?
dgmm verify "$work/models/$name@champion" --quiet || worst=$?
dgmm verify "$work/scores.zarr" --data --quiet "${anew[@]}" || { code=$?; [ "$code" -le "$worst" ] || worst=$code; }
if [ "$worst" -eq 0 ]; then echo "drill.sh: $registry and $scores would do"; elif [ "$worst" -eq 1 ]; then
    echo "drill.sh: they would not do" >&2
else
    echo "drill.sh: that cannot be told: see above" >&2
fi
exit "$worst"
