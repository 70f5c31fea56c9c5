"""Real Mosquitto with exactly the generated files: who may do what, and what revoking does to a standing session."""

import socket
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from aggregator import mosquitto
from aggregator.authority import Authority, create_authority
from aggregator.certificates import key_pem, make_key, pem
from aggregator.config import BrokerConfig
from aggregator.mqtt import BrokerConnection
from aggregator.probe import OLD_LISTS, ask
from ledger.envelope import MAX_ENVELOPE
from tests.brokers import free_port
from vitalseal import topics

from .broker import TlsMosquitto
from .devices import ORIGIN
from .gateway import Client, until

BATCH, STATUS, RECEIPT = topics.batch("wrist-1"), topics.status("wrist-1"), topics.receipt("wrist-1")
REFUSED = "Not authorized"


class Place:
    """An authority, a broker with its files, and certificates of devices."""

    def __init__(self, directory):
        (directory / "keys").mkdir()
        self.port = free_port()
        create_authority(directory, ORIGIN, (), self.port, datetime.now(UTC))
        self.folder = directory / "broker"
        self.authority = Authority(directory)
        self.broker = TlsMosquitto(self.folder, self.port)
        self.serials = {}

    def context(self, name):
        """What `name` connects with."""
        context = ssl.create_default_context(cafile=self.folder / "ca.crt")
        if name != "aggregator" and not (self.folder / f"{name}.crt").exists():
            key = make_key()
            certificate = self.authority.certify(name, key.public_key(), datetime.now(UTC))
            (self.folder / f"{name}.crt").write_bytes(pem(certificate))
            (self.folder / f"{name}.key").write_bytes(key_pem(key))
            self.serials[name] = certificate.serial_number
        context.load_cert_chain(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        return context

    def client(self, name, **options):
        """A connection of `name`."""
        return Client(self.port, self.context(name), **options)

    def tell(self):
        """The broker reads its files again, and has when this returns."""
        before = self.broker.log().count("Reloading config")
        assert mosquitto.reload(self.folder / "state" / mosquitto.PID) is None
        until(lambda: self.broker.log().count("Reloading config") > before, "the reload")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One broker for all of this file's tests, each with devices of its own."""
    place = Place(tmp_path_factory.mktemp("place"))
    place.broker.start()
    yield place
    place.broker.kill()


@pytest.fixture
def aggregator(place):
    """The aggregator, listening to all devices."""
    with place.client("aggregator") as client:
        client.subscribe(topics.BATCHES, topics.STATUSES)
        yield client


def heard(client, payload):
    return until(lambda: [topic for topic, said in client.messages if said == payload], f"{payload!r}")


@pytest.mark.parametrize("version", [4, 5])
def test_device_writes_its_own_topics_only(place, aggregator, version):
    """Its batches and its status arrive; whatever else it publishes goes nowhere."""
    with place.client("wrist-1", version=version) as device:
        for topic in (topics.batch("wrist-2"), topics.status("wrist-2"), RECEIPT, "vitalseal/v1/wrist-1", "other"):
            # MQTT 3.1.1 has no word for it.
            assert device.publish(topic, b"no") == (REFUSED if version == 5 else "Success")
        device.publish(BATCH, b"yes")
        device.publish(STATUS, b"too")
        assert (heard(aggregator, b"yes"), heard(aggregator, b"too")) == ([BATCH], [STATUS])
        assert [payload for _, payload in aggregator.messages if payload == b"no"] == []


def test_device_reads_its_own_receipts_only(place, aggregator):
    """Mosquitto grants any subscription and delivers only what the list allows."""
    with place.client("wrist-1") as device, place.client("wrist-2") as other:
        device.subscribe("#", "$SYS/#", topics.receipt("wrist-2"), BATCH)
        other.publish(topics.batch("wrist-2"), b"batch")
        heard(aggregator, b"batch")
        aggregator.publish(topics.receipt("wrist-2"), b"theirs")
        aggregator.publish(RECEIPT, b"mine")
        heard(device, b"mine")
        assert {topic for topic, _ in device.messages} == {RECEIPT}


def test_aggregator_writes_receipts_only(place, aggregator):
    """It cannot speak for a device."""
    assert [aggregator.publish(topic, b"x") for topic in (BATCH, STATUS, "other")] == [REFUSED] * 3


def test_will_on_the_topic_of_another_device_goes_nowhere(place, aggregator):
    """A last will is checked like anything that is published."""
    forged = (topics.status("wrist-2"), b"forged", 1, True)
    with place.client("wrist-1", will=forged) as device:
        device.cut()
    with place.client("wrist-2", will=(topics.status("wrist-2"), b"own", 1, False)) as device:
        device.cut()
    heard(aggregator, b"own")
    assert [payload for _, payload in aggregator.messages if payload == b"forged"] == []


def test_session_is_that_of_the_certificate(place):
    """Whatever client id it gives: another device is not thrown off, and the same one is."""
    with place.client("wrist-1", client_id="a") as first, place.client("wrist-2", client_id="wrist-1") as other:
        assert (first.connected, other.connected) == (True, True)
        with place.client("wrist-1", client_id="b") as second:
            until(lambda: not first.connected, "the end of the first")
            assert (second.connected, other.connected) == (True, True)


def test_nobody_connects_without_a_certificate_for_clients(place, tmp_path):
    """None at all, one of another CA, and the server's own: each ends the connection."""
    (tmp_path / "keys").mkdir()
    create_authority(tmp_path, ORIGIN, (), place.port, datetime.now(UTC))
    contexts = [ssl.create_default_context(cafile=place.folder / "ca.crt") for _ in range(3)]
    contexts[1].load_cert_chain(tmp_path / "broker" / "aggregator.crt", tmp_path / "broker" / "aggregator.key")
    contexts[2].load_cert_chain(place.folder / "server.crt", place.folder / "server.key")
    for context in contexts:
        with Client(place.port, context) as client:
            assert client.said == ["gone"]


def test_old_tls_is_refused(place):
    """TLS 1.1 finds nobody here."""
    context = place.context("wrist-1")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", place.port)) as plain,
        pytest.raises(OSError, match="ALERT"),
        context.wrap_socket(plain, server_hostname="127.0.0.1"),
    ):
        pass


def test_message_a_little_too_large_reaches_the_aggregator(place, aggregator):
    """Admission can say why it is refused; one much larger ends the connection."""
    with place.client("wrist-1") as device:
        assert device.publish(BATCH, b"x" * (MAX_ENVELOPE + 1)) == "Success"
        heard(aggregator, b"x" * (MAX_ENVELOPE + 1))
        device.send(BATCH, b"x" * 2 * MAX_ENVELOPE)
        until(lambda: "gone" in device.said, "the end of the connection")


def test_revocation_ends_what_a_standing_session_can_do(place, aggregator):
    """The list of certificates alone leaves it publishing; the list of topics ends that, and comes off again."""
    now = datetime.now(UTC)
    with place.client("wrist-9") as device, place.client("wrist-1") as bystander:
        device.subscribe(topics.receipt("wrist-9"))
        revoked = [(place.serials["wrist-9"], now)]
        assert place.authority.keep_lists((), revoked, now) is True
        place.tell()
        assert device.publish(topics.batch("wrist-9"), b"after the list of certificates") == "Success"
        heard(aggregator, b"after the list of certificates")
        with place.client("wrist-9") as again:
            until(lambda: "gone" in again.said, "the end of a new connection")
        assert place.authority.keep_lists(["wrist-9"], revoked, now) is True
        assert place.authority.keep_lists(["wrist-9"], revoked, now) is False
        place.tell()
        assert device.connected
        assert device.publish(topics.batch("wrist-9"), b"after both") == REFUSED
        aggregator.publish(topics.receipt("wrist-9"), b"refused")
        assert bystander.publish(BATCH, b"bystander") == "Success"
        place.authority.keep_lists((), revoked, now)
        place.tell()
        assert device.publish(topics.batch("wrist-9"), b"signed in again") == "Success"
        aggregator.publish(topics.receipt("wrist-9"), b"receipt")
        heard(device, b"receipt")
        assert [payload for _, payload in device.messages] == [b"receipt"]
    assert b"after both" not in [payload for _, payload in aggregator.messages]


def test_broker_is_seen_to_go_by_its_present_lists(place):
    """Not while it has read older ones only, whatever it was told; and not when it is not there."""
    now = datetime.now(UTC)
    files = (place.folder / name for name in ("ca.crt", "aggregator.crt", "aggregator.key"))
    config = BrokerConfig("127.0.0.1", place.port, "5", "any", *files)
    probe = place.authority.probe(now)
    assert ask(config, probe) == OLD_LISTS
    place.authority.keep_lists((), [(probe.serial, now)], now)
    assert ask(config, probe) == OLD_LISTS
    place.tell()
    until(lambda: ask(config, probe) is None, "the refusal")
    assert ask(config, place.authority.probe(now)) == OLD_LISTS
    assert ask(replace(config, port=free_port()), probe) == "it cannot be asked: Connection refused"


def test_list_that_is_reissued_at_once_is_believed(place):
    """Two lists of one second: the broker keeps both, and goes by the younger one."""
    now = datetime.now(UTC)
    contexts = [place.context(f"quick-{number}") for number in range(3)]
    for number in range(3):
        revoked = [(place.serials[f"quick-{at}"], now) for at in range(number + 1)]
        place.authority.keep_lists((), revoked, now)
        place.tell()
        with Client(place.port, contexts[number]) as client:
            until(lambda client=client: "gone" in client.said, "the end of a new connection")


def test_renewed_certificate_of_the_server_is_used_without_a_restart(place):
    """Standing sessions go on; new ones see the new certificate."""
    until_before = place.authority.server_until
    with place.client("wrist-1") as device:
        assert place.authority.keep_certificates(datetime.now(UTC) + timedelta(days=300)) is True
        assert place.authority.server_until > until_before
        # What is of the future is no good today, and is made again.
        assert place.authority.keep_certificates(datetime.now(UTC)) is True
        place.tell()
        assert device.publish(BATCH, b"x").startswith(("Success", "No matching"))
        assert shown(place) == x509.load_pem_x509_certificate((place.folder / "server.crt").read_bytes())


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_reload_while_the_aggregator_is_away_leaves_the_broker_alive(tmp_path, monkeypatch, protocol):
    """Mosquitto 2.0.11 would note the end of an absent client's session twice, and crash after its return."""
    place = Place(tmp_path)
    files = (place.folder / name for name in ("ca.crt", "aggregator.crt", "aggregator.key"))
    config = BrokerConfig("127.0.0.1", place.port, protocol, "any", *files)
    # What is freed is overwritten at once (glibc), so that who still looks at it falls, or nearly always; else seldom.
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0:glibc.malloc.perturb=165")
    place.broker.start()
    monkeypatch.undo()
    try:
        for times in range(1, 7):
            with BrokerConnection(config, lambda message: message.acknowledge()) as connection:
                until(connection.connected.is_set, "a connection")
                # Once a second it looks at the ends that it has noted.
                begun = seconds(place)
                while seconds(place) < begun + (times == 6) + 1:
                    with place.client(f"wrist-{times}") as device:
                        assert device.connected, place.broker.log()
                assert connection.connected.is_set(), place.broker.log()
                ends = ended(place)
            until(lambda ends=ends: ended(place) > ends, "its end")
            place.tell()
    finally:
        place.broker.kill()


def ended(place):
    """How often the broker has said that the aggregator's connection ended."""
    return place.broker.log().count("Client aggregator disconnected")


def seconds(place):
    """The broker's clock, when it said something last."""
    return int(place.broker.log().splitlines()[-1].partition(":")[0])


def shown(place):
    """The certificate that the broker shows."""
    with (
        socket.create_connection(("127.0.0.1", place.port)) as plain,
        place.context("wrist-1").wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True))


def test_reload_signals_nothing_but_mosquitto(tmp_path):
    """A process id left over from a broker that was killed may be anybody's by now; SIGHUP would end it."""
    path = tmp_path / "mosquitto.pid"
    assert "no broker runs there" in mosquitto.reload(path)
    for text, told in (("1\n", "not mosquitto"), ("x", "invalid literal"), ("99999999", "no broker runs there")):
        path.write_text(text)
        assert told in mosquitto.reload(path)


def test_generated_configuration_has_a_reason_for_every_line():
    """Each block of options stands under a comment."""
    text = mosquitto.format_conf(Path("/x"), None, 8883, "x")
    explained = False
    for line in text.splitlines():
        explained = line.startswith("#") or (bool(line) and explained)
        assert not line or explained, line
