"""The desk: signs gateways in, renews their certificates, takes their new keys. It decides; `desk_http` is its counter.

    enrol     a token's secret, and a signature by the key to be enrolled
    renew     a certificate of ours, not revoked, whose key on the log is good
    rotate    the same, and signatures by the old and the new key

It signs as registrar and leaves the event where the running aggregator takes it in (`enrolment`); the answer waits
until the log has it. Every question may be asked again: the answer is the same, and nothing is done twice.
"""

import logging
import re
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from aggregator.authority import Authority
from aggregator.certificates import parse_csr, pem
from aggregator.desk_records import DeskRecords, Issued, TokenRecord
from aggregator.device_keys import DeviceKeys
from aggregator.enrolment import FOLDER, ROTATE_SUFFIX, SUFFIX
from aggregator.upkeep import Upkeep
from ledger.batch import MAX_UINT32, MAX_UINT64
from ledger.errors import LedgerError
from ledger.events import Enrolment, Requested, Rotation, grant
from ledger.keys import Ed25519Signer, check_public_key
from ledger.writer.files import replace_file
from vitalseal.errors import UserError
from vitalseal.topics import check_device

logger = logging.getLogger(__name__)

TAKEN_WITHIN_S = 15.0  # the aggregator looks into its folder every `interval_s`, 1 s by default
LOOK_AGAIN_S = 0.1
# The same question within this time is a lost answer; later, it is a renewal.
SAME_ANSWER = timedelta(hours=1)
# A gateway needs one in sixty days. Who asks for more than this fills our disk.
CERTIFICATES_A_DAY = 24

_HEX = re.compile(r"(?:[0-9a-f]{2}){1,200}", re.ASCII)


class RefusedError(Exception):
    """The desk says no; an HTTP status and one line for whoever asked."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Desk:
    """The desk of the log in `data`; its methods may be called from any thread.

    Raises from all of them: RefusedError; UserError, StorageError, OSError if the disk refuses.
    """

    def __init__(
        self,
        data: Path,
        authority: Authority,
        records: DeskRecords,
        keys: DeviceKeys,
        registrar: Ed25519Signer,
        upkeep: Upkeep,
        now: Callable[[], datetime],
    ) -> None:
        self._folder = data / FOLDER
        self._authority = authority
        self._records = records
        self._keys = keys
        self._registrar = registrar
        self._upkeep = upkeep
        self._now = now
        self._lock = threading.Lock()  # guards all of the above, which are for one thread at a time
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Whoever waits for the log is told to come back."""
        self._stopping.set()

    def keep(self) -> bool:
        """As `Upkeep.follow`."""
        with self._lock:
            return self._upkeep.follow()

    def enrol(self, body: Any) -> dict[str, Any]:
        """A key is signed in for the token's device, and the device gets a certificate."""
        names = ("secret", "device", "algorithm", "public_key", "signature", "csr")
        secret_hex, device, algorithm, public_key, signature, csr = _fields(body, names)
        device, secret, key = _device(device), _bytes(secret_hex, "secret"), _csr(csr)
        asked = Enrolment(
            self._keys.origin,
            *_key(algorithm, public_key, "public_key"),
            self._registrar.public_key,
            _bytes(signature, "signature"),
            b"",
        )
        with self._lock:
            token = self._token(device, secret)
            event = self._grant(asked)
            self._keys.refresh()
            if token.key_id not in (None, event.key_id):
                raise RefusedError(409, "the token was used by another key; ask for another one")
            known = self._keys.states.get(event.key_id)
            if known is None:
                self._check(event)
            elif (holder := self._keys.device(event.key_id)) not in (None, device):
                raise RefusedError(409, f"the key is enrolled for {holder}; make another one")
            elif known.until is not None:
                raise RefusedError(403, "the key has been ended on the log; make another one")
            # From here on the token is this key's; it may ask again until the token expires.
            if not self._records.use_token(token, event.key_id):
                raise RefusedError(409, "the token was used by another key, or replaced; ask for another one")
            if known is None:
                self._leave(f"{device}{SUFFIX}", event.encode())
        index = self._wait(device, event.key_id)
        with self._lock:
            certificate = self._certify(device, event.key_id, key)
            # A device that was revoked and is back is let in by the broker before it is told so.
            self._upkeep.follow()
        return {"certificate": certificate, "key_id": event.key_id.hex(), "index": index}

    def renew(self, serial: int | None, body: Any) -> dict[str, Any]:
        """The device that shows our certificate `serial` gets another one."""
        (csr,) = _fields(body, ("csr",))
        key = _csr(csr)
        with self._lock:
            issued, key_id = self._known(serial)
            return {"certificate": self._certify(issued.device, key_id, key)}

    def rotate(self, serial: int | None, body: Any) -> dict[str, Any]:
        """The device that shows our certificate `serial` seals with another key from a place in its chain on."""
        names = (
            "old_algorithm",
            "old_public_key",
            "until",
            "algorithm",
            "public_key",
            "old_signature",
            "device_signature",
        )
        old_algorithm, old_key, until, algorithm, public_key, old_signature, signature = _fields(body, names)
        asked = Rotation(
            self._keys.origin,
            *_key(old_algorithm, old_key, "old_public_key"),
            _place(until),
            *_key(algorithm, public_key, "public_key"),
            self._registrar.public_key,
            _bytes(signature, "device_signature"),
            _bytes(old_signature, "old_signature"),
            b"",
        )
        with self._lock:
            issued, current = self._known(serial)
            event = self._grant(asked)
            if not (current == event.key_id and self._keys.follows(event.old_key_id, event.key_id)):
                if event.old_key_id != current:
                    raise RefusedError(403, "the old key is not this device's present one")
                self._check(event)
                head = self._keys.head(event.old_key_id)
                if head is not None and event.until <= head:
                    raise RefusedError(409, "the old key's chain is longer already than the rotation says")
                self._leave(f"{issued.device}{ROTATE_SUFFIX}", event.encode())
        return {"index": self._wait(issued.device, event.key_id)}

    def _token(self, device: str, secret: bytes) -> TokenRecord:
        """The token of `device`, if `secret` is its; one answer for all that is wrong, so that nobody learns what."""
        token = self._records.token(device)
        if token is None or not token.matches(secret):
            raise RefusedError(403, "no such token for this device; ask for another one")
        if self._now() >= token.expires_at:
            raise RefusedError(410, "the token has expired; ask for another one")
        return token

    def _grant(self, asked: Requested) -> Requested:
        try:
            return grant(asked, self._registrar)
        except LedgerError as error:
            raise RefusedError(403, str(error)) from None

    def _check(self, event: Enrolment | Rotation) -> None:
        """The aggregator will take `event`: better to say no now than to let somebody wait for nothing."""
        try:
            self._keys.states.check(event)
        except LedgerError as error:
            raise RefusedError(409, str(error)) from None

    def _known(self, serial: int | None) -> tuple[Issued, bytes]:
        """What we issued as `serial`, and the present key of the gateway that shows it; both are good."""
        issued = None if serial is None else self._records.find(serial)
        if issued is None:
            raise RefusedError(403, "show the certificate that this desk issued")
        self._keys.refresh()
        record = self._keys.current(issued.key_id)
        if issued.revoked_at is not None or record is None or record.until is not None:
            raise RefusedError(403, f"{issued.device} is revoked; enrol again with a token")
        return issued, record.key_id

    def _certify(self, device: str, key_id: bytes, key: ec.EllipticCurvePublicKey) -> str:
        """A certificate for `key`; the last one again, if that was just now."""
        now = self._now()
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        certificate = self._records.newest_certificate(device, key_id, spki, now - SAME_ANSWER)
        if certificate is None:
            if self._records.count_since(device, now - timedelta(days=1)) >= CERTIFICATES_A_DAY:
                raise RefusedError(429, f"{CERTIFICATES_A_DAY} certificates in a day are enough; come back tomorrow")
            certificate = self._authority.certify(device, key, now)
            self._records.add_certificate(certificate, device, key_id, now)
            logger.info("certificate for %s, serial %x", device, certificate.serial_number)
        return pem(certificate).decode("ascii")

    def _leave(self, name: str, event: bytes) -> None:
        self._folder.mkdir(exist_ok=True)
        replace_file(self._folder / name, event)

    def _wait(self, device: str, key_id: bytes) -> int:
        """The index of the entry that brought the key on the log as `device`'s, once the aggregator took it in."""
        until = time.monotonic() + TAKEN_WITHIN_S
        while True:
            with self._lock:
                self._keys.refresh()
                record = self._keys.states.get(key_id)
                if record is not None and self._keys.device(key_id) == device:
                    return record.enrolled
            if time.monotonic() >= until or self._stopping.wait(LOOK_AGAIN_S):
                raise RefusedError(503, "the aggregator has not taken it in; ask again with the same key")


def _fields(body: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
    if not isinstance(body, dict) or set(body) != set(names):
        raise RefusedError(400, f"the body is not an object with {', '.join(names)}")
    return tuple(body[name] for name in names)


def _device(value: Any) -> str:
    try:
        return check_device(value if isinstance(value, str) else "")
    except UserError:
        raise RefusedError(400, "device: not a device name") from None


def _bytes(value: Any, name: str) -> bytes:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise RefusedError(400, f"{name}: not 1 to 200 bytes in lower-case hex")
    return bytes.fromhex(value)


def _key(algorithm: Any, public_key: Any, name: str) -> tuple[int, bytes]:
    key = _bytes(public_key, name)
    try:
        if type(algorithm) is not int:
            raise RefusedError(400, f"{name}: its algorithm is not a number")
        check_public_key(algorithm, key)
    except LedgerError as error:
        raise RefusedError(400, f"{name}: {error}") from None
    return algorithm, key


def _place(value: Any) -> tuple[int, int]:
    match value:
        case [int(epoch), int(seq)] if 0 <= epoch <= MAX_UINT32 and 0 <= seq <= MAX_UINT64:
            return int(epoch), int(seq)
        case _:
            raise RefusedError(400, "until: not a pair of epoch and sequence number")


def _csr(value: Any) -> ec.EllipticCurvePublicKey:
    try:
        return parse_csr(value if isinstance(value, str) else "")
    except UserError as error:
        raise RefusedError(400, str(error)) from None
