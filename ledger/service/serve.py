"""Serves a log's public directory as C2SP tlog-tiles says, and nothing else that may lie in it.

A path is a file's only if `parse_tile_path` accepts it, so there is nothing to escape with; a symbolic link that leads
out of the directory leads nowhere. Tiles never change, whole or partial, and may be kept for ever; the checkpoint is
asked for again each time, which its ETag makes cheap; what is not there today may be there tomorrow.
"""

import gzip
import hashlib
import re
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ledger.checkpoint import parse_checkpoint
from ledger.errors import MalformedError
from ledger.fsck import CHECKPOINT_PATH
from ledger.note import parse_note
from ledger.tiles import ENTRIES, parse_tile_path

# Public data, which pages of any origin may read and verify; no browser is to guess a type other than the stated one.
EVERYWHERE = {"Access-Control-Allow-Origin": "*", "X-Content-Type-Options": "nosniff"}
ASK_AGAIN = EVERYWHERE | {"Cache-Control": "no-cache"}
KEEP = EVERYWHERE | {"Cache-Control": "public, max-age=31536000, immutable"}

# Header bytes and signatures hardly compress, the names around them do: higher levels gain under 1 %.
GZIP_LEVEL = 1

# An element of Accept-Encoding that names gzip, with no weight or one above 0.
_GZIP = re.compile(r"gzip\s*(?:;\s*q=(?:1(?:\.0*)?|0\.0*[1-9][0-9]*))?", re.ASCII | re.IGNORECASE)


def make_app(public: Path) -> Starlette:
    """The app that serves the log in `public`; its endpoints run in threads, so that a slow disk delays nobody else."""
    return Starlette(
        # One route, because what a pattern captures need not be the whole path: its `$` overlooks a newline at the end.
        routes=[Route("/{path:path}", _Files(public.resolve()).answer)],
        exception_handlers={HTTPException: _refuse},
    )


class _Files:
    def __init__(self, public: Path) -> None:
        self._public = public

    def answer(self, request: Request) -> Response:
        """What is at the request's path; raises HTTPException if nothing is."""
        path = request.scope["path"].removeprefix("/")
        if not path:
            return self._index()
        return self._checkpoint(request) if path == CHECKPOINT_PATH else self._tile(path, request)

    def _index(self) -> Response:
        """A few words for whoever opens the log's URL in a browser."""
        try:
            log = parse_checkpoint(parse_note(self._read(CHECKPOINT_PATH), "checkpoint").text)
        except MalformedError as error:
            raise HTTPException(404, f"no log to be read here: {error}") from None
        return PlainTextResponse(
            f"{log.origin}: {log.size} entries, root {log.root.hex()}\n\n"
            "A transparency log, for programs to read (https://c2sp.org/tlog-tiles):\n\n"
            "  checkpoint                            what the log has signed\n"
            "  tile/<level>/<index>[.p/<width>]      hashes\n"
            "  tile/entries/<index>[.p/<width>]      entries\n\n"
            "Recompute all of it:  vitalseal ledger fsck URL --policy POLICY\n",
            headers=ASK_AGAIN,
        )

    def _checkpoint(self, request: Request) -> Response:
        """The checkpoint as it is now, or that it still is what the client has."""
        data = self._read(CHECKPOINT_PATH)
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")}
        headers = ASK_AGAIN | {"ETag": etag}
        if known & {etag, "*"}:
            return Response(status_code=304, headers=headers)
        return PlainTextResponse(data, headers=headers)

    def _tile(self, path: str, request: Request) -> Response:
        """A tile or bundle; a partial one that made way for the full one is not found, and the client asks for that."""
        try:
            tile = parse_tile_path(path)
        except MalformedError:
            raise HTTPException(404) from None
        data = self._read(path)
        headers = KEEP
        if tile.level == ENTRIES:
            headers = KEEP | {"Vary": "Accept-Encoding"}
            if _accepts_gzip(request):
                headers |= {"Content-Encoding": "gzip"}
                data = gzip.compress(data, GZIP_LEVEL, mtime=0)
        return Response(data, media_type="application/octet-stream", headers=headers)

    def _read(self, path: str) -> bytes:
        """The regular file at `path`, below the directory even if links lead there; else 404."""
        try:
            file = (self._public / path).resolve(strict=True)
            if file.is_relative_to(self._public) and file.is_file():
                return file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            pass  # not there, or removed since: a partial tile makes way
        raise HTTPException(404)


def _accepts_gzip(request: Request) -> bool:
    return any(_GZIP.fullmatch(coding.strip()) for coding in request.headers.get("Accept-Encoding", "").split(","))


def _refuse(_: Request, error: Any) -> Response:
    """A line for an HTTPException, under the headers of any other answer that may change."""
    return PlainTextResponse(f"{error.detail}\n", error.status_code, headers=ASK_AGAIN | dict(error.headers or {}))
