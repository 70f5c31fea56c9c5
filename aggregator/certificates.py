"""X.509 as the authority of a log uses it: one CA, certificates of one kind for servers and one for clients, a CRL.

Everything is ECDSA P-256, bytes in PEM, and `now` an argument. What a certificate is for is in it and critical or
checked by TLS (extended key usage), so a device's certificate cannot serve and a server's cannot log in as a device.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vitalseal.errors import UserError

CA_VALID = timedelta(days=20 * 365)  # longer than the gateways last: to replace it, each of them enrols again
SERVER_VALID = timedelta(days=398)  # the most that common TLS clients take
DEVICE_VALID = timedelta(days=90)
CRL_VALID = timedelta(days=30)
# A gateway's clock may be a little slow, and must not find a fresh certificate "not yet valid".
BACKDATED = timedelta(minutes=5)
MAX_CSR = 8 * 1024  # one of P-256 has 400 bytes

Certificate = x509.Certificate
Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Issuer:
    """The CA: its certificate and key."""

    certificate: Certificate
    key: Key


def make_key() -> Key:
    """A fresh key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def make_ca(name: str, now: datetime) -> Issuer:
    """A self-signed CA that may sign certificates of ends only, no further CA."""
    key = make_key()
    usage = _usage("key_cert_sign", "crl_sign")
    builder = _builder(name, key.public_key(), now, CA_VALID).issuer_name(_name(name))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return Issuer(builder.add_extension(usage, critical=True).sign(key, hashes.SHA256()), key)


def issue_server(ca: Issuer, key: ec.EllipticCurvePublicKey, hosts: Sequence[str], now: datetime) -> Certificate:
    """A certificate by which `hosts`, names and addresses, show themselves to clients."""
    names = x509.SubjectAlternativeName([_host(host) for host in hosts])
    builder = _end(ca, "server", key, now, SERVER_VALID).add_extension(names, critical=False)
    return _sign(ca, builder, ExtendedKeyUsageOID.SERVER_AUTH)


def issue_client(ca: Issuer, name: str, key: ec.EllipticCurvePublicKey, now: datetime, valid: timedelta) -> Certificate:
    """A certificate by which `name` logs in."""
    return _sign(ca, _end(ca, name, key, now, valid), ExtendedKeyUsageOID.CLIENT_AUTH)


def make_crl(
    ca: Issuer, revoked: Iterable[tuple[int, datetime]], now: datetime, before: x509.CertificateRevocationList | None
) -> x509.CertificateRevocationList:
    """The list of revoked serial numbers with their times, which takes the place of `before`.

    A broker that reads a new list keeps the old one as well, and OpenSSL believes the one that was made later; of the
    same second it may be either. So each list is at least a second younger than the one before, and none is of the
    future, unless the clock was set back: then the one before is not valid yet, and so out of the way by itself.
    """
    made, number = (now - BACKDATED).replace(microsecond=0), 1
    if before is not None:
        number = before.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number + 1
        if before.last_update_utc <= now:
            made = max(made, before.last_update_utc + timedelta(seconds=1))
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject)
    builder = builder.last_update(made).next_update(now + CRL_VALID).add_extension(x509.CRLNumber(number), False)
    builder = builder.add_extension(_authority(ca), critical=False)
    for serial, at in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(ca.key, hashes.SHA256())


def parse_csr(text: str) -> ec.EllipticCurvePublicKey:
    """The key that a PEM certificate request proves to hold; what else it says counts for nothing; raises UserError."""
    if len(text) > MAX_CSR:
        raise UserError(f"csr: longer than {MAX_CSR} characters")
    try:
        request = x509.load_pem_x509_csr(text.encode("ascii"))
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise UserError("csr: its key is not on the curve P-256")
        if not request.is_signature_valid:
            raise UserError("csr: not signed by its own key")
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        raise UserError("csr: not a certificate request in PEM") from None
    return key


def hosts_of(certificate: Certificate) -> list[str]:
    """The names and addresses that a server's certificate is for."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def pem(certificate: Certificate | x509.CertificateRevocationList) -> bytes:
    """A certificate or list in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: Key) -> bytes:
    """A private key in PEM, not encrypted: the file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def check_host(host: str) -> str:
    """`host` as a name or address that a certificate can be for; raises UserError."""
    try:
        _host(host)
    except ValueError:
        raise UserError(f"--host {host!r}: neither an address nor a name such as log.hospital.example") from None
    return host


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        labels = host.split(".")
        if len(host) > 253 or not all(
            0 < len(label) < 64 and label.isascii() and label.replace("-", "").isalnum() for label in labels
        ):
            raise
        return x509.DNSName(host)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(name: str, key: ec.EllipticCurvePublicKey, now: datetime, valid: timedelta) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(_name(name)).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - BACKDATED).not_valid_after(now + valid)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _end(
    ca: Issuer, name: str, key: ec.EllipticCurvePublicKey, now: datetime, valid: timedelta
) -> x509.CertificateBuilder:
    """A certificate that signs no other, within the life of its CA."""
    left = ca.certificate.not_valid_after_utc - now
    if left <= timedelta(0):
        raise UserError(f"the CA expired at {ca.certificate.not_valid_after_utc}, or the clock is wrong")
    builder = _builder(name, key, now, min(valid, left)).issuer_name(ca.certificate.subject)
    return builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)


def _sign(ca: Issuer, builder: x509.CertificateBuilder, purpose: x509.ObjectIdentifier) -> Certificate:
    builder = builder.add_extension(_usage("digital_signature"), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return builder.add_extension(_authority(ca), critical=False).sign(ca.key, hashes.SHA256())


def _authority(ca: Issuer) -> x509.AuthorityKeyIdentifier:
    own = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _usage(*allowed: str) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: name in allowed for name in names})
