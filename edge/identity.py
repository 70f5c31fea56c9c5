"""The gateway's TLS identity: a P-256 key, the certificate that the aggregator's CA gave it, and how a pair follows.

    tls.key.next     a key that waits for its certificate
    tls.crt          replaced first, by one rename
    tls.key          replaced then, by renaming tls.key.next

After a crash between the two renames the certificate's key is still in `tls.key.next`, where `tls.file_context` looks,
too, and `prepare` finishes the second one. No moment has a certificate without its key.
"""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from edge import files
from edge.config import TlsFiles
from edge.key import OWNER_ONLY, read_secret
from edge.tls import successor
from vitalseal.errors import UserError

HOURS_UP_TO = 48  # what is left of a validity is told in hours below this, else in days


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when a certificate is good, in Unix seconds."""

    begins: float
    ends: float


def prepare(identity: TlsFiles, device: str) -> str:
    """A certificate request (PEM) by the key in `tls.key.next`, which was made unless one waits there already.

    Raises:
        UserError: a file cannot be written, or holds something else.
    """
    waiting = successor(identity.key)
    if waiting.exists() and identity.certificate.exists():
        certificate = _read_certificate(identity.certificate)
        if certificate.public_key() == _read_key(waiting).public_key():
            files.move(waiting, identity.key)
    if not waiting.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        files.write_new(waiting, pem, mode=OWNER_ONLY)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    request = x509.CertificateSigningRequestBuilder(subject).sign(_read_key(waiting), SHA256())
    return request.public_bytes(Encoding.PEM).decode("ascii")


def install(identity: TlsFiles, device: str, ca_pem: str, certificate_pem: str) -> None:
    """`certificate_pem` is the gateway's certificate from here on, and the key that `prepare` made is its key.

    Raises:
        UserError: it is not for this key and this device, or not by this CA; then nothing was changed.
    """
    waiting = successor(identity.key)
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca_pem.encode()))
    except (ValueError, TypeError, InvalidSignature):
        raise UserError("the certificate that the desk sent is not one by its own CA") from None
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [name.value for name in names] != [device] or certificate.public_key() != _read_key(waiting).public_key():
        raise UserError("the certificate that the desk sent is for another device or another key")
    files.replace(identity.certificate, certificate.public_bytes(Encoding.PEM))
    files.move(waiting, identity.key)


def validity(certificate: Path) -> Validity:
    """From when to when the certificate in the file is good; raises UserError."""
    found = _read_certificate(certificate)
    return Validity(found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp())


def ends_in(until: float, now: float) -> str:
    """How long it is from `now` to `until`, for people."""
    day, left_h = dt.datetime.fromtimestamp(until, dt.UTC).date(), abs(until - now) / 3600
    span = f"{left_h // 24:.0f} days" if left_h >= HOURS_UP_TO else f"{left_h:.0f} hours"
    return f"expired on {day}, {span} ago" if until < now else f"ends on {day}, in {span}"


def ca_der(pem: str) -> bytes:
    """The certificate in `pem` as its fingerprint is made of it; raises UserError."""
    try:
        return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
    except ValueError:
        raise UserError("what the desk sent as its CA is not a certificate") from None


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except ValueError:
        raise UserError(f"{path}: not a certificate in PEM") from None


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(read_secret(path, "TLS key").encode(), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"TLS key {path}: not a private key in PEM as `edge enroll` writes it")
    return key
