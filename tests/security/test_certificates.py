"""Who is let in at all: only who shows a certificate of this log's CA, now valid, for a client."""

import contextlib
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest

from aggregator.certificates import make_ca
from aggregator.config import AggregatorConfig
from aggregator.tls import broker_context
from edge.tls import client_context
from tests.aggregator.gateway import until
from vitalseal import config as configuration
from vitalseal.cli import main

from .wire import CONNECT

DAY = timedelta(days=1)


def turned_away(scene, context):
    """A connection to the broker ends before it is one, and a question to the desk is not answered."""
    assert ask(scene.port, context, CONNECT) == b""
    assert ask(scene.desk_port, context, b"GET /v1/log HTTP/1.1\r\nHost: x\r\n\r\n") == b""


def ask(port, context, question):
    """The answer; nothing if the other side ends the connection."""
    with socket.create_connection(("127.0.0.1", port)) as plain:
        plain.settimeout(20)
        try:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as tls:
                tls.sendall(question)
                return tls.recv(12)
        except (ssl.SSLError, ConnectionError):
            return b""


def test_no_certificate(scene, honest):
    """The broker asks for one; the desk lets whoever has none ask for the CA and show a token, no more."""
    before = len(scene.broker.log())
    assert ask(scene.port, scene.stranger(), CONNECT) == b""
    scene.broker_sees(before, "peer did not return a certificate")


def test_no_tls(scene, honest):
    """A plain CONNECT is not MQTT here, nor is a plain request HTTP."""
    before = len(scene.broker.log())
    for port, said in ((scene.port, CONNECT), (scene.desk_port, b"GET /v1/log HTTP/1.1\r\nHost: x\r\n\r\n")):
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.sendall(said)
            assert not ended(plain).startswith((b"\x20", b"HTTP"))
    scene.broker_sees(before, "wrong version number")


def ended(plain):
    """What came until the other side closed the connection."""
    plain.settimeout(20)
    heard = b""
    try:
        while part := plain.recv(1024):
            heard += part
    except ConnectionResetError:
        pass
    return heard


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        ({"issuer": make_ca("Vitalseal CA", datetime.now(UTC))}, "certificate verify failed"),
        ({"at": datetime.now(UTC) - 100 * DAY}, "certificate verify failed"),
        ({"at": datetime.now(UTC) + 2 * DAY}, "certificate verify failed"),
    ],
    ids=["another CA", "expired", "not valid yet"],
)
def test_certificate_that_is_not_good(scene, honest, forge, reason):
    """Whatever name it says: that of a device, or the aggregator's."""
    for name in (honest.device.name, "aggregator"):
        before = len(scene.broker.log())
        turned_away(scene, scene.context(name, **forge))
        scene.broker_sees(before, reason)
    assert honest.connected


def test_old_tls(scene, honest):
    """TLS 1.1 finds nobody, at the broker as at the desk."""
    context = scene.context(honest.device.name)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    before = len(scene.broker.log())
    turned_away(scene, context)
    scene.broker_sees(before, "unsupported protocol")


def test_certificate_of_a_device_serves_nobody(scene, evil):
    """Neither a gateway nor the aggregator takes a device for the broker or the desk, also under the right address."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    directory = scene.directory / f"{evil.device.name}-{evil.device.number}"
    serving.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    config = configuration.load(scene.config, AggregatorConfig)
    for context in (client_context((scene.folder / "ca.crt").read_text()), broker_context(config.broker)):
        context.check_hostname = False  # a thief of the address, too
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=serve_once, args=(server, serving))
            thread.start()
            with (
                socket.create_connection(server.getsockname()) as plain,
                pytest.raises(ssl.SSLCertVerificationError, match="certificate purpose"),
            ):
                context.wrap_socket(plain, server_hostname="127.0.0.1")
            thread.join()


def serve_once(server, context):
    plain, _ = server.accept()
    with plain, contextlib.suppress(OSError):
        context.wrap_socket(plain, server_side=True).close()


def test_name_of_the_aggregator_is_nobody_elses(scene, honest, capsys):
    """There is no token for it, and so no certificate."""
    assert main(["aggregator", "token", "aggregator", "--config", str(scene.config)]) != 0
    assert "is the aggregator's own; choose another" in capsys.readouterr().err
    gateway = scene.gateway()
    status, answer = gateway.ask("POST", "/v1/enrol", gateway.enrol_body(device="aggregator"), certificate=False)
    assert (status, answer["error"]) == (403, "no such token for this device; ask for another one")
    scene.sees("/v1/enrol for aggregator from 127.0.0.1 refused: no such token")
    until(lambda: "connected" in scene.command("status"), "the aggregator is not thrown off")
