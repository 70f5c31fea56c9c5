#!/bin/sh
# install-servers.sh PROGRAM[=PACKAGE]...: each is on this machine afterwards, or this fails and names what is missing.
# Debian's package has the program's name unless another is given. No service is started: tests start their own, on free
# ports.
set -eu
missing=
for each in "$@"; do
    PATH=$PATH:/usr/sbin command -v "${each%%=*}" >/dev/null || missing="$missing ${each#*=}"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "make: the tests need$missing; install the packages of those names" >&2
    exit 1
fi
# 101 from policy-rc.d keeps packages from starting what they install; put back what was there.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
# shellcheck disable=SC2086 # a list of names
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
