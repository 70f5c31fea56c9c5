"""What a device checks before it believes a receipt, or a message that something was erased (FORMAT.md section 9)."""

from ledger.batch import Anchor
from ledger.checkpoint import Checkpoint
from ledger.entry import BatchEntry
from ledger.errors import VerificationError
from ledger.merkle import check_consistency, check_inclusion, hash_leaf
from ledger.messages import ErasedBatch, ErasedNotice, Placed, Receipt
from ledger.note import parse_note
from ledger.policy import Policy, verify_checkpoint


class StaleReceiptError(VerificationError):
    """A receipt that does not start from the device's largest checkpoint: answers crossed on the way."""


class SplitViewError(VerificationError):
    """The log signed two roots for one size; `checkpoint` is the one that was shown now."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(f"the log shows two roots for size {checkpoint.size}: a split view")
        self.checkpoint = checkpoint


def verify_receipt(receipt: Receipt | ErasedNotice, policy: Policy, origin: str, last: Anchor | None) -> Checkpoint:
    """The message's checkpoint: it satisfies `policy` and extends `last`, the device's largest verified one.

    Raises:
        MalformedError: the checkpoint is not a signed checkpoint.
        StaleReceiptError: it is older than `last`, or proves consistency with another size: ask again from `last`.
        SplitViewError: it has another root for the size of `last`.
        VerificationError: another origin, no quorum, or not shown to extend `last`.
    """
    checkpoint = verify_checkpoint(parse_note(receipt.checkpoint, "checkpoint"), policy).checkpoint
    if checkpoint.origin != origin:
        raise VerificationError(f"the receipt is from {checkpoint.origin}, not from {origin}")
    if last is None or (last.size, last.root) == (checkpoint.size, checkpoint.root):
        return checkpoint
    if last.size == checkpoint.size:
        raise SplitViewError(checkpoint)
    if checkpoint.size < last.size:
        raise StaleReceiptError(f"the receipt's checkpoint of size {checkpoint.size} is older than {last.size}")
    if receipt.old_size != last.size:
        raise StaleReceiptError(f"the receipt proves consistency with size {receipt.old_size}, not {last.size}")
    check_consistency(last.size, checkpoint.size, last.root, checkpoint.root, receipt.consistency)
    return checkpoint


def verify_placed(placed: Placed, checkpoint: Checkpoint, header: bytes, signature: bytes) -> None:
    """The batch with `header` and `signature` is the entry that `placed` says; raises VerificationError."""
    leaf = hash_leaf(BatchEntry(header, signature).encode())
    check_inclusion(placed.index, checkpoint.size, leaf, placed.inclusion, checkpoint.root)


def verify_erased(batch: ErasedBatch, checkpoint: Checkpoint) -> None:
    """The log says at `batch.index` that leaves were erased; raises VerificationError.

    Whose batch it is that lies at the log index in the entry, only the device's own receipt tells.
    """
    leaf = hash_leaf(batch.entry.encode())
    check_inclusion(batch.index, checkpoint.size, leaf, batch.inclusion, checkpoint.root)
