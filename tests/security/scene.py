"""The real thing, to be attacked: `aggregator init`, Mosquitto with its files, `aggregator run`, the desk."""

import contextlib
import io
import itertools
import json
import ssl
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aggregator.authority import Authority
from aggregator.certificates import DEVICE_VALID, issue_client, key_pem, make_key, pem
from ledger.batch import Header
from ledger.entry import BatchEntry, parse_entry
from ledger.messages import Receipt, Reject, Stored, parse_message
from ledger.writer.reader import LocalReader
from tests.aggregator.broker import TlsMosquitto
from tests.aggregator.devices import ORIGIN
from tests.aggregator.gateway import PATIENCE_S, Client, Gateway, until
from tests.brokers import free_port
from tests.ops.programs import Program
from vitalseal import topics
from vitalseal.cli import main

RESEND_S = 3.0  # of silence, after which a gateway sends again at the earliest (edge.window)


class Scene:
    """One aggregator with its desk and its broker; every test brings devices and attackers of its own."""

    def __init__(self, directory):
        self.directory = directory
        self.data, self.config = directory / "data", directory / "aggregator.toml"
        self.folder = self.data / "broker"
        self.port, self.desk_port = free_port(), free_port()
        self._numbers = itertools.count(1)
        where = ("--broker", f"127.0.0.1:{self.port}", "--desk-port", self.desk_port)
        self.command("init", "--data", self.data, "--origin", ORIGIN, *where)
        # Receipts and key events within a second, so that a test need not wait for them.
        text = self.config.read_text()
        for slow, fast in (
            ("quiet_interval_s = 10.0", "quiet_interval_s = 0.1"),
            ("interval_s = 1.0", "interval_s = 0.1"),
        ):
            assert slow in text
            text = text.replace(slow, fast)
        self.config.write_text(text)
        self.broker = TlsMosquitto(self.folder, self.port)

    def __enter__(self):
        self.broker.start()
        self.start()
        return self

    def __exit__(self, *_):
        try:
            self.stop()
        finally:
            self.aggregator.kill()
            self.broker.kill()
        assert "Traceback" not in self.said()

    def start(self):
        """The aggregator and its desk are at work."""
        log = self.directory / "aggregator.log"
        before = len(log.read_text()) if log.exists() else 0
        self.aggregator = Program(["aggregator", "run", "--config", self.config], log)
        for line in ("connected to broker", "the desk is at"):
            until(lambda line=line: line in self.said()[before:], line)

    def stop(self):
        """They have ended in good order."""
        assert self.aggregator.stop() == 0, self.said()

    def memory_mb(self):
        """What the aggregator takes up in memory."""
        status = Path(f"/proc/{self.aggregator.process.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) / 1024

    def command(self, *words):
        """What `vitalseal aggregator WORDS...` prints."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main(["aggregator", *map(str, words), "--config", str(self.config)]) == 0
        return printed.getvalue()

    def said(self):
        """The log of aggregator and desk."""
        return self.aggregator.said()

    def sees(self, *words):
        """The operator finds a line with these words in the log of aggregator and desk."""
        find(self.said, words)

    def broker_sees(self, before, *words):
        """The same in the log of the broker, after its first `before` characters."""
        find(lambda: self.broker.log()[before:], words)

    @contextlib.contextmanager
    def counting(self, **more):
        """Meanwhile `status` counts just so many more decisions, by name."""
        before = Counter(self.decisions())
        yield
        wanted = {name: before[name] + count for name, count in more.items()}
        until(lambda: {name: self.status()["decisions"].get(name, 0) for name in more} == wanted, f"{wanted}")

    def decisions(self):
        """What `aggregator status` counts, by name, all until now included."""
        now = time.time()
        status = until(lambda: (found := self.status())["updated_at"] > now and found, "a look at itself")
        return status["decisions"]

    def status(self):
        """What `aggregator status --json` prints."""
        return json.loads(self.command("status", "--json"))

    def name(self, word):
        """A device name that nobody has, and a number for its key."""
        number = next(self._numbers)
        return f"{word}-{number}", number

    def gateway(self, word="wrist"):
        """A gateway with a good token, not signed in yet."""
        name, number = self.name(word)
        return Gateway(self.directory, self.command("token", name).strip(), number)

    def context(self, name, *, issuer=None, at=None, valid=DEVICE_VALID):
        """What connects with a certificate for `name` that the desk never gave out: by our CA if no other issues it."""
        issuer, at, key = issuer or Authority(self.data)._ca, at or datetime.now(UTC), make_key()
        certificate, private = (self.directory / f"forged.{kind}" for kind in ("crt", "key"))
        certificate.write_bytes(pem(issue_client(issuer, name, key.public_key(), at, valid)))
        private.write_bytes(key_pem(key))
        context = self.stranger()
        context.load_cert_chain(certificate, private)
        return context

    def stranger(self):
        """What connects without a certificate."""
        return ssl.create_default_context(cafile=self.folder / "ca.crt")

    def enrolled(self, word="wrist"):
        """A gateway that the desk has signed in."""
        gateway = self.gateway(word)
        gateway.enrol()
        return gateway

    def entries(self):
        """Everything on the log."""
        with LocalReader(self.data) as log:
            return [parse_entry(entry) for entry in log.entries(0, log.size())]

    def batches_of(self, device):
        """Sequence numbers of this key's batches on the log."""
        headers = [Header.decode(entry.header) for entry in self.entries() if isinstance(entry, BatchEntry)]
        return [header.seq for header in headers if header.key_id == device.key_id]


def find(log, words):
    """A line with all of `words` comes to stand in what `log` tells."""
    try:
        until(lambda: any(all(word in line for word in words) for line in log().splitlines()))
    except AssertionError:
        pytest.fail(f"no line with {words} in:\n{log()[-3000:]}")


class Talk(Client):
    """A device's own connection, which listens to its receipts and notes when what came."""

    def __init__(self, scene, gateway, **options):
        super().__init__(scene.port, gateway.context(), **options)
        self.device = gateway.device
        self.heard = []
        self.captured = b""  # the last batch that was stored
        self._client.on_message = self._on_message

    def __enter__(self):
        super().__enter__()
        self.subscribe(topics.receipt(self.device.name))
        return self

    def _on_message(self, _client, _data, message):
        self.messages.append((message.topic, bytes(message.payload)))
        self.heard.append((time.monotonic(), parse_message(bytes(message.payload))))

    def _of(self, kind):
        return [(at, message) for at, message in list(self.heard) if isinstance(message, kind)]

    def stored(self):
        """When each sequence number was answered `stored`."""
        return {message.seq: at for at, message in self._of(Stored)}

    def rejects(self):
        """The reasons, oldest first."""
        return [message.reason for _, message in self._of(Reject)]

    def all_receipted(self):
        """Every batch so far, and nobody else's, is in a receipt."""

        def placed():
            return {item.seq for _, receipt in self._of(Receipt) for item in receipt.placed}

        until(lambda: placed() == set(range(self.device.seq)), "receipts")
        assert {topic for topic, _ in self.messages} == {topics.receipt(self.device.name)}

    def refused(self, envelope, reason):
        """The envelope, sent on our own topic, is rejected for this reason."""
        before = len(self.rejects())
        self.send(topics.batch(self.device.name), envelope)
        assert until(lambda: self.rejects()[before:], f"a reject: {reason}") == [reason]

    def next_batch(self, **options):
        """The device's next batch, of now."""
        return self.device.batch(at_ns=time.time_ns() - self.device.seq * 1000 * 10**9, **options)

    def go_on(self):
        """The next batch is stored; how long that took."""
        seq = self.device.seq
        self.captured = envelope = self.next_batch()
        started = sent = time.monotonic()
        self.send(topics.batch(self.device.name), envelope)
        while (at := self.stored().get(seq)) is None:
            now = time.monotonic()
            assert now - started < PATIENCE_S, f"no answer to {seq}"
            if now - sent > RESEND_S:
                sent = now
                self.send(topics.batch(self.device.name), envelope)
            time.sleep(0.005)  # between two looks
        return at - started
