#!/bin/sh
# The agent is installed on this gateway afterwards; nothing is fetched but what requirements/edge.txt names, by hash.
set -eu

usage() {
    cat <<'END'
usage: deploy/install-edge.sh [--wheel FILE] [--python PROGRAM]

Installs the Vitalseal edge agent on a 64-bit Debian or Raspberry Pi OS (bookworm or newer): the program in
/opt/vitalseal, a user vitalseal-edge, its directory /var/lib/vitalseal-edge, and the systemd unit. Run it as root, in a
clone of the repository. Run again it upgrades: configuration, keys and outbox stay as they are, and an agent that was
running is restarted.

  --wheel FILE       install this wheel instead of building one from the clone
  --python PROGRAM   the Python that runs it, 3.11 or newer (python3)
END
}

say() { echo "install-edge: $*"; }
fail() {
    echo "install-edge: $*" >&2
    exit 2
}

wheel='' python=python3
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h) usage && exit 0 ;;
    --wheel | --python)
        [ $# -ge 2 ] || fail "$1 needs a value; see --help"
        if [ "$1" = --python ]; then python=$2; else wheel=$(readlink -m "$2"); fi
        shift 2
        ;;
    *) fail "$1: not an option; see --help" ;;
    esac
done

cd "$(dirname "$0")/.."
venv=/opt/vitalseal home=/var/lib/vitalseal-edge unit=vitalseal-edge.service
[ "$(id -u)" = 0 ] || fail "run it as root: sudo $0"
[ -z "$wheel" ] || [ -f "$wheel" ] || fail "$wheel: there is no such file"
command -v "$python" >/dev/null || fail "$python: there is no such program; apt-get install python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" -V 2>&1): 3.11 or newer is needed, which Debian has since bookworm"
# A 64-bit kernel may carry a 32-bit system, so what counts is the Python. Its libraries come as 64-bit wheels only.
"$python" -c 'import struct, sys; sys.exit(struct.calcsize("P") != 8)' ||
    fail "this is a 32-bit system: write the 64-bit image of Raspberry Pi OS to the card (from a Pi 3 on)"
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    command -v apt-get >/dev/null || fail "'$python' cannot make virtual environments: install python3-venv"
    say "installing python3-venv, without which Debian's Python makes no virtual environments"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -z "$wheel" ]; then
    say "building the wheel from $(pwd)"
    # The build backend, too, is what the lock file says.
    awk '/^[a-z]/ { keep = $0 ~ /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/ } keep' \
        requirements/dev.txt >"$work/build.txt"
    "$python" -m venv "$work/venv"
    "$work/venv/bin/python" -m pip --disable-pip-version-check --quiet install --require-hashes -r "$work/build.txt"
    "$work/venv/bin/python" -m hatchling build -t wheel -d "$work/dist" >/dev/null 2>&1 ||
        fail "the wheel cannot be built here; is this a whole clone?"
    wheel=$(echo "$work"/dist/*.whl)
fi

# A virtual environment, because Debian keeps its own Python to itself (PEP 668).
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip="$venv/bin/python -m pip --disable-pip-version-check --quiet"
say "installing into $venv"
$pip install --require-hashes -r requirements/edge.txt
$pip install --no-deps --no-index --force-reinstall "$wheel"
ln -sfn "$venv/bin/vitalseal" /usr/local/bin/vitalseal
install -m 0644 "deploy/$unit" "/etc/systemd/system/$unit"
id -u vitalseal-edge >/dev/null 2>&1 ||
    useradd --system --home-dir "$home" --shell /usr/sbin/nologin vitalseal-edge
install -d -m 0700 -o vitalseal-edge -g vitalseal-edge "$home"
systemctl daemon-reload
if [ -e "$home/edge.toml" ]; then
    systemctl enable --quiet "$unit"
    systemctl restart "$unit"
    say "$("$venv/bin/vitalseal" --version) is running; see: systemctl status $unit"
else
    say "$("$venv/bin/vitalseal" --version) is installed; next it enrols, with a token from whoever runs the log:"
    say "  sudo -u vitalseal-edge vitalseal edge enroll TOKEN --config $home/edge.toml"
    say "  sudo systemctl enable --now $unit"
fi
