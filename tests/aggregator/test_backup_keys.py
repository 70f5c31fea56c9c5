"""Payloads in a backup: encrypted per subject, opened with keys that lie elsewhere, and erased by destroying one."""

import dataclasses
import hashlib
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.backup import DATA, MANIFEST, check_backup, make_backup
from aggregator.backup_keys import KeyReader, Keyring, SubjectKey, check_copy, copy_keys, destroy, keys_path
from aggregator.erasures import Erasures, requests
from aggregator.keys_at_hand import keys_for, verify_payloads
from aggregator.registry import Registry
from aggregator.relocation import format_config
from aggregator.restore import REOPENED, restore
from aggregator.sealed_payloads import no_keys, open_payload, seal_payload, split_payload
from aggregator.sequencer_copy import _opened
from ledger.batch import Header, leaf_hash
from ledger.entry import Erased, parse_entry
from ledger.errors import LedgerError, VerificationError
from ledger.leaves import Leaf, check_leaves
from ledger.reading import Reading, Scalar
from ledger.writer.database import DATABASE, copy_database
from ledger.writer.payload import format_payload, parse_payload, prove_leaf
from ledger.writer.reader import LocalReader
from ledger.writer.storage import StorageError, Submission
from vitalseal.cli import main
from vitalseal.errors import UserError

from .devices import Device
from .estate import ORIGIN, Estate, quiet

PLACE = (bytes(range(32)), 1, 7)


@pytest.fixture
def estate(tmp_path):
    """A log without witnesses, with some batches of two devices, of which the mirror has everything."""
    with ExitStack() as opened:
        estate = Estate(tmp_path, opened, names=())
        estate.devices = [Device("wrist-1", 1, ORIGIN), Device("wrist-2", 2, ORIGIN)]
        with estate.writing() as log:
            for device in estate.devices:
                log.enrol(device)
                log.log(*[device.batch() for _ in range(4)])
            log.publish()
        yield estate


def payloads(data):
    """By index, the leaves of every payload in `data`."""
    with LocalReader(data) as log:
        found = {index: log.payload(index) for index in range(log.size())}
    return {index: parse_payload(payload) for index, payload in found.items() if payload}


def secrets(leaves_by_index):
    """Every salt and body."""
    whole = [leaf for leaves in leaves_by_index.values() for leaf in leaves if isinstance(leaf, Leaf)]
    return [part for leaf in whole for part in (leaf.salt, leaf.body)]


def lost(estate, **how):
    """What is restored after the disk was lost, and how."""
    estate.lose()
    done = restore(estate.backup, estate.data, estate.config, str(estate.mirror), quiet, **how)
    return done, payloads(estate.data)


def resign(estate):
    """The manifest fits what is in the backup now."""
    path = estate.backup / MANIFEST
    table = json.loads(path.read_text())
    for name, row in table["files"].items():
        data = (estate.backup / name).read_bytes()
        row[:2] = [len(data), hashlib.sha256(data).hexdigest()]
    path.write_text(json.dumps(table))


def numbers(path):
    """Number and bytes of every key that there is."""
    with closing(sqlite3.connect(path)) as db:
        return dict(db.execute("SELECT number, key FROM keys WHERE key != zeroblob(32)"))


def raw(path):
    """The keys file and what SQLite keeps beside it."""
    return b"".join(part.read_bytes() for part in path.parent.glob(f"{path.name}*"))


def test_no_salt_no_reading_and_no_key_is_in_a_backup(estate):
    """Not in the database, not in what was deleted from it, nor anywhere else: wherever the keys are."""
    before = payloads(estate.data)
    for place in (estate.settings, dataclasses.replace(estate.settings, backup=None)):
        estate.settings = place
        estate.config.write_text(format_config(place))
        shutil.rmtree(estate.backup, ignore_errors=True)
        estate.back_up()
        assert keys_path(place).stat().st_mode & 0o777 == 0o600
        keys = numbers(keys_path(place))
        assert len(keys) == 4  # two sources, two devices
        everything = b"".join(path.read_bytes() for path in estate.backup.rglob("*") if path.is_file())
        for secret in (*secrets(before), *keys.values()):
            assert secret not in everything
        assert not [path for path in estate.backup.rglob("*") if path.name.startswith("backup-keys")]


def test_backup_is_restored_with_its_keys_and_nothing_is_different(estate):
    """Every payload is what it was, no batch is missing, and the next backup uses the same keys."""
    estate.settings = dataclasses.replace(estate.settings, backup=None)
    estate.config.write_text(format_config(estate.settings))
    before = payloads(estate.data)
    estate.back_up()
    keys = numbers(keys_path(estate.settings))
    kept = estate.directory / "lost" / keys_path(estate.settings).name
    with pytest.raises(UserError, match="without these keys"):
        lost(estate)
    assert not estate.data.exists()
    done = restore(estate.backup, estate.data, estate.config, str(estate.mirror), quiet, keys=kept)
    assert (done.missing, done.destroyed, done.unknown, done.frozen) == (0, 0, 0, None)
    assert payloads(estate.data) == before
    with estate.writing() as log:
        log.log(estate.devices[0].batch())
        log.publish()
    shutil.rmtree(estate.backup)
    estate.back_up()
    assert numbers(keys_path(estate.settings)) == keys


def test_destroyed_key_leaves_hashes_and_every_other_proof(estate):
    """A source's readings are gone from the old backup; infos, the other device and the root are as before."""
    before = payloads(estate.data)
    estate.back_up()
    gone, other = estate.devices
    destroy(estate.settings, [gone.source])
    manifest = check_backup(estate.backup, quiet)
    with keys_for(estate.backup, manifest, estate.data, None) as keys:
        tally = verify_payloads(estate.backup, manifest, keys, quiet)
    assert (tally.opened, tally.destroyed, tally.unknown) == (8, 12, 0)
    done, after = lost(estate)
    assert (done.missing, done.destroyed, done.unknown) == (4, 12, 0)
    assert set(after) == set(before)
    public = {device.key_id: device.signer.public_key for device in estate.devices}
    with LocalReader(estate.data) as log:
        places = log.missing_payloads(gone.key_id, 9)
        entries = {index: parse_entry(entry) for index, entry in enumerate(log.entries(0, log.size()))}
    assert [place.seq for place in places] == [3, 2, 1, 0]
    for index, leaves in after.items():
        header = Header.decode(entries[index].header)
        hashes = check_leaves(header, leaves)
        assert hashes == check_leaves(header, before[index])
        closed = [at for at, leaf in enumerate(leaves) if not isinstance(leaf, Leaf)]
        assert closed == ([1, 2, 3] if header.key_id == gone.key_id else [])
        for at in set(range(len(leaves))) - set(closed):
            assert leaves[at] == before[index][at]
            prove_leaf(entries[index], leaves, at, algorithm=1, public_key=public[header.key_id])
    assert header.key_id == other.key_id


def test_payload_that_a_device_sends_again_is_whole_again(estate):
    """What was lost with somebody else's key comes back from the device, over what the backup had of it."""
    before = payloads(estate.data)
    estate.back_up()
    destroy(estate.settings, [estate.devices[0].source])
    lost(estate)
    with estate.writing() as log:
        for batch in estate.devices[0].sealed:
            header = Header.decode(batch.header)
            (place,) = [place for place in log.storage.missing_payloads(header.key_id, 9) if place.seq == header.seq]
            index, _ = log.storage.find(place)
            salts = [leaf.salt for leaf in before[index]]
            assert log.storage.put_payload(index, format_payload(salts, (batch.info, *batch.readings)))
        assert log.storage.missing_payload_count() == 0
    assert payloads(estate.data) == before
    # The next backup has it as it came back, and as an erasure leaves it.
    with estate.writing() as log:
        index = min(before)
        log.writer.append([Submission(Erased(index, (2,)).encode())])
        log.publish()
        assert log.storage.erase([index])
    shutil.rmtree(estate.backup)
    estate.back_up()
    now = payloads(estate.data)
    assert [at for at, leaf in enumerate(now[index]) if not isinstance(leaf, Leaf)] == [2]
    shutil.rmtree(estate.mirror)
    shutil.rmtree(estate.directory / "lost")
    done, after = lost(estate)
    assert (done.missing, after) == (0, now)


def test_destroyed_key_is_nowhere_in_the_file(estate):
    """Not beside it either, while somebody else has it open; others' keys stay; done twice, it is done."""
    estate.back_up()
    with closing(Keyring(estate.keys)) as open_too:
        open_too.of([bytes([number]) * 9 for number in range(200)])
        before = numbers(estate.keys)
        gone = open_too.of([estate.devices[0].source, estate.devices[0].key_id])
        keys = [before[key.number] for key in gone.values()]
        assert all(key in raw(estate.keys) for key in keys)
        for _ in range(2):
            destroy(estate.settings, [estate.devices[0].source, estate.devices[0].key_id, b"nobody"])
            assert not any(key in raw(estate.keys) for key in keys)
            assert all(key in raw(estate.keys) for key in numbers(estate.keys).values())
        assert numbers(estate.keys).keys() == before.keys() - {key.number for key in gone.values()}
    with closing(Keyring(estate.keys)) as later:
        assert later.of([estate.devices[0].source])[estate.devices[0].source].number not in before


def test_key_that_cannot_be_destroyed_now_is_told(estate):
    """Somebody reads the file, so its write-ahead log cannot be emptied; or its volume is away."""
    estate.back_up()
    with closing(sqlite3.connect(estate.keys, isolation_level=None)) as reader, closing(Keyring(estate.keys)) as keys:
        keys._db.execute("PRAGMA busy_timeout = 1")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM keys").fetchone()
        with pytest.raises(UserError, match="somebody is reading it"):
            keys.destroy([estate.devices[0].source])
    destroy(estate.settings, [estate.devices[0].source])
    estate.keys.unlink()
    with pytest.raises(UserError, match="mount its volume"):
        destroy(estate.settings, [estate.devices[0].source])
    destroy(dataclasses.replace(estate.settings, backup=None), [estate.devices[0].source])
    assert not estate.keys.exists()


def test_backup_that_is_taken_meanwhile_has_nothing_that_was_erased_since(estate):
    """Its database is of before; whether the subject had a key then or not, nothing of him can be opened."""
    before = payloads(estate.data)
    first, second = estate.devices
    with closing(Keyring(estate.keys)) as earlier:
        earlier.of([first.source])
    with estate.writing() as log:
        log.log(*[first.batch() for _ in range(70)], *[second.batch() for _ in range(70)])

    def erase(what, _done, _total):
        if what == DATABASE:
            destroy(estate.settings, [first.source, second.source])

    make_backup(estate.config, estate.settings, estate.backup, erase)
    manifest = check_backup(estate.backup, quiet)
    with keys_for(estate.backup, manifest, estate.data, None) as keys:
        with closing(sqlite3.connect(estate.backup / DATA / DATABASE)) as db:
            sealed = [row[0] for row in db.execute("SELECT payload FROM sealed_payloads")]
        opened = [open_payload(payload, keys.key).leaves for payload in sealed]
    assert len(opened) == len(before) + 140
    assert all(isinstance(leaves[0], Leaf) for leaves in opened)
    assert not any(isinstance(leaf, Leaf) for leaves in opened for leaf in leaves[1:])


def test_erased_leaf_does_not_come_back_with_an_old_copy_of_the_keys(estate):
    """The log that was replayed calls it erased, so it is a hash, and its device is not asked for it."""
    estate.back_up()
    copy_keys(estate.settings, estate.directory / "copy")
    index, leaves = next(iter(payloads(estate.data).items()))
    with estate.writing() as log:
        log.writer.append([Submission(Erased(index, (1, 3)).encode())])
        log.publish()
    destroy(estate.settings, [estate.devices[0].source])
    estate.keys.unlink()
    done, after = lost(estate, keys=estate.directory / "copy")
    assert (done.missing, done.destroyed, done.unknown) == (0, 0, 0)
    assert [isinstance(leaf, Leaf) for leaf in after[index]] == [True, False, True, False]
    assert after[index][2] == leaves[2]


def test_key_that_an_old_copy_brings_back_is_destroyed_again(estate):
    """Of what the log calls erased; and no sooner than what is left of its source is in the payloads."""
    estate.back_up()
    copy_keys(estate.settings, estate.directory / "copy")
    one, two = sorted(payloads(estate.data))[:2]
    with estate.writing() as log:
        log.writer.append([Submission(Erased(one, (0, 1, 2, 3)).encode()), Submission(Erased(two, (2,)).encode())])
        log.publish()
    destroy(estate.settings, [estate.devices[0].source, estate.devices[0].key_id])
    estate.keys.unlink()
    _, after = lost(estate, keys=estate.directory / "copy")
    assert numbers(estate.keys) == numbers(estate.directory / "copy")
    with estate.writing() as log, closing(Registry(estate.data)) as registry:
        size = log.writer.size
        assert Erasures(estate.settings, registry, log.storage, log.writer).finish() == 0
        assert log.writer.size == size
        assert [(request.reason, request.done_at_ns is None) for request in requests(registry)] == [
            (REOPENED, False)
        ] * 2
    gone = set(numbers(estate.directory / "copy")) - set(numbers(estate.keys))
    with KeyReader(estate.directory / "copy") as copy:
        subjects = dict(copy._db.execute("SELECT number, subject FROM keys"))
    assert {subjects[number] for number in gone} == {estate.devices[0].source, estate.devices[0].key_id}
    assert payloads(estate.data) == after


def test_copy_takes_no_place_where_keys_would_be_lost(estate):
    """Those of other backups, or later ones, or something else: one line, before anything is made."""
    estate.back_up()
    copy = estate.directory / "copy"
    copy_keys(estate.settings, copy)
    before = copy.read_bytes()
    third = Device("wrist-3", 3, ORIGIN)
    with estate.writing() as log:
        log.enrol(third)
        log.log(third.batch())
        log.publish()
    shutil.rmtree(estate.backup)
    estate.back_up()
    destroy(estate.settings, [estate.devices[0].source])
    later = estate.directory / "later"
    copy_keys(estate.settings, later)
    copy_database(later, estate.directory / "new", quiet)
    command = ["aggregator", "backup", str(estate.directory / "another"), "--config", str(estate.config), "--keys-copy"]
    estate.keys.unlink()
    (estate.directory / "garbage").write_bytes(b"garbage" * 999)
    for target, says in [(copy, "holds keys that"), (estate.directory / "garbage", "holds no keys of backups")]:
        with pytest.raises(UserError, match=says):
            check_copy(estate.settings, target)
        assert main([*command, str(target)]) == 2
        assert not estate.keys.exists()
    assert not (estate.directory / "another").exists()
    # An older copy was put in its place, and the later one is refused; the other way round it is not.
    copy.rename(estate.keys)
    with pytest.raises(UserError, match="holds keys that"):
        copy_keys(estate.settings, later)
    estate.keys.rename(copy)
    later.rename(estate.keys)
    copy_keys(estate.settings, copy)
    assert numbers(copy) == numbers(estate.keys)
    assert copy.read_bytes() != before


def test_nothing_in_clear_is_sorted_on_the_disk():
    """SQLite's temporary files are in no directory of ours, and nobody erases from them."""
    with _opened(":memory:") as database:
        assert database.execute("PRAGMA temp_store").fetchone() == (2,)


def test_without_keys_everything_is_asked_for_again(estate):
    """The log is whole, no batch has a payload, and the next backup makes keys of its own."""
    estate.back_up()
    estate.keys.unlink()
    with pytest.raises(UserError, match=r"backup-keys.db: is not there, and without these keys"):
        lost(estate)
    done = restore(estate.backup, estate.data, estate.config, str(estate.mirror), quiet, without_keys=True)
    assert (done.missing, done.destroyed, done.unknown) == (8, 0, 32)
    assert payloads(estate.data) == {}
    with estate.writing() as log:
        log.log(estate.devices[0].batch())
        log.publish()
    shutil.rmtree(estate.backup)
    estate.back_up()
    assert len(numbers(estate.keys)) == 2


def test_copy_of_the_keys_that_is_older_opens_what_it_can(estate):
    """A device that came after it is asked again; the keys that it lacks are not taken for destroyed."""
    estate.back_up()
    copy_keys(estate.settings, estate.directory / "copy")
    third = Device("wrist-3", 3, ORIGIN)
    with estate.writing() as log:
        log.enrol(third)
        log.log(third.batch())
        log.publish()
    shutil.rmtree(estate.backup)
    estate.back_up()
    estate.keys.unlink()
    done, after = lost(estate, keys=estate.directory / "copy")
    assert (done.missing, done.destroyed, done.unknown) == (1, 0, 4)
    assert len(after) == 8


def test_keys_of_other_backups_are_told_from_a_damage(estate, tmp_path):
    """A file that is none, another log's, a directory, nothing: one line, and nothing is restored."""
    estate.back_up()
    (tmp_path / "garbage").write_bytes(b"garbage" * 999)
    (tmp_path / "empty").write_bytes(b"")
    with closing(Keyring(tmp_path / "other")) as other:
        other.of([estate.devices[0].source])
    estate.lose()
    for name, says in [
        ("other", "holds the keys of other backups, not of"),
        ("garbage", "holds no keys of backups: file is not a database"),
        ("empty", "holds no keys of backups: no such table"),
        ("keys", "is not there"),
        ("missing", "is not there"),
    ]:
        with pytest.raises(UserError, match=says):
            restore(estate.backup, estate.data, estate.config, None, quiet, keys=tmp_path / name)
    assert not estate.data.exists()
    # Those of another log, where the restored one would put its own.
    good = estate.keys.rename(tmp_path / "good")
    (tmp_path / "other").rename(estate.keys)
    with pytest.raises(UserError, match="holds the keys of other backups; move them away"):
        restore(estate.backup, estate.data, estate.config, str(estate.mirror), quiet, keys=good)
    assert not estate.data.exists()


def test_damaged_ciphertext_is_named(estate):
    """By the payload that does not open, also where the manifest was made to fit."""
    estate.back_up()
    with closing(sqlite3.connect(estate.backup / DATA / DATABASE)) as db, db:
        index, sealed = db.execute("SELECT idx, payload FROM sealed_payloads ORDER BY idx DESC").fetchone()
        db.execute(
            "UPDATE sealed_payloads SET payload = ? WHERE idx = ?", (sealed[:-1] + bytes([sealed[-1] ^ 1]), index)
        )
    resign(estate)
    manifest = check_backup(estate.backup, quiet)
    says = rf"payload of entry {index}: sealed payload: does not open with its key; use another backup"
    with keys_for(estate.backup, manifest, estate.data, None) as keys, pytest.raises(UserError, match=says):
        verify_payloads(estate.backup, manifest, keys, quiet)
    with pytest.raises(UserError, match=says):
        lost(estate)
    assert not estate.data.exists()


def test_backup_of_the_format_before_is_restored(estate):
    """Its payloads are in clear, and no keys are asked for."""
    before = payloads(estate.data)
    estate.back_up()
    (estate.backup / DATA / DATABASE).unlink()
    copy_database(estate.data / DATABASE, estate.backup / DATA / DATABASE, quiet)
    path = estate.backup / MANIFEST
    table = json.loads(path.read_text())
    del table["keys"]
    path.write_text(json.dumps(table | {"format": 1}))
    resign(estate)
    estate.keys.unlink()
    done, after = lost(estate)
    assert (done.missing, done.destroyed, done.unknown) == (0, 0, 0)
    assert after == before


def test_database_of_a_backup_is_no_database_of_a_log(estate):
    """Put into its place by hand, it is not taken for one."""
    estate.back_up()
    with LocalReader(estate.backup / DATA) as log, pytest.raises(StorageError, match="no such table: payloads"):
        log.payload(1)


def test_backup_whose_process_is_killed_is_not_there(estate):
    """SIGKILL between two payloads: nothing has the backup's name, and the next one is whole."""
    with estate.writing() as log:
        log.log(*[estate.devices[0].batch() for _ in range(70)])
        log.publish()
    code = (
        "import os, sys, signal; from pathlib import Path; from aggregator.backup import make_backup;"
        "from aggregator.config import AggregatorConfig; from vitalseal import config as c;"
        "p = Path(sys.argv[1]);"
        "make_backup(p, c.load(p, AggregatorConfig), Path(sys.argv[2]),"
        " lambda what, *_: os.kill(os.getpid(), signal.SIGKILL) if what == 'sequencer.db' else None)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(estate.config), str(estate.backup)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not estate.backup.exists()
    estate.back_up()
    manifest = check_backup(estate.backup, quiet)
    with keys_for(estate.backup, manifest, estate.data, None) as keys:
        assert verify_payloads(estate.backup, manifest, keys, quiet).opened == 78


def test_commands_say_where_the_keys_are(estate, capsys):
    """`backup` with a copy of the keys and without, over the last one; `--verify` and `restore` with it."""

    def run(*words):
        code = main(["aggregator", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out + said.err

    copy = estate.directory / "copies" / "keys.db"
    copy.parent.mkdir()
    backup = ("backup", estate.backup, "--config", estate.config)
    code, said = run(*backup)
    assert (code, len(said.splitlines())) == (0, 2)
    assert f"the keys {estate.keys} are not in it" in said
    for folder in (estate.backup, estate.data):
        code, said = run(*backup, "--keys-copy", folder / "copy")
        assert (code, len(said.splitlines())) == (2, 1)
        assert f"lies in {folder}" in said
    copy_keys(estate.settings, copy)
    shutil.rmtree(estate.backup)
    code, said = run(*backup, "--keys-copy", copy)
    assert (code, len(said.splitlines())) == (0, 1)
    assert [path.name for path in copy.parent.iterdir()] == ["keys.db"]
    assert copy.stat().st_mode & 0o777 == 0o600
    destroy(estate.settings, [estate.devices[0].source])
    code, said = run("backup", "--verify", estate.backup)
    assert code == 0
    assert f"8 payloads are their batches', with the keys {estate.keys}\n12 readings" in said
    assert "12 readings and infos of batches in it CANNOT BE OPENED any more" in said
    estate.keys.unlink()
    code, said = run("backup", "--verify", estate.backup)
    assert code == 0
    assert "NOT CHECKED: whether its payloads can be opened" in said
    code, said = run("backup", "--verify", estate.backup, "--keys", copy)
    assert code == 0
    assert said.endswith(f"8 payloads are their batches', with the keys {copy}\n")
    estate.lose()
    back = ("restore", "--from", estate.backup, "--data", estate.data, "--config", estate.config)
    code, said = run(*back, "--log", estate.mirror)
    assert (code, len(said.splitlines())) == (2, 1)
    code, said = run(*back, "--log", estate.mirror, "--keys", copy)
    assert code == 0
    assert f"opened with the keys {copy}\n" in said
    assert "payload" not in said
    assert numbers(estate.keys) == numbers(copy)


def cipher_of(subjects):
    """A key for each, as a keyring gives them; and the way back."""
    keys = {one: SubjectKey(at, AESGCM(hashlib.sha256(one).digest())) for at, one in enumerate(sorted(subjects))}
    return keys, {key.number: key.cipher for key in keys.values()}


def reading(source, value):
    return Reading(source, 1, 1_764_000_000 * 10**9, 0, None, 5, Scalar(value, 0)).encode()


LEAVES = st.lists(
    st.one_of(
        st.binary(min_size=32, max_size=32),
        st.builds(
            Leaf,
            st.binary(min_size=16, max_size=16),
            st.builds(reading, st.binary(min_size=1, max_size=16), st.integers(-(2**63), 2**63 - 1)),
        ),
        st.builds(
            Leaf,
            st.binary(min_size=16, max_size=16),
            st.builds(lambda rest: b"\x98\xc4\x02ab" + rest, st.binary(min_size=60, max_size=300)),
        ),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60)
@given(LEAVES)
def test_sealed_payload_opens_to_what_it_was(leaves):
    """Whatever the leaves are, erased ones among them; without keys it is their hashes."""
    split = split_payload(PLACE, leaves)
    keys, by_number = cipher_of(split.groups)
    sealed = seal_payload(split, keys)
    assert open_payload(sealed, by_number.__getitem__).leaves == tuple(leaves)
    assert seal_payload(split_payload(PLACE, leaves), keys) == sealed
    closed = open_payload(sealed, no_keys)
    hashes = tuple(
        leaf_hash(*PLACE, at, leaf.salt, leaf.body) if isinstance(leaf, Leaf) else leaf
        for at, leaf in enumerate(leaves)
    )
    assert closed.leaves == hashes
    assert closed.unknown == sum(isinstance(leaf, Leaf) for leaf in leaves)
    for leaf in leaves:
        if isinstance(leaf, Leaf):
            assert leaf.salt + leaf.body not in sealed


def test_length_of_the_ciphertext_tells_no_value():
    """A pulse of 127 takes a byte less than one of 128; in a backup it does not."""
    lengths = set()
    for value in (0, 70, 127, 128, 200, 70_000, -(2**63)):
        leaves = [Leaf(bytes(16), b"info"), Leaf(bytes(16), reading(bytes(16), value))]
        split = split_payload(PLACE, leaves)
        lengths.add(len(seal_payload(split, cipher_of(split.groups)[0])))
    assert len(lengths) == 1


def test_sealed_payload_that_was_changed_never_opens_to_something_else():
    """Every bit of it, and every way to cut it: refused, or, where a key's number was hit, closed."""
    leaves = [Leaf(bytes([at]) * 16, reading(b"s", at)) for at in range(3)]
    split = split_payload(PLACE, leaves)
    keys, by_number = cipher_of(split.groups)
    sealed = seal_payload(split, keys)
    for at in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[at // 8] ^= 1 << at % 8
        try:
            opened = open_payload(bytes(changed), by_number.__getitem__)
        except LedgerError:
            continue
        assert opened.unknown or opened.leaves == tuple(leaves), at
    for end in range(len(sealed)):
        with pytest.raises(LedgerError):
            open_payload(sealed[:end], by_number.__getitem__)
    with pytest.raises(VerificationError, match="does not open"):
        open_payload(sealed, {number: cipher_of([b"x"])[1][0] for number in by_number}.__getitem__)


def test_keys_reader_writes_nothing(estate, tmp_path):
    """A copy is read where it is, and stays one file."""
    estate.back_up()
    copy_keys(estate.settings, tmp_path / "copy")
    data = (tmp_path / "copy").read_bytes()
    with KeyReader(tmp_path / "copy") as keys:
        with pytest.raises(LookupError):
            keys.key(1)
        assert all(keys.key(number) is not None for number in numbers(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == data
    assert not list(tmp_path.glob("copy-*"))
