"""One thread has the connection: whoever publishes or acknowledges leaves the socket to it."""

import threading

from aggregator.config import BrokerConfig
from aggregator.mqtt import BrokerConnection, _Client

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
