"""Erasing where the readings are in InfluxDB: rows, frames and times are gone, and the audit has nothing to say."""

from aggregator.audit.auditor import Public, Range, audit
from aggregator.audit.private import Private
from aggregator.timeseries.embedded import EmbeddedStore
from aggregator.timeseries.influx import InfluxStore
from ledger.batch import LEAVES_PER_BATCH
from ledger.policy import parse_policy, parse_trust
from ledger.writer.create import POLICY, TRUST
from ledger.writer.files import list_files, read_file
from ledger.writer.reader import PUBLIC
from tests.audit.scene import make_log, project
from tests.ledger.builders import device
from tests.ledger.past import id_of
from tests.writer.written import Written

WRIST = device("wrist-1")
SCALAR, TWICE, WAVE = 1, 7, 10  # leaves of a batch of `make_log`; the latter two have a neighbour like them


def counts(server, database):
    """How many rows and frames there are, and the times that each batch record says its readings have."""
    rows, frames = (
        sum(len(series["values"]) for series in server.query(f"SELECT {field} FROM {name}", database))  # noqa: S608 - ours
        for name, field in (("reading", "seal"), ("waveform", "ref"))
    )
    spans = server.query('SELECT "first", "last" FROM ledger_batch', database)[0]["values"]
    return rows, frames, {index: (first, last) for index, first, last in spans}


def test_erased_readings_are_not_in_influxdb_and_the_audit_is_clean(tmp_path, influx_server):
    """A number, one of two that state one identity, one of two waveforms that overlap; then the rest of that batch."""
    data, database = tmp_path / "data", influx_server.fresh_database()
    past = make_log(data)
    index, batch = past.chains[id_of(WRIST)][0]
    size = 1 + len(batch.readings)
    with InfluxStore(influx_server.config(database)) as store, Written(data, past) as log:
        with EmbeddedStore(data) as old:  # from before the move to InfluxDB
            project(data, old)
            refs = {item.ref for item in old.readings()}
        project(data, store)
        rows, frames, spans = counts(influx_server, database)
        for leaves, fewer_rows, fewer_frames in [([SCALAR, TWICE, WAVE], 3, 2), (range(size), None, None)]:
            log.erase(WRIST, 0, list(leaves))
            log.publish()
            project(data, store)
            refs -= {index * LEAVES_PER_BATCH + leaf for leaf in leaves}
            with EmbeddedStore(data, readonly=True) as old:
                assert {item.ref for item in old.readings()} == refs
            now = counts(influx_server, database)
            if fewer_rows is None:
                assert (now[0], now[1]) == (rows - size + 1, frames - 6)
                assert now[2][index][0] > now[2][index][1]  # none
            else:
                assert now == (rows - fewer_rows, frames - fewer_frames, spans | {index: now[2][index]})
            policy, trust = parse_policy((data / POLICY).read_bytes()), parse_trust((data / TRUST).read_bytes())
            where = Public(lambda path: read_file(data / PUBLIC, path), list_files(data / PUBLIC), policy, trust)
            with Private(data) as private:
                outcome = audit(where, store, private, Range())
            assert (outcome.book.findings, outcome.is_proven) == ([], True)
