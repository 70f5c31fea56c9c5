"""Erasing: no byte of a salt or a reading is left in any file, whenever the writer ends; all else is proven as ever."""

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ledger.checkpoint import Checkpoint
from ledger.entry import Erased
from ledger.errors import VerificationError
from ledger.leaves import Leaf
from ledger.policy import parse_policy
from ledger.proof import read_proof
from ledger.verify import verify_leaf
from ledger.writer import local
from ledger.writer.create import POLICY, create_log, load_log_keys
from ledger.writer.database import DATABASE
from ledger.writer.files import read_file
from ledger.writer.local import LocalStorage
from ledger.writer.payload import parse_payload
from ledger.writer.prove import Prover
from ledger.writer.reader import PUBLIC, LocalReader
from ledger.writer.replay import Known, catch_up, sign_again
from ledger.writer.storage import Place, StorageError, Submission
from tests.aggregator.devices import Device
from tests.aggregator.estate import submission
from tests.ledger import builders as b
from tests.ledger.past import Past, id_of

from .logs import NOW_NS, ORIGIN, checked
from .written import Written

ONE = b.device("one")
KEY = id_of(ONE)
FIRST = 1  # index of the first batch of `log`


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Written]:
    """An enrolment, and four batches of three readings; published."""
    past = Past()
    with Written(tmp_path / "data", past) as written:
        past.enrol(ONE)
        for seq in range(4):
            times = [b.NOW_NS + seq * 1000 + at for at in range(3)]
            past.seal(*(b.scalar(60 + seq, at_ns=at_ns, ordinal=at) for at, at_ns in enumerate(times)), signer=ONE)
        written.publish()
        yield written


def secrets(written: Written, number: int) -> list[tuple[bytes, bytes]]:
    """Salt and bytes of every leaf of a batch."""
    batch = written.past.chains[KEY][number][1]
    return list(zip(b.salts_of(batch), (batch.info, *batch.readings), strict=True))


def found(data: Path, *secrets: bytes) -> list[bool]:
    """Which of these bytes are in any file of the data directory."""
    files = [path.read_bytes() for path in data.rglob("*") if path.is_file()]
    return [any(secret in content for content in files) for secret in secrets]


def salts_in(data: Path, payload: bytes | None) -> list[bool]:
    """Of each leaf of a payload, whether its salt is in a file of the data directory, or half of it: a page may end."""
    files = b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file())
    salts = [leaf.salt for leaf in parse_payload(payload or b"") if isinstance(leaf, Leaf)]
    return [salt[:8] in files or salt[8:] in files for salt in salts]


def shown(storage: LocalReader, index: int) -> list[int]:
    """The leaves of a batch that are there whole."""
    payload = storage.payload(index)
    assert payload is not None
    return [number for number, leaf in enumerate(parse_payload(payload)) if isinstance(leaf, Leaf)]


def erasure(log_index: int, *leaves: int) -> Submission:
    return Submission(Erased(log_index, leaves).encode())


def test_nothing_of_what_was_erased_is_in_any_file(log: Written) -> None:
    """Its salts and readings were there, and are not, nor in the write-ahead log; its neighbours' are."""
    first, second = secrets(log, 0), secrets(log, 1)
    gone = [*first[2], *(part for leaf in second for part in leaf)]
    kept = [*first[0], *first[1], *first[3]]
    assert all(found(log.data, *gone, *kept))
    log.erase(ONE, 0, [2])
    log.erase(ONE, 1, [0, 1, 2, 3])
    assert not any(found(log.data, *gone))
    assert all(found(log.data, *kept))
    assert (shown(log.storage, FIRST), shown(log.storage, FIRST + 1)) == ([0, 1, 3], [])
    assert log.storage.to_erase(9) == []


def test_erased_again_and_further_is_one_erasure(log: Written) -> None:
    """The same leaf twice, then another of the batch: whatever was named by then is gone."""
    for leaves in ([2], [2], [1, 2]):
        log.erase(ONE, 0, leaves)
    assert shown(log.storage, FIRST) == [0, 3]
    assert not any(found(log.data, *secrets(log, 0)[1], *secrets(log, 0)[2]))
    assert len(log.storage.erasures(FIRST)) == 3
    log.publish()
    assert checked(log.data).notices == {"erased": 3}


def test_proofs_of_everything_else_verify_and_those_handed_out_before(log: Written) -> None:
    """A neighbour is proven from the payload store, a proof of the reading itself that somebody has stands."""
    policy = parse_policy((log.data / POLICY).read_bytes())
    with LocalReader(log.data) as reader:
        before = Prover(reader, log.past.origin).leaf(FIRST, 2)
        log.erase(ONE, 0, [0, 2])
        log.publish()
        prover = Prover(reader, log.past.origin)
        for leaf in (1, 3):
            verify_leaf(read_proof(prover.leaf(FIRST, leaf)), policy)
        with pytest.raises(VerificationError, match="leaf 2 was erased"):
            prover.leaf(FIRST, 2)
    verify_leaf(read_proof(before), policy)


def test_writer_that_ended_before_it_erased_erases_at_its_next_start(log: Written) -> None:
    """The entry is on the log, and so it is true from the next start on."""
    log.writer.append([erasure(FIRST, 1, 3), erasure(FIRST + 2, 2)])
    assert log.storage.to_erase(9) == [FIRST, FIRST + 2]
    gone = [*secrets(log, 0)[1], *secrets(log, 0)[3], *secrets(log, 2)[2]]
    assert all(found(log.data, *gone))
    log.storage.close()
    with LocalStorage(log.data) as storage:
        assert storage.to_erase(9) == []
        assert shown(storage, FIRST) == [0, 2]
        assert not any(found(log.data, *gone))


def test_writer_that_failed_between_overwriting_and_the_write_ahead_log(
    log: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pages with the bytes are still there, so it is not done; the next start does it."""

    def broken(_db: sqlite3.Connection) -> bool:
        raise OSError(5, "Input/output error")

    log.writer.append([erasure(FIRST, 1)])
    with monkeypatch.context() as patch:
        patch.setattr(local, "empty_wal", broken)
        with pytest.raises(StorageError, match="Input/output error"):
            log.storage.erase([FIRST])
    assert log.storage.to_erase(9) == [FIRST]
    with pytest.raises(StorageError, match="a write before it failed"):
        log.storage.erase([FIRST])
    log.storage.close()
    with LocalStorage(log.data) as storage:
        assert storage.to_erase(9) == []
        assert not any(found(log.data, *secrets(log, 0)[1]))


def test_reader_of_an_older_state_delays_the_end_and_nobody_else(log: Written) -> None:
    """While a backup reads, what it reads is still in the file: not done, appending goes on, done when it has ended."""
    log.writer.append([erasure(FIRST, 1)])
    with closing(sqlite3.connect(log.data / DATABASE, isolation_level=None)) as backup:
        backup.execute("BEGIN")
        backup.execute("SELECT count(*) FROM payloads").fetchone()
        assert not log.storage.erase([FIRST])
        assert log.storage.to_erase(9) == [FIRST]
        assert shown(log.storage, FIRST) == [0, 2, 3]
        log.past.add(erasure(FIRST, 1).entry)
        log.past.fill(5)
        log.commit()
        backup.execute("COMMIT")
    assert log.storage.erase([FIRST])
    assert log.storage.to_erase(9) == []
    assert not any(found(log.data, *secrets(log, 0)[1]))


def test_payload_that_somebody_changed_is_gone_altogether(log: Written) -> None:
    """It is not what its device sealed, and may hold what was to be erased: nobody is handed it, the writer lives."""
    payload = log.storage.payload(FIRST)
    assert payload is not None
    wrong = payload[:-1] + bytes([payload[-1] ^ 1])
    log.storage._writing.execute("UPDATE payloads SET payload = ? WHERE idx = ?", (wrong, FIRST))
    log.erase(ONE, 0, [1])
    assert parse_payload(log.storage.payload(FIRST) or b"") == ()
    assert not any(found(log.data, *secrets(log, 0)[1]))
    with LocalReader(log.data) as reader, pytest.raises(VerificationError, match="0 leaves where the header counts 4"):
        Prover(reader, log.past.origin).leaf(FIRST, 2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A new log."""
    create_log(tmp_path / "data", ORIGIN)
    return tmp_path / "data"


def test_payload_that_comes_back_has_lost_what_was_erased(data: Path) -> None:
    """After a restore: its device is not asked for it; if it sends it all the same, the rest of it is welcome."""
    device = Device("wrist-1", 1)
    batches = [submission(device.batch()) for _ in range(3)]
    replayed = [Submission(item.entry, item.place) for item in batches]
    leaf = parse_payload(batches[1].payload or b"")[2]
    assert isinstance(leaf, Leaf)
    with LocalStorage(data) as storage:
        storage.append([*replayed, erasure(1, 2)])
        assert storage.erase(storage.to_erase(9))
        assert storage.missing_payloads(device.key_id, 9) == [Place(device.key_id, 0, seq) for seq in (2, 0)]
        assert storage.lacks(Place(device.key_id, 0, 1))
        assert storage.put_payload(1, batches[1].payload or b"")
        assert not storage.lacks(Place(device.key_id, 0, 1))
        assert shown(storage, 1) == [0, 1, 3]
        assert found(data, leaf.salt, leaf.body) == [False, False]


def test_old_copy_that_is_brought_up_erases_what_the_log_says_by_then(log: Written, tmp_path: Path) -> None:
    """Restored from before: the public log still has the entry, and from the next start on it is true again."""
    old = tmp_path / "old"
    log.storage.close()
    shutil.copytree(log.data, old)
    with Written(log.data, log.past) as new:
        new.erase(ONE, 0, [1, 2])
        new.publish()
        published = new.storage.published()
    assert published is not None
    gone = [*secrets(log, 0)[1], *secrets(log, 0)[2]]
    checkpoint = Checkpoint(log.past.origin, published.size, published.root)

    def fetch(path: str) -> bytes | None:
        return read_file(log.data / PUBLIC, path)

    with LocalStorage(old) as storage:
        sign = sign_again(load_log_keys(old).signers, NOW_NS)
        catch_up(storage, [Known("a witness", checkpoint)], published, fetch, sign, lambda _done, _all: None)
        assert storage.to_erase(9) == [FIRST]
        assert all(found(old, *gone))
    with LocalStorage(old) as storage:
        assert storage.to_erase(9) == []
        assert shown(storage, FIRST) == [0, 3]
    assert not any(found(old, *gone))


def test_payloads_out_of_order_leave_nothing_behind(data: Path) -> None:
    """As many as fill pages, come back in any order, erased in any other: the place where each lay is overwritten."""
    device = Device("wrist-1", 1)
    batches = [submission(device.batch(random.Random(at).randint(1, 60), value=at)) for at in range(120)]
    order = random.Random(1)
    back, gone = order.sample(range(120), 40), order.sample(range(120), 90)
    with LocalStorage(data) as storage:
        storage.append(
            [
                Submission(item.entry, item.place, None if at in back else item.payload)
                for at, item in enumerate(batches)
            ]
        )
        for at in back:
            assert storage.put_payload(at, batches[at].payload or b"")
        for at in gone:
            storage.append([erasure(at, *range(len(parse_payload(batches[at].payload or b""))))])
            assert storage.erase([at])
        for at, item in enumerate(batches):
            there = salts_in(data, item.payload)
            assert not any(there) if at in gone else all(there)


ERASER = """
import sys
from pathlib import Path
from ledger.entry import BatchEntry, Erased, parse_entry
from ledger.writer.local import LocalStorage
from ledger.writer.storage import Submission
data = Path(sys.argv[1])
with LocalStorage(data) as storage:
    print("open", flush=True)
    for index in range(int(sys.argv[2])):
        if not storage.erasures(index):
            storage.append([Submission(Erased(index, (1, 2)).encode())])
        print(index, flush=True)
        storage.erase([index])
"""


@pytest.mark.parametrize("seed", range(2))
def test_erasing_survives_sigkill(data: Path, seed: int) -> None:
    """Killed anywhere between entry and overwritten bytes, the next start leaves nothing of what is called erased."""
    device = Device("wrist-1", 1)
    batches = [submission(device.batch(20, value=at)) for at in range(120)]
    with LocalStorage(data) as storage:
        storage.append(batches)
    after = random.Random(seed).randint(2, 100)
    command = [sys.executable, "-c", ERASER, str(data), str(len(batches))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout
        for _ in range(after):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    with LocalStorage(data) as storage:
        assert storage.to_erase(9) == []
        named = [index for index in range(len(batches)) if storage.erasures(index)]
        assert named == list(range(len(named)))
        assert len(named) >= after - 2
        for index, item in enumerate(batches):
            there = salts_in(data, item.payload)
            assert there == [True, False, False] + [True] * 18 if index in named else all(there)
