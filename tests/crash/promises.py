"""What the writer has promised at one moment, and whether a disk after a power loss still keeps it."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from ledger import merkle
from ledger.checkpoint import Checkpoint, parse_checkpoint
from ledger.fsck import CHECKPOINT_PATH, fsck, read_checkpoint
from ledger.note import parse_note
from ledger.policy import Policy, parse_policy
from ledger.tiles import Fetch, TileReader
from tests.crash.disk import Disk, digest
from tests.crash.operations import Mark, Move, Operation
from tests.crash.workload import DATA, PAYLOAD_EVERY, POLICY_PATH, PUBLIC_PATH, entry, group, open_log, payload

MORE = 2  # entries appended after each recovery

# Sizes, roots and tiles that fsck has found in agreement: most power losses leave a tree that an earlier one left.
_PROVEN: set[tuple[int, bytes, bytes]] = set()


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
            size = _whole_truth(data)[0].size
            _expect(size >= self.published, f"published {self.published}, after the power loss only {size}")
        with open_log(data) as (writer, storage):
            recovered = writer.size
            _expect(recovered >= self.acked, f"acknowledged {self.acked} entries, {recovered} are there")
            _expect(list(storage.entries(0, recovered)) == [entry(n) for n in range(recovered)], "other entries")
            with_payload = range(0, recovered, PAYLOAD_EVERY)
            _expect([storage.payload(n) for n in with_payload] == [payload(n) for n in with_payload], "other payloads")
            _expect(writer.checkpoint.size == recovered, "recovered, but not published")
            self._check_tree(data)
            _expect(writer.append(group(recovered, MORE)) == recovered, "appended elsewhere")
            writer.publish()
        self._check_tree(data)
        before = _files(data)
        with open_log(data) as (writer, _):
            _expect(writer.checkpoint.size == recovered + MORE, "another size when opened again")
        after = _files(data)
        read_checkpoint(after.get, _policy(data))
        # The log may have signed the same checkpoint anew.
        before[CHECKPOINT_PATH] = after[CHECKPOINT_PATH]
        _expect(after == before, "other tiles when opened again")

    def _check_tree(self, data: Path) -> None:
        checkpoint, fetch = _whole_truth(data)
        reader = TileReader(fetch, checkpoint.size, checkpoint.root)
        for size, root in self.seen.items():
            _expect(size <= checkpoint.size, f"a checkpoint of size {size} was seen, the log has {checkpoint.size}")
            _expect(merkle.root_at(size, reader.hash_at) == root, f"the checkpoint of size {size} is not a prefix")


def _whole_truth(data: Path) -> tuple[Checkpoint, Fetch]:
    """The published checkpoint, with which every file agrees, and the way to the files."""
    files = _files(data)
    checkpoint = read_checkpoint(files.get, _policy(data)).checkpoint
    proven = checkpoint.size, checkpoint.root, digest({path: files[path] for path in files if path != CHECKPOINT_PATH})
    if proven not in _PROVEN:
        fsck(files.get, _policy(data), paths=files)
        _PROVEN.add(proven)
    return checkpoint, files.get


def _policy(data: Path) -> Policy:
    return parse_policy((data / POLICY_PATH).read_bytes())


def _files(data: Path) -> dict[str, bytes]:
    public = data / PUBLIC_PATH
    beginning = len(f"{public}/")
    return {
        f"{folder}/{name}"[beginning:]: Path(folder, name).read_bytes()
        for folder, _, names in os.walk(public)
        for name in sorted(names)
    }


def _expect(condition: object, otherwise: str) -> None:
    if not condition:
        raise BrokenPromiseError(otherwise)
