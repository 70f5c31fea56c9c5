"""Canonical msgpack: the subset in which every value has exactly one encoding (FORMAT.md section 2).

Integers in their shortest form, `bin` for bytes, `str` for text, `nil`, and arrays by position. No floats, no
maps, no booleans, no extension types. A decoder re-encodes what it read and compares, so any longer form,
trailing byte or foreign type is refused, whatever the msgpack library makes of it.
"""

import re
import threading
from collections.abc import Sequence
from typing import TypeAlias, cast

import msgpack  # type: ignore[import-untyped]  # the library ships no types

from ledger.errors import MalformedError

# Deep enough for envelope > readings > reading > value with room for one more; a bound, so that no input
# can reach the interpreter's recursion limit.
MAX_DEPTH = 8
# The leaves of the largest batch; a bound on what a hostile input of a few bytes can make us allocate.
MAX_ARRAY = 4096

Value: TypeAlias = int | bytes | str | tuple["Value", ...] | None

# One packer a thread: making one for every value would cost more than the packing.
_local = threading.local()

_PRINTABLE = re.compile(r"[\x20-\x7e]*")

_ATOMS = frozenset({int, bytes, str, type(None)})


def encode(value: Value) -> bytes:
    """The one encoding of `value`."""
    try:
        pack = _local.pack
    except AttributeError:
        pack = _local.pack = msgpack.Packer(use_bin_type=True).pack
    return cast("bytes", pack(value))


def decode(data: bytes, what: str) -> Value:
    """The value that `data` encodes; `what` names it in the error.

    Raises:
        MalformedError: not msgpack, a type outside the subset, too deep, or not the canonical encoding.
    """
    value = unpack(data, what)
    _check_types(value, what, MAX_DEPTH)
    if encode(value) != data:
        raise MalformedError(f"{what}: not the canonical encoding of its value")
    return value


def unpack(data: bytes, what: str) -> Value:
    """The value in `data`, read but not yet believed: the caller checks every type and compares a re-encoding.

    This half of `decode` is for the envelope, which re-encodes its readings one by one anyway.
    """
    try:
        value = msgpack.unpackb(
            data,
            use_list=False,
            raw=False,
            strict_map_key=False,
            max_array_len=MAX_ARRAY,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise MalformedError(f"{what}: not msgpack ({str(error) or type(error).__name__})") from None
    return cast("Value", value)


def array_header(count: int) -> bytes:
    """The bytes before `count` concatenated encodings that make them one array."""
    if count < 16:
        return bytes([0x90 | count])
    if count < 2**16:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")


def array(items: Sequence[bytes]) -> bytes:
    """The encoding of an array whose items are encoded already."""
    return array_header(len(items)) + b"".join(items)


def fields(value: Value, count: int, what: str) -> tuple[Value, ...]:
    """`value` as an array of exactly `count` items."""
    if type(value) is not tuple or len(value) != count:
        raise MalformedError(f"{what}: not an array of {count}")
    return value


def uint(value: Value, what: str, limit: int) -> int:
    """`value` as an integer from 0 to `limit`."""
    return integer(value, what, 0, limit)


def integer(value: Value, what: str, low: int, high: int) -> int:
    """`value` as an integer from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise MalformedError(f"{what}: not an integer from {low} to {high}")
    return value


def binary(value: Value, what: str, shortest: int, longest: int | None = None) -> bytes:
    """`value` as bytes of a length from `shortest` to `longest` (the same when not given)."""
    longest = shortest if longest is None else longest
    if type(value) is not bytes or not shortest <= len(value) <= longest:
        span = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
        raise MalformedError(f"{what}: not a byte string of {span} bytes")
    return value


def text(value: Value, what: str, longest: int) -> str:
    """`value` as printable ASCII of at most `longest` bytes.

    ASCII, because what counts as printable beyond it changes with every version of Unicode, and a proof must mean the
    same in twelve years.
    """
    if type(value) is not str or len(value) > longest or not _PRINTABLE.fullmatch(value):
        raise MalformedError(f"{what}: not printable ASCII of at most {longest} bytes")
    return value


def _check_types(value: object, what: str, depth: int) -> None:
    if type(value) in _ATOMS:
        return
    if type(value) is not tuple:
        raise MalformedError(f"{what}: holds a {type(value).__name__}, which the format does not have")
    if depth == 0:
        raise MalformedError(f"{what}: nested deeper than {MAX_DEPTH}")
    for item in value:
        _check_types(item, what, depth - 1)
