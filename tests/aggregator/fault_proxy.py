"""An HTTP proxy before a database that fails on purpose."""

import http.client
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from simulators.broker import HOST


@dataclass
class Answer:
    """What the proxy answers instead of the database; `after`: once that has done what it was asked."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"error": "on purpose"}'
    after: bool = False


class FaultProxy(ThreadingHTTPServer):
    """Passes requests on to `port`; `fault(path)` says what is answered instead, None for nothing."""

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, port):
        super().__init__((HOST, 0), _Handler)
        self.target = port
        self.fault = lambda _path: None
        self.seen = []

    @property
    def url(self):
        return f"http://{HOST}:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """A client that did not wait is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _do(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(self.path)
        fault = self.server.fault(self.path)
        if fault is None or fault.after:
            passed = self._pass_on(body)
        if fault is None:
            self._answer(*passed)
        else:
            self._answer(fault.status, fault.headers, fault.body)

    do_GET = do_POST = _do  # noqa: N815 - the library looks them up by these names

    def _pass_on(self, body):
        headers = {name: value for name, value in self.headers.items() if name.lower() not in {"host", "connection"}}
        connection = http.client.HTTPConnection(HOST, self.server.target, timeout=30)
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            return answer.status, {"Content-Type": answer.headers.get("Content-Type", "text/plain")}, data
        finally:
            connection.close()

    def _answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def fault_proxy(port):
    """A running proxy before the server at `port`."""
    with FaultProxy(port) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
