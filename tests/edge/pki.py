"""A CA for tests, that signs what no good one would."""

import datetime as dt
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from edge.config import TlsFiles

HOUR = dt.timedelta(hours=1)


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """A key, its certificate, and the list of what it revoked."""

    def __init__(self, common_name="test CA"):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.revoked = []
        now = dt.datetime.now(dt.UTC)
        self.certificate = (
            x509.CertificateBuilder(name(common_name), name(common_name), self.key.public_key(), 1)
            .not_valid_before(now - 240 * HOUR)
            .not_valid_after(now + 240 * HOUR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.KeyUsage(False, False, False, False, False, True, True, False, False),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def pem(self):
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def fingerprint(self):
        return self.certificate.fingerprint(hashes.SHA256())

    def issue(self, public_key, common_name, *, begins=-HOUR, ends=HOUR, address=None):
        """A certificate from now + `begins` to now + `ends`; with `address` a server's."""
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder(
                self.certificate.subject, name(common_name), public_key, x509.random_serial_number()
            )
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if address is not None:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def crl(self):
        """The list, in PEM."""
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateRevocationListBuilder(self.certificate.subject, now - HOUR, now + HOUR)
        for certificate in self.revoked:
            entry = x509.RevokedCertificateBuilder(certificate.serial_number, now - HOUR).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def write_identity(directory, issuer, common_name, *, believes=None, key=None, **others):
    """The three files of an identity that `issuer` signed, in `directory`; and the certificate."""
    directory.mkdir(parents=True, exist_ok=True)
    key = key or ec.generate_private_key(ec.SECP256R1())
    certificate = issuer.issue(key.public_key(), common_name, **others)
    files = TlsFiles(directory / "ca.crt", directory / "tls.crt", directory / "tls.key")
    files.ca.write_text((believes or issuer).pem)
    files.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    files.key.chmod(0o600)
    return files, certificate


def listener_lines(server, crl=None):
    """Options for a Mosquitto that wants certificates."""
    return (
        f"cafile {server.ca}",
        f"certfile {server.certificate}",
        f"keyfile {server.key}",
        "require_certificate true",
        *([f"crlfile {crl}"] if crl else []),
    )
