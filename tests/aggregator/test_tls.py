"""The aggregator's own connection over TLS: it comes about, or one line says why not."""

import logging
from datetime import UTC, datetime, timedelta

import pytest

from aggregator.authority import Authority, create_authority
from aggregator.certificates import DEVICE_VALID, issue_client, key_pem, make_ca, make_key, pem
from aggregator.config import BrokerConfig
from aggregator.mqtt import BrokerConnection
from aggregator.tls import broker_context
from tests.brokers import free_port
from vitalseal.config import from_table
from vitalseal.errors import UserError

from .broker import TlsMosquitto
from .devices import ORIGIN
from .gateway import until


@pytest.fixture
def config(tmp_path):
    """A configuration with its files."""
    (tmp_path / "keys").mkdir()
    port = free_port()
    create_authority(tmp_path, ORIGIN, (), port, datetime.now(UTC))
    folder = tmp_path / "broker"
    certificate, key = folder / "aggregator.crt", folder / "aggregator.key"
    return BrokerConfig("127.0.0.1", port, ca=folder / "ca.crt", certificate=certificate, certificate_key=key)


@pytest.fixture
def place(config, tmp_path):
    """The same, and its broker, which runs."""
    broker = TlsMosquitto(tmp_path / "broker", config.port)
    broker.start()
    yield config, broker
    broker.kill()


def test_connection_comes_about_and_again_with_a_renewed_certificate(place, tmp_path):
    """The files are read for each connection."""
    config, broker = place
    with BrokerConnection(config, lambda _: None) as connection:
        assert connection.connected.wait(20)
        Authority(tmp_path).keep_certificates(datetime.now(UTC) + timedelta(days=280))
        Authority(tmp_path).keep_certificates(datetime.now(UTC))
        broker.kill()
        until(lambda: not connection.connected.is_set(), "the loss")
        broker.start()
        assert connection.connected.wait(20)


def test_broker_that_refuses_the_certificate_is_named_once(place, tmp_path, caplog):
    """Tried again all the same, because somebody may mend it."""
    config, broker = place
    key, ca = make_key(), make_ca("another", datetime.now(UTC))
    config.certificate_key.write_bytes(key_pem(key))
    stranger = issue_client(ca, "aggregator", key.public_key(), datetime.now(UTC), DEVICE_VALID)
    config.certificate.write_bytes(pem(stranger))
    with caplog.at_level(logging.WARNING), BrokerConnection(config, lambda _: None):
        until(lambda: broker.log().count("certificate verify failed") >= 3, "three tries")
    said = [record.message for record in caplog.records]
    assert len(said) == 1
    assert f"our certificate {config.certificate}" in said[0]


def test_server_of_another_ca_is_not_believed(place, tmp_path, caplog):
    """Nor is one with another name."""
    config, _ = place
    config.ca.write_bytes(pem(make_ca("another", datetime.now(UTC)).certificate))
    with caplog.at_level(logging.WARNING), BrokerConnection(config, lambda _: None):
        until(lambda: caplog.records, "a warning")
    assert "its certificate is not believed" in caplog.records[0].message


@pytest.mark.parametrize("name", ["ca", "certificate", "certificate_key"])
@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_files_that_cannot_be_used_are_one_line_before_anything_runs(config, name, content):
    """It names the file."""
    path = getattr(config, name)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)) as caught:
        BrokerConnection(config, lambda _: None)
    assert "\n" not in str(caught.value)


def test_files_belong_together(tmp_path):
    """One of the three alone is a mistake; none is a connection without TLS."""
    assert broker_context(BrokerConfig()) is None
    for name in ("ca", "certificate", "certificate_key"):
        with pytest.raises(UserError, match="belong together"):
            from_table(BrokerConfig, {name: "x"}, "c: ", tmp_path)
