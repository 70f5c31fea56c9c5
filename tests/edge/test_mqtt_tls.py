"""TLS to a real broker: what connects, what does not, and what the person who may have to mend it is told."""

import asyncio
import datetime as dt
import logging
import random

import pytest

from edge import tls
from edge.config import BrokerConfig, TlsFiles
from edge.mqtt import Uplink
from edge.outbox_reader import OutboxReader
from edge.tls import file_context
from ledger.info import Clock
from tests.brokers import HOST, Mosquitto
from tests.edge.conftest import FedSource
from tests.edge.pki import HOUR, Authority, listener_lines, write_identity
from vitalseal.errors import UserError

DAY = dt.timedelta(days=1)


class Once(Exception):  # noqa: N818 - ends the test
    """The uplink has tried once."""


class Site:
    """A CA, a device's identity, and a broker that wants to see it."""

    def __init__(self, directory):
        self.directory = directory
        self.ca = Authority()
        self.device, self.device_certificate = write_identity(directory / "device", self.ca, "dev-1")
        self.server = {"issuer": self.ca, "address": HOST}
        self.broker = None

    async def start(self, *options, crl=False):
        server, _ = write_identity(self.directory / "server", common_name="broker", **self.server)
        server.ca.write_text(self.ca.pem)
        path = None
        if crl:
            path = self.directory / "crl.pem"
            path.write_text(self.ca.crl())
        self.broker = Mosquitto(self.directory, *listener_lines(server, path), *options)
        await self.broker.up()

    def config(self, protocol="auto", host=HOST):
        device = self.device
        paths = {"ca": device.ca, "certificate": device.certificate, "certificate_key": device.key}
        return BrokerConfig(host=host, port=self.broker.port, protocol=protocol, **paths)


@pytest.fixture
async def site(tmp_path):
    site = Site(tmp_path)
    yield site
    if site.broker is not None:
        await site.broker.down()


async def once(site, **others):
    """The uplink after one attempt, and whether it served."""
    served = []

    async def serve(connection):
        await connection.publish_batch(b"envelope")
        served.append(connection)

    async def pause(_delay):
        raise Once

    link = Uplink(site.config(**others), "dev-1", random.Random(1), pause=pause)
    async with asyncio.timeout(20):
        try:
            await link.run(serve, lambda: 0)
        except Once:
            return link, False
    return link, bool(served)


@pytest.mark.parametrize("version", ["tlsv1.2", "tlsv1.3"])
async def test_two_certificates_of_one_ca_connect(site, version):
    """Mutual TLS, in either version, with MQTT 5 at the first try."""
    await site.start(f"tls_version {version}")
    link, served = await once(site)
    assert (served, link.state, link.why) == (True, "connected", "")


async def test_renewed_certificate_is_used_from_the_next_connection_on(site):
    """The files are read for each connection: what was refused gets in once they are replaced."""
    await site.start()
    device = write_identity(site.directory / "device", site.ca, "dev-1", ends=-HOUR / 2)
    assert not (await once(site))[1]
    site.device, _ = write_identity(site.directory / "device", site.ca, "dev-1")
    assert site.device == device[0]
    assert (await once(site))[1]


async def test_key_left_beside_by_a_crash_is_found(site):
    """The certificate was renamed, its key not yet: the pair is there all the same."""
    await site.start()
    site.device.key.rename(site.device.key.with_name("tls.key.next"))
    write_identity(site.directory / "other", site.ca, "dev-1")
    (site.directory / "other" / "tls.key").rename(site.device.key)
    assert (await once(site))[1]


@pytest.mark.parametrize(
    ("clock", "said"),
    [
        (Clock.UNSYNCHRONISED, "the broker's certificate is not valid at this clock's time, which is not synchronised"),
        (Clock.UNKNOWN, "not valid at this clock's time, which is not known to be synchronised"),
        (Clock.SYNCHRONISED, "the broker's certificate"),
    ],
)
@pytest.mark.parametrize(
    ("begins", "ends", "known"),
    [(DAY, 2 * DAY, "is not valid yet"), (-2 * DAY, -DAY, "has expired; whoever runs it must renew it")],
)
async def test_broker_out_of_its_time_is_told_from_a_clock_that_nobody_set(
    site, monkeypatch, clock, said, begins, ends, known
):
    """Whose fault it is depends on whether the clock is known to be right."""
    monkeypatch.setattr(tls, "clock_state", lambda: clock)
    site.server |= {"begins": begins, "ends": ends}
    await site.start()
    link, served = await once(site)
    assert (served, link.state) == (False, "tls")
    assert said in link.why
    assert (known in link.why) == (clock is Clock.SYNCHRONISED)


async def test_broker_of_another_ca_is_refused(site):
    """A stranger that answers at the broker's address learns nothing."""
    site.server["issuer"] = Authority("another")
    await site.start()
    link, served = await once(site)
    assert (served, link.state) == (False, "tls")
    assert "not signed by the CA of this device" in link.why


async def test_broker_under_another_name_is_refused(site):
    """A certificate of the right CA for another address."""
    site.server["address"] = "192.0.2.1"
    await site.start()
    link, served = await once(site)
    assert (served, link.state) == (False, "tls")
    assert "is for another name" in link.why


@pytest.mark.parametrize("version", ["tlsv1.2", "tlsv1.3"])
@pytest.mark.parametrize("why", ["revoked", "expired", "signed by a CA that it does not know"])
async def test_refused_device_is_told_why(site, version, why):
    """Also in TLS 1.3, where the refusal comes after the handshake, beside our CONNECT.

    A connection that is reset may take the broker's word along with it: then the next attempt hears it.
    """
    if why == "revoked":
        site.ca.revoked.append(site.device_certificate)
    elif why == "expired":
        write_identity(site.directory / "device", site.ca, "dev-1", ends=-HOUR / 2)
    else:
        write_identity(site.directory / "device", Authority("another"), "dev-1", believes=site.ca)
    await site.start(f"tls_version {version}", crl=True)
    heard = [(await once(site)) for _ in range(10)]
    refused = [link for link, _ in heard if link.state == "refused"]
    assert not any(served for _, served in heard)
    assert {link.state for link, _ in heard} <= {"refused", "away"}
    assert len(refused) > len(heard) // 2
    for link in refused:
        assert link.why.startswith(f"the broker refuses this device's certificate: {why}")
        assert ("--again" in link.why) == (why != "expired")


async def test_files_that_vanish_while_it_runs_are_a_state(site):
    """Somebody moves the certificate away: no crash, a sentence."""
    await site.start()
    site.device.certificate.unlink()
    link, served = await once(site)
    assert (served, link.state) == (False, "tls")
    assert "tls.crt" in link.why


async def test_each_state_is_logged_once(site, caplog):
    """Away, then refused, then connected: one line each, however many attempts."""
    caplog.set_level("INFO", logger="edge")
    site.ca.revoked.append(site.device_certificate)
    await site.start(crl=True)
    await site.broker.down()
    attempts = 0
    served = asyncio.Event()

    async def serve(_connection):
        served.set()

    async def pause(_delay):
        nonlocal attempts
        attempts += 1
        if attempts == 3:
            await site.broker.up()
        if attempts == 6:
            site.device, _ = write_identity(site.directory / "device", site.ca, "dev-1")

    async with asyncio.timeout(20):
        await Uplink(site.config(), "dev-1", random.Random(1), pause=pause).run(serve, lambda: 0)
    said = [record.getMessage() for record in caplog.records if record.name == "edge.mqtt"]
    assert [" is away: " in line for line in said] == [True, False, False]
    assert [" is not connected: tls: the broker refuses" in line for line in said] == [False, True, False]
    assert said[2].startswith("connected")


class FedWhenToldSource(FedSource):
    """Fed by the log line that says that TLS failed; stops its agent when all of it is read."""

    agent = None

    async def readings(self, cursor):
        async for chunk in super().readings(cursor):
            yield chunk
        self.agent.stop()

    def told(self, record):
        assert "is not connected: tls" in record.getMessage()
        self.feed(100)
        self.end()
        return True


async def test_collecting_goes_on_while_certificates_are_no_good(site, directory, agent_for):
    """The named state stops nothing: readings that come while it lasts are accepted into the outbox."""
    site.server |= {"begins": DAY, "ends": 2 * DAY}
    await site.start()
    source = FedWhenToldSource()
    source.agent = agent_for(site.config(), source)
    log = logging.getLogger("edge.mqtt")
    log.addFilter(source.told)
    try:
        async with asyncio.timeout(20):
            await source.agent.run()
    finally:
        log.removeFilter(source.told)
    with OutboxReader(directory / "data" / "outbox.db") as reader:
        assert (reader.counts().accepted, reader.counts().sealed) == (100, 0)


def test_tls_files_go_together(tmp_path):
    """Half an identity is a mistake in the configuration."""
    with pytest.raises(ValueError, match="go together"):
        BrokerConfig(ca=tmp_path)


def test_missing_ca_is_one_line_that_names_it(tmp_path):
    """A file that is not there is somebody's to mend."""
    with pytest.raises(UserError, match=r"ca\.crt: No such file"):
        file_context(TlsFiles(tmp_path / "ca.crt", tmp_path / "c", tmp_path / "k"))
