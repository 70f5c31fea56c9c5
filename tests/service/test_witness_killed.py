"""A witness killed at any moment never cosigns two trees that do not fit together."""

import multiprocessing
import os
import random
import select
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing import reduction
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ledger.service.witness_keys import create_witness
from tests.service.witnessing import NAME, Client, Log, cosigned_at, own_keys, run_child

KILLS = 30
LATEST_KILL_S = 0.012  # after a request was sent; a cosignature takes about 5 ms
FORKS = ("left", "right")


@contextmanager
def witness(data: Path, logs: Path) -> Iterator[tuple[multiprocessing.Process, str]]:
    """A witness in a process of its own, forked from one that has imported everything; and its URL."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ledger.service.http", "ledger.service.witness_app", "vitalseal.cli"])
    reading, writing = os.pipe()
    arguments = ["ledger", "witness", "run", "--data", str(data), "--logs", str(logs), "--port", "0", "--rate", "10000"]
    handle = reduction.DupFd(writing)
    process = context.Process(target=run_child, args=(arguments, handle))
    process.start()
    os.close(writing)
    try:
        with os.fdopen(reading) as output:
            line = output.readline()
            assert " at http://" in line, line + output.read()
            yield process, line.split()[-1]
    finally:
        process.kill()
        process.join()
        process.close()


def send(url: str, request: bytes) -> socket.socket:
    """A connection on which `request` was sent, and no answer read."""
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port), timeout=20)
    head = f"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nConnection: close\r\nContent-Length: {len(request)}\r\n\r\n"
    connection.sendall(head.encode() + request)
    return connection


def receive(connection: socket.socket) -> str:
    """The cosignatures that came over `connection` before the witness died, if all came."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    head, _, lines = received.partition(b"\r\n\r\n")
    length = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    whole = length and int(length[0].split(b":")[1]) == len(lines)
    return lines.decode() if head.startswith(b"HTTP/1.1 200") and whole else ""


@pytest.mark.parametrize("seed", [1])
def test_killed_at_any_moment_it_never_cosigns_two_forks(tmp_path, seed):
    """Thirty kills at random moments, two forks offered at once before each; all that was ever cosigned fits."""
    random_ = random.Random(seed)
    data = tmp_path / "w"
    create_witness(data, NAME, None)
    keys = own_keys(data)
    logs = [Log(f"log.example/{at}", shared=at % 3) for at in range(KILLS)]
    known = tmp_path / "logs"
    known.write_text("".join(f"log {key}\n" for log in logs for key in log.vkeys))
    cosigned: dict[Log, set[tuple[int, str]]] = {log: set() for log in logs}

    def collect(log: Log, size: int, fork: str, lines: str) -> None:
        if lines:
            cosigned_at(lines, keys, log, size, fork)
            cosigned[log].add((size, fork))

    for turn in range(KILLS):
        with witness(data, known) as (process, url):
            # The last log again, as if nothing had happened, in both forks; then a new one, whose answers are cut off.
            for log in logs[max(0, turn - 1) : turn]:
                offer_everything(url, log, random_, collect)
            log = logs[turn]
            sizes = random_.sample(range(4, 12), 2)
            waiting = [
                (send(url, log.body(0, size, fork)), size, fork) for size, fork in zip(sizes, FORKS, strict=True)
            ]
            select.select([connection for connection, _, _ in waiting], [], [], random_.random() * LATEST_KILL_S)
            process.kill()
            process.join()
            for connection, size, fork in waiting:
                with closing(connection):
                    collect(log, size, fork, receive(connection))
    with witness(data, known) as (_, url):
        for log in logs:
            offer_everything(url, log, random_, collect)

    for log, checkpoints in cosigned.items():
        assert checkpoints
        for size, fork in checkpoints:
            for other_size, other_fork in checkpoints:
                least = min(size, other_size)
                assert log.root(least, fork) == log.root(least, other_fork)
    assert sum(len(checkpoints) for checkpoints in cosigned.values()) > KILLS


def offer_everything(url: str, log: Log, random_: random.Random, collect) -> None:
    """Both forks of `log` from nothing, and from where the witness says it is."""
    with Client(url) as client:
        for fork in random_.sample(FORKS, 2):
            old, size = 0, random_.randrange(12, 16)
            for _ in range(2):
                status, _, text = client.request("POST", "add-checkpoint", log.body(old, size, fork))
                assert status in (200, 409, 400, 422)
                if status == 200:
                    collect(log, size, fork, text)
                if status != 409:
                    break
                old = int(text)
