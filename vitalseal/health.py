"""How a program is watched over HTTP: `/healthz` for whoever restarts it, `/metrics` for Prometheus.

Off unless a configuration says where to listen. Standard library only: the metrics are a WSGI application that the
program gives and `prometheus_client` makes. Both are answered from a thread of their own, so that a program whose work
stands still can still say so.
"""

import json
import logging
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from vitalseal.errors import UserError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)

# A request is one packet on the loopback; who sends none is a port scanner.
REQUEST_WITHIN_S = 5.0

# What is wrong with each part of a program that is watched, by the part's name; None where nothing is.
Faults = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """Where a program can be watched.

    Attributes:
        listen: HOST:PORT for `/healthz` and `/metrics`, as in "127.0.0.1:9464"; default "", nowhere. Both answer
            whoever reaches them: another address than a loopback one wants a firewall.
    """

    listen: str = ""

    def __post_init__(self) -> None:
        """The address can be one; raises ValueError."""
        if self.listen:
            self.address()

    def address(self) -> tuple[str, int]:
        """Host and port of `listen`; raises ValueError."""
        host, _, port = self.listen.rpartition(":")
        if not (host and port.isascii() and port.isdigit() and int(port) < 65536):
            raise ValueError(f"listen: {self.listen!r} is not HOST:PORT")
        return host.strip("[]"), int(port)


class HealthServer:
    """A context manager: within it both pages are answered; `port` is the one in use, where 0 was asked for.

    Args:
        config: where; if that is nowhere, nothing is done.
        faults: asked at each request, from any thread.
        metrics: answers `/metrics`.

    Raises:
        UserError: the address cannot be listened on.
    """

    def __init__(self, config: HealthConfig, faults: Callable[[], Faults], metrics: "WSGIApplication") -> None:
        self._faults = faults
        self._metrics = metrics
        self._server: _Server | None = None
        self.port = 0
        if not config.listen:
            return
        try:
            self._server = _Server(config.address(), _Handler)
        except OSError as error:
            raise UserError(f"[health] listen = {config.listen!r}: {error.strerror or error}; choose another") from None
        self._server.set_app(self._answer)
        self.port = int(self._server.server_address[1])
        # `shutdown` waits this long at most for the thread to see it.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="health", daemon=True)

    def __enter__(self) -> Self:
        if self._server is not None:
            self._thread.start()
            logger.info("/healthz and /metrics are answered on port %d", self.port)
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def _answer(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return _respond(start_response, "405 Method Not Allowed", {"error": "GET only"})
        if environ["PATH_INFO"] == "/metrics":
            return self._metrics(environ, start_response)
        if environ["PATH_INFO"] != "/healthz":
            return _respond(start_response, "404 Not Found", {"error": "there are /healthz and /metrics"})
        faults = self._faults()
        healthy = not any(faults.values())
        report = {
            "healthy": healthy,
            "states": {name: {"ok": why is None, "why": why} for name, why in faults.items()},
        }
        return _respond(start_response, "200 OK" if healthy else "503 Service Unavailable", report)


def _respond(start_response: "StartResponse", status: str, report: dict[str, Any]) -> list[bytes]:
    start_response(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
    return [json.dumps(report).encode() + b"\n"]


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread for each request, so that one that does not come to its end holds up no other."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 32  # more than these connect at once only in a flood

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """The library's own would look its name up, and wait for a name server that is away."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves or says nothing is not worth a line."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(WSGIRequestHandler):
    """Logs no requests: they come every few seconds for ever."""

    timeout = REQUEST_WITHIN_S

    def log_message(self, *_: Any) -> None:
        pass
