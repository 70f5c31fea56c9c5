"""A log with three real witnesses in threads of this process: written, backed up, lost, restored."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from aggregator.backup import make_backup
from aggregator.config import AggregatorConfig, BackupConfig
from aggregator.lifecycle import open_log
from aggregator.registry import Registry
from aggregator.relocation import format_config
from aggregator.restore import Restored, restore
from ledger.entry import BatchEntry, parse_entry
from ledger.envelope import parse_envelope
from ledger.events import enrol
from ledger.fsck import LogReport
from ledger.policy import Witness as PolicyWitness
from ledger.service.witness import known_logs
from ledger.service.witness_app import make_app
from ledger.service.witness_keys import create_witness, load_signers
from ledger.service.witness_service import Witness
from ledger.service.witness_store import WitnessStore
from ledger.writer.create import create_log, load_log_keys
from ledger.writer.keybook import KeyBook
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.payload import format_payload
from ledger.writer.reader import PUBLIC, LocalReader
from ledger.writer.storage import Place, Submission
from tests.service.servers import running
from tests.service.witnessing import UNLIMITED
from tests.writer.logs import checked

from .devices import Device, registrar

ORIGIN = "first.example/log"
NAMES = ("hospital", "regulator", "patients")


def quiet(*_: object) -> None:
    """Progress that nobody watches."""


def submission(envelope: bytes) -> Submission:
    """The entry, place and payload of a batch, as admission makes them."""
    opened = parse_envelope(envelope)
    header = opened.header
    entry = BatchEntry(opened.header_bytes, opened.signature)
    payload = format_payload(opened.salts, opened.bodies)
    return Submission(entry.encode(), Place(header.key_id, header.epoch, header.seq), payload)


@dataclass
class Running:
    """The log's one writer at work."""

    data: Path
    storage: LocalStorage
    writer: LogWriter
    book: KeyBook

    def enrol(self, device: Device) -> None:
        """The device's key is on the log, its name in the registry."""
        event = enrol(device.signer, registrar(self.data), device.origin)
        self.book.append([event])

    def log(self, *envelopes: bytes) -> int:
        """The batches are committed; the index of the first."""
        return self.writer.append([submission(envelope) for envelope in envelopes])

    def publish(self) -> int:
        """Everything committed is published; its size."""
        assert self.writer.publish()
        return self.writer.checkpoint.size


class Estate:
    """A log below `directory`, whose witnesses can be taken away and brought back."""

    def __init__(self, directory: Path, opened: ExitStack, names: Sequence[str] = NAMES, guard: Path | None = None):
        self.directory = directory
        self.data, self.config = directory / "data", directory / "aggregator.toml"
        self.backup, self.mirror = directory / "backup", directory / "mirror"
        self._witnesses: dict[str, Witness] = {}
        self._servers: dict[str, ExitStack] = {}
        named = []
        for name in names:
            create_witness(directory / name, f"witness.example/{name}", None)
            store = opened.enter_context(WitnessStore(directory / name))
            signers = load_signers(directory / name, store)
            witness = Witness(store, signers, {}, limits=UNLIMITED, stop=quiet)
            self._witnesses[name] = witness
            self._servers[name] = opened.enter_context(ExitStack())
            url = self._servers[name].enter_context(running(make_app(witness)))
            named += [PolicyWitness(f"{name}-{at}", signer.verifier, url) for at, signer in enumerate(signers)]
        opened.callback(self._stop)
        create_log(self.data, ORIGIN, witnesses=named, guard=guard)
        # Beside the data, as on a volume of their own: `lose` leaves them.
        self.keys = directory / "keys" / "backup-keys.db"
        self.keys.parent.mkdir()
        self.settings = AggregatorConfig(self.data, guard=guard, backup=BackupConfig(self.keys))
        self.config.write_text(format_config(self.settings))
        Registry(self.data).close()
        self._keys = [signer.verifier for signer in load_log_keys(self.data).signers]
        self.bring_back(*names)

    def take_away(self, *names: str) -> None:
        """These witnesses refuse every request, as those do that do not know the log."""
        for name in names:
            self._witnesses[name].logs = {}

    def break_off(self, *names: str) -> None:
        """These witnesses do not answer any more."""
        for name in names:
            self._servers[name].close()

    def _stop(self) -> None:
        """All at once, because each takes its time to say goodbye."""
        with ThreadPoolExecutor(max(1, len(self._servers))) as pool:
            list(pool.map(ExitStack.close, self._servers.values()))

    def bring_back(self, *names: str) -> None:
        """These witnesses cosign again."""
        for name in names:
            witness = self._witnesses[name]
            witness.logs = known_logs(self._keys, [signer.verifier for signer in witness.signers])

    @contextmanager
    def writing(self, settings: AggregatorConfig | None = None) -> Iterator[Running]:
        """The log is open; as it is now, or as restored to `settings`."""
        settings = settings or self.settings
        with open_log(settings) as log:
            yield Running(settings.data, log.storage, log.writer, KeyBook(log.writer, log.storage, time.monotonic))

    def back_up(self) -> None:
        """There is a backup of the log as it is."""
        make_backup(self.config, self.settings, self.backup, quiet)

    def lose(self) -> None:
        """The data directory is gone; what was public is at `mirror`."""
        (self.data / PUBLIC).rename(self.mirror)
        self.data.rename(self.directory / "lost")

    def restore(self, place: Path | str | None) -> Restored:
        """The backup is put back where the data directory was."""
        return restore(self.backup, self.data, self.config, None if place is None else str(place), quiet)

    def sound(self) -> LogReport:
        """The published log, recomputed, under both its policies."""
        return checked(self.data)


def headers(data: Path) -> list[bytes]:
    """The header of every batch on the log, in its order."""
    with LocalReader(data) as log:
        entries = [parse_entry(entry) for entry in log.entries(0, log.size())]
    return [entry.header for entry in entries if isinstance(entry, BatchEntry)]
