"""The aggregator against real brokers: the same contract on Mosquitto and amqtt."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, closing

import pytest

from aggregator import intake as intake_module
from aggregator import mqtt as mqtt_module
from aggregator.config import AggregatorConfig, BrokerConfig
from aggregator.registry import Registry
from aggregator.service import Service
from aggregator.status import read_status
from ledger.entry import BatchEntry, parse_entry
from ledger.fsck import fsck
from ledger.keys import ECDSA_P256
from ledger.messages import Reason
from ledger.policy import parse_policy, parse_trust
from ledger.receipt import verify_placed, verify_receipt
from ledger.writer.create import POLICY, POLICY_PQ, TRUST, create_log, load_log_keys
from ledger.writer.files import read_file
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.reader import PUBLIC, LocalReader
from ledger.writer.storage import StorageError
from tests.writer.logs import checked
from tests.writer.quorum import WITNESSES, Cosigners
from vitalseal import topics
from vitalseal.cli import main

from .conversation import PATIENCE_S, Conversation
from .devices import ORIGIN, Device


@asynccontextmanager
async def serving(data, broker, quorum=None, protocol=None):
    """An aggregator in threads of this process, which knows what its broker speaks; what ended it is raised."""
    connection = BrokerConfig(broker.host, broker.port, protocol or broker.protocol)
    config = AggregatorConfig(data, connection, interval_s=0.1, quiet_interval_s=0.1)
    with LocalStorage(data) as storage, closing(Registry(data)) as registry:
        writer = LogWriter(storage, load_log_keys(data).signers, lambda: 2**60, quorum=quorum)
        service = Service(config, storage, writer, registry)
        running = asyncio.create_task(asyncio.to_thread(service.run))
        try:
            await asyncio.to_thread(service._broker.connected.wait, PATIENCE_S)
            yield service
        finally:
            service.stop()
            await asyncio.wait_for(running, PATIENCE_S)


def batches_in_log(data):
    """Header of every batch entry of the published log, which is recomputed whole."""
    policy = parse_policy((data / POLICY).read_bytes())
    size = fsck(lambda path: read_file(data / PUBLIC, path), policy).checkpoint.checkpoint.size
    with LocalReader(data) as log:
        entries = [parse_entry(entry) for entry in log.entries(0, size)]
    return [entry.header for entry in entries if isinstance(entry, BatchEntry)]


async def test_batches_are_stored_and_receipted(data, device, other, broker):
    """Delivery while connected: every batch gets `stored`, then a receipt that verifies under the log's policy."""
    policy = parse_policy((data / POLICY).read_bytes())
    async with serving(data, broker), Conversation(broker, "wrist-1", "wrist-2") as talk:
        for each in (device, other):
            await talk.send(each.name, *[each.batch() for _ in range(30)])
        await talk.until(lambda talk: len(talk.placed("wrist-1")) == len(talk.placed("wrist-2")) == 30)
        assert talk.stored("wrist-1") == set(range(30))
        last = talk.receipts("wrist-1")[-1]
        # The consistency proof starts where the receipt before ended, which this device did not say it had seen.
        checkpoint = verify_receipt(last.__class__(last.checkpoint, 0, (), last.placed), policy, ORIGIN, None)
        for item in last.placed:
            verify_placed(item, checkpoint, device.sealed[item.seq].header, device.sealed[item.seq].signature)
    assert sorted(batches_in_log(data)) == sorted(batch.header for each in (device, other) for batch in each.sealed)


async def test_batches_sent_again_after_the_broker_was_away_are_one_entry_each(data, device, broker):
    """Recovery by resending: whatever the broker lost, sending again heals, and nothing is logged twice."""
    envelopes = [device.batch() for _ in range(12)]
    async with serving(data, broker) as service:
        async with Conversation(broker, "wrist-1") as talk:
            await talk.send("wrist-1", *envelopes[:5])
            await talk.until(lambda talk: talk.stored("wrist-1") == set(range(5)))
            await broker.down()
        assert await asyncio.to_thread(until, lambda: not service._broker.connected.is_set())
        await broker.up()
        await asyncio.to_thread(service._broker.connected.wait, PATIENCE_S)
        async with Conversation(broker, "wrist-1") as talk:
            await talk.send("wrist-1", *envelopes)
            await talk.until(lambda talk: len(talk.placed("wrist-1")) == 12)
    assert batches_in_log(data) == [batch.header for batch in device.sealed]


def until(condition):
    """Whether `condition()` came to hold within the time that a test has."""
    for _ in range(PATIENCE_S * 100):
        if condition():
            return True
        threading.Event().wait(0.01)
    return False


async def test_batches_sent_while_the_aggregator_was_away_are_redelivered(data, device, mosquitto):
    """Mosquitto's alone: the persistent session holds what came while nobody listened; nothing is sent again."""
    async with serving(data, mosquitto):
        pass
    async with Conversation(mosquitto, "wrist-1") as talk:
        await talk.send("wrist-1", *[device.batch() for _ in range(10)])
        async with serving(data, mosquitto):
            await talk.until(lambda talk: len(talk.placed("wrist-1")) == 10)
    assert batches_in_log(data) == [batch.header for batch in device.sealed]


async def test_each_bad_envelope_gets_its_reason_and_the_good_device_goes_on(data, device, other, broker):
    """Malformed, oversized, forged, misdirected and out-of-order envelopes are rejected, counted, and harmless."""
    async with serving(data, broker) as service, Conversation(broker, "wrist-1", "wrist-2", "wrist-9") as talk:
        first, second = other.batch(), other.batch()
        flipped = first[:-1] + bytes([first[-1] ^ 1])
        bad = [b"", b"garbage", first + b"\x00", bytes(300_000), flipped, second]
        for envelope in bad:
            await talk.send("wrist-2", envelope)
            await talk.send("wrist-1", device.batch())
        await talk.send("wrist-9", first)
        await talk.until(lambda talk: len(talk.rejects("wrist-2")) == 6 and talk.rejects("wrist-9"))
        await talk.until(lambda talk: len(talk.placed("wrist-1")) == 6)
        assert talk.rejects("wrist-2") == [
            Reason.MALFORMED,
            Reason.MALFORMED,
            Reason.MALFORMED,
            Reason.TOO_LARGE,
            Reason.BAD_ROOT,
            Reason.OUT_OF_ORDER,  # it is parked, and after a while this is a hint at what is missing
        ]
        assert talk.rejects("wrist-9") == [Reason.WRONG_DEVICE]
        await talk.send("wrist-2", first)
        await talk.until(lambda talk: len(talk.placed("wrist-2")) == 2)
        assert service._ingest.admission.counts["malformed"] == 3
    assert read_status(data).decisions == {
        "admitted": 8,
        "malformed": 3,
        "too_large": 1,
        "bad_root": 1,
        "parked": 1,
        "wrong_device": 1,
    }
    assert len(batches_in_log(data)) == 8


async def test_device_says_where_it_stands_and_gets_its_receipts_from_there(data, device, broker):
    """A receipt that was lost is sent again when the device's status shows that it has not seen it."""
    async with serving(data, broker), Conversation(broker, "wrist-1") as talk:
        await talk.status("wrist-1", size=0)
        await talk.send("wrist-1", device.batch())
        await talk.until(lambda talk: len(talk.receipts("wrist-1")) == 1)
        await talk.status("wrist-1", size=0)
        await talk.until(lambda talk: len(talk.receipts("wrist-1")) == 2)
        assert [receipt.old_size for receipt in talk.receipts("wrist-1")] == [0, 0]
        await talk.status("wrist-1", online=False)
        await talk.send("wrist-1", device.batch())
        await talk.until(lambda talk: len(talk.receipts("wrist-1")) == 3)


async def test_status_of_any_content_stops_nobody(data, device, mosquitto):
    """Anyone may publish a status, retained; absurd sizes, strangers and garbage change nothing for the devices."""
    async with serving(data, mosquitto) as service, Conversation(mosquitto, "wrist-1") as talk:
        for name in ("wrist-1", "stranger"):
            await talk.status(name, size=2**64 - 1)
            for payload in (b"", b"garbage", bytes(100_000)):
                await talk.publish(topics.status(name), payload)
        await talk.send("wrist-1", device.batch())
        await talk.until(lambda talk: talk.placed("wrist-1"))
        assert set(service._publisher._outgoing._devices) == {"wrist-1"}


async def test_full_queue_makes_the_network_wait_and_loses_nothing(data, device, mosquitto, monkeypatch):
    """Back-pressure: with room for two and a slow disk every batch still arrives, in order."""
    monkeypatch.setattr(intake_module, "TOTAL_MESSAGES", 2)
    monkeypatch.setattr(intake_module, "GROUP_MESSAGES", 2)
    async with serving(data, mosquitto) as service, Conversation(mosquitto, "wrist-1") as talk:
        with service._order:  # the ingest thread stops at its first group
            for _ in range(40):
                await talk.send("wrist-1", device.batch())
            assert await asyncio.to_thread(until, lambda: len(service._intake) == 2)
        await talk.until(lambda talk: talk.stored("wrist-1") == set(range(40)))
    assert len(batches_in_log(data)) == 40


async def test_storage_that_fails_ends_the_service_with_its_error(data, device, mosquitto):
    """A disk that refuses ends the process; nothing is acknowledged that is not committed."""
    with pytest.raises(StorageError, match="no such table"):  # noqa: PT012 - raised where the service is left
        async with serving(data, mosquitto) as service, Conversation(mosquitto, "wrist-1") as talk:
            service._writer._storage._writing.execute("DROP TABLE payloads")
            await talk.send("wrist-1", device.batch())
            await asyncio.to_thread(service._stopping.wait, PATIENCE_S)
            assert talk.stored("wrist-1") == set()


@asynccontextmanager
async def process(config, data):
    """`vitalseal aggregator run` as a process, connected to its broker."""
    (data / "status.json").unlink(missing_ok=True)
    child = subprocess.Popen(  # noqa: ASYNC220 - starting takes no time
        [sys.executable, "-m", "vitalseal", "aggregator", "run", "--config", str(config)], stderr=subprocess.PIPE
    )
    try:
        await asyncio.to_thread(connected, child)
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        await asyncio.to_thread(child.communicate)


def connected(child):
    """Reads the log until it says so."""
    for line in child.stderr:
        if b"connected to broker" in line:
            return
    raise AssertionError("the aggregator ended before it was connected")


async def test_aggregator_killed_again_and_again_has_every_batch_once(data, device, other, broker):
    """SIGKILL at changing moments under traffic: devices send again, and the log has each batch in one entry."""
    config = data / "aggregator.toml"
    config.write_text(
        'data = "."\ninterval_s = 0.1\nquiet_interval_s = 0.1\n'
        f'[broker]\nhost = "{broker.host}"\nport = {broker.port}\nprotocol = "{broker.protocol}"\n'
    )
    batches = {each.name: [each.batch(2) for _ in range(60)] for each in (device, other)}
    async with Conversation(broker, "wrist-1", "wrist-2") as talk:
        for kill_after in (1, 7, 20, 45):
            async with process(config, data) as child:
                for each, envelopes in batches.items():
                    await talk.send(each, *envelopes)
                await talk.until(lambda talk, least=kill_after: len(talk.stored("wrist-1")) >= least)
                os.kill(child.pid, signal.SIGKILL)
        async with process(config, data):
            for each, envelopes in batches.items():
                await talk.send(each, *envelopes)
            await talk.until(lambda talk: len(talk.placed("wrist-1")) == len(talk.placed("wrist-2")) == 60)
    assert sorted(batches_in_log(data)) == sorted(batch.header for each in (device, other) for batch in each.sealed)


async def one_scan(service):
    """A look at the folder of key events that began after this call is over."""
    keys, done = service._keys, threading.Event()
    scan = keys.scan

    def scan_and_tell():
        scan()
        done.set()

    keys.scan = scan_and_tell
    assert await asyncio.to_thread(done.wait, PATIENCE_S)


async def test_revocation_dropped_while_running_counts_from_the_next_scan_on(data, device, other, mosquitto):
    """The file is all that it takes: nothing of that key is logged after it was found, and the others go on."""
    trust = parse_trust((data / TRUST).read_bytes())
    async with serving(data, mosquitto) as service, Conversation(mosquitto, "wrist-1", "wrist-2") as talk:
        await talk.send("wrist-1", device.batch(), device.batch())
        await talk.until(lambda talk: len(talk.placed("wrist-1")) == 2)
        device.revoke(data, (0, 2))
        await one_scan(service)
        await talk.send("wrist-1", device.batch(), device.batch())
        await talk.send("wrist-2", other.batch())
        await talk.until(lambda talk: len(talk.rejects("wrist-1")) == 2 and talk.placed("wrist-2"))
        assert talk.rejects("wrist-1") == [Reason.ENDED_KEY] * 2
    assert batches_in_log(data) == [batch.header for batch in (*device.sealed[:2], other.sealed[0])]
    log = checked(data, trust).log
    assert log.entries == {"enrolments": 2, "revocations": 1, "batches": 3, "key states": 4}


async def test_every_batch_of_a_run_can_be_proven_by_all_steps_after_it(tmp_path, mosquitto, capsys):
    """The key state at the end covers what was logged until then, for devices of either algorithm."""
    data = tmp_path / "data"
    create_log(data, ORIGIN, witnesses=WITNESSES)
    devices = [Device("wrist-1", 1), Device("chip-1", 5, algorithm=ECDSA_P256)]
    for each in devices:
        each.enrol(data)
    async with serving(data, mosquitto, Cosigners(2_000_000_000)), Conversation(mosquitto, "wrist-1", "chip-1") as talk:
        for each in devices:
            await talk.send(each.name, each.batch(), each.batch())
        await talk.until(lambda talk: len(talk.placed("wrist-1")) == len(talk.placed("chip-1")) == 2)
    files = []
    for each in devices:
        key = ["--device", each.key_id.hex()]
        for words in (["--key-status", key[1]], [*key, "--from", "0", "--to", "1", "--disclose"], [*key, "--seq", "1"]):
            assert main(["ledger", "proof", "--data", str(data), *words, "-o", f"{tmp_path}/"]) == 0
    files = [str(path) for path in sorted(tmp_path.glob("*.tlog-proof"))]
    assert len(files) == 2 * (1 + 1 + 3)
    for policy in (POLICY, POLICY_PQ):
        rules = ["--policy", str(data / policy), "--trust", str(data / TRUST), "--strict"]
        assert main(["verify", *files, *rules]) == 0
    assert "unproven" not in capsys.readouterr().out.lower()


async def test_aggregator_that_cannot_speak_mqtt_5_falls_back(data, broker, monkeypatch):
    """`auto` finds the version that the broker has."""
    monkeypatch.setattr(mqtt_module, "ANSWER_WITHIN_S", 1.0)
    async with serving(data, broker, protocol="auto") as service:
        assert service._broker.version == broker.protocol
