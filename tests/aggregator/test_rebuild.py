"""`aggregator rebuild`: the store is made again from the log, row by row as it was, whoever is killed meanwhile."""

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest

from aggregator import portions
from aggregator import rebuild as rebuilding
from aggregator.config import AggregatorConfig
from aggregator.projection import Projection
from aggregator.rebuild import rebuild
from aggregator.timeseries.base import StoreAwayError
from aggregator.timeseries.embedded import EmbeddedStore
from aggregator.timeseries.opening import open_store
from aggregator.view import LOCK, REQUEST, Request, read_request, read_view
from ledger.writer.files import lock
from vitalseal.cli import main
from vitalseal.errors import UserError

from .views import Killed, Picky, Trap, batch_indexes, contents, contents_of, fill, project, say_erased

LAST = re.compile(r"rebuild: entries=(\d+) readings=(\d+) seconds=\d+\.\d rate=\d+/s\n")


@pytest.fixture
def config(data, tmp_path):
    """The configuration of an aggregator with the embedded store."""
    path = tmp_path / "aggregator.toml"
    path.write_text(f'data = "{data}"\n')
    return path


@pytest.fixture
def influx(data, tmp_path, influx_server):
    """The configuration of one with InfluxDB."""
    path, bucket = tmp_path / "influx.toml", influx_server.fresh_database()
    path.write_text(f'data = "{data}"\n[influx]\nurl = "{influx_server.url}"\nbucket = "{bucket}"\n')
    return path, AggregatorConfig(data, influx=influx_server.config(bucket))


def command(*words):
    """Its arguments, as a process of its own."""
    return [sys.executable, "-m", "vitalseal", "aggregator", "rebuild", *map(str, words)]


def again(config, capsys, *words):
    """Exit code and output of the command, in this process."""
    code = main(["aggregator", "rebuild", "--config", str(config), *words])
    return code, *capsys.readouterr()


def filled(data, device, other):
    """A log with something of everything."""
    fill(data, [device, other], 5)
    say_erased(data, batch_indexes(data)[2], 1)
    return fill(data, [device], 2)


def test_store_that_holds_something_is_not_emptied_by_mistake(data, device, config, capsys):
    """One line that says what is at stake; with --yes it is done."""
    fill(data, [device], 2)
    project(data)
    before = contents_of(data)
    code, out, err = again(config, capsys)
    assert (code, out) == (2, "")
    assert err == (
        "vitalseal: the store holds 6 entries; they are deleted and made again from the log, and until then charts and "
        "queries miss readings: --yes if that is what you want\n"
    )
    assert read_request(data) is None
    code, out, err = again(config, capsys, "--yes")
    assert (code, err) == (0, "")
    assert LAST.fullmatch(out).groups() == ("6", "6")
    assert contents_of(data) == before


@pytest.mark.parametrize("harm", ["removed", "garbage", "torn", "emptied", "changed"])
def test_embedded_store_is_made_again(data, device, other, config, capsys, harm):
    """Whatever happened to the file."""
    size = filled(data, device, other)
    project(data)
    before = contents_of(data)
    path = data / "readings.db"
    match harm:
        case "removed":
            path.unlink()
        case "garbage":
            path.write_bytes(os.urandom(100_000))
        case "torn":
            path.write_bytes(path.read_bytes()[:5000] + bytes(20_000))
        case "emptied":
            path.write_bytes(b"")
        case "changed":
            with EmbeddedStore(data) as store:
                store._db.execute("UPDATE readings SET value = value + 1")
    code, out, _ = again(config, capsys, "--yes")
    assert code == 0
    assert LAST.fullmatch(out).groups() == (str(size), str(12 * 3 - 1))
    assert contents_of(data) == before


@pytest.mark.parametrize("harm", ["none", "DROP DATABASE", "DROP MEASUREMENT ledger_batch", "DROP MEASUREMENT reading"])
def test_influx_is_made_again(data, device, other, influx, influx_server, capsys, harm):
    """Also where the whole database was deleted."""
    path, config = influx
    size = filled(data, device, other)
    code, out, _ = again(path, capsys)
    assert code == 0
    before = contents_in(config)
    assert before[0] == size
    bucket = config.influx.bucket
    if harm == "DROP DATABASE":
        influx_server.query(f'DROP DATABASE "{bucket}"')
    elif harm != "none":
        influx_server.query(harm, bucket)
    code, out, _ = again(path, capsys, "--yes")
    assert code == 0
    assert LAST.fullmatch(out).group(1) == str(size)
    assert contents_in(config) == before


def contents_in(config):
    with open_store(config, readonly=True) as store:
        return contents(store)


def test_refused_points_are_told_anew(data, device):
    """What the new store takes is no longer in the file."""
    fill(data, [device], 2)
    refs = [index * 4096 + 1 for index in batch_indexes(data)]
    with EmbeddedStore(data) as store:
        project(data, Picky(store, *refs))
        assert len((data / "refused-points.ndjson").read_text().splitlines()) == 2
        Request(6).write(data)
        project(data, Picky(store, refs[1]))
    assert len((data / "refused-points.ndjson").read_text().splitlines()) == 1
    assert read_view(data).refused == 1


def test_killed_at_any_call_of_the_store_it_resumes(data, device, other, monkeypatch):
    """The store is cleared once more only while nothing was written; then the cursor says where to go on."""
    monkeypatch.setattr(portions, "PORTION_ENTRIES", 4)
    size = filled(data, device, other)
    project(data)
    whole = contents_of(data)
    kills, cleared = 0, []
    while True:
        Request(size).write(data)

        def kill(number, _name, at=kills):
            if number == at:
                raise Killed

        with EmbeddedStore(data) as store:
            trap, after = Trap(store, kill), Trap(store, lambda *_: None)
            try:
                project(data, trap)
            except Killed:
                project(data, after)
            else:
                break
            cleared.append([name for name, _ in after.calls].count("clear"))
            assert contents(store) == whole
        assert read_request(data) is None
        kills += 1
    assert kills > 25
    assert cleared == [1, 1] + [0] * (kills - 2)


def test_running_projection_does_it(data, device, other, config, capsys):
    """The command leaves a request and follows; the aggregator goes on meanwhile."""
    size = filled(data, device, other)
    with subprocess.Popen(
        [sys.executable, "-m", "aggregator.projection", str(config)], stdin=subprocess.PIPE
    ) as running:
        until(lambda: read_view(data).cursor == size)
        before = contents_of(data)
        code, out, err = again(config, capsys, "--yes")
        assert (code, err) == (0, "")
        assert LAST.fullmatch(out).group(1) == str(size)
        size = fill(data, [device], 1)
        until(lambda: read_view(data).cursor == size)
        running.stdin.close()
        assert running.wait(20) == 0
    assert contents_of(data)[1][: len(before[1])] == before[1]


def test_projection_that_dies_meanwhile_is_stood_in_for(data, device, config, monkeypatch):
    """As soon as its lock is free."""
    monkeypatch.setattr(rebuilding, "SHOW_EVERY_S", 0.01)
    fill(data, [device], 3)
    with lock(data / LOCK):
        thread, done = in_thread(AggregatorConfig(data))
        until((data / REQUEST).exists)
        assert thread.is_alive()
    thread.join(20)
    assert done[0].whole
    assert contents_of(data)[0] == 8
    assert len(contents_of(data)[1]) == 9


def in_thread(config, stopping=None):
    done = []
    thread = threading.Thread(
        target=lambda: done.append(rebuild(config, lambda *_: None, stopping or threading.Event()))
    )
    thread.start()
    return thread, done


def test_interrupted_it_is_gone_on_with(data, device, config, capsys, monkeypatch):
    """What was written is not written again by the next call, nor by an aggregator that starts."""
    monkeypatch.setattr(portions, "PORTION_ENTRIES", 4)
    size = fill(data, [device], 6)
    project(data)
    whole = contents_of(data)
    stopping = threading.Event()
    done = rebuild(AggregatorConfig(data), lambda view, size: 0 < view.cursor < size and stopping.set(), stopping)
    assert not done.whole
    assert 0 < contents_of(data)[0] < size
    assert read_request(data) == Request(size, begun=True)
    code, out, err = again(config, capsys)
    assert (code, err) == (0, "")
    assert LAST.fullmatch(out).groups() == (str(size), "18")
    assert contents_of(data) == whole


def test_rebuild_that_the_store_will_not_begin_is_not_wanted_any_more(
    data, device, influx, influx_server, capsys, caplog
):
    """Its bucket forgets: the command fails, and once that is mended nothing is emptied unasked."""
    config, loaded = influx
    fill(data, [device], 2)
    assert again(config, capsys)[0] == 0
    bucket = loaded.influx.bucket
    influx_server.query(f'ALTER RETENTION POLICY autogen ON "{bucket}" DURATION 7d', bucket)
    code, _, err = again(config, capsys, "--yes")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "unlimited retention" in err
    assert err.endswith("; the view is not made again: ask for it once more when that is mended\n")
    assert read_request(data) is None
    assert read_view(data).wont
    influx_server.query(f'ALTER RETENTION POLICY autogen ON "{bucket}" DURATION INF', bucket)
    (data / "refused-points.ndjson").write_text("{}\n")
    with caplog.at_level("INFO"), open_store(loaded) as store, closing(Projection(data, store)) as projection:
        assert projection.catch_up() == 0
        assert f"the view goes on at 6 in {store.title}" in caplog.messages
    assert (data / "refused-points.ndjson").read_text() == "{}\n"


def test_bucket_that_forgets_is_not_emptied(data, device, influx, influx_server):
    """Nor by a projection that had it open before."""
    _, loaded = influx
    fill(data, [device], 2)
    with open_store(loaded) as store, closing(Projection(data, store)) as projection:
        projection.catch_up()
        before = contents(store)
        bucket = loaded.influx.bucket
        influx_server.query(f'ALTER RETENTION POLICY autogen ON "{bucket}" DURATION 520w', bucket)
        with pytest.raises(UserError, match="unlimited retention"):
            store.clear()
        assert contents(store) == before


def test_rebuild_that_the_store_will_not_end_goes_on_by_itself(data, device, config, capsys, monkeypatch):
    """And the command says so."""
    fill(data, [device], 2)
    project(data)
    whole = contents_of(data)

    def wont(*_):
        raise UserError("it is forbidden")

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedStore, "write", wont)
        code, _, err = again(config, capsys, "--yes")
    assert code == 2
    assert "it is forbidden; the store was emptied already" in err
    assert read_request(data).begun
    project(data)
    assert read_request(data) is None
    assert contents_of(data) == whole


def test_store_that_is_away_is_waited_for_until_ctrl_c(data, device, monkeypatch):
    """It is a rebuild of an hour that must not be lost because of a second."""
    fill(data, [device], 2)
    project(data)
    whole, stopping = contents_of(data), threading.Event()
    real = EmbeddedStore.write

    def away(*_):
        raise StoreAwayError("full")

    monkeypatch.setattr(EmbeddedStore, "write", away)
    thread, done = in_thread(AggregatorConfig(data), stopping)
    until(lambda: read_view(data).away_since)
    stopping.set()
    thread.join(20)
    assert not done[0].whole
    monkeypatch.setattr(EmbeddedStore, "write", real)
    rebuild(AggregatorConfig(data), lambda *_: None, threading.Event())
    assert contents_of(data) == whole


def test_progress_is_for_terminals(data, device, config):
    """Entries, readings and rate, on the one line; and nothing but the last line in a pipe."""
    fill(data, [device], 3)
    done = subprocess.run(command("--config", config), capture_output=True, text=True, check=True)
    assert LAST.fullmatch(done.stdout)
    assert done.stderr == ""
    terminal, screen = pty.openpty()
    subprocess.run(command("--config", config, "--yes"), stderr=screen, stdout=subprocess.PIPE, check=True)
    os.close(screen)
    shown = os.read(terminal, 10_000).decode()
    os.close(terminal)
    assert re.search(r"8 of 8 entries, 9 readings, [\d,]+/s\r\n$", shown)


def test_ctrl_c_ends_it_in_order(data, device, config):
    """It says how far it came and who goes on; nothing is torn."""
    fill(data, [device], 1)
    with lock(data / LOCK):
        with subprocess.Popen(command("--config", config), stderr=subprocess.PIPE, text=True) as process:
            until((data / REQUEST).exists)
            process.send_signal(signal.SIGINT)
            said = process.stderr.read()
        assert process.returncode == 130
    assert said.startswith("vitalseal: 0 entries are in the store again; the running aggregator goes on with it")
    assert len(said.splitlines()) == 1


def test_request_with_anything_in_it_is_one(data, device):
    """Whoever leaves a file of that name wants a rebuild; one that is garbage must not stop the view for ever."""
    fill(data, [device], 1)
    with EmbeddedStore(data) as store, closing(Projection(data, store)) as view:
        view.catch_up()
        for garbage in (b"", b"x", b"[1]", b'{"size": 1, "other": 2}', b"\xff"):
            store._db.execute("DELETE FROM readings")
            (data / REQUEST).write_bytes(garbage)
            view.catch_up()
            assert len(list(store.readings())) == 3
            assert not (data / REQUEST).exists()


def until(condition, limit_s=20.0):
    """`condition()` is true."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.01)
