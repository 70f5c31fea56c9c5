"""The one-time token that enrols a gateway, as `vitalseal aggregator token` prints it.

    vst1.<base64url, without padding, of canonical msgpack [1, host, port, fingerprint, device, secret]>

It names the desk and pins its CA (by SHA-256 of the certificate), so that nothing else about the aggregator has to be
believed. Whoever holds it first gets in as the device: it is a secret until it is used up.
"""

import hashlib
import re
from dataclasses import dataclass

from ledger import canonical
from ledger.errors import MalformedError
from ledger.strict import decode_base64
from vitalseal.errors import UserError
from vitalseal.topics import check_device

PREFIX = "vst1."
MAX_TOKEN = 1024
SECRET_SIZE = 16
MAX_HOST = 255

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Token:
    """Where the desk is, the SHA-256 of its CA's certificate (DER), and the secret that lets `device` in once."""

    host: str
    port: int
    ca_sha256: bytes
    device: str
    secret: bytes

    def check_ca(self, der: bytes) -> None:
        """`der` is the CA's certificate that the token means; raises UserError."""
        found = hashlib.sha256(der).digest()
        if found != self.ca_sha256:
            raise UserError(
                f"NOT THE RIGHT DESK: {self.host}:{self.port} shows a CA with fingerprint {found.hex()[:16]}..., where"
                f" the token names {self.ca_sha256.hex()[:16]}...; somebody may be in between, and nothing was sent"
            )


def parse_token(text: str) -> Token:
    """The token that `text` spells; raises UserError, which never quotes it."""
    text = text.strip()
    body = text.removeprefix(PREFIX)
    if body == text or len(text) > MAX_TOKEN or not _BASE64URL.fullmatch(body):
        raise UserError(f"token: not one; it begins with {PREFIX} and comes from `vitalseal aggregator token`")
    padded = body.replace("-", "+").replace("_", "/") + "=" * (-len(body) % 4)
    try:
        match canonical.decode(decode_base64(padded, "token"), "token"):
            case (1, host, port, ca_sha256, device, secret):
                return Token(
                    canonical.text(host, "token: host", MAX_HOST),
                    canonical.integer(port, "token: port", 1, 65535),
                    canonical.binary(ca_sha256, "token: fingerprint", 32),
                    check_device(canonical.text(device, "token: device", 64)),
                    canonical.binary(secret, "token: secret", SECRET_SIZE),
                )
            case _:
                raise UserError("token: made for another version of vitalseal")
    except MalformedError:
        raise UserError("token: damaged; was it copied whole?") from None
