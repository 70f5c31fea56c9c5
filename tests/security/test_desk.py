"""The desk, asked by those it should give nothing to; each of these attackers has an address of its own."""

import itertools
import json
import socket
import ssl
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta

import pytest
import urllib3
from cryptography import x509

from aggregator.certificates import make_ca
from aggregator.desk_http import TRIES
from aggregator.desk_records import DeskRecords
from tests.aggregator.gateway import csr

_addresses = itertools.count(2)


class Attacker:
    """Asks the desk from an address of its own."""

    def __init__(self, scene, context=None):
        self.address = f"127.0.0.{next(_addresses)}"
        self._where = ("127.0.0.1", scene.desk_port)
        self._context = context or scene.stranger()

    def ask(self, path, body=None, *, method="POST", raw=None):
        """Status and error of the answer."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        options = {"ssl_context": self._context, "retries": False, "source_address": (self.address, 0)}
        with urllib3.HTTPSConnectionPool(*self._where, **options) as pool:
            answer = pool.request(method, path, body=data)
            return answer.status, json.loads(answer.data or b"{}").get("error")

    def connect(self):
        """A connection, on which nothing has been said."""
        return socket.create_connection(self._where, source_address=(self.address, 0))


@pytest.fixture
def attacker(scene):
    return Attacker(scene)


def test_guessing_a_secret(scene, attacker):
    """Ten guesses a minute for one address; from another, the owner is signed in meanwhile."""
    gateway = scene.gateway()
    wrong = gateway.enrol_body(secret="ab" * 16)
    said = [attacker.ask("/v1/enrol", wrong) for _ in range(TRIES + 2)]
    refused = (403, "no such token for this device; ask for another one")
    assert said == [refused] * TRIES + [(429, "too many tries; wait a minute")] * 2
    scene.sees(f"/v1/enrol for {gateway.name} from {attacker.address} refused: no such token")
    gateway.enrol()
    assert "ab" * 16 not in scene.said()
    assert gateway.secret.hex() not in scene.said()


def test_token_that_is_no_good(scene, attacker):
    """Used up by another key, expired, or another device's; and a key whose holder did not sign."""
    used, other, expired = scene.enrolled(), scene.gateway(), scene.gateway()
    with closing(DeskRecords(scene.data)) as records:
        records.add_token(expired.name, expired.secret, datetime.now(UTC) - timedelta(seconds=1))
    signature = used.enrol_body()["signature"]
    stolen = other.enrol_body() | {"secret": used.secret.hex(), "device": used.name}
    for body, status, error in (
        (stolen, 409, "the token was used by another key"),
        (expired.enrol_body(), 410, "the token has expired"),
        (other.enrol_body(device=used.name), 403, "no such token for this device"),
        (other.enrol_body(signature=signature), 403, "signature"),
        ({name: value for name, value in other.enrol_body().items() if name != "signature"}, 400, "signature"),
    ):
        said = attacker.ask("/v1/enrol", body)
        assert said[0] == status
        assert error in said[1]
        scene.sees(f"from {attacker.address} refused: {said[1]}")
    assert other.enrol()["index"] > 0


def test_request_for_another_name(scene):
    """What a certificate request says of its subject counts for nothing."""
    gateway = scene.gateway()
    status, answer = gateway.ask("POST", "/v1/enrol", gateway.enrol_body(csr=csr(gateway.key, "aggregator")))
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    assert (status, [name.value for name in certificate.subject]) == (200, [gateway.name])


def test_renewal_without_a_certificate_of_the_desk(scene, attacker):
    """None, one of another CA, and one that our CA's key made behind the desk's back."""
    body = {"csr": csr(scene.gateway().key)}
    for path in ("/v1/renew", "/v1/rotate"):
        assert attacker.ask("/v1/renew", body) == (403, "show the certificate that this desk issued"), path
    forged = Attacker(scene, scene.context("honest-1"))
    assert forged.ask("/v1/renew", body) == (403, "show the certificate that this desk issued")
    stranger = Attacker(scene, scene.context("honest-1", issuer=make_ca("Vitalseal CA", datetime.now(UTC))))
    with pytest.raises((urllib3.exceptions.HTTPError, ssl.SSLError)):
        stranger.ask("/v1/renew", body)
    scene.sees(f"/v1/renew from {attacker.address} refused: show the certificate")
    scene.sees(f"/v1/renew from {forged.address} refused: show the certificate")


@pytest.mark.parametrize("raw", [b"\xff" * 100, b"[" * 60_000, b"{}", b'"x"', b"", b'{"csr": 1e999}'])
def test_garbage(scene, raw):
    """400, whatever it is, and a line for the operator."""
    attacker = Attacker(scene)
    for path in ("/v1/enrol", "/v1/renew", "/v1/rotate"):
        assert attacker.ask(path, raw=raw)[0] == 400
        scene.sees(f"{path} from {attacker.address} refused: ")


def test_other_methods_and_places(scene, attacker):
    """404, and nothing behind it."""
    for method, path in (
        ("GET", "/v1/enrol"),
        ("PUT", "/v1/renew"),
        ("DELETE", "/v1/ca"),
        ("TRACE", "/v1/log"),
        ("GET", "/../keys/ca.key"),
        ("GET", "/v1/%2e%2e/ca.key"),
        ("GET", "/docs"),
    ):
        assert attacker.ask(path, method=method)[0] == 404, path


def test_bodies_that_are_too_large_or_never_end(scene, attacker):
    """413, as soon as it is clear; what a header promises is not waited for."""
    assert attacker.ask("/v1/enrol", raw=b"x" * 70_000) == (413, "the body has more than 65536 bytes")
    with attacker.connect() as plain, scene.stranger().wrap_socket(plain, server_hostname="127.0.0.1") as tls:
        tls.sendall(b"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n" + b"x" * 70_000)
        assert tls.recv(12) == b"HTTP/1.1 413"
    scene.sees(f"/v1/enrol from {attacker.address} refused: the body has more than 65536 bytes")


def test_those_who_keep_it_waiting(scene, attacker):
    """Three hundred connections that say nothing, or one letter: the next gateway is signed in all the same."""
    with ExitStack() as stack:
        for number in range(300):
            plain = stack.enter_context(attacker.connect())
            if number < 50:
                tls = stack.enter_context(scene.stranger().wrap_socket(plain, server_hostname="127.0.0.1"))
                tls.sendall(b"P")
        scene.enrolled()
