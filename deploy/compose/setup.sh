#!/bin/sh
# setup.sh: a witness, a log that it witnesses, and the aggregator's configuration. Once: what is there already stops it.
set -eu
log=/var/lib/vitalseal-aggregator
witness=/var/lib/vitalseal-witness
vitalseal ledger witness init --data "$witness" --name "$VITALSEAL_ORIGIN/witness" --url http://witness:8081
vitalseal aggregator init --config "$log/aggregator.toml" --data "$log/log" --origin "$VITALSEAL_ORIGIN" \
    --host "$VITALSEAL_HOST" --broker-group mosquitto --witness "$witness/witness.txt"
cp "$log/log/policy.txt" "$witness/logs"
cat /sections.toml >>"$log/aggregator.toml"
