"""The authority of one log: the CA that lets devices and broker know each other, and the files it keeps for the broker.

    <data>/keys/ca.key                    0600; online, because the desk signs gateways in with it (docs/adr/0013)
    <data>/broker/ca.crt, server.crt, server.key, crl.pem, acl, mosquitto.conf, state/     what the broker reads
    <data>/broker/aggregator.crt, .key    by which the aggregator itself logs in

Certificates open connections and nothing else: what counts on the log is decided by the keys on the log. Each file is
replaced whole. A renewed certificate is for the same key, so no crash can leave a pair that does not fit.

Who may enter the broker's folder may read what is in it, but for the aggregator's own key: a broker that runs as
another user has its group on the folder (`init --broker-group`), and what is written there later has it too.
"""

import getpass
import grp
import hashlib
import ipaddress
import os
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from aggregator import mosquitto
from aggregator.certificates import (
    DEVICE_VALID,
    SERVER_VALID,
    Certificate,
    Issuer,
    Key,
    hosts_of,
    issue_client,
    issue_server,
    key_pem,
    make_ca,
    make_crl,
    make_key,
    pem,
)
from aggregator.mosquitto import ACL, CA_FILE, CONF, CRL_FILE, SERVER_FILE, SERVER_KEY_FILE, STATE
from aggregator.probe import NAME as PROBE
from aggregator.probe import Probe
from ledger.writer.create import KEYS
from ledger.writer.files import sync_directory
from vitalseal.errors import UserError

FOLDER = "broker"
CA_KEY = f"{KEYS}/ca.key"
AGGREGATOR_FILE, AGGREGATOR_KEY_FILE = "aggregator.crt", "aggregator.key"
LOCAL = ("127.0.0.1", "localhost")
PROBE_VALID = timedelta(days=2)  # a day longer than it is used
CRL_EVERY = timedelta(days=1)  # of the 30 days that it is valid: an aggregator may be away for four weeks


class Authority:
    """The CA of the log in `data`; one thread at a time uses it, in the one process that keeps the broker's files."""

    def __init__(self, data: Path) -> None:
        """Raises UserError if the CA or a file of the broker is missing, or is not what it should be."""
        self._folder = data / FOLDER
        key = _load_key(data / CA_KEY)
        self._ca = Issuer(self._certificate(CA_FILE), key)
        if self._ca.certificate.public_key() != key.public_key():
            raise UserError(f"{data / CA_KEY}: is not the key of {self._folder / CA_FILE}")
        self._server = self._certificate(SERVER_FILE)
        self._aggregator = self._certificate(AGGREGATOR_FILE)
        try:
            self._crl = x509.load_pem_x509_crl(_read(self._folder / CRL_FILE))
        except ValueError:
            raise UserError(f"{self._folder / CRL_FILE}: not a list of revoked certificates in PEM") from None
        self._listed = {entry.serial_number for entry in self._crl}
        self._acl = _read(self._folder / ACL)

    @property
    def ca_pem(self) -> bytes:
        """The CA's certificate, which everybody may have."""
        return pem(self._ca.certificate)

    @property
    def crl_until(self) -> datetime:
        """From then on a broker with the present list of revoked certificates lets nobody in."""
        return self._crl.next_update_utc or self._crl.last_update_utc  # a list of ours always has both

    @property
    def server_until(self) -> datetime:
        """Until then clients believe the broker and the desk."""
        return self._server.not_valid_after_utc

    def certify(self, device: str, key: ec.EllipticCurvePublicKey, now: datetime) -> Certificate:
        """A certificate by which `device` logs in to broker and desk."""
        return issue_client(self._ca, device, key, now, DEVICE_VALID)

    def probe(self, now: datetime) -> Probe:
        """A certificate to be revoked at once."""
        key = make_key()
        certificate = issue_client(self._ca, PROBE, key.public_key(), now, PROBE_VALID)
        return Probe(certificate.serial_number, pem(certificate) + key_pem(key), now)

    def keep_lists(self, devices: Iterable[str], serials: Iterable[tuple[int, datetime]], now: datetime) -> bool:
        """The lists deny `devices` every topic and the certificates `serials` entry; whether either had to change."""
        acl, revoked = mosquitto.format_acl(devices).encode(), list(serials)
        # The topics first: they bind the connections that stand, too.
        if changed := acl != self._acl:
            _put(self._folder / ACL, acl)
            self._acl = acl
        wanted = {serial for serial, _ in revoked}
        made = self._crl.last_update_utc
        if not wanted <= self._listed or not made <= now < made + CRL_EVERY:
            crl = make_crl(self._ca, revoked, now, self._crl)
            _put(self._folder / CRL_FILE, pem(crl))
            self._crl, self._listed, changed = crl, wanted, True
        return changed

    def keep_certificates(self, now: datetime) -> bool:
        """Server and aggregator have certificates in the first two thirds of their life; whether one was renewed."""
        server, own = _is_due(self._server, now), _is_due(self._aggregator, now)
        if server:
            key = _public_key(self._server)
            self._server = issue_server(self._ca, key, hosts_of(self._server), now)
            _put(self._folder / SERVER_FILE, pem(self._server))
        if own:
            key = _public_key(self._aggregator)
            self._aggregator = issue_client(self._ca, mosquitto.AGGREGATOR, key, now, SERVER_VALID)
            _put(self._folder / AGGREGATOR_FILE, pem(self._aggregator))
        return server or own

    def _certificate(self, name: str) -> Certificate:
        path = self._folder / name
        try:
            return x509.load_pem_x509_certificate(_read(path))
        except ValueError:
            raise UserError(f"{path}: not a certificate in PEM") from None


def create_authority(
    data: Path, origin: str, hosts: Sequence[str], port: int, now: datetime, *, group: str | None = None
) -> None:
    """Makes the CA of the new log in `data`, and all that a broker at `hosts` needs, which listens on `port`.

    Without `hosts`, or with loopback ones only, the broker is for this machine alone. `group` is that of a broker that
    runs as another user.

    Raises:
        UserError: there is no such group, or we may not give files to it.
        OSError: the disk refuses.
    """
    folder = data / FOLDER
    folder.mkdir(mode=0o700)
    (folder / STATE).mkdir(mode=0o700)
    if group is not None:
        _give_to(group, folder)
    # Two logs' CAs on one machine are told apart by name; a common name has room for 64 characters.
    ca = make_ca(f"Vitalseal CA {hashlib.sha256(origin.encode()).hexdigest()[:12]}", now)
    server, own = make_key(), make_key()
    _put(data / CA_KEY, key_pem(ca.key), private=True)
    names = [*dict.fromkeys((*hosts, *LOCAL))]
    user = getpass.getuser() if group is None else None
    listen = LOCAL[0] if all(map(is_local, hosts)) else None
    for name, content in {
        CA_FILE: pem(ca.certificate),
        SERVER_KEY_FILE: key_pem(server),
        SERVER_FILE: pem(issue_server(ca, server.public_key(), names, now)),
        CRL_FILE: pem(make_crl(ca, (), now, None)),
        ACL: mosquitto.format_acl(()).encode(),
        CONF: mosquitto.format_conf(folder.resolve(), listen, port, user).encode(),
        AGGREGATOR_FILE: pem(issue_client(ca, mosquitto.AGGREGATOR, own.public_key(), now, SERVER_VALID)),
    }.items():
        _put(folder / name, content)
    _put(folder / AGGREGATOR_KEY_FILE, key_pem(own), private=True)


def is_local(host: str) -> bool:
    """Whether `host` is this machine's own name for itself, which nobody else can reach it by."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOCAL


def _give_to(group: str, folder: Path) -> None:
    """Members of `group` may read what is in `folder`, now and later, and write in its `state`."""
    for path, mode in ((folder, 0o2750), (folder / STATE, 0o2770)):
        os.chown(path, -1, group_id(group))
        path.chmod(mode)


def group_id(group: str) -> int:
    """The number of `group`, to which we may give files; raises UserError."""
    try:
        number = grp.getgrnam(group).gr_gid
    except KeyError:
        raise UserError(f"--broker-group {group}: there is no such group") from None
    if os.geteuid() != 0 and number not in (os.getegid(), *os.getgroups()):
        raise UserError(f"--broker-group {group}: you are not in it, so you may not give it files")
    return number


def _put(path: Path, content: bytes, *, private: bool = False) -> None:
    """`path` durably holds `content`, or what it held before; its group may read it where it may enter the folder."""
    shared = not private and path.parent.stat().st_mode & 0o010
    staged = path.with_name(f".{path.name}.new")
    staged.unlink(missing_ok=True)
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if shared:
            os.fchmod(descriptor, 0o640)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    staged.rename(path)
    sync_directory(path.parent)


def _is_due(certificate: Certificate, now: datetime) -> bool:
    """It is past two thirds of its life, or the clock was wrong when it was made."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return not begin <= now < begin + (end - begin) * 2 / 3


def _public_key(certificate: Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UserError("a certificate of the broker's folder is not one that `init` made: its key is no EC key")
    return key


def _load_key(path: Path) -> Key:
    try:
        if path.stat().st_mode & 0o077:
            raise UserError(f"{path}: others may read this private key; run  chmod 600 {path}")
        key = serialization.load_pem_private_key(_read(path), None)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{path}: not an EC key in PEM, without a password")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
