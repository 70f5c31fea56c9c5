"""The status page: rendered here for browsers without scripts, kept fresh by server-sent events where there are.

    /             the page            /status.json   the same numbers
    /events       every change        /static/       one style sheet, one script

It listens on the loopback interface and answers to loopback names only, so no web site can read it through the
visitor's browser. Nothing comes from elsewhere and nothing runs inline: the policy below would forbid it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from html import escape
from importlib import resources
from string import Template

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboard.snapshot import TITLES, Snapshot

LOOK_EVERY_S = 0.5
# A comment now and then, so that a vanished browser is noticed although nothing changes.
SPEAK_EVERY_S = 15.0

HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_STATIC = {"status.css": "text/css", "status.js": "text/javascript"}


def make_app(current: Callable[[], Snapshot]) -> Starlette:
    """The application; `current` gives the latest snapshot and may be called at any time."""

    def page(_: Request) -> Response:
        return HTMLResponse(render(current()))

    def status(_: Request) -> Response:
        return JSONResponse(_table(current()))

    def events(_: Request) -> Response:
        return StreamingResponse(_events(current), media_type="text/event-stream")

    def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _STATIC:
            return Response("not here\n", 404, media_type="text/plain")
        return Response(_file(f"static/{name}"), media_type=_STATIC[name])

    return Starlette(
        routes=[
            Route("/", page),
            Route("/status.json", status),
            Route("/events", events),
            Route("/static/{name}", static),
        ],
        middleware=[
            Middleware(_Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"]),
        ],
    )


def render(snapshot: Snapshot) -> str:
    """The page with the snapshot's values in it."""
    numbers = "".join(
        f'<div><dt>{TITLES[name]}</dt><dd id="{name}">{escape(text)}</dd></div>\n'
        for name, text in snapshot.lines().items()
    )
    devices = "".join(
        f'<tr><th scope="row">{escape(device.name)}</th><td>{escape(device.state)}</td>'
        f"<td>{device.accepted:,}</td><td>{device.receipted:,}</td></tr>\n"
        for device in snapshot.devices
    )
    return Template(_file("static/status.html")).substitute(
        numbers=numbers,
        devices=devices,
        origin=escape(snapshot.checkpoint.origin),
        note=escape(snapshot.checkpoint.note),
    )


def _table(snapshot: Snapshot) -> dict[str, object]:
    return {**snapshot.table(), "lines": snapshot.lines()}


async def _events(current: Callable[[], Snapshot]) -> AsyncIterator[str]:
    last, silent_s = None, 0.0
    while True:
        text = json.dumps(_table(current()))
        if text != last:
            last, silent_s = text, 0.0
            yield f"data: {text}\n\n"
        elif silent_s >= SPEAK_EVERY_S:
            silent_s = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(LOOK_EVERY_S)
        silent_s += LOOK_EVERY_S


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


class _Headers:
    """Every answer carries the security headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)
