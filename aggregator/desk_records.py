"""`desk.db`: the tokens that were handed out, and every certificate that a device got.

    tokens         device -> hash of its newest token's secret, until when, and by which key it was used up
    certificates   serial number -> device, the signing key it was issued for, until when, and since when revoked

Written by the desk and by `vitalseal aggregator token`; SQLite orders the two. It decides nothing about what is on the
log: without it the desk signs nobody in and the list of revoked certificates is short of some, which the list of
topics makes good.
"""

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import Certificate, load_der_x509_certificate

from aggregator.private_database import PrivateDatabase

DATABASE = "desk.db"

# Serial numbers have up to 160 bits, so they are text; times are Unix seconds.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tokens (
    device TEXT PRIMARY KEY, hash BLOB NOT NULL, expires_s INTEGER NOT NULL, key_id BLOB
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS certificates (
    serial TEXT PRIMARY KEY, device TEXT NOT NULL, key_id BLOB NOT NULL, public_key BLOB NOT NULL,
    issued_s INTEGER NOT NULL, expires_s INTEGER NOT NULL, revoked_s INTEGER, der BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS certificates_by_device ON certificates (device, issued_s);
"""


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """The newest token of a device; `key_id` is the key that used it up, None while none has."""

    device: str
    hash: bytes
    expires_at: datetime
    key_id: bytes | None

    def matches(self, secret: bytes) -> bool:
        """`secret` is the token's, compared in the same time whatever it is."""
        return hmac.compare_digest(hashlib.sha256(secret).digest(), self.hash)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that a device got, for the gateway whose signing key was `key_id` then."""

    serial: int
    device: str
    key_id: bytes
    expires_at: datetime
    revoked_at: datetime | None


class DeskRecords(PrivateDatabase):
    """The desk's database; used by one thread at a time."""

    def __init__(self, data: Path) -> None:
        super().__init__(data / DATABASE, _SCHEMA)

    def add_token(self, device: str, secret: bytes, expires_at: datetime) -> None:
        """From here on this is the one token of `device`; one before it is good no more."""
        row = (device, hashlib.sha256(secret).digest(), int(expires_at.timestamp()))
        with self._told():
            self._db.execute("INSERT OR REPLACE INTO tokens VALUES (?, ?, ?, NULL)", row)

    def token(self, device: str) -> TokenRecord | None:
        """The newest token of `device`."""
        with self._told():
            row = self._db.execute("SELECT * FROM tokens WHERE device = ?", (device,)).fetchone()
        return TokenRecord(row[0], row[1], _time(row[2]), row[3]) if row else None

    def use_token(self, token: TokenRecord, key_id: bytes) -> bool:
        """`token` is used up by the key `key_id`; False if it is by another, or replaced."""
        query = "UPDATE tokens SET key_id = ?1 WHERE device = ?2 AND hash = ?3 AND ifnull(key_id, ?1) = ?1"
        with self._told():
            return self._db.execute(query, (key_id, token.device, token.hash)).rowcount == 1

    def open_tokens(self, now: datetime) -> list[TokenRecord]:
        """The tokens by which somebody may still enrol, by device."""
        query = "SELECT * FROM tokens WHERE expires_s > ? AND key_id IS NULL ORDER BY device"
        with self._told():
            rows = self._db.execute(query, (int(now.timestamp()),)).fetchall()
        return [TokenRecord(row[0], row[1], _time(row[2]), row[3]) for row in rows]

    def withdraw_token(self, device: str) -> bool:
        """The token of `device` signs nobody in any more; whether it had one that nobody had used."""
        with self._told():
            return self._db.execute("DELETE FROM tokens WHERE device = ? AND key_id IS NULL", (device,)).rowcount == 1

    def void_tokens(self) -> None:
        """No token that was handed out signs anybody in any more."""
        with self._told():
            self._db.execute("DELETE FROM tokens")

    def add_certificate(self, certificate: Certificate, device: str, key_id: bytes, now: datetime) -> None:
        """`certificate` was issued to `device`."""
        row = (
            f"{certificate.serial_number:x}",
            device,
            key_id,
            _public_key(certificate),
            int(now.timestamp()),
            int(certificate.not_valid_after_utc.timestamp()),
            certificate.public_bytes(Encoding.DER),
        )
        with self._told():
            self._db.execute("INSERT INTO certificates VALUES (?, ?, ?, ?, ?, ?, NULL, ?)", row)

    def newest_certificate(self, device: str, key_id: bytes, public_key: bytes, since: datetime) -> Certificate | None:
        """The certificate that was issued to exactly these since then, and is not revoked."""
        query = (
            "SELECT der FROM certificates WHERE device = ? AND key_id = ? AND public_key = ? AND issued_s >= ?"
            " AND revoked_s IS NULL ORDER BY issued_s DESC LIMIT 1"
        )
        with self._told():
            row = self._db.execute(query, (device, key_id, public_key, int(since.timestamp()))).fetchone()
        return load_der_x509_certificate(row[0]) if row else None

    def count_since(self, device: str, since: datetime) -> int:
        """How many certificates `device` got since then."""
        query = "SELECT count(*) FROM certificates WHERE device = ? AND issued_s >= ?"
        with self._told():
            return int(self._db.execute(query, (device, int(since.timestamp()))).fetchone()[0])

    def find(self, serial: int) -> Issued | None:
        """The certificate of this serial number, None if the desk never issued it."""
        return next(self._select("serial = ?", f"{serial:x}"), None)

    def valid(self, now: datetime) -> list[Issued]:
        """Every certificate that has not expired."""
        return list(self._select("expires_s > ?", int(now.timestamp())))

    def revoke(self, serial: int, now: datetime) -> None:
        """The certificate is revoked, since now if it was not before."""
        query = "UPDATE certificates SET revoked_s = ? WHERE serial = ? AND revoked_s IS NULL"
        with self._told():
            self._db.execute(query, (int(now.timestamp()), f"{serial:x}"))

    def forget(self, before: datetime) -> None:
        """Certificates that expired before then are no longer kept."""
        with self._told():
            self._db.execute("DELETE FROM certificates WHERE expires_s < ?", (int(before.timestamp()),))

    def _select(self, where: str, *values: object) -> Iterator[Issued]:
        query = f"SELECT serial, device, key_id, expires_s, revoked_s FROM certificates WHERE {where}"  # noqa: S608 - ours
        with self._told():
            rows = self._db.execute(query, values).fetchall()
        for serial, device, key_id, expires_s, revoked_s in rows:
            revoked_at = None if revoked_s is None else _time(revoked_s)
            yield Issued(int(serial, 16), device, key_id, _time(expires_s), revoked_at)


def _public_key(certificate: Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
