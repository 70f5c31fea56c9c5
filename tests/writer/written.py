"""A `Past`, written: its entries on a real log with their private payloads, signed, cosigned and published."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from ledger import canonical
from ledger.entry import Erased
from ledger.note import NoteSigner
from ledger.writer.create import create_log
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.payload import format_payload
from ledger.writer.storage import Place, Submission
from tests.ledger.builders import NOW, NOW_NS, salts_of, seed
from tests.ledger.past import Past, id_of

from .logs import open_writer
from .quorum import WITNESSES, Cosigners

REGISTRAR = NoteSigner("registrar.example", seed("registrar"))
TRUST = f"{REGISTRAR.verifier}\n"


class Written:
    """The log in `data` on which `past` is written as it grows; use as a context manager."""

    def __init__(self, data: Path, past: Past) -> None:
        if not data.exists():
            create_log(data, past.origin, witnesses=WITNESSES)
        self.data, self.past = data, past
        self.storage = LocalStorage(data)
        self.quorum = Cosigners(NOW + 60)
        self.writer: LogWriter = open_writer(self.storage, data, lambda: NOW_NS + 60 * 10**9, self.quorum)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.storage.close()

    def publish(self) -> int:
        """What `past` has come to is on the log, and published; its size."""
        self.commit()
        assert self.writer.publish()
        return self.writer.checkpoint.size

    def commit(self) -> None:
        """What `past` has come to is on the log."""
        batches = {index: (key, batch) for key, chain in self.past.chains.items() for index, batch in chain}
        group = []
        for index in range(self.writer.size, len(self.past.entries)):
            if index not in batches:
                group.append(Submission(self.past.entries[index]))
                continue
            key, batch = batches[index]
            fields = canonical.decode(batch.header, "header")
            assert isinstance(fields, tuple)
            payload = format_payload(salts_of(batch), (batch.info, *batch.readings))
            group.append(Submission(self.past.entries[index], Place(key, *fields[3:5]), payload))
        self.writer.append(group)

    def erase(self, signer: object, number: int, leaves: Sequence[int]) -> None:
        """Salt and bytes of these leaves of a batch of `signer`'s are gone, and the log says so; their hashes stay."""
        index, _ = self.past.chains[id_of(signer)][number]
        self.past.add(Erased(index, tuple(leaves)).encode())
        self.commit()
        assert self.storage.erase([index])
