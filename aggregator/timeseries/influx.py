"""The reading store in InfluxDB 1.8, 2 or 3: written by the v2 write API, read and managed by InfluxQL's /query.

A write is acknowledged or it raises; nothing waits in the background and nothing is tried again here. The cursor's
point goes last, when all before it were acknowledged, so after any end what the cursor counts is in the bucket.

Only one process writes to a bucket at a time (the projection, under its lock): copies are decided from memory.

What is deleted cannot be asked for any more, and is still in the server's files until it compacts them: in 1.x and 2.x
the TSM files and the WAL behind tombstones. An erasure there is complete with the next full compaction, which for a
shard that nobody writes to any more the server does by itself within hours (compact-full-write-cold-duration).
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import groupby
from typing import Self

import urllib3
from influxdb_client import BucketRetentionRules, InfluxDBClient, WritePrecision  # type: ignore[attr-defined]
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException

from aggregator.config import InfluxConfig
from aggregator.timeseries import influxql as ql
from aggregator.timeseries.base import Refused, StoredBatch, StoredReading, checkpoint_size
from aggregator.timeseries.copies import MAX_COPIES, NOBODY, Copies
from aggregator.timeseries.credentials import read_token, trust
from aggregator.timeseries.erasing import Erasure
from aggregator.timeseries.lines import (
    Line,
    Point,
    batch_line,
    checkpoint_line,
    cursor_line,
    make_point,
    point_count,
    point_lines,
)
from aggregator.timeseries.neighbours import occupants, points_of, tops
from aggregator.timeseries.parsing import CutShortError, Found, StatementError, StrangeAnswerError, parse_answer
from aggregator.timeseries.reader import InfluxReader
from aggregator.timeseries.requests import RefusedError, Requests, TooLargeError
from aggregator.timeseries.server import Meanings, MissingError
from ledger.batch import LEAVES_PER_BATCH
from ledger.errors import MalformedError
from vitalseal.errors import UserError

CHUNK_ROWS = 1000  # of an answer in memory at once: 22 MB if each is a waveform
AT_ONCE = 5000  # readings that are made ready together, while others are under way
RETENTION_EVERY_S = 600.0  # how soon it is noticed that somebody has made the bucket forget
CROWDED = f"{MAX_COPIES} readings of its series lie at its time already"
MANAGING_S = 600.0  # a measurement of a hundred million rows is not dropped within the time of a request

_DURATION = re.compile(r"(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?", re.ASCII)

logger = logging.getLogger(__name__)


class Connection:
    """One server over HTTP, by the client library and its pool of connections; every fault is one of `server`'s."""

    def __init__(self, config: InfluxConfig, title: str) -> None:
        self._config = config
        self._meanings = Meanings(config, title)
        self._client = InfluxDBClient(
            config.url,
            read_token(config) or "",  # without one it says nothing of itself
            timeout=round(config.timeout_s * 1000),
            enable_gzip=config.gzip,
            org=config.org,
            ssl_context=trust(config),
            retries=False,  # what failed is whoever asked for it to try again
        )
        self._writing = self._client.write_api(write_options=SYNCHRONOUS)

    def close(self) -> None:
        """No connection is open."""
        self._client.close()  # type: ignore[no-untyped-call]

    def post(self, lines: bytes) -> None:
        """`lines` are acknowledged; raises RefusedError or TooLargeError besides."""
        with self._told(self._meanings.of_write):
            self._writing.write(self._config.bucket, self._config.org, lines, WritePrecision.NS)  # type: ignore[arg-type]

    def post_own(self, line: bytes) -> None:
        """`line`, without which nothing here works, is acknowledged."""
        try:
            self.post(line)
        except (RefusedError, TooLargeError) as error:
            raise self._meanings.wont(f"will not have a point of {line.partition(b' ')[0].decode()}: {error}") from None

    def query(self, text: str, within_s: float = 0, *, timed: bool = True) -> Iterator[Found]:
        """The answers to InfluxQL, as they come; `within_s`: more time than usual, `timed`: see `parse_answer`."""
        form = {"q": text, "db": self._config.bucket, "epoch": "ns", "chunked": "true", "chunk_size": str(CHUNK_ROWS)}
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        with self._told(self._meanings.of_status):
            response = self._client.api_client.call_api(  # type: ignore[no-untyped-call]
                "/query",
                "POST",
                header_params=headers,
                post_params=list(form.items()),
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=round(max(within_s, self._config.timeout_s) * 1000),
            )
            with closing(response):
                yield from parse_answer(response.stream(2**16), timed=timed)

    def manage(self, text: str) -> list[Found]:
        """All answers to InfluxQL that changes something, or that may take long."""
        return list(self.query(text, MANAGING_S))

    def retention_s(self) -> int | None:
        """For how many seconds the bucket keeps its points, 0 for ever; None if the server does not let us know.

        Raises MissingError if there is no bucket.
        """
        if self._config.org:
            with self._told(self._meanings.of_status):
                found = self._client.buckets_api().find_buckets(  # type: ignore[no-untyped-call]
                    name=self._config.bucket, org=self._config.org
                )
            if not found.buckets:
                raise self._meanings.missing()
            return max((int(rule.every_seconds) for rule in found.buckets[0].retention_rules), default=0)
        for found in self.query(f"SHOW RETENTION POLICIES ON {ql.identifier(self._config.bucket)}", timed=False):
            for policy in found.dicts():
                if policy.get("default") is True:
                    return _seconds(policy.get("duration"))
        return None

    def make(self) -> None:
        """The bucket is there, with unlimited retention, if the server lets us make it."""
        if self._config.org:
            with self._told(self._meanings.of_status):
                self._client.buckets_api().create_bucket(
                    bucket_name=self._config.bucket,
                    retention_rules=BucketRetentionRules(every_seconds=0),  # type: ignore[no-untyped-call]
                    org=self._config.org,
                )
        else:
            self.manage(f"CREATE DATABASE {ql.identifier(self._config.bucket)}")

    def wont(self, why: str) -> UserError:
        """It will not do it."""
        return self._meanings.wont(why)

    def finite(self, seconds: int) -> UserError:
        """The bucket forgets."""
        return self._meanings.finite(f"{seconds / 3600:g} hours")

    @contextmanager
    def _told(self, meaning: Callable[..., Exception]) -> Iterator[None]:
        """What the library says becomes one line."""
        try:
            yield
        except ApiException as error:
            if error.status:
                raise meaning(error.status, error.body or "", error.headers or {}) from None
            raise self._unreached(str(error.reason)) from None  # what the library makes of a fault in TLS
        except StatementError as error:
            raise self._meanings.of_statement(str(error)) from None
        except CutShortError:
            raise self._meanings.away("its answer stops in the middle") from None
        except UnicodeDecodeError:
            raise self._meanings.away("answers in no UTF-8; a proxy's page, most likely") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            # A connection that is refused counts among urllib3's timeouts.
            refused = isinstance(error, urllib3.exceptions.NewConnectionError)
            if isinstance(error, TimeoutError | urllib3.exceptions.TimeoutError) and not refused:
                raise self._meanings.away(f"no answer within {self._config.timeout_s:g} s") from None
            raise self._unreached(str(error).rpartition(": ")[2] or type(error).__name__) from None
        except StrangeAnswerError:
            raise self._meanings.wont("does not answer as InfluxDB does; is the url right?") from None

    def _unreached(self, why: str) -> Exception:
        plain = " ".join(why.split())[:200]
        # A certificate does not become good by waiting.
        if "CERTIFICATE_VERIFY_FAILED" in why or "doesn't match" in why:
            return self._meanings.wont(f"its certificate is not believed: {plain}")
        return self._meanings.away(plain)


class InfluxStore(InfluxReader):
    """`ReadingStore` on InfluxDB; use as a context manager. `readonly`: beside a running projection, or for an audit.

    A bucket that is not there is a UserError at the first thing that is asked of it, except of `clear`, which makes it.
    """

    def __init__(self, config: InfluxConfig, *, readonly: bool = False) -> None:
        try:
            # Without a name and password, if somebody wrote them there.
            self._title = f"InfluxDB, {config.bucket} at {urllib3.util.parse_url(config.url).netloc}"
        except urllib3.exceptions.LocationParseError:
            raise UserError("[influx] url: is no URL") from None
        self._server = Connection(config, self._title)
        super().__init__(self._server.query)
        self._requests = Requests(self._server.post)
        self._copies = Copies()
        # When the bucket was seen to keep everything.
        self._retention_at_s = time.monotonic() if readonly else float("-inf")
        try:
            if not readonly:
                self._check_retention(missing_is_fine=True)
        except BaseException:
            self._server.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    @property
    def title(self) -> str:
        """Which bucket, and where."""
        return self._title

    def write(
        self, batches: Sequence[StoredBatch], readings: Sequence[StoredReading], cursor: int | None
    ) -> tuple[Refused, ...]:
        """Batch records, readings and their frames; when all are acknowledged, the cursor.

        Whatever it raises, calling it again with the same makes up for it.
        """
        if time.monotonic() - self._retention_at_s >= RETENTION_EVERY_S:
            self._check_retention()
        self._forget()
        refused: list[Refused] = []
        refused += self._requests.send(self._lines(batches, readings, refused))
        refused += self._not_there(readings, {item.ref for item in refused})
        if cursor is not None:
            self._server.post_own(cursor_line(cursor))
        self._copies.settle()
        return tuple(refused)

    def erase(self, log_index: int, leaves: Sequence[int]) -> None:
        """The rows and frames of these readings are not found any more; see above for the server's files."""
        self._forget()
        try:
            record = self.batch(log_index)
        except MalformedError:
            record = None
        left = Erasure(self._server.manage, log_index, leaves, record).run(self._server.post_own)
        self._forget()
        if left:
            raise self._server.wont(f"still has {left} rows of entry {log_index} that were to be deleted")

    def clear(self) -> None:
        """Our measurements are gone, whatever else is in the bucket stays; the bucket is made if it is not there.

        A server that drops nothing (3.x) may do so if somebody has emptied it by hand.
        """
        self._copies = Copies()
        self._forget()
        self._check_retention(missing_is_fine=True)  # one that cannot be filled again is not emptied
        try:
            for measurement in ql.MEASUREMENTS:
                try:
                    self._server.manage(f"DROP MEASUREMENT {measurement}")
                except MissingError:
                    raise
                except UserError:
                    if self._server.manage(f"{ql.select('*', measurement)} LIMIT 1"):
                        raise
        except MissingError:
            self._server.make()
        self._check_retention()

    def _not_there(self, readings: Sequence[StoredReading], known: set[int | None]) -> Iterator[Refused]:
        """Those of the entries that are doubtful now, and not `known`, that the store does not have all points of."""
        doubtful = self._requests.doubtful
        made = [make_point(stored) for stored in readings if stored.log_index in doubtful]
        points = [point for point in made if isinstance(point, Point) and point.ref not in known]
        for log_index, group in groupby(points, lambda point: point.ref // LEAVES_PER_BATCH):
            those = list(group)
            first_ns, last_ns = min(point.start_ns for point in those), max(point.end_ns for point in those)
            there = points_of(self._server.query, those[0].series.device, log_index, first_ns, last_ns)
            for point in those:
                if there[point.ref] < point_count(point.waveform):
                    yield Refused(log_index, point.ref, doubtful[log_index])

    def _choose(self, points: Sequence[Point]) -> list[int | None]:
        """The copy of each of `points`, None if there is none left for it."""
        if strangers := self._copies.strangers(points):
            self._copies.learn(strangers, tops(self._server.query, strangers))
        behind = self._copies.behind(points)
        there = occupants(self._server.query, behind) if behind else {}
        return [self._copies.take(point, there.get(point.ref, NOBODY)) for point in points]

    def _lines(
        self, batches: Sequence[StoredBatch], readings: Sequence[StoredReading], refused: list[Refused]
    ) -> Iterator[Line]:
        """All lines of a write but the cursor's; what has none goes to `refused`."""
        # Reversed, so that a checkpoint that is refused is told of the first batch that needs it.
        for note, log_index in {batch.checkpoint: batch.log_index for batch in reversed(batches)}.items():
            yield checkpoint_line(checkpoint_size(note), note), (log_index, None)
        for batch in batches:
            record = batch_line(batch, checkpoint_size(batch.checkpoint))
            if isinstance(record, Refused):
                refused.append(record)
            else:
                yield record
        for at in range(0, len(readings), AT_ONCE):
            points = []
            for stored in readings[at : at + AT_ONCE]:
                point = make_point(stored)
                if isinstance(point, Refused):
                    refused.append(point)
                else:
                    points.append(point)
            for point, copy in zip(points, self._choose(points), strict=True):
                if copy is None:
                    refused.append(Refused(point.ref // LEAVES_PER_BATCH, point.ref, CROWDED))
                else:
                    yield from point_lines(point, copy)

    def _check_retention(self, *, missing_is_fine: bool = False) -> None:
        try:
            seconds = self._server.retention_s()
        except MissingError:
            if not missing_is_fine:
                raise
            return
        if seconds:
            raise self._server.finite(seconds)
        if seconds is None and self._retention_at_s < 0:
            logger.warning("%s: cannot be asked how long it keeps readings; make sure that it is for ever", self._title)
        self._retention_at_s = time.monotonic()


def _seconds(duration: object) -> int | None:
    """A duration as InfluxQL prints it, such as 168h0m0s, in seconds; None if it is none."""
    match = _DURATION.fullmatch(str(duration))
    if match is None:
        return None
    hours, minutes, seconds = (int(part or "0") for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds
