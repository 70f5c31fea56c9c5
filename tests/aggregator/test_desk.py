"""The desk: who is signed in, once, and who is not; every refusal is one line without the secret."""

import logging
import socket
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from aggregator import desk as desk_module
from aggregator.certificates import make_key, pem
from aggregator.desk import CERTIFICATES_A_DAY, RefusedError
from aggregator.desk_http import TRIES, Tries, _site
from ledger.keys import ECDSA_P256
from ledger.service.http import ServeError
from ledger.writer.create import create_log
from ledger.writer.storage import StorageError

from .devices import ORIGIN, Device
from .gateway import Gateway, csr, parse_token
from .offices import Office


@pytest.fixture
def office(data):
    """A desk without its counter."""
    with Office(data) as office:
        yield office


@pytest.fixture
def counter(data):
    """A desk with its counter open."""
    with Office(data) as office:
        office.serve()
        yield office


class Asker(Gateway):
    """A gateway that asks the desk directly."""

    def __init__(self, office, token, number, algorithm=1):
        *_, self.name, self.secret = parse_token(token)
        self.device = Device(self.name, number, algorithm=algorithm)
        self.key = make_key()
        registrar = office.desk._registrar.public_key.hex()
        self.log = {"origin": ORIGIN, "registrar": registrar}
        self.office = office

    def enrol(self, **changed):
        return self.office.desk.enrol(self.enrol_body(**changed))


def refusal(ask, *args):
    with pytest.raises(RefusedError) as caught:
        ask(*args)
    return caught.value.status


def serial(answer):
    return x509.load_pem_x509_certificate(answer["certificate"].encode()).serial_number


@pytest.mark.parametrize("algorithm", [1, ECDSA_P256])
def test_token_signs_one_key_in(office, algorithm):
    """The certificate says the device's name, whatever the request said; the same key may ask again."""
    gateway = Asker(office, office.token("wrist-1"), 1, algorithm)
    answer = gateway.enrol(csr=csr(gateway.key, "aggregator"))
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    assert [name.value for name in certificate.subject] == ["wrist-1"]
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert (answer["key_id"], answer["index"]) == (gateway.device.key_id.hex(), 0)
    # A lost answer: the very same again.
    assert gateway.enrol() == answer
    assert office.keys.good("wrist-1")[0].key_id == gateway.device.key_id


def test_token_is_good_for_one_key(office):
    """Another key with it is refused, on the log as little as at the desk."""
    token = office.token("wrist-1")
    Asker(office, token, 1).enrol()
    assert refusal(Asker(office, token, 2).enrol) == 409
    assert len(office.keys.states) == 1


def test_two_keys_at_once_with_one_token(office):
    """One of them is signed in."""
    token, said = office.token("wrist-1"), []

    def ask(number):
        try:
            said.append(Asker(office, token, number).enrol()["index"])
        except RefusedError as refused:
            said.append(refused.status)

    threads = [threading.Thread(target=ask, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == [0, 409, 409]


def test_token_that_expired_or_was_replaced_is_no_good(office):
    """Expired is told only to who has the secret."""
    old = Asker(office, office.token("wrist-1", hours=1), 1)
    office.later(hours=2)
    assert refusal(old.enrol) == 410
    secret, old.secret = old.secret, bytes(16)
    assert refusal(old.enrol) == 403
    old.secret = secret
    office.token("wrist-1")
    assert refusal(old.enrol) == 403


def test_token_is_for_its_device(office):
    """A secret opens nothing under another name."""
    gateway = Asker(office, office.token("wrist-1"), 1)
    office.token("wrist-2")
    assert refusal(lambda: gateway.enrol(device="wrist-2")) == 403
    assert refusal(lambda: gateway.enrol(device="wrist-3")) == 403


def test_key_without_its_holder_is_not_signed_in(office):
    """The signature must be by that key, for this log and this registrar."""
    gateway = Asker(office, office.token("wrist-1"), 1)
    other = Asker(office, office.token("wrist-2"), 2)
    assert refusal(lambda: gateway.enrol(signature=other.enrol_body()["signature"])) == 403
    gateway.log = {**gateway.log, "origin": "other.example/log"}
    assert refusal(gateway.enrol) == 403
    assert len(office.keys.states) == 0


def test_key_of_another_device_is_refused(office):
    """A key has one device."""
    Asker(office, office.token("wrist-1"), 1).enrol()
    thief = Asker(office, office.token("wrist-2"), 1)
    assert refusal(thief.enrol) == 409


def test_revoked_key_is_refused_and_its_certificates_are_no_good(office):
    """The same token does not bring it back."""
    gateway = Asker(office, office.token("wrist-1"), 1)
    answer = gateway.enrol()
    gateway.device.revoke(office.data, (0, 1))
    office.until(office.keys.ended, "the revocation")
    office.desk.keep()
    assert refusal(gateway.enrol) == 403
    assert refusal(office.desk.renew, serial(answer), {"csr": csr(gateway.key)}) == 403


def test_desk_without_the_aggregator_says_so_and_goes_on_later(office, monkeypatch):
    """503; the key is enrolled once the aggregator is back, and its second try is answered."""
    monkeypatch.setattr(desk_module, "TAKEN_WITHIN_S", 0.05)
    gateway = Asker(office, office.token("wrist-1"), 1)
    with office.pause:
        assert refusal(gateway.enrol) == 503
    monkeypatch.setattr(desk_module, "TAKEN_WITHIN_S", 15.0)
    assert gateway.enrol()["index"] == 0


def test_renewal_is_another_certificate_for_the_same_device(office):
    """At once it is the last one again; an hour later another; without end, nobody gets any."""
    gateway = Asker(office, office.token("wrist-1"), 1)
    first = serial(gateway.enrol())
    ask = {"csr": csr(gateway.key)}
    assert serial(office.desk.renew(first, ask)) == first
    office.later(days=60)
    second = serial(office.desk.renew(first, ask))
    assert second != first
    for _ in range(CERTIFICATES_A_DAY - 1):
        office.desk.renew(second, {"csr": csr(make_key())})
    assert refusal(office.desk.renew, second, {"csr": csr(make_key())}) == 429
    assert refusal(office.desk.renew, None, ask) == 403
    assert refusal(office.desk.renew, first + 1, ask) == 403


def test_rotation_by_certificate_goes_on_the_log_once(office):
    """Asked again it is answered again; the certificate goes on being good; the old key rotates nothing more."""
    gateway = Asker(office, office.token("wrist-1"), 1)
    shown = serial(gateway.enrol())
    new = Device("wrist-1", 2)
    body = gateway.rotate_body(new, (0, 5))
    index = office.desk.rotate(shown, body)["index"]
    assert office.keys.states[new.key_id].enrolled == index
    assert office.keys.states[gateway.device.key_id].until == (0, 5)
    assert office.desk.rotate(shown, body) == {"index": index}
    assert office.desk.renew(shown, {"csr": csr(gateway.key)})["certificate"]
    assert refusal(office.desk.rotate, shown, gateway.rotate_body(Device("wrist-1", 3), (0, 5))) == 403
    new.revoke(office.data, (0, 0))
    office.until(office.keys.ended, "the revocation")
    office.desk.keep()
    assert refusal(office.desk.renew, shown, {"csr": csr(gateway.key)}) == 403


def test_rotation_of_another_devices_key_is_refused(office):
    """Whatever it signs, a device speaks for its own key only."""
    one, two = (Asker(office, office.token(f"wrist-{number}"), number) for number in (1, 2))
    one.enrol()
    shown = serial(two.enrol())
    assert refusal(office.desk.rotate, shown, one.rotate_body(Device("wrist-1", 3), (0, 5))) == 403
    wrong = two.rotate_body(Device("wrist-2", 4), (0, 5)) | {"until": [0, 6]}
    assert refusal(office.desk.rotate, shown, wrong) == 403
    taken = two.rotate_body(one.device, (0, 5))
    assert refusal(office.desk.rotate, shown, taken) == 409


@pytest.mark.parametrize(
    "changed",
    [
        {"secret": "zz"},
        {"secret": 5},
        {"device": "Wrist"},
        {"device": None},
        {"algorithm": 3},
        {"algorithm": True},
        {"algorithm": "1"},
        {"public_key": "00" * 32},
        {"public_key": "AB" * 32},
        {"signature": ""},
        {"signature": "00" * 300},
        {"csr": "x"},
        {"csr": "é"},
        {"csr": "x" * 10_000},
        {"csr": None},
        {"more": 1},
    ],
)
def test_enrolment_that_is_malformed_is_400(office, changed):
    """And nothing is used up by it."""
    gateway = Asker(office, office.token("wrist-1"), 1)
    assert refusal(office.desk.enrol, gateway.enrol_body() | changed) == 400
    assert office.records.token("wrist-1").key_id is None


@pytest.mark.parametrize("body", [None, [], "x", 5, {}, {"csr": "x", "until": [0, -1]}])
def test_questions_of_another_shape_are_400(office, body):
    """Whatever JSON it is."""
    for ask in (office.desk.enrol, lambda body: office.desk.renew(1, body), lambda body: office.desk.rotate(1, body)):
        assert refusal(ask, body) == 400


def test_counter_from_token_to_renewal_over_https(counter, tmp_path):
    """What a gateway does on the wire; the client's certificate is the one that TLS verified."""
    gateway = Gateway(tmp_path, counter.token("wrist-1"), 1)
    assert gateway.log["broker"] == {"host": "127.0.0.1", "port": 8883}
    assert gateway.log["policy"].startswith("log ")
    status, answer = gateway.ask("POST", "/v1/renew", {"csr": csr(gateway.key)})
    assert (status, answer) == (403, {"error": "show the certificate that this desk issued"})
    gateway.enrol()
    assert gateway.renew()[0] == 200
    status, answer = gateway.ask("POST", "/v1/rotate", gateway.rotate_body(Device("wrist-1", 2), (0, 0)))
    assert (status, answer) == (200, {"index": 2})


def test_counter_refuses_in_one_line_and_never_logs_the_secret(counter, tmp_path, caplog):
    """413, 404, 400, 403; ten refusals are enough, for one address."""
    gateway = Gateway(tmp_path, counter.token("wrist-1"), 1)
    good = gateway.enrol_body()
    with caplog.at_level(logging.WARNING):
        assert gateway.ask("POST", "/v1/enrol", raw=b"x" * 70_000)[0] == 413
        assert gateway.ask("GET", "/v1/enrol")[0] == 404
        assert gateway.ask("POST", "/v1/enrol", raw=b"{" * 1000)[0] == 400
        assert gateway.ask("POST", "/v1/enrol", {**good, "public_key": "00"})[0] == 400
        wrong = {**good, "secret": "ab" * 16}
        answers = [gateway.ask("POST", "/v1/enrol", wrong)[0] for _ in range(TRIES)]
    assert answers == [403] * (TRIES - 3) + [429] * 3
    assert gateway.secret.hex() not in caplog.text
    assert "ab" * 16 not in caplog.text
    refused = [record.message for record in caplog.records]
    assert len(refused) == TRIES
    assert "/v1/enrol for wrist-1 from 127.0.0.1 refused: no such token" in refused[-1]


def first_byte(gateway):
    """Of an answer to the gateway, b"" if the desk ended the connection instead."""
    try:
        with (
            socket.create_connection((gateway.host, gateway.port)) as plain,
            gateway.context().wrap_socket(plain, server_hostname=gateway.host) as tls,
        ):
            tls.sendall(b"GET /v1/log HTTP/1.1\r\nHost: x\r\n\r\n")
            return tls.recv(1)
    except OSError:
        return b""


def test_counter_believes_certificates_of_its_ca_only(counter, tmp_path):
    """One of another CA ends the handshake."""
    gateway = Gateway(tmp_path, counter.token("wrist-1"), 1)
    gateway.enrol()
    assert first_byte(gateway) == b"H"
    create_log(tmp_path / "other", ORIGIN)
    with Office(tmp_path / "other") as other:
        certificate = other.authority.certify("wrist-1", gateway.key.public_key(), other.now())
    gateway._write("tls.crt", pem(certificate))
    assert first_byte(gateway) == b""
    assert gateway.ask("GET", "/v1/log", certificate=False)[0] == 200


def test_server_certificate_is_renewed_while_it_serves(counter, tmp_path):
    """New connections get the new one; a broken file changes nothing and is told."""
    gateway = Gateway(tmp_path, counter.token("wrist-1"), 1)
    counter.later(days=300)
    assert counter.authority.keep_certificates(counter.now()) is True
    path = counter.data / "broker" / "server.crt"
    good = path.read_bytes()
    path.write_bytes(b"broken")
    with pytest.raises(ServeError, match="PEM"):
        counter.server.renew_certificate()
    assert gateway.ask("GET", "/v1/log")[0] == 200
    path.write_bytes(good)
    counter.server.renew_certificate()
    assert ssl.get_server_certificate((gateway.host, gateway.port)).encode() == good


def test_disk_that_refuses_is_503_and_told(counter, tmp_path, caplog, monkeypatch):
    """The gateway asks again later; the token is not lost."""
    gateway = Gateway(tmp_path, counter.token("wrist-1"), 1)

    def full(*_):
        raise StorageError("the disk is full")

    monkeypatch.setattr(counter.desk, "_leave", full)
    assert gateway.ask("POST", "/v1/enrol", gateway.enrol_body())[0] == 503
    assert "the disk is full" in caplog.text
    monkeypatch.undo()
    gateway.enrol()


def test_tries_are_counted_by_address_and_forgotten():
    """One that waits may try again; an IPv6 site is one address; the memory is bounded."""
    clock = [0.0]
    tries = Tries(lambda: clock[0])
    for _ in range(TRIES):
        assert not tries.too_many("a")
        tries.refused("a")
    assert (tries.too_many("a"), tries.too_many("b")) == (True, False)
    clock[0] = 61.0
    assert not tries.too_many("a")
    for number in range(10_000):
        tries.refused(str(number))
    assert len(tries._refused) == 4096
    assert (_site("2001:db8::1"), _site("10.0.0.1")) == (_site("2001:db8::2"), "10.0.0.1")
    assert _site("2001:db8::1") != _site("2001:db8:0:1::1")
