"""How this house runs an ASGI app: bound before it starts, quiet, ended by a signal with nothing cut off.

The socket is bound and the certificate read by us, so that what is wrong with them is one line (`ServeError`) and not
uvicorn's log. A server reports its URL when it listens: with port 0, which takes any free port, nobody else knows it.

uvicorn counts a connection that says nothing like one that is at work, and waits for it without end. Here every wait
for a client has an end, and when all connections are taken, the one that has waited longest for its client makes room:
to keep others out, one must open connections faster than they need to send a request, not merely hold some open.
"""

import asyncio
import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

# Beyond these connections, one that waits for its client makes room for the next.
MAX_CONNECTIONS = 512
# With so many, because none waits, a client is told 503. More than MAX_CONNECTIONS, because uvicorn counts a request a
# moment longer than its connection; with those that one turn of the loop accepts, below the usual 1024 open files.
MAX_BUSY = 640
ACCEPTED_A_TURN = 128
# A request's head is in one packet; this is for lost ones. It also limits a TLS handshake.
HEAD_WITHIN_S = 10.0
# For the rest of a request and its answer, and for an answer to be taken: as long as our own client waits for a bundle.
ANSWERED_WITHIN_S = 120.0
# What an app finds in a request's state.
CLIENT_CERTIFICATE = "client_certificate"
# Answers under way get this long to finish after the signal.
STOPPED_WITHIN_S = 5


class ServeError(OSError):
    """This address or certificate cannot be served from; one line."""


class _Protocol(H11Protocol):
    """A connection that ends when its client keeps it waiting; `_deadline` runs from its first moment to its last."""

    _deadline: asyncio.TimerHandle | None = None
    began = 0.0  # by the loop's clock: this connection, its present request, or its wait for the next one

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        # Every request of this connection finds it in its state, in DER; None where the client showed none.
        self.app_state = {**self.app_state, CLIENT_CERTIFICATE: tls and tls.getpeercert(binary_form=True)}
        self._end_within(HEAD_WITHIN_S)
        if len(self.connections) > MAX_CONNECTIONS:
            others = (one for one in self.connections if isinstance(one, _Protocol) and one is not self)
            waiting = [one for one in others if one.waits_for_client()]
            if waiting:
                min(waiting, key=lambda one: one.began).end()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and not self.cycle.response_complete:
            self._end_within(ANSWERED_WITHIN_S)

    def on_response_complete(self) -> None:
        # First, because what follows may begin the next request. Of the answer all is written, not all is sent.
        self._end_within(ANSWERED_WITHIN_S if self.transport.get_write_buffer_size() else HEAD_WITHIN_S)
        super().on_response_complete()

    def waits_for_client(self) -> bool:
        """It is the client's turn: to send a request or the rest of one, or to take the answer."""
        cycle: RequestResponseCycle | None = self.cycle  # None until the first request, whatever uvicorn declares
        return cycle is None or cycle.response_complete or cycle.more_body or self.flow.write_paused

    def end(self) -> None:
        """The connection is closed and counted no more; what was not sent is lost."""
        self.connections.discard(self)
        self.transport.abort()

    def _end_within(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self.began = self.loop.time()
        self._deadline = self.loop.call_at(self.began + seconds, self.end)


class Server(uvicorn.Server):
    """An app bound to its port: connections queue from now on and are answered while `run()` runs.

    `run_until_stopped` returns after `should_exit` was set, from any thread or signal handler, and frees the port.
    """

    def __init__(
        self,
        app: Any,
        host: str,
        port: int,
        *,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        client_ca: Path | None = None,
    ) -> None:
        """Clients may show a certificate of `client_ca`; one that does not verify ends the connection.

        Raises ServeError if the port cannot be bound or the TLS files cannot be used.
        """
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
                ssl_ca_certs=None if client_ca is None else str(client_ca),
                ssl_cert_reqs=ssl.CERT_NONE if client_ca is None else ssl.CERT_OPTIONAL,
                # Only a fault of ours is worth a line; a client's malformed request is not.
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                ws="none",
                http=_Protocol,
                limit_concurrency=MAX_BUSY,
                timeout_graceful_shutdown=STOPPED_WITHIN_S,
            )
        )

    def run_until_stopped(self, ready: Callable[[str], None] = lambda _url: None) -> None:
        """Serves until `should_exit` is set; `ready` gets the base URL once connections are answered."""
        self._ready = ready
        with self._socket:
            asyncio.run(self.serve(sockets=[self._socket]))

    def renew_certificate(self) -> None:
        """Connections from now on get the certificate that is in the file now; raises ServeError."""
        cert, key = self.config.ssl_certfile, self.config.ssl_keyfile
        if cert is not None and key is not None and self.config.ssl is not None:
            _check_tls(Path(cert), Path(key))
            self.config.ssl.load_cert_chain(cert, key)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """The step of uvicorn that ends with the server listening."""
        await super().startup([])  # uvicorn would listen without a limit to the TLS handshake
        loop, config = asyncio.get_running_loop(), self.config

        def connection() -> _Protocol:
            return _Protocol(config, self.server_state, self.lifespan.state)

        handshake_s = None if config.ssl is None else HEAD_WITHIN_S
        for listening in sockets or []:
            server = await loop.create_server(
                connection, sock=listening, ssl=config.ssl, backlog=ACCEPTED_A_TURN, ssl_handshake_timeout=handshake_s
            )
            self.servers.append(server)
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
