"""`aggregator revoke | log-key | close`: what is done to a log once in a while, mistakes included."""

import subprocess
import sys
import time
from contextlib import closing, contextmanager
from types import SimpleNamespace

import pytest

from aggregator.admission import Admission
from aggregator.decisions import Admitted
from aggregator.enrolment import FOLDER, Keys
from aggregator.registry import Registry
from ledger.batch import Notice, NoticeKind
from ledger.entry import Closing, KeyStateEntry, Opening, parse_entry
from ledger.events import Revocation
from ledger.note import ED25519_COSIGNATURE, NoteSigner, parse_note
from ledger.policy import parse_policy, parse_trust
from ledger.writer.create import KEYS, POLICY, POLICY_PQ, TRUST, load_log_keys
from ledger.writer.local import LocalStorage
from ledger.writer.reader import PUBLIC, LocalReader
from tests.aggregator.devices import Device
from tests.writer.logs import checked, open_writer


def new_log(vitalseal, directory, name):
    """A log of its own: configuration and data."""
    data, config = directory / name, directory / f"{name}.toml"
    words = ("--config", config, "--data", data, "--origin", f"{name}.example/log")
    assert vitalseal("aggregator", "init", *words).code == 0
    return SimpleNamespace(origin=f"{name}.example/log", data=data, config=config)


@contextmanager
def running(log):
    """The log's writer, keys and admission, as the aggregator has them."""
    with LocalStorage(log.data) as storage, closing(Registry(log.data)) as registry:
        writer = open_writer(storage, log.data, time.time_ns)
        keys = Keys(log.data, writer, storage, registry)
        admission = Admission(log.origin, storage, keys.find, keys.record)
        yield SimpleNamespace(writer=writer, keys=keys, admission=admission)


@pytest.fixture
def log(vitalseal, tmp_path):
    """A log with one device and three of its batches, published."""
    log = new_log(vitalseal, tmp_path, "first")
    log.device = Device("wrist-1", 1, log.origin)
    log.device.enrol(log.data)
    with running(log) as one:
        for _ in range(3):
            decision = one.admission.admit("wrist-1", log.device.batch())
            assert isinstance(decision, Admitted)
            one.writer.append([decision.submission])
        one.writer.publish()
    return log


def sound(log):
    """The published log, recomputed, by its own registrar and both policies."""
    return checked(log.data, parse_trust((log.data / TRUST).read_bytes())).log


@pytest.mark.parametrize(
    ("words", "until", "reason"),
    [
        ([], (0, 3), 4),
        (["--from", "1", "--reason", "compromised", "--yes"], (0, 1), 1),
        (["--from", "0/2", "--yes"], (0, 2), 4),
        (["--from", "3", "--reason", "out of service"], (0, 3), 3),
    ],
)
def test_revoke_is_taken_by_the_running_aggregator(vitalseal, log, words, until, reason):
    """One signed file in the folder; by default the key ends after what is logged."""
    done = vitalseal("aggregator", "revoke", "--config", log.config, log.device.key_id.hex()[:8], *words)
    assert (done.code, done.err) == (0, "")
    [path] = (log.data / FOLDER).glob("*.revoke")
    assert str(path) in done.out
    event = parse_entry(path.read_bytes())
    assert isinstance(event, Revocation)
    assert (event.key_id, event.until, event.reason) == (log.device.key_id, until, reason)
    with running(log) as one:
        assert one.keys.record(log.device.key_id).until == until
        assert not isinstance(one.admission.admit("wrist-1", log.device.batch()), Admitted)
        one.writer.publish()
    assert sound(log).entries["revocations"] == 1
    again = vitalseal("aggregator", "revoke", "--config", log.config, log.device.key_id.hex())
    assert (again.code, len(again.err.splitlines())) == (2, 1)
    assert "is revoked already, at index" in again.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["zz"], "0 enrolled keys begin so"),
        ([""], "the name of a device or the beginning of a key id is wanted"),
        (["e1", "--from=-1"], "numbers from 0"),
        (["e1", "--from", str(2**63)], "numbers from 0"),
        (["e1", "--from", f"{2**32}/0"], "numbers from 0"),
        (["e1", "--from", "1/2/3"], "numbers from 0"),
        (["e1", "--from", "1", "--reason", "compromised"], "2 batches with 6 readings that are on the log would be"),
        (["e1", "--reason", "whim"], "invalid choice"),
        ([], "KEYID"),
    ],
)
def test_revoke_mistakes_are_one_line(vitalseal, log, words, says):
    """And nothing is written."""
    done = vitalseal("aggregator", "revoke", "--config", log.config, *words)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert says in done.err
    assert list((log.data / FOLDER).glob("*.revoke")) == []


@pytest.mark.parametrize(("kind", "at", "policy"), [("ed25519", 0, POLICY), ("ml-dsa-44", 1, POLICY_PQ)])
def test_log_key_is_added_then_the_old_one_retired(vitalseal, log, kind, at, policy):
    """Both sign for a while; the policy names both for ever; after the old one's end the new one signs alone."""
    call = ("aggregator", "log-key", "--config", log.config)
    old = load_log_keys(log.data).signers[at].verifier
    done = vitalseal(*call, "--add", kind)
    assert (done.code, done.err) == (0, "")
    added = done.out.splitlines()[0].removeprefix("log ")
    assert [str(key) for key, _ in parse_policy((log.data / policy).read_bytes()).logs] == [added, str(old)]
    grow(log)
    assert len(parse_note((log.data / PUBLIC / "checkpoint").read_bytes()).signatures) == 3
    done = vitalseal(*call, "--retire", old.id.hex())
    assert (done.code, done.err) == (0, "")
    grow(log)
    keys = load_log_keys(log.data)
    assert (keys.retired, str(keys.signers[at].verifier)) == ((old,), added)
    note = parse_note((log.data / PUBLIC / "checkpoint").read_bytes())
    assert [line.key_id for line in note.signatures] == [signer.verifier.id for signer in keys.signers]
    assert sound(log).size == 7


def grow(log):
    with running(log) as one:
        decision = one.admission.admit("wrist-1", log.device.batch())
        one.writer.append([decision.submission])
        one.writer.publish()


def test_log_key_mistakes_are_one_line(vitalseal, log):
    """The last key of its type stays, an id names one key, and nobody changes the keys of a log that is running."""
    call = ("aggregator", "log-key", "--config", log.config)
    before = {path: path.read_bytes() for path in (log.data / KEYS).iterdir()}
    old = load_log_keys(log.data).signers[0].verifier.id.hex()
    mistakes = {
        ("--retire", old): "is the last key of its type; add its successor first",
        ("--retire", "zz"): "0 keys that sign begin so",
        ("--retire", ""): "0 keys that sign begin so",
        ("--add", "rsa"): "invalid choice",
        (): "one of the arguments",
        ("--add", "ed25519", "--retire", old): "not allowed with",
    }
    for words, says in mistakes.items():
        done = vitalseal(*call, *words)
        assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
        assert says in done.err
    with running(log):
        for words in (("--add", "ed25519"), ("--retire", old)):
            done = vitalseal(*call, *words)
            assert (done.code, len(done.err.splitlines())) == (2, 1)
            assert "another process has it" in done.err
    assert {path: path.read_bytes() for path in (log.data / KEYS).iterdir()} == before


def test_closed_log_ends_where_its_successor_begins(vitalseal, log, tmp_path):
    """The last entry names the next log and its keys, whose first entry names size and root; done twice it is once."""
    successor = new_log(vitalseal, tmp_path, "second")
    close = ("aggregator", "close", "--config", log.config, "--successor", successor.config)
    for _ in range(2):
        done = vitalseal(*close)
        assert (done.code, done.err) == (0, "")
        assert "first.example/log ended at size 7" in done.out
    ended, begun = sound(log), sound(successor)
    keys = tuple(str(signer.verifier) for signer in load_log_keys(successor.data).signers)
    assert ended.closed == Closing(successor.origin, keys)
    assert begun.size == 1
    with LocalReader(log.data) as old, LocalReader(successor.data) as new:
        assert isinstance(parse_entry(list(old.entries(0, 7))[5]), KeyStateEntry)
        assert parse_entry(next(new.entries(0, 1))) == Opening(log.origin, 7, ended.root())
    command = [sys.executable, "-m", "vitalseal", "aggregator", "run", "--config", str(log.config)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1] == "vitalseal: the log first.example/log is closed; run its successor"


def test_log_is_not_closed_for_a_successor_that_has_entries(vitalseal, log, tmp_path):
    """Nothing is closed before it is sure where the log goes on."""
    successor = new_log(vitalseal, tmp_path, "second")
    Device("wrist-9", 9, successor.origin).enrol(successor.data)
    with running(successor):
        pass
    done = vitalseal("aggregator", "close", "--config", log.config, "--successor", successor.config)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "the successor has entries already" in done.err
    grow(log)
    assert sound(log).closed is None


def test_log_is_not_closed_for_the_successor_of_another(vitalseal, log, tmp_path):
    """A log goes on where one other ended, and not where two did."""
    other, successor = new_log(vitalseal, tmp_path, "other"), new_log(vitalseal, tmp_path, "second")
    close = ("aggregator", "close", "--successor", successor.config, "--config")
    assert vitalseal(*close, other.config).code == 0
    done = vitalseal(*close, log.config)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "the successor has entries already" in done.err
    grow(log)
    assert sound(log).closed is None


def test_log_is_not_closed_for_one_of_its_own_name(vitalseal, log, tmp_path):
    """A fresh log under the old name would be a second history of it."""
    data, config = tmp_path / "again", tmp_path / "again.toml"
    words = ("--config", config, "--data", data, "--origin", log.origin)
    assert vitalseal("aggregator", "init", *words).code == 0
    for successor in (config, log.config):
        done = vitalseal("aggregator", "close", "--config", log.config, "--successor", successor)
        assert (done.code, len(done.err.splitlines())) == (2, 1)
        assert "two histories under one name are a fork" in done.err
    grow(log)
    assert sound(log).closed is None


def test_close_takes_what_waits_before_it_closes(vitalseal, tmp_path, log):
    """A revocation and an assignment that the stopped aggregator has not taken are on the log before its end."""
    new = new_log(vitalseal, tmp_path, "second")
    assert vitalseal("aggregator", "revoke", log.device.key_id.hex(), "--config", log.config).code == 0
    words = ("01" * 8, "patient-7", "--from", "2026-11-21T08:00:00Z", "--config", log.config)
    assert vitalseal("aggregator", "assign", *words).code == 0
    assert vitalseal("aggregator", "close", "--config", log.config, "--successor", new.config).code == 0
    followed = sound(log)
    assert followed.keys[log.device.key_id].revoked is not None
    assert (followed.entries["commitments"], followed.entries["closings"]) == (1, 1)


def test_close_again_for_another_successor_is_one_line(vitalseal, tmp_path, log):
    """A log ends once, for one successor."""
    new, third = new_log(vitalseal, tmp_path, "second"), new_log(vitalseal, tmp_path, "third")
    assert vitalseal("aggregator", "close", "--config", log.config, "--successor", new.config).code == 0
    done = vitalseal("aggregator", "close", "--config", log.config, "--successor", third.config)
    assert (done.code, done.err) == (2, "vitalseal: the log is closed already, for second.example/log\n")
    assert sound(third).size == 0


@pytest.mark.parametrize(
    ("witnesses", "quorum", "says"),
    [
        (["witness a KEY1 http://127.0.0.1:1", "witness b KEY2 http://127.0.0.1:2"], 1, "more than half"),
        (["witness a KEY1"], None, "has no URL"),
        (["witness a KEY1 http://127.0.0.1:1", "witness b KEY2 http://127.0.0.1:1"], None, "is that of"),
    ],
    ids=["half", "no URL", "one URL"],
)
def test_init_refuses_witnesses_that_are_no_quorum(vitalseal, tmp_path, witnesses, quorum, says):
    """Two quorums that share no witness, or one witness counted twice, would cosign two histories."""
    keys = {f"KEY{n}": str(NoteSigner(f"w.example/{n}", bytes([n]) * 32, ED25519_COSIGNATURE).verifier) for n in (1, 2)}
    words = []
    for number, line in enumerate(witnesses):
        named = line.replace("KEY1", keys["KEY1"]).replace("KEY2", keys["KEY2"])
        (tmp_path / f"w{number}").write_text(named + "\n")
        words += ["--witness", tmp_path / f"w{number}"]
    words += [] if quorum is None else ["--quorum", quorum]
    data = tmp_path / "new"
    done = vitalseal(
        "aggregator", "init", "--config", tmp_path / "c", "--data", data, "--origin", "x.example/log", *words
    )
    assert done.code == 2
    assert says in done.err
    assert len(done.err.splitlines()) == 1
    assert not data.exists()


@pytest.mark.parametrize("words", [["--from", "4"], ["--from", "2/0", "--yes"]])
def test_revoke_from_a_place_that_is_not_reached_is_one_line(vitalseal, log, words):
    """A slip of the finger that would leave a stolen key good is refused, and nothing is left for the aggregator."""
    done = vitalseal("aggregator", "revoke", "--config", log.config, log.device.key_id.hex(), *words)
    assert done.code == 2
    assert "next place of this key is epoch 0 seq 3" in done.err
    assert list((log.data / FOLDER).glob("*.revoke")) == []


def test_sequence_number_alone_is_of_the_present_epoch(vitalseal, log):
    """After a recovery a number without an epoch takes back nothing of the epoch before; `devices` shows the place."""
    log.device.epoch, log.device.seq, log.device.previous = 1, 0, None
    with running(log) as one:
        for count, notice in ((0, Notice(NoticeKind.OUTBOX_LOST)), (3, None)):
            decision = one.admission.admit("wrist-1", log.device.batch(count, notice=notice))
            one.writer.append([decision.submission])
    call = ("aggregator", "revoke", "--config", log.config, "wrist-1", "--from")
    assert "the next place of this key is epoch 1 seq 2" in vitalseal(*call, "3").err
    refused = vitalseal(*call, "1")
    assert "from epoch 1 seq 1 on: 1 batches with 3 readings" in refused.err
    # All of the epoch before goes with what follows it.
    assert "from epoch 0 seq 2 on: 3 batches with 6 readings" in vitalseal(*call, "0/2").err
    assert list((log.data / FOLDER).glob("*.revoke")) == []
    done = vitalseal(*call, "1", "--yes")
    assert (done.code, done.err) == (0, "")
    assert "1 batches with 3 readings that are on the log are good no more" in done.out
    with running(log) as one:
        assert one.keys.record(log.device.key_id).until == (1, 1)
    assert ", good before epoch 1 seq 1" in vitalseal("aggregator", "devices", "--config", log.config).out


def test_revoke_does_not_replace_what_waits(vitalseal, log):
    """The second of two revocations says that there is a first."""
    assert vitalseal("aggregator", "revoke", "--config", log.config, log.device.key_id.hex()).code == 0
    again = vitalseal("aggregator", "revoke", "--config", log.config, log.device.key_id.hex(), "--from", "3")
    assert (again.code, len(again.err.splitlines())) == (2, 1)
    assert "waits there" in again.err
