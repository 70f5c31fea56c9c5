"""A real InfluxDB that is killed, paused, full, slow or says no: nothing is lost, and the view is whole afterwards.

Each test holds what is in the database in the end against a view of the same log that saw no fault.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

from aggregator import patience, projection
from aggregator.config import AggregatorConfig
from aggregator.patience import Patience
from aggregator.projection import Projection
from aggregator.timeseries import requests
from aggregator.timeseries.base import StoreAwayError
from aggregator.timeseries.opening import open_store
from aggregator.view import ViewRecord, read_view
from ledger.batch import LEAVES_PER_BATCH
from tests.influx_server import InfluxServer

from .devices import START_NS
from .fault_proxy import Answer, fault_proxy
from .views import Cardiograph, batch_indexes, contents, faultless, fill, gate_of, say_erased

WEEK_NS = 7 * 24 * 3600 * 10**9  # one shard of the database
TIMEOUT_S = 0.4


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The database of this file's tests, which take it away and bring it back."""
    with InfluxServer(tmp_path_factory.mktemp("influx")) as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Waits that a test can wait for."""
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(patience, "MAX_WAIT_S", 0.1)
    # So that a portion is several requests, of which any may fail.
    monkeypatch.setattr(requests, "REQUEST_POINTS", 250)


def until(condition, limit_s=20.0):
    """`condition()` is true."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.01)


@contextmanager
def projecting(config):
    """A projection is at work; it is told to stop at the end."""
    stopping, failed = threading.Event(), []

    def work():
        own = Patience(ViewRecord(config.data), stopping)
        try:
            with ExitStack() as stack:
                store = own(lambda: stack.enter_context(open_store(config)), opening=True)
                projection = Projection(config.data, store, own)
                stack.callback(projection.close)
                while not stopping.is_set():
                    projection.catch_up()
                    stopping.wait(0.01)
        except StoreAwayError:
            pass
        except BaseException as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield thread
    finally:
        stopping.set()
        thread.join(30)
    assert not failed


def influx(data, server, url=None, **options):
    """An aggregator that writes to a new database of `server`, and what reads it back."""
    bucket = server.fresh_database()
    direct = AggregatorConfig(data, influx=server.config(bucket))
    written = server.config(bucket, **{"timeout_s": TIMEOUT_S, **options})
    if url:
        written = type(written)(url=url, bucket=bucket, timeout_s=TIMEOUT_S)
    return AggregatorConfig(data, influx=written), direct


def is_level(data, size):
    return lambda: (view := read_view(data)).cursor == size and view.away_since is None and view.level_at > 0


def is_away(data):
    return lambda: read_view(data).away_since is not None


def stored(config):
    """What is in the database."""
    with open_store(config, readonly=True) as store:
        return contents(store)


def frames(config):
    """Every point of a drawn waveform, and its values."""
    with open_store(config, readonly=True) as store:
        return [(sample.time_ns, sample.copy, sample.ref, sample.values) for sample in store.samples()]


def said(caplog, beginning):
    return [line for line in caplog.messages if line.startswith(beginning)]


@pytest.fixture
def other(data):
    """A device with waveforms, each of which is many points."""
    device = Cardiograph("chest-1", 2)
    device.enrol(data)
    return device


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_database_that_goes_away_and_comes_back(data, device, other, server, tmp_path, caplog, how):
    """SIGKILL and a new start; SIGSTOP and SIGCONT: the log goes on meanwhile, and the view makes up for it."""
    caplog.set_level("INFO")
    config, direct = influx(data, server)
    size = fill(data, [device, other], 3)
    with projecting(config):
        until(is_level(data, size))
        {"killed": server.kill, "paused": server.pause}[how]()
        size = fill(data, [device, other], 20)
        until(is_away(data))
        size = fill(data, [device], 5)
        {"killed": server.start, "paused": server.resume}[how]()
        until(is_level(data, size))
    assert read_view(data).readings == 51 * 3
    assert stored(direct) == faultless(data, tmp_path / "faultless")
    drawn = frames(direct)
    assert len(drawn) == 23 * 3 * 250
    assert {values for *_, values in drawn} == {tuple((70 + 3 * at + c) / 1000 for c in range(3)) for at in range(250)}
    assert (len(said(caplog, "the store is away")), len(said(caplog, "the store is back"))) == (1, 1)


@pytest.mark.skipif(os.geteuid() != 0 and os.environ.get("CI") != "true", reason="only root may mount a small disk")
def test_database_whose_disk_is_full(data, device, server, tmp_path):
    """What it could not keep is written again once there is room; nothing that it had acknowledged is missing."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], check=True)
    try:
        with InfluxServer(folder) as small:
            config, direct = influx(data, small)
            size = fill(data, [device], 3)
            with projecting(config):
                until(is_level(data, size))
                fill_disk(folder / "balloon")
                size = fill(data, [device], 40, readings=40)
                until(is_away(data))
                assert "no space left" in read_view(data).why
                (folder / "balloon").unlink()
                # A shard of 1.x whose write-ahead log met a full disk refuses all writes until the server is restarted;
                # what it answered 500 for, and shows all the same, is gone then.
                small.kill()
                small.start()
                until(is_level(data, size))
            assert stored(direct) == faultless(data, tmp_path / "faultless")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill_disk(path):
    """No byte is left."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


@pytest.mark.parametrize(
    "answer",
    [
        Answer(500),
        Answer(503, {"Retry-After": "0"}),
        Answer(429, {"Retry-After": "1"}),
        Answer(500, after=True),
        Answer(502, {"Content-Type": "text/html"}, b"<html><h1>502 Bad Gateway</h1></html>"),
    ],
    ids=["500", "503", "429", "500-and-done-all-the-same", "502-of-a-proxy"],
)
def test_database_that_answers_that_it_cannot(data, device, server, tmp_path, answer):
    """In the middle of a portion too: it is waited for as long as it asks, and the portion is written again."""
    with fault_proxy(server.port) as proxy:
        config, direct = influx(data, server, proxy.url)
        writes, refused = [], []

        def fault(path):
            if "/api/v2/write" not in path:
                return None
            writes.append(time.monotonic())
            if 3 < len(writes) <= 5:
                refused.append(writes[-1])
                return answer
            return None

        proxy.fault = fault
        size = 0
        with projecting(config):
            for _ in range(3):
                size = fill(data, [device], 4)
                until(is_level(data, size))
    assert len(refused) == 2
    if answer.status == 429:
        assert refused[1] - refused[0] >= 1.0
    assert stored(direct) == faultless(data, tmp_path / "faultless")
    assert not (data / "refused-points.ndjson").exists()


def test_database_that_will_not_have_some_points(data, device, other, server, tmp_path):
    """A partial-write 400: exactly these are recorded, all others are there, and the cursor goes on."""
    config, direct = influx(data, server)
    with gate_of(data) as gate:
        for week in (0, 1, 0, 1):
            gate.take(device.name, device.batch(5, at_ns=START_NS + week * 2 * WEEK_NS))
            gate.take(other.name, other.batch(5, at_ns=START_NS))
        size = gate.writer.size
    # Somebody else's point makes `value` a string where the second week lies.
    server.write(f'reading,device=x value="a" {START_NS + 2 * WEEK_NS + 500}', config.influx.bucket)
    with projecting(config):
        until(is_level(data, size))
    taken = batch_indexes(data)
    refs = {index * LEAVES_PER_BATCH + leaf for index in (taken[2], taken[6]) for leaf in range(1, 6)}
    lines = [json.loads(line) for line in (data / "refused-points.ndjson").read_text().splitlines()]
    assert {line["ref"] for line in lines} == refs
    assert len(lines) == len(refs)
    assert all("type" in line["why"] and "70" not in line["why"] for line in lines)
    assert read_view(data).refused == 10
    server.query('DELETE FROM "reading" WHERE "device" = \'x\'', config.influx.bucket)
    cursor, rows, batches = faultless(data, tmp_path / "faultless")
    assert stored(direct) == (cursor, [row for row in rows if row[0] not in refs], batches)


def test_database_that_is_slow(data, device, server, tmp_path):
    """Slower than it is waited for, it does what it was asked in the end, when it has been asked again: once is all."""
    with fault_proxy(server.port) as proxy:
        config, direct = influx(data, server, proxy.url)
        late = threading.Semaphore(2)

        def fault(path):
            if "/api/v2/write" in path and late.acquire(blocking=False):
                time.sleep(3 * TIMEOUT_S)

        proxy.fault = fault
        size = fill(data, [device], 10)
        with projecting(config):
            until(is_away(data))
            until(is_level(data, size))
    assert stored(direct) == faultless(data, tmp_path / "faultless")


def test_readings_that_are_erased_while_the_database_is_away(data, device, server, tmp_path):
    """The entry that says so is met when it is back, whether it has the readings or not."""
    config, direct = influx(data, server)
    size = fill(data, [device], 2)
    first, _ = batch_indexes(data)
    with projecting(config):
        until(is_level(data, size))
        server.pause()
        fill(data, [device], 2)
        say_erased(data, first, 1, 3)
        say_erased(data, batch_indexes(data)[2], 2)
        size = fill(data, [device], 1)
        until(is_away(data))
        server.resume()
        until(is_level(data, size))
    assert stored(direct) == faultless(data, tmp_path / "faultless")
    assert len(stored(direct)[1]) == 5 * 3 - 3


def test_write_that_comes_true_after_an_erasure_does_not_bring_it_back_for_good(data, device, server, monkeypatch):
    """The database was given up on and still had the write; a while later what was erased is erased once more."""
    held, release = threading.Event(), threading.Event()
    with fault_proxy(server.port) as proxy:
        config, direct = influx(data, server, proxy.url)

        def fault(path):
            if "/api/v2/write" in path and not held.is_set():
                held.set()
                release.wait(20)

        proxy.fault = fault
        size = fill(data, [device], 1)
        (index,) = batch_indexes(data)
        with projecting(config):
            until(held.is_set)
            until(is_level(data, size))
            say_erased(data, index, 2)
            until(is_level(data, size + 1))
            assert len(stored(direct)[1]) == 2
            release.set()
            until(lambda: len(stored(direct)[1]) == 3)
            monkeypatch.setattr(projection, "LATE_WRITE_S", 0.0)
            until(lambda: len(stored(direct)[1]) == 2)


def test_projection_and_database_killed_together(data, device, server, tmp_path):
    """The process itself: the next one goes on where the cursor is, when the database is there again."""
    config, direct = influx(data, server)
    path = tmp_path / "aggregator.toml"
    path.write_text(f'data = "{data}"\n[influx]\nurl = "{server.url}"\nbucket = "{config.influx.bucket}"\n')
    command = [sys.executable, "-m", "aggregator.projection", str(path)]
    size = fill(data, [device], 3)
    with subprocess.Popen(command, stdin=subprocess.PIPE) as first:
        until(is_level(data, size))
        server.kill()
        size = fill(data, [device], 3)
        until(is_away(data))
        first.kill()
    with subprocess.Popen(command, stdin=subprocess.PIPE) as second:
        server.start()
        until(is_level(data, size))
        os.kill(second.pid, 0)
        second.stdin.close()
        assert second.wait(20) == 0
    assert stored(direct) == faultless(data, tmp_path / "faultless")


def test_projection_that_is_to_stop_does_not_wait_for_the_database(data, device, server, tmp_path):
    """However long that is away."""
    config, _ = influx(data, server)
    path = tmp_path / "aggregator.toml"
    path.write_text(f'data = "{data}"\n[influx]\nurl = "http://127.0.0.1:1"\nbucket = "{config.influx.bucket}"\n')
    fill(data, [device], 1)
    with subprocess.Popen([sys.executable, "-m", "aggregator.projection", str(path)], stdin=subprocess.PIPE) as process:
        until(is_away(data))
        process.stdin.close()
        assert process.wait(10) == 0


def test_projection_that_is_to_stop_does_not_hang_on_the_database(data, device, tmp_path):
    """On one that takes what it is asked and never answers."""
    path = tmp_path / "aggregator.toml"
    fill(data, [device], 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        path.write_text(f'data = "{data}"\n[influx]\nurl = "{url}"\ntimeout_s = 600.0\n')
        program = "import sys; from aggregator import projection as p; p.END_WITHIN_S = 0.1; sys.exit(p.main())"
        command = [sys.executable, "-c", program, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process, silent.accept()[0]:
            process.stdin.close()
            assert process.wait(20) == 0
