"""The desk's counter: HTTPS with JSON, in a process of its own beside the aggregator (`side_process`).

    GET  /v1/ca        the CA's certificate: the one thing that is fetched before the server can be believed
    GET  /v1/log       the log's name, the registrar's key, the policy, the broker
    POST /v1/enrol     a token's secret, a key and its signature -> a certificate, when the key is on the log
    POST /v1/renew     with a certificate -> another one
    POST /v1/rotate    with a certificate -> the index of the rotation

Bodies and answers are JSON; an error is `{"error": "one line"}`. Which status means what is in docs/adr/0013.
"""

import asyncio
import ipaddress
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from cryptography import x509
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from aggregator.desk import Desk, RefusedError
from ledger.service.http import CLIENT_CERTIFICATE
from ledger.writer.storage import StorageError
from vitalseal.errors import UserError
from vitalseal.topics import check_device

logger = logging.getLogger(__name__)

MAX_BODY = 64 * 1024
BODY_WITHIN_S = 10.0
# A person mistypes a token a few times; a gateway that was refused has to ask a person.
TRIES = 10
TRIES_WITHIN_S = 60.0
MAX_REMEMBERED = 4096  # beyond, the one that tried longest ago is forgotten

# The serial number of the certificate that the client showed, if it did, and the body.
Ask = Callable[[int | None, Any], dict[str, Any]]


class Tries:
    """Who was refused how often of late."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._refused: dict[str, tuple[int, float]] = {}  # oldest first: how often, and when last

    def too_many(self, who: str) -> bool:
        """Who asks has to wait."""
        with self._lock:
            count, last = self._refused.get(who, (0, 0.0))
            return count >= TRIES and self._monotonic() - last < TRIES_WITHIN_S

    def refused(self, who: str) -> None:
        """Who asked was refused once more."""
        with self._lock:
            now = self._monotonic()
            count, last = self._refused.pop(who, (0, now))
            self._refused[who] = (1 if now - last >= TRIES_WITHIN_S else count + 1, now)
            if len(self._refused) > MAX_REMEMBERED:
                del self._refused[next(iter(self._refused))]


class Counter:
    """The desk as an ASGI application, `app`."""

    def __init__(self, desk: Desk, ca_pem: bytes, log: dict[str, Any]) -> None:
        """`log` is what `/v1/log` answers."""
        self._desk = desk
        self._ca_pem = ca_pem
        self._log = log
        self._tries = Tries()
        self.app = Starlette(
            routes=[
                Route("/v1/ca", self._ca),
                Route("/v1/log", self._about),
                Route("/v1/enrol", self._post(lambda _, body: desk.enrol(body)), methods=["POST"]),
                Route("/v1/renew", self._post(desk.renew), methods=["POST"]),
                Route("/v1/rotate", self._post(desk.rotate), methods=["POST"]),
            ],
            exception_handlers={404: _unknown, 405: _unknown},
        )

    def _ca(self, _: Request) -> Response:
        return Response(self._ca_pem, media_type="application/x-pem-file")

    def _about(self, _: Request) -> Response:
        return JSONResponse(self._log)

    def _post(self, ask: Ask) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            address, serial = request.client.host if request.client else "", _serial(request)
            # Behind one address may be many gateways: of one that has a certificate only its own refusals count.
            who = _site(address) if serial is None else f"{serial:x}"
            if self._tries.too_many(who):
                return _error(429, "too many tries; wait a minute", {"Retry-After": f"{TRIES_WITHIN_S:.0f}"})
            body: Any = None
            try:
                body = await _read(request)
                return JSONResponse(await run_in_threadpool(ask, serial, body))
            except RefusedError as refused:
                if refused.status != 503:
                    self._tries.refused(who)
                logger.warning("%s%s from %s refused: %s", request.url.path, _for(body), address, refused)
                return _error(refused.status, str(refused))
            except (UserError, StorageError, OSError) as error:
                logger.error("%s from %s failed: %s", request.url.path, address, error)  # noqa: TRY400 - says it all
                return _error(503, "the desk cannot do its work now; its log says why")

        return endpoint


async def _read(request: Request) -> Any:
    """The JSON in the body; raises RefusedError."""
    body = b""
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY:
                    raise RefusedError(413, f"the body has more than {MAX_BODY} bytes")
        return json.loads(body)
    except TimeoutError:
        raise RefusedError(400, f"the body did not come within {BODY_WITHIN_S:.0f} s") from None
    except (ValueError, RecursionError, ClientDisconnect):
        raise RefusedError(400, "the body is not JSON") from None


def _serial(request: Request) -> int | None:
    """The serial number of the certificate that the client showed: TLS has verified it against our CA."""
    der = request.scope["state"][CLIENT_CERTIFICATE]
    return None if der is None else x509.load_der_x509_certificate(der).serial_number


def _for(body: Any) -> str:
    """Which device a body is about, if it says so: of a body, in which the secret may stand, no more is repeated."""
    try:
        return f" for {check_device(body['device'])}"
    except (TypeError, KeyError, UserError):
        return ""


async def _unknown(_request: Request, _refusal: Exception) -> Response:
    return _error(404, "there is GET /v1/ca, /v1/log and POST /v1/enrol, /v1/renew, /v1/rotate")


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    # After an error the rest of a body may not have been read.
    return JSONResponse({"error": message}, status, {"Connection": "close", **(headers or {})})


def _site(address: str) -> str:
    """A client's address as far as it is one client's: whoever has one IPv6 address has 2^64 of them."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False))
