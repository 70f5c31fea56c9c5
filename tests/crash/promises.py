"""What the writer has promised at one moment, and whether a disk after a power loss still keeps it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ledger import merkle
from ledger.checkpoint import parse_checkpoint
from ledger.fsck import CHECKPOINT_PATH, LogReport, fsck
from ledger.note import parse_note
from ledger.policy import parse_policy
from ledger.tiles import TileReader
from tests.crash.disk import Disk
from tests.crash.operations import Mark, Move, Operation
from tests.crash.workload import DATA, POLICY_PATH, PUBLIC_PATH, entry, group, open_log, payload

MORE = 2  # entries appended after each recovery


class BrokenPromiseError(AssertionError):
    """Something that the writer had promised did not hold after a power loss."""


@dataclass(slots=True)
class Promises:
    """A log that is there, `acked` entries in it, `published` in its public tree.

    `seen` has, by size, the root of every checkpoint that anyone may have read: each is a prefix of the log for ever.
    """

    created: bool = False
    acked: int = 0
    published: int = 0
    seen: dict[int, bytes] = field(default_factory=dict)

    def note(self, operation: Operation, disk: Disk) -> None:
        """Adds what `operation`, which `disk` has taken already, promised."""
        match operation:
            case Mark(text):
                what, _, size = text.partition(" ")
                setattr(self, what, int(size) if size else True)
            case Move(_, new) if new == f"{DATA}/{PUBLIC_PATH}/{CHECKPOINT_PATH}":
                checkpoint = parse_checkpoint(parse_note(disk.read(new), new).text)
                _expect(
                    self.seen.setdefault(checkpoint.size, checkpoint.root) == checkpoint.root,
                    f"two checkpoints of size {checkpoint.size}",
                )

    def check(self, data: Path) -> None:
        """Recovers the log in `data`, goes on with it, and finds all promises kept; raises BrokenPromiseError."""
        public = data / PUBLIC_PATH
        if self.published or (public / CHECKPOINT_PATH).exists():
            # A mirror or a web server may read the directory before any writer has been started again.
            size = _whole_truth(data).checkpoint.checkpoint.size
            _expect(size >= self.published, f"published {self.published}, after the power loss only {size}")
        with open_log(data) as (writer, storage):
            recovered = writer.size
            _expect(recovered >= self.acked, f"acknowledged {self.acked} entries, {recovered} are there")
            _expect(list(storage.entries(0, recovered)) == [entry(n) for n in range(recovered)], "other entries")
            payloads = [storage.payload(n) for n in range(recovered)]
            _expect(payloads == [payload(n) for n in range(recovered)], "other payloads")
            _expect(writer.checkpoint.size == recovered, "recovered, but not published")
            self._check_tree(data)
            _expect(writer.append(group(recovered, MORE)) == recovered, "appended elsewhere")
            writer.publish()
        self._check_tree(data)
        with open_log(data) as (writer, _):
            _expect(writer.checkpoint.size == recovered + MORE, "another size when opened again")
        self._check_tree(data)

    def _check_tree(self, data: Path) -> None:
        checkpoint = _whole_truth(data).checkpoint.checkpoint
        reader = TileReader(_fetch(data), checkpoint.size, checkpoint.root)
        for size, root in self.seen.items():
            _expect(size <= checkpoint.size, f"a checkpoint of size {size} was seen, the log has {checkpoint.size}")
            _expect(merkle.root_at(size, reader.hash_at) == root, f"the checkpoint of size {size} is not a prefix")


def _whole_truth(data: Path) -> LogReport:
    public = data / PUBLIC_PATH
    paths = [path.relative_to(public).as_posix() for path in public.rglob("*") if path.is_file()]
    return fsck(_fetch(data), parse_policy((data / POLICY_PATH).read_bytes()), paths=paths)


def _fetch(data: Path) -> Callable[[str], bytes | None]:
    def fetch(path: str) -> bytes | None:
        file = data / PUBLIC_PATH / path
        return file.read_bytes() if file.is_file() else None

    return fetch


def _expect(condition: object, otherwise: str) -> None:
    if not condition:
        raise BrokenPromiseError(otherwise)
