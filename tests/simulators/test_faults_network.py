"""The line between programs: what passes, what is reset, and what dies without a word."""

import contextlib
import random
import socket
import threading
import time

import pytest

from simulators.broker import HOST
from simulators.faults.proxy import FINE, Proxy, Weather

PATIENCE_S = 10.0


@pytest.fixture
def echo():
    """The port of a server that says back what it hears, until its client leaves."""

    def serve(connection):
        with connection, contextlib.suppress(ConnectionResetError):
            while data := connection.recv(65536):
                connection.sendall(data)

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE_S)


@pytest.fixture
def proxy(echo):
    """A line to the server that echoes."""
    with Proxy(echo, random.Random(1)) as proxy:
        yield proxy


def connect(proxy):
    return socket.create_connection((HOST, proxy.port), timeout=PATIENCE_S)


def say(connection, words):
    """What comes back for `words`."""
    connection.sendall(words)
    heard = b""
    while len(heard) < len(words) and (data := connection.recv(65536)):
        heard += data
    return heard


def test_fine_line_passes_everything(proxy):
    """Both ways, whatever its size."""
    words = bytes(range(256)) * 1000
    with connect(proxy) as connection:
        assert say(connection, words) == words


def test_slow_line_passes_later(proxy):
    """What is said arrives, after the delay of each way."""
    proxy.weather = Weather(delay_s=0.1)
    with connect(proxy) as connection:
        began_s = time.monotonic()
        assert [say(connection, b"word") for _ in range(5)] == [b"word"] * 5
        assert time.monotonic() - began_s > 0.1


def test_cut_line_takes_nobody(proxy):
    """Present connections are reset, no new one comes about, and afterwards all is well."""
    with connect(proxy) as connection:
        assert say(connection, b"before") == b"before"
        proxy.weather = Weather(cut=True)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionResetError), connect(proxy) as connection:  # at once, or as soon as it looks
        connection.recv(1)
    proxy.weather = FINE
    with connect(proxy) as connection:
        assert say(connection, b"after") == b"after"


def test_lossy_line_resets_after_some_bytes(proxy):
    """A connection works until its bytes are used up."""
    proxy.weather = Weather(drops_after=(100, 100))
    with connect(proxy) as connection:
        assert say(connection, bytes(40)) == bytes(40)
        with pytest.raises(ConnectionResetError):
            say(connection, bytes(40))
    assert proxy.resets == 1


def test_frozen_line_says_nothing(proxy):
    """A connection stays and nothing comes through, not even its end; a new one works."""
    with connect(proxy) as frozen, connect(proxy) as other:
        assert say(frozen, b"before") == say(other, b"before") == b"before"
        proxy.freeze()
        with connect(proxy) as connection:
            assert say(connection, b"new") == b"new"
        frozen.settimeout(0.3)
        with pytest.raises(TimeoutError):
            say(frozen, b"anybody?")
