"""Strict text: exactly one spelling for every value.

Python is lenient where evidence must not be: `int()` takes "+42", "4_2", "042" and full-width digits,
`b64decode(validate=True)` takes "AB==", `splitlines()` splits at U+2028. Two spellings of one value are two
files with one meaning, which is how signatures over text go wrong; so every parser in `ledger/` uses these
helpers, and decoding base64 anywhere else is banned by lint.
"""

import base64
import binascii
import re

from ledger.errors import MalformedError

MAX_UINT64 = 2**64 - 1

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,19}", re.ASCII)
# Control characters, plus, Unicode white space (spelled out: a name must not change with Python's tables), and the
# surrogates that stand for undecodable bytes.
_NOT_IN_NAME = re.compile("[\x00-\x20+\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


def parse_decimal(text: str, what: str, *, limit: int = MAX_UINT64) -> int:
    """The non-negative integer that `text` spells: ASCII digits, no sign, no leading zero, at most `limit`."""
    if not _DECIMAL.fullmatch(text):
        raise MalformedError(f"{what}: {_shown(text)} is not a decimal number")
    value = int(text)
    if value > limit:
        raise MalformedError(f"{what}: {text} is larger than {limit}")
    return value


def encode_base64(data: bytes) -> str:
    """Standard base64 with padding (RFC 4648 section 4)."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: str, what: str) -> bytes:
    """The bytes that `text` spells; refuses anything `encode_base64` would not have written."""
    try:
        data = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)  # noqa: TID251 - this is the place
    except (UnicodeEncodeError, binascii.Error):
        raise MalformedError(f"{what}: {_shown(text)} is not base64") from None
    if encode_base64(data) != text:
        raise MalformedError(f"{what}: {_shown(text)} is not canonical base64")
    return data


def decode_hash(text: str, what: str) -> bytes:
    """The 32 bytes that `text` spells in base64."""
    data = decode_base64(text, what)
    if len(data) != 32:
        raise MalformedError(f"{what}: {len(data)} bytes where a hash has 32")
    return data


def decode_text(data: bytes, what: str, *, limit: int) -> str:
    """UTF-8 without control characters but newline, at most `limit` bytes (signed-note)."""
    if len(data) > limit:
        raise MalformedError(f"{what}: {len(data)} bytes, more than the {limit} allowed")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"{what}: not UTF-8 at byte {error.start}") from None
    if control := _CONTROL.search(text):
        line = text.count("\n", 0, control.start()) + 1
        raise MalformedError(f"{what}: line {line}: control character U+{ord(control[0]):04X}")
    return text


def check_name(name: str, what: str) -> str:
    """`name` as a key name (signed-note): not empty, no white space, no plus sign; raises MalformedError."""
    if not name or _NOT_IN_NAME.search(name):
        raise MalformedError(f"{what}: {_shown(name)} is not a key name")
    return name


def _shown(text: str) -> str:
    """`text` as it can stand in a one-line message."""
    return ascii(text if len(text) <= 40 else text[:40] + "...")
