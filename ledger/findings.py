"""What is found on a log: faults, which no honest log has, and notices, which it properly reports; and their words."""

from collections.abc import Iterator
from dataclasses import dataclass

from ledger.batch import Header, NoticeKind
from ledger.entry import BatchEntry, Closing, Erased, parse_entry
from ledger.errors import LedgerError, MalformedError, VerificationError
from ledger.note import parse_vkey


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about entry `index`; `key_id` is the device key that it is about, None if it is about the log.

    `kind` is one word for machines; `fault` tells what the log must not hold from what it properly reports.
    """

    index: int
    kind: str
    message: str
    fault: bool
    key_id: bytes | None = None
    malformed: bool = False

    def error(self) -> LedgerError:
        """The finding as what a checker raises."""
        return (MalformedError if self.malformed else VerificationError)(f"entry {self.index}: {self.message}")


def closing_faults(index: int, entry: Closing) -> Iterator[Finding]:
    """What is wrong with the keys of the successor that entry `index` names."""
    for text in entry.keys:
        try:
            name = parse_vkey(text, "closing: key").name
        except MalformedError as error:
            yield Finding(index, "malformed", str(error), fault=True, malformed=True)
        else:
            if name != entry.successor:
                message = f"closing: a key of {name!a}, not of the successor {entry.successor!a}"
                yield Finding(index, "closed", message, fault=True)


def erasure(index: int, erased: Erased, data: bytes) -> Finding:
    """What entry `index` says of the entry that `data` is; its own form was judged when it was taken in."""
    where = f"entry {erased.log_index}"
    entry = _batch_in(data)
    if entry is None:
        return Finding(index, "erased", f"erases from {where}, which is no batch", fault=True)
    header = Header.decode(entry.header)
    if erased.leaves[-1] > header.count:
        message = f"erases leaf {erased.leaves[-1]} of {where}, which has {header.count} readings"
        return Finding(index, "erased", message, fault=True, key_id=header.key_id)
    readings = len(erased.leaves) - (erased.leaves[0] == 0)
    what = f"{readings} of {header.count} readings" + (" and the batch info" if erased.leaves[0] == 0 else "")
    message = f"key {header.key_id.hex()} epoch {header.epoch} seq {header.seq}: {what} were erased ({where})"
    return Finding(index, "erased", message, fault=False, key_id=header.key_id)


def _batch_in(data: bytes) -> BatchEntry | None:
    try:
        entry = parse_entry(data)
    except MalformedError:
        return None
    return entry if isinstance(entry, BatchEntry) else None


def notice_of(index: int, header: Header) -> Finding:
    """What the header of entry `index` tells of its device: a gap, or an outbox that was lost."""
    notice = header.notice
    where = f"key {header.key_id.hex()} epoch {header.epoch} seq {header.seq}"
    if notice is None or notice.kind != NoticeKind.GAP:
        return Finding(index, "outbox-lost", f"{where}: the device lost its outbox", fault=False, key_id=header.key_id)
    lost = "an unknown number of" if notice.lost is None else notice.lost
    message = f"{where}: the device declares {lost} readings lost (reason {notice.reason})"
    return Finding(index, "gap", message, fault=False, key_id=header.key_id)
