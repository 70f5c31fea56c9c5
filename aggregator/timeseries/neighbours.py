"""Who is already where readings are going to lie: what `copies` has to be told, asked for in few statements."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias, TypeVar

from aggregator.timeseries import influxql as ql
from aggregator.timeseries.answers import Found, copy_of, open_seal
from aggregator.timeseries.copies import Held
from aggregator.timeseries.lines import Point, Series

Query: TypeAlias = Callable[[str], Iterable[Found]]
T = TypeVar("T")

# One request asks this much: what comes back for it is small, and its text stays far below any server's limit.
STATEMENTS = 100
# Times nearer to each other than this are asked for as one stretch: a statement costs more than a few rows too many.
GAP_NS = 60 * 10**9


def tops(query: Query, devices: Sequence[str]) -> dict[Series, int]:
    """The greatest time of every series of `devices`, drawn frames included."""
    found: dict[Series, int] = {}
    group = "device, source, kind"
    for some in _portions(devices, STATEMENTS // 2):
        statements = []
        for device in some:
            where = ql.tagged({"device": device})
            statements.append(ql.select("last(seal)", ql.READING, where, group=group))
            statements.append(ql.select("last(ref)", ql.WAVEFORM, where, group=group))
        for piece in query(ql.together(statements)):
            series = Series(piece.tags["device"], piece.tags["source"], piece.tags["kind"])
            found[series] = max(piece.values[0][0], found.get(series, ql.MIN_TIME))
    return found


def occupants(query: Query, points: Sequence[Point]) -> dict[int, list[Held]]:
    """For each of `points`, by its ref, the copies that are taken where it lies, and by whom."""
    held: dict[int, list[Held]] = {point.ref: [] for point in points}
    beginning: dict[Series, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for point in points:
        beginning[point.series][point.start_ns].append(point.ref)
    asked = [
        (series, ql.select("seal", ql.READING, ql.tagged(series._asdict()), ql.between(*stretch)))
        for series, times in beginning.items()
        for stretch in _stretches(sorted(times))
    ]
    for series, piece in _ask(query, asked):
        copy = copy_of(piece.tags)
        for row in piece.dicts():
            opened = open_seal(row["seal"])
            for ref in beginning[series].get(row["time"], ()):
                held[ref].append((copy, opened[0] if opened else None))
    drawn = [
        (
            point,
            ql.select(
                "distinct(ref)",
                ql.WAVEFORM,
                ql.tagged(point.series._asdict()),
                ql.between(point.start_ns, point.end_ns),
                group="copy",
            ),
        )
        for point in points
        if point.waveform is not None
    ]
    for point, piece in _ask(query, drawn):
        held[point.ref] += [(copy_of(piece.tags), row["distinct"]) for row in piece.dicts()]
    return held


def _ask(query: Query, asked: Sequence[tuple[T, str]]) -> Iterator[tuple[T, Found]]:
    """The answers to statements, each with what stood beside its statement."""
    for some in _portions(asked, STATEMENTS):
        for piece in query(ql.together([statement for _, statement in some])):
            yield some[piece.statement][0], piece


def _stretches(times: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Stretches that cover ascending `times`, without what lies in their gaps."""
    first_ns = last_ns = times[0]
    for time_ns in times[1:]:
        if time_ns - last_ns > GAP_NS:
            yield first_ns, last_ns
            first_ns = time_ns
        last_ns = time_ns
    yield first_ns, last_ns


def _portions(items: Sequence[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
