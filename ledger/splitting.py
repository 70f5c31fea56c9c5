"""Receipts and notices that are larger than a message, divided into several under one checkpoint."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from ledger.messages import MAX_MESSAGE, ErasedBatch, ErasedNotice, Placed, Receipt

_Item = TypeVar("_Item", Placed, ErasedBatch)


def split_receipts(
    checkpoint: bytes, old_size: int, consistency: Sequence[bytes], placed: Sequence[Placed]
) -> list[Receipt]:
    """Receipts for all of `placed` under one checkpoint, each within the size of a message."""
    room = _room(checkpoint, consistency)
    portions = _portions(placed, room, lambda item: 32 * len(item.inclusion) + 32) or [()]
    return [Receipt(checkpoint, old_size, tuple(consistency), portion) for portion in portions]


def split_erased(
    checkpoint: bytes, old_size: int, consistency: Sequence[bytes], batches: Sequence[ErasedBatch]
) -> list[ErasedNotice]:
    """Notices of all of `batches` under one checkpoint, each within the size of a message."""
    room = _room(checkpoint, consistency)
    portions = _portions(batches, room, lambda item: 32 * len(item.inclusion) + len(item.entry.encode()) + 48)
    return [ErasedNotice(checkpoint, old_size, tuple(consistency), portion) for portion in portions]


def _room(checkpoint: bytes, consistency: Sequence[bytes]) -> int:
    return MAX_MESSAGE - len(checkpoint) - 32 * len(consistency) - 64


def _portions(items: Sequence[_Item], room: int, size_of: Callable[[_Item], int]) -> list[tuple[_Item, ...]]:
    """`items` in order, in portions each of which takes `room` bytes at most, if one item does."""
    portions: list[list[_Item]] = []
    used = 0
    for item in items:
        size = size_of(item)
        if used + size > room or not portions:
            portions.append([])
            used = 0
        portions[-1].append(item)
        used += size
    return [tuple(portion) for portion in portions]
