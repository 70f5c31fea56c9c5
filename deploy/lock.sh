#!/bin/sh
# lock.sh UV: writes requirements/*.txt, with hashes and without addresses.
set -eu
uv=$1
for name in bare edge pkcs11 audit aggregator export witness dashboard all dev; do
    extra=
    [ "$name" = bare ] || extra="--extra $name"
    # shellcheck disable=SC2086 # two words, or none
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-emit-index-url $extra --output-file "requirements/$name.txt" pyproject.toml
done
