#!/bin/sh
# broker.sh FOLDER: Mosquitto with what the aggregator makes for it in FOLDER, told to read its files again within two
# seconds of a change. So neither of the two containers needs power over the other.
set -eu
folder=$1
look() { cksum "$folder/acl" "$folder/crl.pem" "$folder/server.crt" || true; }
# Before it starts, so that what changes while it does is not missed.
seen=$(look)
mosquitto -c "$folder/mosquitto.conf" &
broker=$!
trap 'kill "$broker"' TERM INT
while sleep 1 & wait $! && kill -0 "$broker" 2>/dev/null; do
    now=$(look)
    if [ "$now" != "$seen" ]; then
        kill -HUP "$broker"
        seen=$now
    fi
done
wait "$broker"
