"""The projection: every published reading is in the store with what proves it; killed anywhere, it resumes."""

import subprocess
import sys
import time
from contextlib import closing

import pytest

from aggregator import patience, portions, projection, side_process
from aggregator.projection import Projection
from aggregator.timeseries.base import StoreAwayError, prove
from aggregator.timeseries.embedded import EmbeddedStore
from aggregator.view import LOCK, VIEW, Request, read_request, read_view
from ledger.batch import LEAVES_PER_BATCH
from ledger.policy import parse_policy
from ledger.reading import Reading
from ledger.verify import verify_proof
from ledger.writer.create import POLICY, create_log
from ledger.writer.files import lock
from ledger.writer.local import LocalStorage
from vitalseal.errors import UserError

from .devices import Device
from .views import (
    Killed,
    Picky,
    Trap,
    batch_indexes,
    contents,
    contents_of,
    erase_payload,
    faultless,
    fill,
    project,
    say_erased,
)


def rows(data):
    with EmbeddedStore(data, readonly=True) as store:
        return list(store.readings())


def refused_lines(data):
    path = data / "refused-points.ndjson"
    return path.read_text().splitlines() if path.exists() else []


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


def test_device_that_enrols_while_it_runs_has_its_name(data, device, other):
    """Keys and names that were not known are looked up again."""
    with EmbeddedStore(data) as store, closing(Projection(data, store)) as view:
        fill(data, [device], 1)
        view.catch_up()
        late = Device("wrist-3", 3)
        late.enrol(data)
        fill(data, [late, device], 1)
        view.catch_up()
        assert {item.device for item in store.readings()} == {"wrist-1", "wrist-3"}


@pytest.mark.parametrize("name", ["PORTION_ENTRIES", "PORTION_READINGS", "PORTION_BYTES"])
def test_portions_are_bounded(data, device, tmp_path, monkeypatch, name):
    """In entries, readings and bytes, and cut anywhere they make the same view."""
    size = fill(data, [device], 4, readings=20)
    whole = faultless(data, tmp_path / "whole")
    monkeypatch.setattr(portions, name, {"PORTION_ENTRIES": 2, "PORTION_READINGS": 30, "PORTION_BYTES": 1000}[name])
    with EmbeddedStore(data) as store:
        trap = Trap(store, lambda *_: None)
        with closing(Projection(data, trap)) as view:
            assert view.catch_up() == size
        writes = [arguments for call, arguments in trap.calls if call == "write" and arguments[1]]
        assert len(writes) == {"PORTION_ENTRIES": 4, "PORTION_READINGS": 2, "PORTION_BYTES": 4}[name]
        assert contents(store) == whole


def test_what_a_batch_spans_does_not_depend_on_its_info(data, device):
    """It is taken from there, and from the readings where the info was erased."""
    fill(data, [device], 1)
    (index,) = batch_indexes(data)
    project(data)
    with EmbeddedStore(data) as store:
        span = store.batch(index).span_ns
        erase_payload(data, index, 0)
        store.clear()
        project(data, store)
        assert store.batch(index).span_ns == span


def test_killed_at_any_call_of_the_store_it_resumes(data, device, other, tmp_path, monkeypatch):
    """Before or after each effect, with points refused and readings erased between: the view is that of no kill."""
    monkeypatch.setattr(portions, "PORTION_ENTRIES", 3)
    fill(data, [device, other], 2)
    first, second, *_ = batch_indexes(data)
    say_erased(data, first, 1, 2)
    fill(data, [device], 1)
    say_erased(data, second, 3)
    refused = second * LEAVES_PER_BATCH + 1
    with EmbeddedStore(data) as store:
        project(data, Picky(store, refused))
        whole = contents(store)
    assert len(refused_lines(data)) == 1
    assert len(whole[1]) == 5 * 3 - 2 - 1 - 1
    kills = 0
    while True:
        (data / VIEW).unlink()
        (data / "refused-points.ndjson").unlink()

        def kill(number, _name, at=kills):
            if number == at:
                raise Killed

        with EmbeddedStore(data) as store:
            store.clear()
            try:
                project(data, Trap(Picky(store, refused), kill))
            except Killed:
                project(data, Picky(store, refused))
            else:
                break
            assert contents(store) == whole, kills
        assert len(refused_lines(data)) == 1
        assert read_view(data).refused == 1
        kills += 1
    assert kills > 30


def test_refused_points_are_recorded_once_each(data, device):
    """A line each, without a value, also where they are refused again; half a line of a crash is made whole."""
    fill(data, [device], 2)
    first, second = (index * LEAVES_PER_BATCH + 2 for index in batch_indexes(data))
    with EmbeddedStore(data) as store:
        for _ in range(2):
            project(data, Picky(store, first, second))
            store._db.execute("UPDATE projection SET cursor = 1")
        path = data / "refused-points.ndjson"
        lines = "".join(
            f'{{"log_index": {ref // 4096}, "ref": {ref}, "why": "it is refused on purpose"}}\n'
            for ref in (first, second)
        )
        assert path.read_text() == lines
        path.write_text(lines[:-5])
        project(data, Picky(store, first, second))
    assert path.read_text() == lines
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_view(data).refused == 2


def test_erased_readings_leave_the_store(data, device):
    """When the cursor meets the entry that says so; their batch and its other readings stay and prove themselves."""
    fill(data, [device], 2)
    project(data)
    index, other = batch_indexes(data)
    say_erased(data, index, 1, 3)
    erase_payload(data, index, 1, 3)
    project(data)
    left = {item.ref for item in rows(data)}
    assert left == {index * 4096 + 2, *(other * 4096 + leaf for leaf in (1, 2, 3))}
    policy = parse_policy((data / POLICY).read_bytes())
    with EmbeddedStore(data, readonly=True) as store:
        item = next(store.readings())
        verify_proof(prove(item, store.batch(index)).encode(), policy)


def test_erased_readings_leave_the_file_of_an_earlier_store(data, device, tmp_path):
    """SQLite's, after a move to InfluxDB: rows and bytes; also when the new view was made anew and never had them."""
    fill(data, [device], 2)
    project(data)
    with EmbeddedStore(data, readonly=True) as old:
        gone, *kept = old.readings()
    index = batch_indexes(data)[0]
    say_erased(data, index, 1)
    erase_payload(data, index, 1)
    Request(1).write(data)
    (tmp_path / "new").mkdir()
    with EmbeddedStore(tmp_path / "new") as new:
        project(data, Trap(new, lambda *_: None))
    with EmbeddedStore(data, readonly=True) as old:
        assert list(old.readings()) == kept
    assert not any(gone.body in path.read_bytes() for path in data.glob("readings.db*"))


@pytest.mark.parametrize("content", [None, b"no database at all" * 1000])
def test_file_of_an_earlier_store_may_be_gone_or_garbage(data, device, tmp_path, content):
    """The erasure is carried out all the same; a new file is not made for it."""
    fill(data, [device], 1)
    (index,) = batch_indexes(data)
    say_erased(data, index, 1)
    (tmp_path / "new").mkdir()
    with EmbeddedStore(tmp_path / "new") as new, closing(Projection(data, Trap(new, lambda *_: None))) as view:
        if content:
            (data / "readings.db").write_bytes(content)
        view.catch_up()
        assert len(list(new.readings())) == 2
    assert (data / "readings.db").exists() == bool(content)
    if content:
        with EmbeddedStore(data, readonly=True) as old:
            assert old.cursor() == 0


def test_erasure_waits_for_whoever_reads_an_older_state(data, device, tmp_path, monkeypatch):
    """An audit, say: the write-ahead log keeps what it reads; the store counts as away until no byte is left."""
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.01)
    fill(data, [device], 2)
    (tmp_path / "new").mkdir()
    with EmbeddedStore(tmp_path / "new") as store:
        project(data, store)
        gone = next(store.readings())
        store._db.execute("PRAGMA busy_timeout = 10")
        say_erased(data, batch_indexes(data)[0], 1)
        asked = []

        def ends_reading(_, name):
            asked.extend([read_view(data).why] if name == "erase" else [])
            if len(asked) == 2:
                rows.close()

        with EmbeddedStore(tmp_path / "new", readonly=True) as audit:
            rows = audit.readings()
            next(rows)
            project(data, Trap(store, ends_reading))
            assert not any(gone.body in path.read_bytes() for path in (tmp_path / "new").iterdir())
    assert len(asked) == 3
    assert "somebody is reading it" in asked[1]


def test_late_payload_does_not_bring_erased_readings_back(data, device):
    """The cursor has passed the entry that erased them: neither hashes in the payload nor what is still whole."""
    fill(data, [device], 2)
    indexes = batch_indexes(data)
    with LocalStorage(data) as storage:
        payloads = [storage.payload(index) for index in indexes]
        for index in indexes:
            storage._writing.execute("DELETE FROM payloads WHERE idx = ?", (index,))
    for index in indexes:
        say_erased(data, index, 1)
    with EmbeddedStore(data) as store, closing(Projection(data, store)) as view:
        view.catch_up()
        assert list(store.readings()) == []
        with LocalStorage(data) as storage:
            for index, payload in zip(indexes, payloads, strict=True):
                storage._writing.execute("INSERT INTO payloads VALUES (?, ?)", (index, payload))
                storage._writing.execute("INSERT INTO returned (idx) VALUES (?)", (index,))
        erase_payload(data, indexes[0], 1)
        assert view.catch_up() == 2
        refs = [item.ref for item in store.readings()]
        # Nor does the record say when they were measured.
        starts = [Reading.decode(item.body).sensor_time_ns for item in store.readings() if item.leaf_index == 2]
        assert [store.batch(index).span_ns[0] for index in indexes] == starts
    assert refs == [index * 4096 + leaf for index in indexes for leaf in (2, 3)]


def test_erased_is_erased_again_a_while_after_the_store_was_away(data, device, monkeypatch):
    """A write that was given up on may have been done after all, and have brought a reading back."""
    fill(data, [device], 1)
    (index,) = batch_indexes(data)
    say_erased(data, index, 2)
    with EmbeddedStore(data) as store, closing(Projection(data, store)) as view:
        view.catch_up()
        batch = store.batch(index)
        item = next(store.readings())
        store.write([batch], [type(item)(index * 4096 + 2, item.device, item.body, item.salt)], store.cursor())
        view.catch_up()
        assert len(list(store.readings())) == 3
        monkeypatch.setattr(projection, "LATE_WRITE_S", 0.0)
        view.catch_up()
        assert len(list(store.readings())) == 2


def test_erasing_again_holds_nothing_up(data, device, monkeypatch):
    """One entry each time that it catches up, however many there are and however long each takes."""
    monkeypatch.setattr(projection, "LATE_WRITE_S", 0.0)
    fill(data, [device], 1)
    (index,) = batch_indexes(data)
    for leaf in (1, 2, 3):
        say_erased(data, index, leaf)
    with EmbeddedStore(data) as store:
        trap = Trap(store, lambda *_: None)
        with closing(Projection(data, trap)) as view:
            counts = []
            for _ in range(5):
                trap.calls.clear()
                view.catch_up()
                counts.append([name for name, _ in trap.calls].count("erase"))
    assert counts == [4, 1, 1, 0, 0]


def test_store_that_lost_entries_gets_them_again(data, device, caplog):
    """An older copy in its place, or nothing at all: one line, and the view is whole."""
    fill(data, [device], 3)
    with EmbeddedStore(data) as store, closing(Projection(data, store)) as view:
        view.catch_up()
        whole = contents(store)
        store._db.execute("DELETE FROM readings WHERE ref > 20000")
        store._db.execute("UPDATE projection SET cursor = 5")
        view._looked_at_s = float("-inf")
        view.catch_up()
        assert contents(store) == whole
        store.clear()
        view._looked_at_s = float("-inf")
        view.catch_up()
        assert contents(store) == whole
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [f"the store had 8 entries and has {now}: what it lacks is projected again" for now in (5, 0)]


def test_store_that_is_emptied_between_two_portions_is_filled_from_the_start(data, device, monkeypatch):
    """Nobody writes a cursor that says more than there is."""
    monkeypatch.setattr(portions, "PORTION_ENTRIES", 3)
    fill(data, [device], 5)
    project(data)
    whole = contents_of(data)
    with EmbeddedStore(data) as store:
        store.clear()
        emptied = []

        def empty(_number, name):
            if name == "write" and store.cursor() == 6 and not emptied:
                emptied.append(store.clear())

        project(data, Trap(store, empty))
        assert emptied
        assert contents(store) == whole


@pytest.mark.parametrize("before", [True, False])
def test_store_that_is_replaced_while_it_is_away_is_filled_from_the_start(data, device, monkeypatch, before):
    """What was about to be written goes into an empty one; no cursor says that the rest is there."""
    monkeypatch.setattr(portions, "PORTION_ENTRIES", 3)
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.0)
    fill(data, [device], 5)
    project(data)
    whole = contents_of(data)
    with EmbeddedStore(data) as store:
        store.clear()
        replaced = []

        def replace(_number, name):
            if name == ("write" if before else "cursor") and store.cursor() == 6 and not replaced:
                replaced.append(store.clear())
                raise StoreAwayError("gone")

        project(data, Trap(store, replace))
        assert replaced
        assert contents(store) == whole


def test_view_made_again_does_not_look_for_what_was_never_written(data, device, other):
    """An erased reading is looked for in a database only if its row can be there."""
    fill(data, [device, other], 2)
    first, second, third, _ = batch_indexes(data)
    for index in (first, third):
        say_erased(data, index, 1)
    erase_payload(data, first, 1)
    with EmbeddedStore(data) as store:
        trap = Trap(store, lambda *_: None)
        with closing(Projection(data, trap)) as view:
            view.catch_up()
            whole = contents(store)
            say_erased(data, second, 2)
            erase_payload(data, second, 2)
            trap.calls.clear()
            Request(1).write(data)
            view.catch_up()
            erased = [arguments for name, arguments in trap.calls if name == "erase"]
        assert [row for row in whole[1] if row[0] != second * 4096 + 2] == contents(store)[1]
    assert (third, (1,)) in erased or third * 4096 + 1 not in {row[0] for row in whole[1]}
    assert (first, (1,)) not in erased
    assert (second, (2,)) not in erased


def test_cursor_that_nobody_wrote_now_is_not_believed(data, device):
    """One that was given up on comes true in a store that was cleared meanwhile: nothing is left out for it."""
    size = fill(data, [device], 3)
    with EmbeddedStore(data) as store, closing(Projection(data, store)) as view:
        view.catch_up()
        whole = contents(store)
        Request(size).write(data)

        def clear(real=store.clear):
            real()
            store.write((), (), size)

        store.clear = clear
        view.catch_up()
        assert contents(store) == whole
        store.write((), (), 10**6)
        view._looked_at_s = float("-inf")
        view.catch_up()
        assert contents(store) == whole


def test_store_of_another_log_is_left_alone(data, device, tmp_path):
    """Two logs cannot share a place: the second would take the first one's cursor for its own."""
    fill(data, [device], 2)
    project(data)
    create_log(tmp_path / "next", "next.example/log")
    stranger = Device("wrist-9", 9, "next.example/log")
    stranger.enrol(tmp_path / "next")
    with LocalStorage(tmp_path / "next"):
        pass
    before = contents_of(data)
    (tmp_path / "next" / "log" / "checkpoint").write_bytes(checkpoint_of("next.example/log"))
    with (
        EmbeddedStore(data) as store,
        pytest.raises(UserError, match=r"holds the readings of the log test\.example/log"),
    ):
        project(tmp_path / "next", store)
    assert "holds the readings of the log" in read_view(tmp_path / "next").why
    assert contents_of(data) == before


def checkpoint_of(origin):
    from ledger.checkpoint import Checkpoint
    from ledger.note import NoteSigner

    return Checkpoint(origin, 100, bytes(32)).sign(NoteSigner(origin, bytes(32))).encode()


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


@pytest.fixture
def config(data):
    """The configuration file of the aggregator in `data`."""
    path = data / "aggregator.toml"
    path.write_text(f'data = "{data}"\n')
    return path


def run(config):
    """One projection process that ends when it has caught up."""
    command = [sys.executable, "-m", "aggregator.projection", str(config)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def test_projection_process_that_dies_is_started_again(data, device, config, monkeypatch, caplog):
    """A killed projection costs the view some seconds; the rows it had not written come afterwards."""
    monkeypatch.setattr(side_process, "RESTART_AFTER_S", 0.05)
    size = fill(data, [device], 2)
    with side_process.SideProcess(
        "projection", "aggregator.projection", str(config), if_it_ends="the view stands still"
    ) as running:
        first = running._process
        first.kill()
        deadline = time.monotonic() + 20
        while (running._process is first or read_view(data).cursor < size) and time.monotonic() < deadline:
            first.poll()
    assert "the projection ended with exit code -9" in caplog.text
    assert len(rows(data)) == 2 * 3
    view = read_view(data)
    assert (view.store, view.cursor, view.readings, view.away_since) == ("SQLite, readings.db", size, 6, None)
    assert view.level_at <= view.updated_at <= time.time()


def test_projection_of_a_store_that_is_garbage_says_so_in_one_line(data, device, config):
    """A reading store that is no database stops the view, in words, until somebody asks for a rebuild."""
    size = fill(data, [device], 1)
    (data / "readings.db").write_bytes(b"garbage" * 1000)
    done = run(config)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "readings.db" in done.stderr
    since = read_view(data).away_since
    assert "file is not a database" in read_view(data).why
    assert run(config).returncode == 2
    assert read_view(data).away_since == since
    Request(size).write(data)
    assert run(config).returncode == 0
    assert read_request(data) is None
    assert read_view(data).away_since is None
    assert len(rows(data)) == 3


def test_second_projection_waits_for_the_first(data, device, config):
    """There is one at a time, however many were started; the second ends when it is told to."""
    fill(data, [device], 1)
    with lock(data / LOCK):
        done = run(config)
    assert done.returncode == 0
    assert "another process fills the store" in done.stderr
    assert not (data / VIEW).exists()


def test_store_that_is_away_when_it_is_to_stop_keeps_nobody(data, device):
    """It says that it is away once, and ends."""
    import threading

    fill(data, [device], 1)
    stopping = threading.Event()
    stopping.set()

    def away(_number, _name):
        raise StoreAwayError("gone")

    with EmbeddedStore(data) as store:
        from aggregator.patience import Patience
        from aggregator.view import ViewRecord

        with closing(Projection(data, Trap(store, away), Patience(ViewRecord(data), stopping))) as view:
            assert view.catch_up() == 0  # it is to stop: nothing is begun
            with pytest.raises(StoreAwayError):
                view.catch_up(within_s=10)
