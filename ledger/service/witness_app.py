"""The HTTP face of a witness: `POST /add-checkpoint`, `GET /<log id>/checkpoint`, and pages for people and monitors.

Signing and storing happen in threads. A body is read up to its limit and for a limited time, so that who sends
without end, or one byte a minute, holds a connection and little else.
"""

import asyncio
import datetime as dt
import logging
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ledger.add_checkpoint import MAX_BODY
from ledger.service.witness import TEXT, Answer
from ledger.service.witness_service import Witness
from ledger.service.witness_store import WitnessStore, log_id
from ledger.writer.storage import StorageError

# A body of 260 KB comes within this time over 250 kbit/s.
BODY_WITHIN_S = 10.0
# How often it sees, for a watchdog, whether it could still answer.
BEAT_EVERY_S = 1.0

_log = logging.getLogger(__name__)

_METRICS = "text/plain; version=0.0.4; charset=utf-8"
# A copy of an answer is an old answer: whoever watches a witness must see what it says now.
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def make_app(witness: Witness) -> Starlette:
    """The app of `witness`."""
    pages = _Pages(witness)
    app = Starlette(
        routes=[
            Route("/", pages.index),
            Route("/add-checkpoint", pages.add_checkpoint, methods=["POST"]),
            Route("/healthz", pages.health),
            Route("/metrics", pages.metrics),
            Route("/{identity}/checkpoint", pages.checkpoint),
        ],
        exception_handlers={HTTPException: _refuse, StorageError: _failed},
    )
    app.router.redirect_slashes = False
    return app


def beat(store: WitnessStore, alive: Callable[[], None], stop: Callable[[], None]) -> asyncio.Task[None]:
    """In a running loop: `alive` is called while the loop turns and a thread gets an answer from the state on the disk.

    `stop` is called if that cannot be read any more. The task lives as long as somebody holds it.
    """

    async def go_on() -> None:
        try:
            while True:
                await asyncio.to_thread(store.vkeys)
                alive()
                await asyncio.sleep(BEAT_EVERY_S)
        except StorageError as error:
            _log.critical("%s: no cosignature can be given, the witness stops", error)
            stop()

    return asyncio.create_task(go_on(), name="beat")


class _Pages:
    def __init__(self, witness: Witness) -> None:
        self._witness = witness

    async def add_checkpoint(self, request: Request) -> Response:
        """The witness's answer, or 413 and 408 for what it does not read to its end."""
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                body = await _read(request)
        except TimeoutError:
            answer = Answer(408, f"the body did not come within {BODY_WITHIN_S:.0f} s\n")
        except ClientDisconnect:
            answer = Answer(400, "the body has no end\n")
        else:
            if body is None:
                answer = Answer(413, f"a request has at most {MAX_BODY} bytes\n")
            else:
                answer = await run_in_threadpool(self._witness.add_checkpoint, body)
        self._witness.count(answer.status)
        headers = {"Retry-After": str(answer.retry_after_s)} if answer.retry_after_s else {}
        if answer.status in (408, 413):
            headers["Connection"] = "close"  # the rest of the body is not read
        return _respond(answer.body, answer.status, answer.content_type, headers)

    def checkpoint(self, request: Request) -> Response:
        """The checkpoint that was cosigned last, with the log's lines and ours."""
        note = self._witness.store.note(request.path_params["identity"])
        if note is None:
            raise HTTPException(404, "no checkpoint of such a log was cosigned here")
        return _respond(note.decode())

    def index(self, _: Request) -> Response:
        """A few words for whoever opens the witness's URL in a browser."""
        states = self._witness.store.states()
        origins = sorted(self._witness.logs.keys() | states.keys())
        logs = []
        for origin in origins:
            state = states.get(origin)
            told = "nothing cosigned yet" if state is None else f"size {state.size}, cosigned {_time(state.time)}"
            known = "" if origin in self._witness.logs else ", no longer known"
            logs.append(f"  {origin}: {told}{known}\n      {log_id(origin)}/checkpoint")
        keys = [f"  {signer.verifier}" for signer in self._witness.signers]
        lines = [
            f"{self._witness.store.name}: a witness of transparency logs (https://c2sp.org/tlog-witness)",
            "",
            "It cosigns a checkpoint of a log below if it extends the one that it cosigned before.",
            "",
            "keys",
            *keys,
            "",
            "logs",
            *logs,
            "",
        ]
        return _respond("\n".join(lines))

    def health(self, _: Request) -> Response:
        """200 while cosignatures can be given."""
        self._witness.store.vkeys()
        return _respond("ok\n")

    def metrics(self, _: Request) -> Response:
        """Counts since the start and the state of each log, as Prometheus reads them."""
        states = self._witness.store.states()
        families = {
            ("requests_total counter", "Requests that were answered with this HTTP status, since the start."): [
                (f'status="{status}"', count) for status, count in self._witness.counts()
            ],
            ("logs gauge", "Logs that this witness knows now."): [("", len(self._witness.logs))],
            ("log_size gauge", "Entries in the last checkpoint that was cosigned."): [
                (f"origin={_label(origin)}", state.size) for origin, state in states.items()
            ],
            ("log_cosigned_at_seconds gauge", "When that was, in Unix time."): [
                (f"origin={_label(origin)}", state.time) for origin, state in states.items()
            ],
        }
        lines = []
        for (family, told), samples in families.items():
            name = f"vitalseal_witness_{family.partition(' ')[0]}"
            lines += [f"# HELP {name} {told}", f"# TYPE vitalseal_witness_{family}"]
            lines += [f"{name}{{{labels}}} {value}" if labels else f"{name} {value}" for labels, value in samples]
        return _respond("\n".join([*lines, ""]), content_type=_METRICS)


async def _read(request: Request) -> bytes | None:
    """The body, or None as soon as it is known to be too long."""
    length = request.headers.get("Content-Length", "0")
    if len(length) > 9 or int(length) > MAX_BODY:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            return None
    return bytes(body)


def _respond(body: str, status: int = 200, content_type: str = TEXT, headers: dict[str, str] | None = None) -> Response:
    # Not as `media_type`, to which Starlette adds a charset that the type of a 409 must not have.
    return Response(body, status, headers=_HEADERS | {"Content-Type": content_type} | (headers or {}))


def _refuse(_: Request, error: Any) -> Response:
    return _respond(f"{error.detail}\n", error.status_code, headers=dict(error.headers or {}))


def _failed(_: Request, __: Exception) -> Response:
    return _respond("this witness cannot read its state\n", 500)


def _label(text: str) -> str:
    """A label's value, quoted for Prometheus; no origin has a newline."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _time(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
