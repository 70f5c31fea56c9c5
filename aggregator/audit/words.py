"""How the audit says things: how many of what, and in which of its columns a row is not as it ought to be."""

from aggregator.timeseries.base import Row
from ledger.kinds import BY_NAME
from ledger.reading import format_time

PLACE = ("device", "source", "kind", "time_ns")
_SHOWN = ("value", "quality")


def counted(number: int, one: str, many: str = "") -> str:
    """`number` and what it is of; `many` where that is not `one` with an s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def differing(row: Row, right: Row, names: tuple[str, ...]) -> list[str]:
    """Which of these columns are not as they ought to be."""
    return [name for name in names if getattr(row, name) != getattr(right, name)]


def difference(row: Row, right: Row) -> str:
    """In which of its columns a row is not as it ought to be, which are those of `right`; empty if in none."""
    texts = [_said(name, row, right) for name in differing(row, right, PLACE + _SHOWN)]
    if row.more:
        texts.append(f"it has what no row of ours has: {row.more}")
    return "; ".join(texts)


def _said(name: str, row: Row, right: Row) -> str:
    shown, signed = _text(name, row), _text(name, right)
    if name == "device":
        return f"device: {shown} where the key that signed is that of {signed}"
    if name == "value" and right.value is not None and right.kind in BY_NAME:
        signed = f"{signed} {BY_NAME[right.kind].unit}"
    return f"{name.removesuffix('_ns')}: {shown} where the device's signed reading says {signed}"


def _text(name: str, row: Row) -> str:
    value = getattr(row, name)
    if value is None:
        return "none"
    if name == "time_ns":
        return format_time(value)
    return repr(value).removesuffix(".0")
