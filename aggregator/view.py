"""`view.json`: what the projection says of the view, for `aggregator status`, health, metrics and the audit.

It is on the aggregator's own disk, so that the store need not answer. Written by rename whenever something changes and
now and then besides; not synced, because it is about now: the cursor that counts is the store's.

    view.json                what is below
    projection.lock          whoever fills the store has it; there is one at a time
    rebuild.request          somebody wants the view made again from the start (`Request`)
    refused-points.ndjson    points that the store would not have (`aggregator.refused`)
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ledger.reading import format_time
from ledger.writer.files import replace_file
from vitalseal.errors import UserError

FILES = VIEW, LOCK, REQUEST, REFUSED = "view.json", "projection.lock", "rebuild.request", "refused-points.ndjson"
BEAT_EVERY_S = 5.0  # how old the file may get while nothing changes
STALE_AFTER_S = 60.0  # then nobody writes it any more; a store that does not answer holds it up for half of that
BEHIND_S = 600.0  # catching up for longer than this, the view misses what somebody may look for


@dataclass(frozen=True)
class View:
    """One look at the view. Times are Unix seconds.

    Attributes:
        store: what it is in (`ReadingStore.title`).
        cursor: how many log entries are in it.
        readings: how many readings were written since it was begun; after a crash a portion may be missing.
        away_since, why: since when the store cannot be written, and why; None and nothing while it can.
        wont: it is not away: it is there, and will not, until somebody mends something.
        refused: how many points the store would not have.
        level_at: when it last had everything that is published.
        updated_at: when all of this was so.
    """

    store: str = ""
    cursor: int = 0
    readings: int = 0
    away_since: float | None = None
    why: str = ""
    wont: bool = False
    refused: int = 0
    level_at: float = 0.0
    updated_at: float = 0.0


class ViewRecord:
    """What the one who fills the store says of it, going on from what was said before; `show` is told of each word."""

    def __init__(self, data: Path, show: Callable[[View], None] = lambda _view: None) -> None:
        self._data = data
        self._show = show
        self.view = read_view(data)

    def note(self, **changes: Any) -> None:
        """These fields of `view` are so from now on."""
        self.view = replace(self.view, **changes, updated_at=time.time())
        temporary = self._data / f".{VIEW}"
        temporary.write_text(json.dumps(asdict(self.view), indent=1) + "\n", encoding="utf-8")
        temporary.rename(self._data / VIEW)
        self._show(self.view)

    def beat(self) -> None:
        """The file says that somebody is still at it."""
        if not 0 <= time.time() - self.view.updated_at < BEAT_EVERY_S:
            self.note()


def read_view(data: Path) -> View:
    """The last word on the view of the log in `data`; raises UserError.

    An empty one if there is none, or one torn by a power cut: whoever fills the store finds out all of it again.
    """
    path = data / VIEW
    try:
        return View(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, TypeError, ValueError, RecursionError):
        return View()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def view_line(view: View, published: int) -> str:
    """The view in words, of a log of which `published` entries are."""
    text = f"{view.cursor} of {published} entries projected"
    if view.store:
        text += f" into {view.store}"
    if view.away_since is not None:
        text += f"; {'WILL NOT TAKE ANY' if view.wont else 'AWAY'} since {_time(view.away_since)}: {view.why}"
    if view.refused:
        text += f"; {view.refused} points were REFUSED, see {REFUSED}"
    return text


def view_fault(view: View, published: int, now_s: float) -> str | None:
    """Why the view does not show what is published, None if it does or is about to; at `now_s` (Unix seconds)."""
    if view.away_since is not None:
        how = "will not take any" if view.wont else "is away"
        return f"{view.store or 'the store'} {how} since {_time(view.away_since)}: {view.why}"
    if view.cursor >= published:
        return None
    shows = f"it shows {view.cursor} of {published} entries"
    if now_s - view.updated_at > STALE_AFTER_S:
        return f"{shows}, and nobody fills it since {_time(view.updated_at)}"
    if now_s - view.level_at > BEHIND_S:
        return f"{shows}, and had all of them last at {_time(view.level_at)}"
    return None


@dataclass(frozen=True)
class Request:
    """The view is wanted again from the start, up to `size` entries; `begun`: the store has been cleared for it.

    The file stays until the view has `size` entries. Killed before `begun`, the store is cleared once more; after it,
    the store's cursor says where to go on.
    """

    size: int = 0
    begun: bool = False

    def write(self, data: Path) -> None:
        """The request durably stands, whoever is killed."""
        replace_file(data / REQUEST, json.dumps(asdict(self)).encode() + b"\n")


def read_request(data: Path) -> Request | None:
    """The request that stands, None for none. A file of that name with anything else in it asks for it as well."""
    try:
        return Request(**json.loads((data / REQUEST).read_bytes()))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError, RecursionError):
        return Request()


def _time(at_s: float) -> str:
    return format_time(int(at_s) * 10**9)
