"""What a demo shows while it runs, on stderr: a live view on a terminal, a line now and then in a pipe."""

import sys
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dashboard.snapshot import TITLES, Snapshot
from vitalseal import log

TELL_EVERY_S = 5.0
# A terminal of 24 lines still shows the numbers; the page shows all devices.
MAX_DEVICE_ROWS = 10


class View(Protocol):
    """Shows snapshots while its context is entered."""

    def __enter__(self) -> Self:
        """Begins."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the last state behind."""
        ...

    def show(self, snapshot: Snapshot) -> None:
        """The snapshot is what a watcher sees now, or soon."""
        ...


def make_view() -> View:
    """The view that suits stderr."""
    return _Terminal() if sys.stderr.isatty() else _Pipe()


class _Pipe:
    """A line when the phase changes, and every few seconds."""

    def __init__(self) -> None:
        self._phase = ""
        self._told_s = 0.0

    def __enter__(self) -> Self:
        log.set_up()
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, snapshot: Snapshot) -> None:
        # "verifying 1,200 of 5,000" is one phase, not hundreds.
        phase = snapshot.phase.rstrip("0123456789,. of")
        if phase == self._phase and snapshot.running_s - self._told_s < TELL_EVERY_S:
            return
        self._phase, self._told_s = phase, snapshot.running_s
        sys.stderr.write(
            f"{snapshot.running_s:4.0f} s  {snapshot.phase}: {snapshot.accepted} readings, "
            f"{snapshot.receipted} receipted, {snapshot.readings_per_s:.0f}/s, log {snapshot.log_size}, "
            f"checkpoint {snapshot.checkpoint.size}\n"
        )
        sys.stderr.flush()


class _Terminal:
    """A table that is drawn again and again."""

    def __init__(self) -> None:
        self._live = Live(console=Console(stderr=True), refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.__enter__()
        # After the view has taken over stderr, so that log lines scroll by above it.
        log.set_up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, snapshot: Snapshot) -> None:
        numbers = Table.grid(padding=(0, 2))
        for name, text in snapshot.lines().items():
            numbers.add_row(Text(TITLES[name], style="dim"), Text(text, style="bold" if name == "phase" else ""))
        devices = Table(box=None, padding=(0, 2), header_style="dim")
        for title in ("device", "state"):
            devices.add_column(title)
        for title in ("accepted", "with receipt"):
            devices.add_column(title, justify="right")
        for device in snapshot.devices[:MAX_DEVICE_ROWS]:
            devices.add_row(device.name, device.state, f"{device.accepted:,}", f"{device.receipted:,}")
        if more := len(snapshot.devices) - MAX_DEVICE_ROWS:
            devices.caption = f"and {more} more" if more > 0 else None
        self._live.update(Group(numbers, Text(), devices))
