"""One thread has the connection: whoever publishes or acknowledges leaves the socket to it."""

import logging
import threading

from aggregator import mqtt
from aggregator.config import BrokerConfig
from aggregator.mqtt import CONTESTED, LOSSES, LOSSES_WITHIN_S, BrokerConnection, _Client

from .gateway import until


def test_only_the_network_thread_writes(mosquitto, monkeypatch):
    """Two threads in one TLS connection crash the process (OpenSSL), and tear packets apart (paho)."""
    writers = set()
    write = _Client._sock_send

    def noted(client, data):
        if connection.connected.is_set():
            writers.add(threading.current_thread())
        return write(client, data)

    monkeypatch.setattr(_Client, "_sock_send", noted)
    connection = BrokerConnection(BrokerConfig(mosquitto.host, mosquitto.port, "5"), lambda _: None)
    with connection:
        assert connection.connected.wait(20)
        senders = [
            threading.Thread(target=lambda: [connection.send("wrist-1", b"x" * 1000) for _ in range(200)])
            for _ in range(3)
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        until(lambda: connection.outgoing() == 0, "the acknowledgements")
    assert connection.dropped == 0
    assert len(writers) == 1
    assert not writers & {threading.current_thread(), *senders}


def test_second_client_with_our_session_is_an_alarm(mosquitto, caplog, monkeypatch):
    """Told once, CRITICAL, however often the two throw each other off; one loss is none."""
    monkeypatch.setattr(mqtt, "MAX_BACKOFF_S", 0.2)  # for the test's sake: they would take turns ever more slowly
    config = BrokerConfig(mosquitto.host, mosquitto.port, "5", client_id="twice")
    with caplog.at_level(logging.CRITICAL), BrokerConnection(config, lambda _: None) as ours:
        until(ours.connected.is_set, "the connection")
        with BrokerConnection(config, lambda _: None) as other:
            until(lambda: "lost" in ours.fault, "the first loss")
            until(lambda: ours.is_contested() and other.is_contested(), "the alarm of both")
    assert [record.message for record in caplog.records] == [
        f"broker {mosquitto.host}:{mosquitto.port} {CONTESTED}"
    ] * 2


def test_connections_that_are_lost_seldom_are_no_alarm(mosquitto):
    """Three within minutes are none, and what was longer ago does not count."""
    with BrokerConnection(BrokerConfig(mosquitto.host, mosquitto.port, "5"), lambda _: None) as ours:
        for _ in range(LOSSES):
            assert not ours.is_contested()
            ours._note_loss()
        assert ours.is_contested()
        ours._lost_s[0] -= LOSSES_WITHIN_S
        assert not ours.is_contested()
