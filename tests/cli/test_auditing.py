"""`verify`, `ledger fsck` and `ledger proof` on a small log, sound and damaged."""

import json
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from aggregator.admission import Admission
from aggregator.decisions import Admitted
from aggregator.enrolment import Keys
from aggregator.registry import Registry
from ledger.note import parse_note
from ledger.writer.create import create_log, load_log_keys
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from tests.aggregator.devices import ORIGIN, Device


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log of an enrolment, its key state, and five batches of three readings."""
    data = tmp_path_factory.mktemp("log") / "data"
    create_log(data, ORIGIN)
    device = Device("wrist-1", 1)
    device.enrol(data)
    with LocalStorage(data) as storage, closing(Registry(data)) as registry:
        writer = LogWriter(storage, load_log_keys(data).signers, lambda: 2**60)
        keys = Keys(data, writer, storage, registry)
        admission = Admission(ORIGIN, storage, keys.find, keys.record)
        for _ in range(5):
            decision = admission.admit(device.name, device.batch())
            assert isinstance(decision, Admitted)
            writer.append([decision.submission])
        writer.publish()
    return data


@pytest.fixture
def proof(log, tmp_path, vitalseal):
    """The proof file of one reading."""
    path = tmp_path / "one.tlog-proof"
    assert vitalseal("ledger", "proof", "--data", log, "--index", 2, "--leaf", 1, "-o", path).code == 0
    return path


def test_verify_proves_and_says_what_that_means(vitalseal, proof, log):
    """Value, claim, every step by number, and what was not checked."""
    done = vitalseal("verify", proof, "--policy", log / "policy.txt")
    assert (done.code, done.err) == (0, "")
    assert f"{proof}: PROVEN" in done.out
    assert "heart_rate 70 /min" in done.out
    assert "committed to this value" in done.out
    assert [line.split()[0] for line in done.out.splitlines()[3:]] == list("12345678")
    assert "7  not checked" in done.out


def test_verify_json_is_one_object_a_file(vitalseal, proof, log, tmp_path):
    """Machines get every step of every file, the malformed one included."""
    bad = tmp_path / "bad.tlog-proof"
    bad.write_bytes(b"hello\n")
    done = vitalseal("verify", proof, bad, "--policy", log / "policy.txt", "--json")
    assert done.code == 2
    good, malformed = map(json.loads, done.out.splitlines())
    assert (good["result"], malformed["result"]) == ("proven", "malformed")
    assert [step["result"] for step in good["steps"]] == ["passed"] * 6 + ["not checked"] * 2
    assert good["index"] == 2
    assert good["reading"]["kind_name"] == "heart_rate"
    assert good["reading"]["value"] == {"mantissa": 70, "exponent": 0}


def test_verify_strict_fails_on_what_was_not_checked(vitalseal, proof, log):
    """`--strict` does not take silence for consent; neither does a trust file change what the format lacks."""
    done = vitalseal("verify", proof, "--policy", log / "policy.txt", "--trust", log / "trust.txt", "--strict")
    assert done.code == 1
    assert "step 7 (device key enrolled and good) not checked" in done.err


def test_verify_names_the_step_that_failed(vitalseal, proof, log, tmp_path):
    """Exit 1 and one line: well formed, not proven."""
    create_log(tmp_path / "other", ORIGIN)
    done = vitalseal("verify", proof, "--policy", tmp_path / "other" / "policy.txt")
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert "step 2 (log signature) failed" in done.err


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (b"", "has no quorum line"),
        (b"log nonsense\nquorum none\n", "policy: line 1"),
        (b"quorum none\nquorum none\n", "line 2: a second quorum line"),
        (b"\nquorum nobody\n", "line 2: 'nobody' is not defined above"),
        (None, "No such file"),
    ],
)
def test_malformed_policy_is_exit_2_and_its_line(vitalseal, proof, tmp_path, policy, says):
    """A policy that cannot be read verifies nothing."""
    path = tmp_path / "p.txt"
    if policy is not None:
        path.write_bytes(policy)
    done = vitalseal("verify", proof, "--policy", path)
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert str(path) in done.err
    assert says in done.err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: lines[1:], "line 1"),
        (lambda lines: [lines[0], *lines[2:]], "line 2"),
        (lambda lines: [*lines[:2], "index 01", *lines[3:]], "line 3: index"),
        (lambda lines: [*lines[:3], "AB==", *lines[4:]], "line 4"),
        (lambda lines: lines[:5], "no empty line"),
        (lambda lines: [*lines, "x"], "checkpoint: line"),
    ],
)
def test_malformed_proof_is_exit_2_and_its_line(vitalseal, proof, log, change, says):
    """The line and the fault, not a traceback."""
    lines = proof.read_text().splitlines()
    proof.write_text("\n".join(change(lines)) + "\n")
    done = vitalseal("verify", proof, "--policy", log / "policy.txt")
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert says in done.err


def flips(data, step):
    """`data` with one bit of every `step`-th byte changed, and where."""
    return ((at, data[:at] + bytes([data[at] ^ 0x01]) + data[at + 1 :]) for at in range(0, len(data), step))


def test_every_flipped_byte_of_a_classical_proof_is_refused(vitalseal, log, tmp_path):
    """From the file to the exit code: no single byte can change."""
    path = tmp_path / "small.tlog-proof"
    words = ("--index", 2, "--leaf", 1, "--classical", "-o", path)
    assert vitalseal("ledger", "proof", "--data", log, *words).code == 0
    good = path.read_bytes()
    for at, bad in flips(good, 3):  # every byte of every kind of field is tried in tests/ledger
        path.write_bytes(bad)
        assert vitalseal("verify", path, "--policy", log / "policy.txt").code in {1, 2}, at
    path.write_bytes(good)
    assert vitalseal("verify", path, "--policy", log / "policy.txt").code == 0


@pytest.mark.parametrize("policy", ["policy.txt", "policy-pq.txt"])
def test_flipped_byte_of_a_whole_proof_is_refused_or_changes_nothing(vitalseal, proof, log, policy):
    """Only the line by a key that the policy does not name is not looked at, and it says nothing."""
    good = proof.read_bytes()
    check = ("verify", proof, "--policy", log / policy, "--json")
    before = json.loads(vitalseal(*check).out)
    ignored = []
    for at, bad in flips(good, 17):
        proof.write_bytes(bad)
        done = vitalseal(*check)
        if done.code == 0:
            ignored.append(at)
            after = json.loads(done.out)
            assert [after[name] for name in FIELDS] == [before[name] for name in FIELDS]
    lines = good.splitlines(keepends=True)
    ed25519, ml_dsa = (len(b"".join(lines[:-2])), len(lines[-2])), (len(good) - len(lines[-1]), len(lines[-1]))
    start, length = ml_dsa if policy == "policy.txt" else ed25519
    assert all(start < at < start + length for at in ignored)
    assert ignored


FIELDS = ("result", "statement", "claim", "key_id", "epoch", "seq", "leaf_index", "index", "size", "root", "reading")


def test_proof_by_reference_and_by_device_are_the_same(vitalseal, log, proof):
    """A reading is named as the store shows it, or by its device's own counting."""
    from tests.aggregator.devices import Device as Twin

    key = Twin("wrist-1", 1).key_id.hex()
    by_ref = vitalseal("ledger", "proof", "--data", log, "--ref", 2 * 4096 + 1)
    by_device = vitalseal("ledger", "proof", "--data", log, "--device", key[:12], "--seq", 0, "--leaf", 1)
    assert by_ref.out == by_device.out == proof.read_text()


def test_proof_of_a_whole_batch_is_a_file_a_reading(vitalseal, log, tmp_path):
    """Without a leaf, every reading of the batch; each of them is proven, and so is the batch info."""
    done = vitalseal("ledger", "proof", "--data", log, "--index", 3, "-o", tmp_path / "out")
    assert done.code == 0
    info = vitalseal("ledger", "proof", "--data", log, "--index", 3, "--leaf", 0, "-o", tmp_path / "out")
    assert info.code == 0
    files = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in files] == [f"3-{leaf}.tlog-proof" for leaf in range(4)]
    assert vitalseal("verify", *files, "--policy", log / "policy.txt").code == 0


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--index", "0"], 2, "not a batch"),
        (["--index", "1"], 2, "not a batch"),
        (["--index", "99"], 1, "entry 99 is not on the log"),
        (["--index", "2", "--leaf", "9"], 1, "leaves 0 to 3"),
        (["--device", "ab"], 2, "--seq"),
        (["--device", "zz", "--seq", "0"], 2, "0 enrolled keys"),
        (["--ref", "-5"], 1, "entry -1 is not on the log"),
        (["--ref", "999"], 2, "--ref 999, which is leaf 999 of entry 0 (ref = entry x 4096 + leaf): entry 0 is not a"),
        (["--ref", "8193", "--leaf", "1"], 2, "leave --leaf out"),
        (["--index", "2", "--leaf", "1", "--seq", "0"], 2, "go with --device"),
        (["--device", "", "--seq", "0"], 2, "0 enrolled keys"),
        (["--index", "2"], 2, "name a directory with -o"),
    ],
)
def test_proof_of_nothing_is_one_line(vitalseal, log, words, code, says):
    """What is not there is named."""
    done = vitalseal("ledger", "proof", "--data", log, *words)
    assert (done.code, done.out) == (code, "")
    assert len(done.err.splitlines()) == 1
    assert says in done.err


def test_proof_does_not_overwrite_what_is_no_proof(vitalseal, log, tmp_path):
    """A wrong -o costs nothing."""
    precious = tmp_path / "policy.txt"
    precious.write_text("log ...")
    done = vitalseal("ledger", "proof", "--data", log, "--index", "2", "--leaf", "1", "-o", precious)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert precious.read_text() == "log ..."


def test_number_beyond_every_column_is_one_line(vitalseal, log):
    """Numbers of any length are answered, not thrown."""
    from tests.aggregator.devices import Device as Twin

    key = Twin("wrist-1", 1).key_id.hex()
    done = vitalseal("ledger", "proof", "--data", log, "--device", key, "--seq", 10**30, "--leaf", 1)
    assert (done.code, len(done.err.splitlines())) == (2, 1)


def test_output_that_is_full_is_not_called_unproven(log, tmp_path):
    """A disk that is full under stdout is exit 2, so that no script takes it for a proof that failed."""
    path = tmp_path / "one.tlog-proof"
    command = [sys.executable, "-m", "vitalseal"]
    make = ["ledger", "proof", "--data", str(log), "--index", "2", "--leaf", "1", "-o", str(path)]
    subprocess.run([*command, *make], check=True, capture_output=True)
    with Path("/dev/full").open("w") as full:
        check = [*command, "verify", str(path), "--policy", str(log / "policy.txt")]
        done = subprocess.run(check, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_proof_from_a_directory_that_is_no_log(vitalseal, tmp_path):
    """A wrong directory is said to be one."""
    done = vitalseal("ledger", "proof", "--data", tmp_path, "--index", "0")
    assert (done.code, len(done.err.splitlines())) == (2, 1)


def test_fsck_of_a_sound_log(vitalseal, log):
    """What the log holds, at a glance."""
    done = vitalseal("ledger", "fsck", log / "log", "--policy", log / "policy.txt")
    assert (done.code, done.err) == (0, "")
    assert "size 7" in done.out
    assert "entries: 5 batches, 1 enrolments, 1 key states" in done.out
    assert "readings committed to: 15, by 1 of 1 enrolled keys" in done.out


def test_fsck_finds_every_flipped_byte(vitalseal, log, tmp_path):
    """From the files to the exit code: every byte of classical checkpoint and tile, and a sample of the bundle's."""
    copy = tmp_path / "copy"
    shutil.copytree(log / "log", copy)
    checkpoint = copy / "checkpoint"
    checkpoint.write_bytes(parse_note(checkpoint.read_bytes()).classical().encode())
    files = [path for path in copy.rglob("*") if path.is_file()]
    assert len(files) == 3
    for path in files:
        good = path.read_bytes()
        for at in range(0, len(good), 5 if "entries" in path.as_posix() else 1):
            path.write_bytes(good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :])
            done = vitalseal("ledger", "fsck", copy, "--policy", log / "policy.txt")
            assert done.code == 1, (path, at)
            assert len(done.err.splitlines()) == 1
        path.write_bytes(good)
    assert vitalseal("ledger", "fsck", copy, "--policy", log / "policy.txt").code == 0


def test_fsck_looks_at_the_post_quantum_line_if_the_policy_does(vitalseal, log, tmp_path):
    """A sample of the bytes of that line: refused under its policy, and of no meaning under the other."""
    copy = tmp_path / "copy"
    shutil.copytree(log / "log", copy)
    good = (copy / "checkpoint").read_bytes()
    start = good.index(b"\n", good.index("\u2014".encode())) + 1
    for at in range(start, len(good), 150):
        (copy / "checkpoint").write_bytes(good[:at] + bytes([good[at] ^ 0x01]) + good[at + 1 :])
        done = vitalseal("ledger", "fsck", copy, "--policy", log / "policy-pq.txt")
        assert (done.code, len(done.err.splitlines())) == (1, 1), at
        done = vitalseal("ledger", "fsck", copy, "--policy", log / "policy.txt")
        assert done.code == 0 or "checkpoint: line 6" in done.err, at
    (copy / "checkpoint").write_bytes(good)
    assert vitalseal("ledger", "fsck", copy, "--policy", log / "policy-pq.txt").code == 0


def test_fsck_of_no_directory(vitalseal, log):
    """A wrong path is a wrong call."""
    assert vitalseal("ledger", "fsck", log / "nowhere", "--policy", log / "policy.txt").code == 2


def test_proof_file_that_cannot_be_read(vitalseal, log):
    """A directory, a file that refuses, or one that is not there is a wrong call and one line."""
    for path in (Path("/proc/self/mem"), log, log / "nowhere"):
        done = vitalseal("verify", path, "--policy", log / "policy.txt")
        assert (done.code, len(done.err.splitlines())) == (2, 1)
