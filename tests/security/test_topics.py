"""One device at the broker: its own three topics, whatever it tries.

Mosquitto 2.0.11 tells nobody of what it denies, unless it is asked to.
"""

from contextlib import ExitStack

import pytest

from tests.aggregator.gateway import Client, until
from vitalseal import topics

from .scene import Talk

REFUSED = "Not authorized"
ODD_NAMES = ["+", "#", "evil/x", "a/b/c", "$SYS", "%u", "Honest", "aggregator ", " ", "ë"]


def foreign(name):
    """Where a device has nothing to say; `name` is another one's."""
    return [
        topics.batch(name),
        topics.status(name),
        topics.receipt(name),
        "$SYS/broker/log",
        "$CONTROL/dynamic-security/v1",
        "vitalseal/v1/batch",
        "vitalseal/v2/x/batch",
        "/",
        "other",
    ]


@pytest.mark.parametrize("version", [4, 5])
def test_publishing_anywhere_else(scene, honest, culprit, version):
    """Denied, retained or not, and with QoS 0; MQTT 5 says so, MQTT 3.1.1 has no word for it."""
    before = len(scene.broker.log())
    with scene.counting(admitted=1, malformed=0), Talk(scene, culprit, version=version) as evil:
        for topic in [*foreign(honest.device.name), topics.receipt(culprit.name)]:
            for retain in (False, True):
                mid = evil._client.publish(topic, b"evil", qos=1, retain=retain).mid
                said = until(lambda mid=mid: evil._acknowledged.get(mid), topic)
                assert said == (REFUSED if version == 5 else "Success"), topic
            evil._client.publish(topic, b"evil", qos=0)
        assert evil.connected
        honest.go_on()
        assert evil.messages == []
    # What was retained would come now.
    honest.subscribe(topics.receipt(honest.device.name))
    assert "Denied" not in scene.broker.log()[before:]


def test_operator_can_ask_the_broker_who_is_denied(scene, honest, culprit):
    """With one line more in its configuration it says so, from the next SIGHUP on."""
    conf = scene.folder / "mosquitto.conf"
    made = conf.read_text()
    reloads = scene.broker.log().count("Reloading config")
    try:
        conf.write_text(made + "log_type debug\n")
        scene.broker.read_again()
        until(lambda: scene.broker.log().count("Reloading config") > reloads, "the reload")
        before = len(scene.broker.log())
        with Talk(scene, culprit) as evil:
            assert evil.publish(topics.batch(honest.device.name), b"evil") == REFUSED
        scene.broker_sees(before, f"Denied PUBLISH from {culprit.name}", f"'{topics.batch(honest.device.name)}'")
    finally:
        conf.write_text(made)
        scene.broker.read_again()


def test_listening_anywhere_else(scene, honest, evil):
    """Mosquitto grants a subscription to anything, and delivers what the list allows: nothing of anybody else."""
    evil.subscribe(
        "#",
        "+/+/+/+",
        "$SYS/#",
        topics.receipt(honest.device.name),
        topics.receipt("+"),
        topics.BATCHES,
        topics.STATUSES,
        f"$share/evil/{topics.BATCHES}",
        f"$share/evil/{topics.receipt(honest.device.name)}",
        f"$share/aggregator/{topics.BATCHES}",
    )
    for _ in range(5):
        honest.go_on()
    honest.all_receipted()
    # Its own receipts come after all of that.
    evil.go_on()
    evil.all_receipted()


def test_will_on_a_foreign_topic(scene, honest, culprit):
    """It is checked when it is due, as whatever is published: nobody speaks for another, dying either."""
    with scene.counting(admitted=1, malformed=0):
        for kind in (topics.status, topics.batch, topics.receipt):
            with Talk(scene, culprit, will=(kind(honest.device.name), b"evil", 1, True)) as evil:
                evil.cut()
                until(lambda evil=evil: not evil.connected, "the end")
        with Talk(scene, culprit) as evil:
            assert evil.publish(topics.status(culprit.name), b"") == "Success"
        honest.go_on()
    honest.subscribe(topics.receipt(honest.device.name))


def test_session_of_another(scene, honest, culprit):
    """A client id names no session here; the certificate does, so nobody is thrown off or listened to."""
    for name in (honest.device.name, "aggregator"):
        with Client(scene.port, culprit.context(), client_id=name) as client:
            client.subscribe(topics.receipt(honest.device.name))
            honest.go_on()
            assert (client.connected, client.messages) == (True, [])
    assert honest.connected
    assert "NOT CONNECTED" not in scene.command("status")


def test_names_that_no_device_has(scene, honest):
    """The desk gives no certificate for them; with one by a stolen CA key they reach nobody all the same."""
    with scene.counting(admitted=1, malformed=0), ExitStack() as stack:
        clients = [stack.enter_context(Client(scene.port, scene.context(name))) for name in ODD_NAMES]
        for name, client in zip(ODD_NAMES, clients, strict=True):
            if client.connected:
                client.subscribe("#", topics.receipt(honest.device.name))
                for topic in foreign(honest.device.name):
                    assert client.publish(topic, b"evil") == REFUSED
                mid = client.send(topics.batch(name.replace("+", "x").replace("#", "x")), b"evil")
                # Some are no names at all to Mosquitto, which ends the connection.
                until(lambda c=client, mid=mid: c._acknowledged.get(mid) or not c.connected, name)
        honest.go_on()
        assert [client.messages for client in clients] == [[] for _ in clients]
