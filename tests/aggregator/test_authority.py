"""The CA, its certificates and lists: what they are for, how long, and that they are kept so by any clock."""

import base64
import logging
import os
import stat
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from aggregator import upkeep
from aggregator.authority import Authority, create_authority
from aggregator.certificates import CRL_VALID, make_key, parse_csr
from aggregator.desk_records import DeskRecords
from aggregator.device_keys import DeviceKeys
from aggregator.setup import Identity, initialise
from aggregator.upkeep import BrokerState, broker_warnings, read_broker_state
from vitalseal.errors import UserError

from .devices import ORIGIN, Device
from .gateway import csr
from .offices import Office

NOW = datetime(2026, 11, 21, 8, tzinfo=UTC)


@pytest.fixture
def office(data):
    with Office(data) as office:
        yield office


@pytest.fixture
def folder(tmp_path):
    """A new authority's files."""
    (tmp_path / "keys").mkdir()
    create_authority(tmp_path, ORIGIN, ("log.example", "192.0.2.7", "2001:db8::7"), 8883, NOW)
    return tmp_path / "broker"


def load(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def extension(certificate, kind):
    found = certificate.extensions.get_extension_for_class(kind)
    return found.value, found.critical


def test_certificates_say_what_they_are_for(folder):
    """The CA signs ends only, for twenty years; server and clients are told apart by TLS itself."""
    ca, server, own = (load(folder / name) for name in ("ca.crt", "server.crt", "aggregator.crt"))
    assert extension(ca, x509.BasicConstraints) == (x509.BasicConstraints(ca=True, path_length=0), True)
    assert extension(ca, x509.KeyUsage)[1] is True
    assert ca.not_valid_after_utc - NOW == timedelta(days=7300)
    assert server.not_valid_after_utc - NOW == own.not_valid_after_utc - NOW == timedelta(days=398)
    names = [str(name.value) for name in extension(server, x509.SubjectAlternativeName)[0]]
    assert names == ["log.example", "192.0.2.7", "2001:db8::7", "127.0.0.1", "localhost"]
    purposes = [[use._name for use in extension(one, x509.ExtendedKeyUsage)[0]] for one in (server, own)]
    assert purposes == [["serverAuth"], ["clientAuth"]]
    for certificate in (server, own):
        certificate.verify_directly_issued_by(ca)
        assert extension(certificate, x509.BasicConstraints) == (
            x509.BasicConstraints(ca=False, path_length=None),
            True,
        )
    assert own.subject.rfc4514_string() == "CN=aggregator"


def test_private_files_are_private(folder):
    """Nobody but the owner reads a key, nor gets into the folder."""
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert {modes[name] for name in ("server.key", "aggregator.key")} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder.parent / "keys" / "ca.key").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to a group that it is not in")
def test_group_of_a_broker_reads_all_but_the_aggregators_key(tmp_path):
    """Also what is written later; umask or not."""
    (tmp_path / "keys").mkdir()
    create_authority(tmp_path, ORIGIN, (), 8883, NOW, group="daemon")
    Authority(tmp_path).keep_lists(["wrist-1"], (), NOW)
    for path in (tmp_path / "broker").iterdir():
        expected = {"state": 0o2770, "aggregator.key": 0o600}.get(path.name, 0o640)
        assert (path.name, stat.S_IMODE(path.stat().st_mode)) == (path.name, expected)
        assert path.stat().st_gid == (tmp_path / "broker").stat().st_gid != 0


def test_list_is_reissued_daily_and_at_each_revocation(folder):
    """Valid for thirty days, each younger than the one before, and never of the future."""
    authority, path = Authority(folder.parent), folder / "crl.pem"

    def listed():
        crl = x509.load_pem_x509_crl(path.read_bytes())
        assert crl.is_signature_valid(load(folder / "ca.crt").public_key())
        return crl

    first = listed()
    assert authority.keep_lists((), (), NOW + timedelta(hours=1)) is False
    for serial in (7, 8, 9):
        revoked = [(number, NOW) for number in range(7, serial + 1)]
        assert authority.keep_lists((), revoked, NOW) is True
        second = listed()
        assert first.last_update_utc < second.last_update_utc < NOW
        assert second.next_update_utc == NOW + CRL_VALID == authority.crl_until
        assert {entry.serial_number for entry in second} == set(range(7, serial + 1))
        first = second
    later = NOW + timedelta(days=1)
    assert authority.keep_lists((), [(9, NOW)], later) is True  # the others have expired
    assert [entry.serial_number for entry in listed()] == [9]
    assert authority.keep_lists((), [(9, NOW)], NOW) is True  # the clock was set back: that list is of the future
    assert listed().last_update_utc < NOW
    assert authority.keep_lists((), [(9, NOW)], NOW) is False


def test_certificates_are_renewed_at_two_thirds_for_the_same_keys(folder):
    """And where the clock was wrong when they were made; a CA that has expired says so."""
    authority = Authority(folder.parent)
    server = load(folder / "server.crt")
    assert authority.keep_certificates(NOW + timedelta(days=260)) is False
    assert authority.keep_certificates(NOW + timedelta(days=270)) is True
    renewed = load(folder / "server.crt")
    assert renewed.public_key() == server.public_key()
    assert renewed.not_valid_after_utc == NOW + timedelta(days=270 + 398)
    assert extension(renewed, x509.SubjectAlternativeName) == extension(server, x509.SubjectAlternativeName)
    assert Authority(folder.parent).keep_certificates(NOW) is True
    assert load(folder / "aggregator.crt").not_valid_after_utc == NOW + timedelta(days=398)
    last = NOW + timedelta(days=7299)
    assert authority.keep_certificates(last) is True
    assert load(folder / "server.crt").not_valid_after_utc == load(folder / "ca.crt").not_valid_after_utc
    with pytest.raises(UserError, match="the CA expired"):
        authority.keep_certificates(NOW + timedelta(days=7400))


@pytest.mark.parametrize("name", ["ca.crt", "server.crt", "crl.pem", "aggregator.crt", "acl", "../keys/ca.key"])
def test_files_that_are_missing_or_broken_are_one_line(folder, name):
    """It names the file."""
    if name != "acl":
        (folder / name).write_bytes(b"-----BEGIN CERTIFICATE-----")
        with pytest.raises(UserError, match=name.rpartition("/")[2]):
            Authority(folder.parent)
    (folder / name).unlink()
    with pytest.raises(UserError, match=name.rpartition("/")[2]):
        Authority(folder.parent)


def test_keys_that_others_may_read_or_of_another_ca_are_refused(folder, tmp_path):
    """Either would make certificates that nobody believes, or that others can make."""
    key = folder.parent / "keys" / "ca.key"
    key.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        Authority(folder.parent)
    key.chmod(0o600)
    key.write_bytes((folder / "server.key").read_bytes())
    with pytest.raises(UserError, match="is not the key of"):
        Authority(folder.parent)


def _request(key):
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def test_request_is_for_a_key_of_the_right_kind_by_itself():
    """P-256, signed by its own key, and short."""
    key = make_key()
    assert parse_csr(csr(key)) == key.public_key()
    for other in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        with pytest.raises(UserError, match="P-256"):
            parse_csr(_request(other))
    der = bytearray(x509.load_pem_x509_csr(csr(key).encode()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    forged = (
        f"-----BEGIN CERTIFICATE REQUEST-----\n{base64.encodebytes(der).decode()}-----END CERTIFICATE REQUEST-----\n"
    )
    for text in (forged, "", "x" * 9000, csr(key)[:-40], "ü"):
        with pytest.raises(UserError, match="csr: "):
            parse_csr(text)


@pytest.mark.parametrize("host", ["", "a b", "-" * 64, "a" * 254, "x..y", "ü.example", "*.example"])
def test_hosts_that_no_certificate_can_name_are_refused(host):
    """Before anything is made."""
    with pytest.raises(UserError, match="--host"):
        Identity((host,))


def test_group_that_is_not_there_is_refused():
    """Before anything is made."""
    with pytest.raises(UserError, match="no such group"):
        Identity(broker_group="no-such-group-here")


def test_lists_follow_the_log_from_the_start(office):
    """A revocation that was taken while no desk ran is on both lists as soon as one does; and comes off again."""
    one, two = Device("wrist-1", 1), Device("wrist-2", 2)
    serials = {}
    for device in (one, two):
        device.enrol(office.data)
        office.until(lambda device=device: office.keys.good(device.name), "the enrolment")
        certificate = office.authority.certify(device.name, make_key().public_key(), office.now())
        office.records.add_certificate(certificate, device.name, device.key_id, office.now())
        serials[device.name] = certificate.serial_number
    one.revoke(office.data, (0, 0))
    office.until(office.keys.ended, "the revocation")
    fresh = office.new_upkeep()
    assert fresh.follow() is True
    acl = office.data / "broker" / "acl"
    assert ("user wrist-1\ntopic deny #" in acl.read_text(), "wrist-2" in acl.read_text()) == (True, False)
    crl = x509.load_pem_x509_crl((office.data / "broker" / "crl.pem").read_bytes())
    assert serials["wrist-1"] in {entry.serial_number for entry in crl}
    assert serials["wrist-2"] not in {entry.serial_number for entry in crl}
    assert (fresh.follow(), office.told) == (False, 1)
    # The next one tells the broker once, because nobody knows whether it was told, and has a probe of its own.
    assert (office.new_upkeep().follow(), office.told) == (True, 2)
    Device("wrist-1", 3).enrol(office.data)
    office.until(lambda: not office.keys.ended(), "the new enrolment")
    assert fresh.follow() is True
    assert "wrist-1" not in acl.read_text()
    assert read_broker_state(office.data).revoked_devices == 0


def test_one_key_of_two_that_is_revoked_takes_its_certificate_along(office):
    """The device stays, by its other key: only what was issued for the revoked one is on the list."""
    old, new = Device("wrist-1", 1), Device("wrist-1", 2)
    serials = []
    for device in (old, new):
        device.enrol(office.data)
        office.until(lambda device=device: office.keys.device(device.key_id), "the enrolment")
        certificate = office.authority.certify("wrist-1", make_key().public_key(), office.now())
        office.records.add_certificate(certificate, "wrist-1", device.key_id, office.now())
        serials.append(certificate.serial_number)
    old.revoke(office.data, (0, 0))
    office.until(lambda: office.keys.states[old.key_id].revoked is not None, "the revocation")
    office.upkeep.follow()
    assert office.keys.ended() == set()
    assert [(item.serial, item.revoked_at is None) for item in office.records.valid(office.now())] == [
        (serial, serial == serials[1]) for serial in sorted(serials, key=lambda serial: f"{serial:x}")
    ]
    # Expired, it leaves the list; a month later it is forgotten.
    office.later(days=91)
    office.upkeep.follow()
    crl = x509.load_pem_x509_crl((office.data / "broker" / "crl.pem").read_bytes())
    assert [entry.serial_number for entry in crl] == [office.upkeep._probe.serial]
    office.later(days=31)
    office.upkeep.follow()
    assert office.records.find(serials[0]) is None


def test_broker_that_cannot_be_told_is_named_once_and_told_again(office, caplog):
    """`status` warns until it was told."""
    office.answer = "no broker runs there"
    with caplog.at_level(logging.INFO):
        office.upkeep.follow()
        office.upkeep.follow()
        state = read_broker_state(office.data)
        assert broker_warnings(state, office.now().timestamp()) == [
            "the broker could not be told to read its files again (no broker runs there)"
        ]
        office.answer = None
        office.upkeep.follow()
        office.upkeep.follow()
    assert office.told == 3
    assert broker_warnings(read_broker_state(office.data), office.now().timestamp()) == []
    said = [record.message for record in caplog.records if "told" in record.message or "again" in record.message]
    assert said == [
        "the broker could not be told to read its files again: no broker runs there; trying again",
        "the broker reads its files again",
    ]


def test_broker_that_goes_by_old_lists_is_warned_about_until_it_does_not(office):
    """Whoever has to tell it: each change of the lists has a probe of its own, and the broker is asked about that."""
    office.sight = "it lets in a certificate that they revoke"
    device = Device("wrist-1", 1)
    device.enrol(office.data)
    office.until(lambda: office.keys.good("wrist-1"), "the enrolment")

    def warned():
        office.upkeep.follow()
        return broker_warnings(read_broker_state(office.data), office.now().timestamp())

    assert (warned(), warned(), len(office.asked)) == ([], [], 1)
    office.later(seconds=31)
    assert ["THE BROKER is not known to go by its lists of " in line for line in warned()] == [True]
    office.sight = None
    office.later(seconds=6)
    assert (warned(), warned(), len(office.asked)) == ([], [], 3)
    first = office.asked[0]
    assert {probe.serial for probe in office.asked} == {first.serial}
    # Revoked: only the list of topics changes, and the list of certificates with it, by the probe.
    device.revoke(office.data, (0, 0))
    office.until(office.keys.ended, "the revocation")
    office.sight = "it cannot be asked: Connection refused"
    warned()
    office.later(seconds=40)
    assert ["Connection refused" in line for line in warned()] == [True]
    assert office.asked[-1].serial != first.serial
    listed = x509.load_pem_x509_crl((office.data / "broker" / "crl.pem").read_bytes())
    assert [entry.serial_number for entry in listed] == [office.asked[-1].serial]


@pytest.mark.parametrize(
    ("hosts", "local"), [((), True), (("localhost", "127.0.0.7", "::1"), True), (("localhost", "log.example"), False)]
)
def test_log_for_this_machine_alone_listens_on_the_loopback_only(tmp_path, hosts, local):
    """Broker and desk, also where the machine's own name for itself was given."""
    initialise(tmp_path / "a.toml", tmp_path / "a", ORIGIN, "localhost", 8883, identity=Identity(hosts))
    listener = (tmp_path / "a" / "broker" / "mosquitto.conf").read_text()
    assert ("\nlistener 8883 127.0.0.1\n" in listener) is local
    assert ('listen = "127.0.0.1"' in (tmp_path / "a.toml").read_text()) is local


def test_open_tokens_are_listed_and_can_be_taken_back(office):
    """Those that nobody has used and that have not run out; a withdrawn one signs nobody in."""
    office.token("wrist-1")
    office.token("wrist-2", hours=1)
    office.token("wrist-3")
    used = office.records.token("wrist-3")
    assert office.records.use_token(used, bytes(32))
    assert [token.device for token in office.records.open_tokens(office.now())] == ["wrist-1", "wrist-2"]
    office.later(hours=2)
    assert [token.device for token in office.records.open_tokens(office.now())] == ["wrist-1"]
    assert office.records.withdraw_token("wrist-1") is True
    assert (office.records.token("wrist-1"), office.records.withdraw_token("wrist-1")) == (None, False)
    assert office.records.withdraw_token("wrist-3") is False


def test_warnings_come_before_anybody_is_locked_out():
    """Seven days for the list, fourteen for the server, half an hour for a desk that stands still."""
    now = 1_000_000_000.0
    day = 86_400.0
    good = BrokerState(now, now + 30 * day, now + 398 * day, 0)
    assert broker_warnings(good, now) == []
    for seconds, begins in (
        (1801.0, ["the broker's lists stand still"]),
        (24 * day, ["the broker's lists stand still", "the list of revoked certificates expires in 6.0 days"]),
        (31 * day, ["the broker's lists stand still", "the list of revoked certificates HAS EXPIRED"]),
    ):
        found = broker_warnings(good, now + seconds)
        assert [line.startswith(begin) for line, begin in zip(found, begins, strict=True)] == [True] * len(begins)
    server = BrokerState(now, now + 30 * day, now + 13 * day, 0)
    assert broker_warnings(server, now) == ["the server's certificate expires in 13.0 days"]
    assert "start `vitalseal aggregator run`" in broker_warnings(None, now)[0]


def test_state_that_is_garbage_is_one_line(tmp_path):
    """And none is none."""
    assert read_broker_state(tmp_path) is None
    (tmp_path / upkeep.FILE).write_text("[")
    with pytest.raises(UserError, match="cannot be read"):
        read_broker_state(tmp_path)


def test_plain_log_has_no_identity_and_a_log_with_one_has_all(tmp_path):
    """`initialise` as the demo calls it makes no CA."""
    initialise(tmp_path / "a.toml", tmp_path / "a", ORIGIN, "127.0.0.1", 1883)
    assert not (tmp_path / "a" / "broker").exists()
    initialise(tmp_path / "b.toml", tmp_path / "b", ORIGIN, "127.0.0.1", 8883, identity=Identity(("log.example",)))
    assert Authority(tmp_path / "b").keep_certificates(datetime.now(UTC)) is False
    with closing(DeskRecords(tmp_path / "b")) as records, closing(DeviceKeys(tmp_path / "b")) as keys:
        assert (records.valid(NOW), keys.ended()) == ([], set())
