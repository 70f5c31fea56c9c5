"""Stand-ins for the systemd that a program runs under."""

import os
import socket

import pytest


class Systemd:
    """Hears what a program says on NOTIFY_SOCKET."""

    def __init__(self, path):
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.said = []

    def hear(self, limit_s=20.0):
        """The next message's lines."""
        self._socket.settimeout(limit_s)
        lines = self._socket.recv(4096).decode().split("\n")
        self.said += lines
        return lines

    def hear_until(self, line, limit_s=20.0):
        """Messages up to one with this line."""
        while line not in self.hear(limit_s):
            pass

    def silent(self):
        """Nothing more has been said."""
        self._socket.settimeout(0)
        try:
            self._socket.recv(4096)
        except BlockingIOError:
            return True
        return False

    def environment(self, watchdog_s=None):
        """What it gives to a program that it starts."""
        given = {**os.environ, "NOTIFY_SOCKET": str(self.path)}
        return given if watchdog_s is None else {**given, "WATCHDOG_USEC": str(int(watchdog_s * 1e6))}

    def close(self):
        self._socket.close()


@pytest.fixture
def systemd(tmp_path):
    """A systemd that listens."""
    systemd = Systemd(tmp_path / "notify")
    yield systemd
    systemd.close()
