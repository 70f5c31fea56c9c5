"""How this house runs an ASGI app: bound before it starts, quiet, ended by a signal with nothing cut off.

The socket is bound and the certificate read by us, so that what is wrong with them is one line (`ServeError`) and not
uvicorn's log. A server reports its URL when it listens: with port 0, which takes any free port, nobody else knows it.
"""

import asyncio
import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

# Beyond these connections a client is told 503; the usual limit of 1024 open files must not be met first.
MAX_CONNECTIONS = 512
# Answers under way get this long to finish after the signal.
STOPPED_WITHIN_S = 5


class ServeError(OSError):
    """This address or certificate cannot be served from; one line."""


class Server(uvicorn.Server):
    """An app bound to its port: connections queue from now on and are answered while `run()` runs.

    `run_until_stopped` returns after `should_exit` was set, from any thread or signal handler, and frees the port.
    """

    def __init__(
        self, app: Any, host: str, port: int, *, tls_cert: Path | None = None, tls_key: Path | None = None
    ) -> None:
        """Raises ServeError if the port cannot be bound or the TLS files cannot be used."""
        _check_tls(tls_cert, tls_key)
        self._socket = _bind(host, port)
        scheme = "http" if tls_cert is None else "https"
        self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{self._socket.getsockname()[1]}/"
        self._ready: Callable[[str], None] = lambda _url: None
        super().__init__(
            uvicorn.Config(
                app,
                ssl_certfile=tls_cert,
                ssl_keyfile=tls_key,
                # Only a fault of ours is worth a line; a client's malformed request is not.
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                ws="none",
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=STOPPED_WITHIN_S,
            )
        )

    def run_until_stopped(self, ready: Callable[[str], None] = lambda _url: None) -> None:
        """Serves until `should_exit` is set; `ready` gets the base URL once connections are answered."""
        self._ready = ready
        with self._socket:
            asyncio.run(self.serve(sockets=[self._socket]))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """The step of uvicorn that ends with the server listening."""
        await super().startup(sockets)
        self._ready(self.url)


def serve(
    app: Any,
    host: str,
    port: int,
    *,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    ready: Callable[[str], None],
) -> None:
    """Serves `app` from the main thread until SIGINT or SIGTERM; `ready` gets the base URL, which ends in `/`.

    Raises ServeError if the port cannot be bound or the TLS files cannot be used.
    """
    server = Server(app, host, port, tls_cert=tls_cert, tls_key=tls_key)

    def stop(_signal: int, _frame: object) -> None:
        server.should_exit = True

    # uvicorn handles both while it runs, and when it has stopped raises what it caught once more, for these.
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run_until_stopped(ready)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bind(host: str, port: int) -> socket.socket:
    """A socket that listens on `host`, an address or a name's first one; port 0 is any free one."""
    if not 0 <= port <= 65_535:
        raise ServeError(f"port {port}: is not between 0 and 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server((str(address[0]), port), family=family)
    except OSError as error:
        raise ServeError(f"{host}:{port}: cannot be served from: {error.strerror or error}; choose another") from None
    # Connections inherit it. asyncio sets it for sockets that it made only, and without it an answer's body waits
    # for the client to acknowledge its head: 40 ms each on a connection that is used again.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _check_tls(cert: Path | None, key: Path | None) -> None:
    """The files are a certificate chain and its key, not encrypted (OpenSSL would ask the terminal)."""
    if cert is None and key is None:
        return
    if cert is None or key is None:
        raise ServeError("TLS needs both a certificate and its key")
    for path in (cert, key):
        try:
            path.read_bytes()
        except OSError as error:
            raise ServeError(f"{path}: {error.strerror or error}") from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        raise ServeError(f"{cert}, {key}: are not a PEM certificate and its unencrypted key: {reason}") from None
