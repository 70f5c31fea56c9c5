"""Receipts: the only thing that lets this agent forget, so each is checked here before the outbox hears of it.

    1  the checkpoint is signed by the pinned log, is of our origin, satisfies our policy with its quorum
    2  it extends the largest checkpoint that we have verified
    3  each batch named is the entry at its index: our header, our signature, hashed, included
    4  one transaction: the batches are receipted, the checkpoint is our largest

A message that readings were erased is checked in the same way, with the entry that says so in the place of ours, and
deletes only what has a receipt for the very index that the entry names.

A log that shows us two roots for one size is keeping two histories. Both signed checkpoints go into an evidence
file: together they convict the log (and a quorum of witnesses) before anyone, without us.
"""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from edge import files
from edge.database import MAX_SQLITE
from edge.outbox import Outbox
from edge.window import Place
from ledger.batch import Anchor
from ledger.checkpoint import Checkpoint
from ledger.errors import LedgerError, VerificationError
from ledger.messages import ErasedNotice, Receipt
from ledger.note import parse_note
from ledger.policy import Policy, verify_checkpoint
from ledger.receipt import SplitViewError, StaleReceiptError, verify_erased, verify_placed, verify_receipt

# A log that goes on signing other roots convicts itself no further, and must not fill the disk.
MAX_EVIDENCE = 100

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a receipt, or of a message that something was erased.

    Attributes:
        receipted: the batches whose receipts were verified and committed.
        erased: the batches that are deleted now.
        stale: nothing was wrong, but the proof starts at another checkpoint than our largest: the aggregator
            has to learn which that is, and answer again.
        fault: why the receipt, or a part of it, was not believed; None if all was well.
    """

    receipted: tuple[Place, ...] = ()
    erased: tuple[Place, ...] = ()
    stale: bool = False
    fault: str | None = None


class ReceiptBook:
    """Verifies receipts for one outbox under one policy. Used from the outbox's thread."""

    def __init__(self, outbox: Outbox, policy: Policy, origin: str, evidence: Path) -> None:
        self._outbox = outbox
        self._policy = policy
        self._origin = origin
        self._evidence = evidence

    def accept(self, receipt: Receipt) -> Outcome:
        """What `receipt` proves is committed; raises UserError only for the outbox's or the disk's sake."""
        last = self._outbox.anchor()
        checkpoint = self._check(receipt, last)
        if isinstance(checkpoint, Outcome):
            return checkpoint
        placed, fault = self._check_placed(receipt, checkpoint)
        self._settle(receipt, checkpoint, last, list(placed.items()))
        return Outcome(tuple(placed), fault=fault)

    def erase(self, notice: ErasedNotice) -> Outcome:
        """What `notice` proves to be erased is deleted; raises UserError only for the outbox's or the disk's sake."""
        last = self._outbox.anchor()
        checkpoint = self._check(notice, last)
        if isinstance(checkpoint, Outcome):
            return checkpoint
        erased, fault = [], None
        for item in notice.batches:
            try:
                verify_erased(item, checkpoint)
                if item.entry.log_index >= item.index:
                    raise VerificationError(f"entry {item.index} speaks of one that is not before it")  # noqa: TRY301 - the same fault
            except VerificationError as error:
                fault = fault or f"erased batch {item.epoch}/{item.seq}: {error}"
            else:
                erased.append(((item.epoch, item.seq), item.entry.log_index))
        self._settle(notice, checkpoint, last, [])
        return Outcome(erased=tuple(self._outbox.erase(erased)), fault=fault)

    def _check(self, message: Receipt | ErasedNotice, last: Anchor | None) -> Checkpoint | Outcome:
        """The checkpoint of `message`, if it is to be believed."""
        try:
            checkpoint = verify_receipt(message, self._policy, self._origin, last)
        except StaleReceiptError:
            return Outcome(stale=True)
        except SplitViewError as error:
            self._keep_split_view(error.checkpoint, message.checkpoint)
            return Outcome(fault=str(error))
        except LedgerError as error:
            return Outcome(fault=str(error))
        if checkpoint.size > MAX_SQLITE:
            # Anybody's log may sign what it likes; no honest one ever gets there.
            return Outcome(fault=f"a checkpoint of size {checkpoint.size} is larger than any log")
        return checkpoint

    def _settle(
        self,
        message: Receipt | ErasedNotice,
        checkpoint: Checkpoint,
        last: Anchor | None,
        placed: list[tuple[Place, int]],
    ) -> None:
        anchor = Anchor(checkpoint.size, checkpoint.root)
        witnessed_s = 0 if anchor == last else self._witnessed_s(message.checkpoint)
        self._outbox.settle(anchor, message.checkpoint, placed, witnessed_s)

    def _check_placed(self, receipt: Receipt, checkpoint: Checkpoint) -> tuple[dict[Place, int], str | None]:
        """Log index of each batch that the receipt proves, and what was wrong with another."""
        placed: dict[Place, int] = {}  # a batch that is named twice is one batch
        fault = None
        for item in receipt.placed:
            # Nothing there: receipted before, or deleted since, so this answers a repeated question. Several there:
            # the device has had several keys, and the proof fits the batch of one of them.
            said = None
            for place, header, signature in self._outbox.unreceipted_at((item.epoch, item.seq)):
                try:
                    verify_placed(item, checkpoint, header, signature)
                except VerificationError as error:
                    said = said or f"batch {item.epoch}/{item.seq}: {error}"
                else:
                    placed[place] = item.index
                    said = None
                    break
            fault = said or fault
        return placed, fault

    def _witnessed_s(self, signed: bytes) -> int:
        """The witnesses' time of a checkpoint that was verified, Unix seconds; 0 where the policy asks for none."""
        return verify_checkpoint(parse_note(signed, "checkpoint"), self._policy).logged_by or 0

    def _keep_split_view(self, shown: Checkpoint, signed: bytes) -> None:
        """Both signed checkpoints are in an evidence file, and the log says so loudly, once for each."""
        ours = self._outbox.checkpoint() or b""
        name = f"split-view-{shown.size}-{hashlib.sha256(shown.root).hexdigest()[:16]}.txt"
        path = self._evidence / name
        files.make_directory(self._evidence)
        if path.exists() or len(list(self._evidence.iterdir())) >= MAX_EVIDENCE:
            return
        text = (
            f"The log {shown.origin} signed two different roots for size {shown.size}.\n"
            "The first checkpoint is the one this device had verified, the second was shown to it later.\n"
        )
        files.write_new(path, text.encode() + b"\n----- first\n" + ours + b"----- second\n" + signed)
        _log.critical(
            "SPLIT VIEW: the log %s shows another root for size %d than before; both signed checkpoints are in %s."
            " Nothing is deleted on its word.",
            shown.origin,
            shown.size,
            path,
        )
