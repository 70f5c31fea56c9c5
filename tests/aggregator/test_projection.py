"""The projection: every published reading is in the store with what proves it; killed anywhere, it resumes."""

import subprocess
import sys
import time
from contextlib import closing

import pytest

from aggregator import side_process
from aggregator.projection import Projection
from aggregator.registry import Registry
from aggregator.timeseries.base import prove
from aggregator.timeseries.embedded import EmbeddedStore
from ledger.entry import Commitment
from ledger.policy import parse_policy
from ledger.reading import Reading
from ledger.verify import verify_proof
from ledger.writer.create import POLICY
from ledger.writer.local import LocalStorage
from ledger.writer.storage import Submission
from vitalseal.errors import UserError

from .test_admission import Gate


def fill(data, devices, batches):
    with LocalStorage(data) as storage, closing(Registry(data)) as registry:
        gate = Gate(data, storage, registry)
        for _ in range(batches):
            for device in devices:
                gate.take(device.name, device.batch())
            gate.writer.append([Submission(Commitment(bytes(32)).encode())])
        gate.writer.publish()
        return gate.writer.size


def project(data):
    with EmbeddedStore(data) as store:
        projection = Projection(data, store)
        try:
            return projection.catch_up()
        finally:
            projection.close()


def rows(data):
    with EmbeddedStore(data, readonly=True) as store:
        return list(store.readings())


def test_every_reading_in_the_store_proves_itself(data, device, other):
    """A stored reading and its batch record are a proof, with nothing else at hand."""
    size = fill(data, [device, other], 5)
    assert project(data) == size
    policy = parse_policy((data / POLICY).read_bytes())
    with EmbeddedStore(data, readonly=True) as store:
        stored = list(store.readings())
        for item in stored:
            proven = verify_proof(prove(item, store.batch(item.log_index)).encode(), policy)
            assert proven.reading == Reading.decode(item.body)
            assert (proven.index, proven.leaf_index) == (item.log_index, item.leaf_index)
    sealed = sorted(body for each in (device, other) for batch in each.sealed for body in batch.readings)
    assert sorted(item.body for item in stored) == sealed
    assert {item.device for item in stored} == {"wrist-1", "wrist-2"}


def test_projection_goes_on_where_it_was(data, device):
    """Its cursor is the store's; catching up in steps gives the rows of catching up at once."""
    for batches in (1, 3, 2):
        fill(data, [device], batches)
        project(data)
        assert project(data) == 0
    assert len(rows(data)) == 6 * 3


def test_projection_rewrites_the_same_rows(data, device):
    """A view that fell behind its rows writes them again, equal."""
    fill(data, [device], 4)
    project(data)
    before = rows(data)
    with EmbeddedStore(data) as store:
        store._db.execute("UPDATE projection SET cursor = 2")
    project(data)
    assert rows(data) == before


def test_store_refuses_half_a_write(data, device):
    """Readings and cursor move together or not at all."""
    fill(data, [device], 1)
    project(data)
    with EmbeddedStore(data) as store:
        item = next(store.readings())
        bad = type(item)(item.ref + 1, item.device, b"not a reading", item.salt)
        with pytest.raises(Exception, match="reading"):
            store.write([], [item, bad], 99)
        assert store.cursor() == 4  # enrolment, key state, batch, commitment
        assert len(list(store.readings())) == 3


def test_projection_process_that_dies_is_started_again(data, device, monkeypatch, caplog):
    """A killed projection costs the view some seconds; the rows it had not written come afterwards."""
    monkeypatch.setattr(side_process, "RESTART_AFTER_S", 0.05)
    fill(data, [device], 2)
    with side_process.SideProcess(
        "projection", "aggregator.projection", str(data), if_it_ends="the view stands still"
    ) as running:
        first = running._process
        first.kill()
        deadline = time.monotonic() + 20
        while (running._process is first or not projected(data)) and time.monotonic() < deadline:
            first.poll()
    assert "the projection ended with exit code -9" in caplog.text
    assert len(rows(data)) == 2 * 3


def projected(data):
    """Whether the store is there and has caught up."""
    try:
        with EmbeddedStore(data, readonly=True) as store:
            return store.cursor() > 0
    except UserError:
        return False


def test_projection_of_a_store_that_is_garbage_says_so_in_one_line(data, device):
    """A reading store that is no database stops the view, in words."""
    fill(data, [device], 1)
    (data / "readings.db").write_bytes(b"garbage" * 1000)
    command = [sys.executable, "-m", "aggregator.projection", str(data)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "readings.db" in done.stderr
