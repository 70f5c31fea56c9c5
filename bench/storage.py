"""What checkpoints cost: the notes themselves, and a database that keeps every one of them."""

import os
from collections.abc import Sequence
from pathlib import Path

from bench.samples import ORIGIN
from bench.table import row, section
from ledger.checkpoint import Checkpoint
from ledger.note import ED25519_COSIGNATURE, ED25519_NOTE, ML_DSA_44, NoteSigner
from ledger.writer.create import create_log
from ledger.writer.database import DATABASE
from ledger.writer.local import LocalStorage
from ledger.writer.storage import Recorded

_WITNESSES = 3
_RECORDED = 2000
_YEAR_S = 365.25 * 86_400
_TIME = 1_764_000_000
_INTERVALS_S = (1, 10)


def measure_checkpoints(scratch: Path) -> None:
    """Prints bytes of a checkpoint and of a year of them, by who signs with what."""
    section(f"checkpoints, one by one kept for ever; {_WITNESSES} witnesses")
    log, log_pq = _signer(ORIGIN, ED25519_NOTE), _signer(ORIGIN, ML_DSA_44)
    names = [f"witness-{number}.example" for number in range(_WITNESSES)]
    witnesses = [_signer(name, ED25519_COSIGNATURE) for name in names]
    witnesses_pq = [_signer(name, ML_DSA_44) for name in names]
    _measure(scratch / "classical", "Ed25519 lines", [log, *witnesses])
    _measure(scratch / "log-pq", "    and ML-DSA-44 by the log", [log, log_pq, *witnesses])
    _measure(scratch / "all-pq", "    and by every witness", [log, log_pq, *witnesses, *witnesses_pq])


def _measure(data: Path, who: str, signers: Sequence[NoteSigner]) -> None:
    note = Checkpoint(ORIGIN, 1_000_000, os.urandom(32)).sign(*signers, time=_TIME).encode()
    row(f"{who}: the note", len(note), "bytes")
    kept = _kept(data, note)
    row("        in the database", kept, "bytes")
    for interval_s in _INTERVALS_S:
        row(f"        a year, one every {interval_s} s", kept * _YEAR_S / interval_s / 1e9, "GB")


def _signer(name: str, type_: int) -> NoteSigner:
    return NoteSigner(name, os.urandom(32), type_)


def _kept(data: Path, note: bytes) -> float:
    """By how many bytes one more checkpoint with `note` makes the database longer."""
    create_log(data, ORIGIN)
    before = (data / DATABASE).stat().st_size
    root = os.urandom(32)
    with LocalStorage(data) as storage:
        for size in range(1, _RECORDED + 1):
            recorded = Recorded(1_000_000 + size, root, note, _TIME * 10**9)
            storage.record(recorded, "")
            storage.publish(recorded)
    return ((data / DATABASE).stat().st_size - before) / _RECORDED
