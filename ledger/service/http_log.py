"""A log behind a URL, read over HTTP. Nothing read is trusted; that it ends is what is seen to here.

A server may be broken or hostile: a body has a size that it cannot exceed, decompressed or not, and a time by which it
must be here; retries and redirects are counted; nothing goes from https to http. What cannot be read is a
`FetchError`: one line that says what, where, and what to do.
"""

import http.client
import io
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urljoin, urlsplit

from ledger.fsck import CHECKPOINT_PATH
from ledger.note import MAX_NOTE
from ledger.tiles import ENTRIES, HASH_SIZE, parse_tile_path

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from urllib3 import BaseHTTPResponse, HTTPConnectionPool, PoolManager

MAX_ENTRY = 2 + 65_535  # a length in two bytes, and as much
MAX_REDIRECTS = 3
CHUNK = 64 * 1024
TIMEOUTS_AN_ANSWER = 8  # 120 s: the largest bundle, 16 MB, at 1.1 Mbit/s
CONNECTIONS = 8  # requests at once

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({429, 500, 502, 503, 504})
_PRINTABLE = re.compile(r"[!-~]+")


class FetchError(OSError):
    """The log cannot be read there now; the message is one line."""


class _PassingError(FetchError):
    """What may be gone at the next attempt, which the server wants `wait_s` seconds from now, if it said so."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server is waited for, in seconds: to connect or send on (eight times that for all), between attempts.

    The pause doubles from `backoff_s`, or is what the server asks for, and is never longer than `max_pause_s`.
    """

    timeout_s: float = 15.0
    attempts: int = 5
    backoff_s: float = 0.5
    max_pause_s: float = 30.0


def open_url(url: str, patience: Patience = Patience()) -> "HttpLog":
    """The log behind `url`, not asked for anything yet; raises FetchError if the URL or the installation cannot do."""
    try:
        import urllib3
    except ModuleNotFoundError:
        raise FetchError(
            f"{url}: a log behind a URL needs urllib3: in vitalseal's clone, type  pip install '.[witness]'"
        ) from None
    if not _is_log_url(url):
        raise FetchError(f"{url[:200]!r}: is not the URL of a log, http(s)://HOST[:PORT][/PATH]")
    timeout = urllib3.Timeout(connect=patience.timeout_s, read=patience.timeout_s)
    pool = urllib3.PoolManager(
        maxsize=CONNECTIONS, block=True, retries=False, timeout=timeout, cert_reqs="CERT_REQUIRED"
    )
    pool.pool_classes_by_scheme = _pools()
    return HttpLog(url.rstrip("/") + "/", patience, pool)


class _InTime(io.RawIOBase):
    """What comes from a socket up to a deadline; the socket's own timeout begins anew with every byte."""

    def __init__(self, raw: io.RawIOBase, deadline_s: float) -> None:
        self._raw = raw
        self._deadline_s = deadline_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int | None:
        if time.monotonic() > self._deadline_s:
            raise TimeoutError
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _AnswerInTime(http.client.HTTPResponse):
    """An answer of which everything, however many heads say 100 (Continue) first, is here in time."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        deadline_s = time.monotonic() + TIMEOUTS_AN_ANSWER * (sock.gettimeout() or 0.0)
        self.fp = io.BufferedReader(_InTime(self.fp.detach(), deadline_s))


def _pools() -> "dict[str, type[HTTPConnectionPool]]":
    """The library's pools, with answers that are there in time."""
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, connection

    class Plain(connection.HTTPConnection):
        response_class = _AnswerInTime

    class Secure(connection.HTTPSConnection):
        response_class = _AnswerInTime

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


class HttpLog:
    """A `Fetch` over HTTP, for several threads, its connections kept alive until `close`."""

    def __init__(self, url: str, patience: Patience, pool: "PoolManager") -> None:
        self.url = url
        self._patience = patience
        self._pool = pool
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Connections are gone; whoever still waits for an answer in another thread gets a FetchError soon."""
        self._closed.set()
        self._pool.clear()

    def __call__(self, path: str) -> bytes | None:
        """The bytes at `path`, `checkpoint` or a tile's, or None if the server has none; raises FetchError."""
        limit = _limit_of(path)
        for attempt in range(self._patience.attempts):
            try:
                return self._follow(self.url + path, limit)
            except _PassingError as error:
                if attempt + 1 == self._patience.attempts:
                    raise FetchError(f"{error}, {attempt + 1} times in a row; try again later") from None
                wanted_s = self._patience.backoff_s * 2**attempt if error.wait_s is None else error.wait_s
            self._pause(min(wanted_s, self._patience.max_pause_s))
        raise AssertionError("the last attempt returns or raises")

    def _pause(self, seconds: float) -> None:
        self._closed.wait(seconds)

    def _follow(self, url: str, limit: int) -> bytes | None:
        """What one attempt finds at `url`, or where it is redirected to."""
        for _ in range(MAX_REDIRECTS + 1):
            with self._request(url) as response:
                if response.status == 200:
                    return _decode(url, response, self._read(url, response, limit), limit)
                if response.status == 404:
                    return None
                if response.status not in _REDIRECTS:
                    raise _refused(url, response)
                url = _target(url, response)
        raise FetchError(f"{url}: is a redirect too many, after {MAX_REDIRECTS}; name the log's own URL")

    @contextmanager
    def _request(self, url: str) -> Iterator["BaseHTTPResponse"]:
        """An answer's head; what goes wrong with its body inside the context is a FetchError as well."""
        from urllib3.exceptions import HTTPError

        if self._closed.is_set():
            raise FetchError(f"{url}: not read any more")
        try:
            response = self._pool.request(
                "GET", url, headers={"Accept-Encoding": "gzip"}, redirect=False, preload_content=False
            )
            try:
                yield response
            finally:
                # Only a connection that was read to its end has gone back already, to be used again.
                response.close()
                response.release_conn()
        except HTTPError as error:
            if error.args and isinstance(error.args[0], ssl.SSLCertVerificationError):
                reason = error.args[0].verify_message
                raise FetchError(
                    f"{url}: certificate not trusted: {reason}; for a private CA set SSL_CERT_FILE to its PEM file"
                ) from None
            raise _PassingError(f"{url}: {_reason(error)}") from None

    def _read(self, url: str, response: "BaseHTTPResponse", limit: int) -> bytes:
        """The body as it was sent, at most `limit` bytes."""
        parts: list[bytes] = []
        left = limit
        while part := response.read1(min(CHUNK, left + 1), decode_content=False):
            parts.append(part)
            left -= len(part)
            if left < 0:
                raise _too_large(url, limit)
            if self._closed.is_set():
                raise FetchError(f"{url}: not read any more")
        return b"".join(parts)


def _is_log_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        named = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return named and bool(_PRINTABLE.fullmatch(url)) and not {"?", "#", "@"} & set(url)


def _limit_of(path: str) -> int:
    """How many bytes can be at `path`, by its format; raises MalformedError if none can."""
    if path == CHECKPOINT_PATH:
        return MAX_NOTE
    tile = parse_tile_path(path)
    return tile.width * (MAX_ENTRY if tile.level == ENTRIES else HASH_SIZE)


def _refused(url: str, response: "BaseHTTPResponse") -> FetchError:
    """What a status that is neither an answer nor a redirect means."""
    message = f"{url}: HTTP status {response.status}"
    if response.status not in _PASSING:
        return FetchError(f"{message}; is this the URL of a log?")
    wanted = response.headers.get("Retry-After", "")
    # Its other form, a date, is left to our own back-off: whose clock is right is not known.
    return _PassingError(message, float(wanted) if re.fullmatch(r"[0-9]{1,6}", wanted) else None)


def _target(url: str, response: "BaseHTTPResponse") -> str:
    """Where the redirect leads; raises FetchError if it leads out of HTTP, or from https to http."""
    location = response.headers.get("Location", "")
    try:
        target = urljoin(url, location)
        scheme = urlsplit(target).scheme
    except ValueError:
        target, scheme = location, ""
    kept = scheme == "https" or (scheme, urlsplit(url).scheme) == ("http", "http")
    if not kept or not _PRINTABLE.fullmatch(target):
        raise FetchError(f"{url}: the redirect to {target[:200]!r} is not followed; name the log's own URL")
    return target


def _decode(url: str, response: "BaseHTTPResponse", body: bytes, limit: int) -> bytes:
    """The body without its content encoding, at most `limit` bytes; decompressed here, where that is bounded."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding == "identity":
        return body
    if encoding != "gzip":
        raise FetchError(f"{url}: content encoding {encoding[:40]!r} was not asked for; is this a log?")
    decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        data = decoder.decompress(body, limit + 1)
    except zlib.error:
        raise _PassingError(f"{url}: damaged gzip encoding") from None
    if len(data) > limit:
        raise _too_large(url, limit)
    if not decoder.eof or decoder.unused_data:
        raise _PassingError(f"{url}: damaged gzip encoding")
    return data


def _too_large(url: str, limit: int) -> FetchError:
    return FetchError(f"{url}: more than the {limit:,} bytes that can be there; is this a log?")


def _reason(error: Exception) -> str:
    """The end of urllib3's message, where what happened stands, behind the objects it happened to."""
    end = str(error).rpartition("): ")[2][:200].rstrip(".")
    return re.sub(r"[^ -~]", "?", end) or type(error).__name__
