"""MQTT by hand, for what no library would send: made beforehand, as fast as the socket takes it."""

import contextlib
import select
import socket
import ssl
import threading

CONNECT = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x"  # 3.1.1, clean session, a minute's keepalive


def publish(topic, payload, mid):
    """A PUBLISH of QoS 1."""
    body = len(topic).to_bytes(2, "big") + topic.encode() + mid.to_bytes(2, "big") + payload
    length, left = b"", len(body)
    while left or not length:
        left, low = divmod(left, 128)
        length += bytes([low | (128 if left else 0)])
    return b"\x32" + length + body


class Flood(threading.Thread):
    """Sends `packets`, prepared by `publish`, over and over until it is told to stop, and reads what comes back.

    With `times` it ends by itself, when the broker has acknowledged everything.
    """

    def __init__(self, port, context, packets, times=None):
        super().__init__()
        plain = socket.create_connection(("127.0.0.1", port))
        self._tls = context.wrap_socket(plain, server_hostname="127.0.0.1")
        self._tls.sendall(CONNECT)
        assert self._tls.recv(4) == b"\x20\x02\x00\x00"
        self._tls.setblocking(False)
        self._packets = packets
        self._times = times
        self._stopping = threading.Event()
        self.sent = 0
        self._answered = 0  # bytes of PUBACKs, of which each has four

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self.join()

    def run(self):
        blocks = [b"".join(self._packets[at : at + 64]) for at in range(0, len(self._packets), 64)]
        with self._tls:
            while not self._stopping.is_set() and self._times != 0:
                for at, block in enumerate(blocks):
                    if not self._send(block):
                        return
                    self.sent += min(64, len(self._packets) - at * 64)
                if self._times:
                    self._times -= 1
            while self._times == 0 and self._answered < 4 * self.sent and not self._stopping.is_set():
                select.select([self._tls.fileno()], [], [], 0.1)
                self._read()

    def _send(self, block):
        view = memoryview(block)
        while view and not self._stopping.is_set():
            try:
                view = view[self._tls.send(view) :]
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                select.select([self._tls.fileno()], [self._tls.fileno()], [], 0.1)
            except OSError:
                return False
            self._read()
        return not view

    def _read(self):
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while heard := self._tls.recv(65536):
                self._answered += len(heard)
