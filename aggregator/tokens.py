"""What a new gateway is handed: one line that names the desk, the CA to believe there, and a secret good for once.

    vst1.<base64url of canonical msgpack [1, host, port, SHA-256 of the CA's certificate, device, secret]>

Whoever has it first enrols as that device; so it travels as a password does, and is short-lived. The desk keeps only
its hash.
"""

import base64
import re
import secrets
from dataclasses import dataclass
from datetime import timedelta

from ledger import canonical
from vitalseal.errors import UserError

PREFIX = "vst1."
VERSION = 1
SECRET_SIZE = 16  # 128 bits: not guessed, however often one tries
MAX_VALID = timedelta(days=30)  # one that lies about for longer is asked for again

_SPAN = re.compile(r"([1-9][0-9]{0,5})([mhd])", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class Token:
    """Where the desk is, how to know it, and what to say there."""

    host: str
    port: int
    ca_sha256: bytes
    device: str
    secret: bytes

    def __str__(self) -> str:
        """The line that is handed over."""
        fields = (VERSION, self.host, self.port, self.ca_sha256, self.device, self.secret)
        return PREFIX + base64.urlsafe_b64encode(canonical.encode(fields)).rstrip(b"=").decode("ascii")


def make_secret() -> bytes:
    """A fresh secret."""
    return secrets.token_bytes(SECRET_SIZE)


def parse_span(text: str) -> timedelta:
    """`text` such as 90m, 24h or 7d as a span; raises UserError."""
    match = _SPAN.fullmatch(text)
    span = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else timedelta(0)
    if not timedelta(0) < span <= MAX_VALID:
        raise UserError(f"--valid {text}: not a span such as 90m, 24h or 7d, of at most {MAX_VALID.days} days")
    return span
