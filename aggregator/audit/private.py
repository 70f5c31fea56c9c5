"""What an aggregator's data directory adds to the public log: payloads, checkpoints as published, names, the view.

None of it is believed: a payload counts as far as it leads to the header on the log.
"""

import json
from contextlib import closing
from pathlib import Path
from typing import Any, Self, TypeAlias

from aggregator.registry import DATABASE as REGISTRY
from aggregator.registry import Registry
from aggregator.view import REFUSED, VIEW, View, read_view
from ledger.entry import Erased, parse_entry
from ledger.writer.prove import Prover
from ledger.writer.reader import LocalReader
from vitalseal.errors import UserError

# A reading by its ref, a batch record by its log index in a tuple.
Point: TypeAlias = int | tuple[int]


class Private:
    """The data directory of an aggregator, read beside it; use as a context manager."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._log = LocalReader(data)
        self._devices: dict[bytes, str] = {}
        if (data / REGISTRY).exists():
            with closing(Registry(data)) as registry:
                self._devices = {key_id: key.device for key_id, key in registry.keys().items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()

    def device(self, key_id: bytes) -> str | None:
        """The name of a key's holder."""
        return self._devices.get(key_id)

    def payload(self, index: int) -> bytes | None:
        """The payload of entry `index`, None if it is not here."""
        return self._log.payload(index)

    def note(self, size: int) -> bytes | None:
        """The checkpoint of `size` as it was published, None if none was."""
        recorded = self._log.first_covering(size - 1)
        return recorded.note if recorded is not None and recorded.size == size else None

    def first_size(self, index: int) -> int | None:
        """The size of the first published checkpoint that covers entry `index`."""
        recorded = self._log.first_covering(index)
        return None if recorded is None else recorded.size

    def erased_since(self, size: int) -> list[Erased]:
        """Erasures that are committed and not among the first `size` entries: their readings are on their way out."""
        entries = map(parse_entry, self._log.entries(size, self._log.size()))
        return [entry for entry in entries if isinstance(entry, Erased)]

    def prover(self, origin: str) -> Prover:
        """Makes proofs of what the log says, from the payloads."""
        return Prover(self._log, origin)

    def returned(self) -> set[int]:
        """The batches whose payloads came back after a restore, projected again by now or not."""
        return {index for _, index in self._log.returned(0, -1)}

    def view(self) -> View | None:
        """What the projection said last of the view, None if nobody has said a thing; raises UserError."""
        view = read_view(self.data) if (self.data / VIEW).exists() else None
        return view if view is not None and type(view.cursor) is int and view.cursor >= 0 else None

    def refused(self) -> dict[Point, str]:
        """What the store would not have, and why; raises UserError."""
        path = self.data / REFUSED
        try:
            points: list[dict[str, Any]] = [json.loads(line) for line in path.read_bytes().splitlines()]
            return {
                (int(point["log_index"]),) if point["ref"] is None else int(point["ref"]): str(point["why"])
                for point in points
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise UserError(f"{path}: cannot be read: {error!r}") from None
