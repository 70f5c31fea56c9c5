"""The demo's broker: up when it says so, restarted on its port, gone without a trace."""

import os
import signal
import socket

import pytest

from simulators.broker import HOST, _answers, free_port, start_broker
from vitalseal.errors import UserError


@pytest.fixture(params=["mosquitto", "amqtt"])
def choice(request):
    """Each kind in turn; `make test` installs mosquitto, so its absence is a failure."""
    return request.param


def test_broker_answers_as_soon_as_it_has_started(choice, tmp_path):
    """No waiting for good measure: the first CONNECT is accepted; after the stop none is."""
    broker = start_broker(tmp_path, choice=choice)
    try:
        assert broker.kind == choice
        assert _answers(broker.port)
    finally:
        broker.stop()
    assert not _answers(broker.port)
    assert [path.name for path in tmp_path.iterdir()] == ["broker.log"]


def test_broker_that_was_killed_comes_back_on_its_port(choice, tmp_path):
    """Devices know one address."""
    broker = start_broker(tmp_path, choice=choice)
    try:
        os.kill(broker.child.pid, signal.SIGKILL)
        broker.child._process.wait(20)
        assert broker.child.revive()
        while not _answers(broker.port):
            assert broker.child.code() is None
    finally:
        broker.stop()


def test_broker_says_nothing_of_clients_that_come_and_go(choice, tmp_path):
    """Its log is for trouble."""
    broker = start_broker(tmp_path, choice=choice)
    try:
        socket.create_connection((HOST, broker.port)).close()
        assert _answers(broker.port)
    finally:
        broker.stop()
    lines = broker.child.log.read_text().splitlines()
    assert [line for line in lines if "should not be run as root" not in line] == []


def test_busy_port_is_one_line(choice, tmp_path):
    """Whoever asks for a port that is taken is told which."""
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} on 127.0.0.1 cannot be used: Address already in use"):
            start_broker(tmp_path, port=port, choice=choice)
    assert not list(tmp_path.iterdir())


def test_free_port_can_be_listened_on():
    """It is free at that moment."""
    with socket.socket() as listener:
        listener.bind((HOST, free_port()))
        listener.listen()
