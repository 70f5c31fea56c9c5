#!/bin/sh
# make-venv.sh PYTHON DIR: DIR becomes a virtual environment with every locked dependency and this project.
set -eu
python=$1 venv=$2
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "make: vitalseal needs Python 3.11 or newer; '$python' is $("$python" -V 2>&1)." \
        "Try  make PYTHON=python3.11 ..." >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    # Debian splits venv off into a package of its own.
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null
    else
        echo "make: '$python' cannot make virtual environments; install the package python3-venv" >&2
        exit 1
    fi
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip="$venv/bin/python -m pip --disable-pip-version-check --quiet"
$pip install --require-hashes -r requirements/dev.txt
$pip install --no-build-isolation --no-deps --editable .
