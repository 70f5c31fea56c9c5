"""What an InfluxDB says no with, and what that means to whoever asked: it is away, it will not, or it is this point.

not reached, cut off, too slow, 429, any 5xx (its disk is full)          StoreAwayError
400 or 422 for points                                                    RefusedError, TooLargeError for a 413
points older than its retention; 401, 403, 404, anything else            UserError
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from json import loads

from aggregator.config import InfluxConfig
from aggregator.timeseries.base import StoreAwayError
from aggregator.timeseries.requests import RefusedError, TooLargeError, reason
from vitalseal.errors import UserError

MAX_WAIT_S = 3600.0  # however long a server asks to be left alone

_MISSING = re.compile(r"(database|bucket|organization|retention policy)\b.*\bnot found", re.IGNORECASE)
_FORBIDDEN = re.compile(r"authoriz|authenticat|permission|forbidden|access denied", re.IGNORECASE)
_IMPOSSIBLE = re.compile(r"parsing query|not supported|unsupported|not implemented|not allowed", re.IGNORECASE)
_TOO_OLD = re.compile(r"\bretention p(olicy|eriod)\b", re.IGNORECASE)  # more than one word: no name of a device


class MissingError(UserError):
    """The bucket is not there."""


class Meanings:
    """The server of one configuration, in messages: none has a token in it."""

    def __init__(self, config: InfluxConfig, title: str) -> None:
        self._config = config
        self._title = title

    def away(self, why: str, after_s: float | None = None) -> StoreAwayError:
        """It may do it later."""
        return StoreAwayError(f"{self._title}: {why}", after_s)

    def wont(self, why: str) -> UserError:
        """It will not do it."""
        return UserError(f"{self._title}: {why}")

    def missing(self) -> MissingError:
        """The bucket is not there."""
        bucket, org = self._config.bucket, self._config.org
        how = f"influx bucket create --org {org} --name {bucket} --retention 0" if org else f"CREATE DATABASE {bucket}"
        return MissingError(
            f"{self._title}: there is no such bucket or database; make it ({how}),"
            " or run  vitalseal aggregator rebuild, which does so where the server lets it"
        )

    def finite(self, how_long: str) -> UserError:
        """The bucket forgets."""
        return self.wont(
            f"keeps what it is given for {how_long} only, so readings that arrive late would be dropped; give the"
            " bucket (1.x: the database's default retention policy) unlimited retention"
        )

    def of_status(self, status: int, body: bytes | str, headers: Mapping[str, str]) -> Exception:
        """What an answer that is not 2xx means to a request that holds no points."""
        said = reason(said_by(body) or _phrase(status))
        if status == 429 or status >= 500:
            return self.away(f"answers {status}: {said}", _wait_s(headers))
        if status in (401, 403):
            token = self._config.token_file
            return self.wont(
                f"answers {status}: "
                + (f"check the token in {token} and what it may do" if token else "it wants a token (token_file)")
            )
        if status == 404 and _MISSING.search(said_by(body)):
            return self.missing()
        return self.wont(f"answers {status}: {said}" + ("" if status == 400 else "; is the url right?"))

    def of_write(self, status: int, body: bytes | str, headers: Mapping[str, str]) -> Exception:
        """What an answer that is not 2xx means to points."""
        text = said_by(body)
        if status == 413:
            return TooLargeError()
        if status in (400, 422):
            return self.finite("a limited time") if _TOO_OLD.search(text) else RefusedError(text)
        return self.of_status(status, body, headers)

    def of_statement(self, text: str) -> Exception:
        """What the server's words mean that stand in the place of a statement's result."""
        if _MISSING.search(text):
            return self.missing()
        if _FORBIDDEN.search(text):
            return self.of_status(403, "", {})
        said = reason(text)
        return self.wont(f"says: {said}") if _IMPOSSIBLE.search(text) else self.away(f"says: {said}")


def said_by(body: bytes | str) -> str:
    """The words in an answer's body, whichever version's it is; all of it if it is no JSON, nothing of a page."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    try:
        document = loads(text)
    except ValueError:
        return "" if text.lstrip().startswith("<") else text
    if not isinstance(document, dict):
        return text
    faults = document.get("data")
    if isinstance(faults, list) and faults and isinstance(faults[0], dict) and "error_message" in faults[0]:
        return str(faults[0]["error_message"])  # 3.x, which has the line beside it
    return str(document.get("message") or document.get("error") or text)


def _phrase(status: int) -> str:
    """What HTTP says that a status means."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _wait_s(headers: Mapping[str, str]) -> float | None:
    asked = headers.get("Retry-After", "")
    return min(float(asked), MAX_WAIT_S) if re.fullmatch(r"[0-9]{1,9}", asked, re.ASCII) else None
