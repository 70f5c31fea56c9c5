"""`ledger proof` and `verify` with all eight steps: key status, ranges, re-anchoring, on a log with a witness."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from ledger import proof_cli
from ledger.checkpoint import parse_checkpoint
from ledger.note import parse_note
from ledger.proof import parse_proof_file
from ledger.writer.files import read_file
from ledger.writer.reader import PUBLIC
from tests.ledger import builders as b
from tests.ledger.past import Past, id_of, registrar
from tests.writer.written import TRUST, Written

GOOD, ROTATED, NEXT, REVOKED, FOREIGN = (b.device(name) for name in ("good", "old", "new", "revoked", "foreign"))
STOLEN, LATE = b.device("stolen"), b.SecureElement("late")
DEVICES = {"good": GOOD, "rotated": ROTATED, "next": NEXT, "revoked": REVOKED, "foreign": FOREIGN, "stolen": STOLEN}


def hexed(device):
    return id_of(device).hex()


def seal(past, device, count):
    for _ in range(count):
        past.seal(b.scalar(), b.scalar(73, ordinal=1), signer=device)


def history():
    """What happened to six keys; STOLEN's log took a batch after its revocation, as an honest log never does."""
    past = Past()
    for device in (GOOD, ROTATED, REVOKED, STOLEN):
        past.enrol(device)
    past.enrol(FOREIGN, registrar("another registrar"))
    past.state()
    for device in (GOOD, ROTATED, REVOKED, FOREIGN, STOLEN):
        seal(past, device, 3)
    past.rotate(ROTATED, NEXT, (0, 3))
    past.revoke(REVOKED, (0, 1))
    past.revoke(STOLEN, (0, 9))
    past.state()
    seal(past, NEXT, 1)
    seal(past, STOLEN, 1)
    past.state()
    return past


def copy_of(past):
    """The same once more, to be gone on with."""
    again = Past()
    again.entries, again.chains = list(past.entries), {key: list(chain) for key, chain in past.chains.items()}
    return again


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """The log's data, and who is trusted."""
    directory = tmp_path_factory.mktemp("cosigned")
    past = history()
    with Written(directory / "data", past) as written:
        written.publish()
    trust = directory / "trust.txt"
    trust.write_text(TRUST)
    data = directory / "data"
    return SimpleNamespace(data=data, past=past, trust=trust, policy=data / "policy.txt", pq=data / "policy-pq.txt")


@pytest.fixture
def call(vitalseal, log, tmp_path):
    """`call.make(name, *words)`: a proof file in a folder of its own; `call.verify(*files)`: the reports."""

    def make(name, *words):
        path = tmp_path / "made" / name
        path.parent.mkdir(exist_ok=True)
        done = vitalseal("ledger", "proof", "--data", log.data, *words, "-o", path)
        assert (done.code, done.err) == (0, "")
        return path

    def verify(*files, policy=log.policy, trust=log.trust, strict=True):
        words = [*files, "--policy", policy, *(["--trust", trust] if trust else []), *(["--strict"] if strict else [])]
        done = vitalseal("verify", *words, "--json")
        assert done.err == ""
        return SimpleNamespace(code=done.code, reports=[json.loads(line) for line in done.out.splitlines()])

    def reading(device, seq, **options):
        return make(f"{hexed(device)[:6]}-{seq}.tlog-proof", "--device", hexed(device), "--seq", seq, "--leaf", 1)

    def status(device, name="status.tlog-proof"):
        return make(name, "--key-status", hexed(device))

    return SimpleNamespace(make=make, verify=verify, reading=reading, status=status)


def results(report):
    return [step["result"] for step in report["steps"]]


@pytest.mark.parametrize("policy", ["policy", "pq"])
@pytest.mark.parametrize("beside", [False, True], ids=["among the files", "beside the proof"])
def test_reading_is_proven_by_all_eight_steps(call, log, policy, *, beside):
    """With the key's status at hand nothing is left unchecked, whether it is named or lies there under its name."""
    proof = call.reading(GOOD, 1)
    status = call.status(GOOD, f"key-{hexed(GOOD)[:16]}.tlog-proof" if beside else "status.tlog-proof")
    done = call.verify(*([proof] if beside else [status, proof]), policy=getattr(log, policy))
    assert done.code == 0
    assert [report["result"] for report in done.reports] == ["proven"] * len(done.reports)
    assert results(done.reports[-1]) == ["passed"] * 8
    assert "registrar.example" in done.reports[-1]["steps"][6]["detail"]


def test_status_beside_the_proof_under_another_name_is_not_looked_for(call):
    """Only what is called a key status is taken without being named."""
    proof, _ = call.reading(GOOD, 1), call.status(GOOD, "status.tlog-proof")
    done = call.verify(proof)
    assert (done.code, results(done.reports[0])) == (1, ["passed"] * 6 + ["not checked", "passed"])


def test_what_is_no_file_beside_the_proof_is_not_read(call, log):
    """A FIFO, a directory and a dangling link under a key status's name are passed over: nothing is waited for."""
    proof = call.reading(GOOD, 1)
    os.mkfifo(proof.with_name("key-1.tlog-proof"))
    proof.with_name("key-2.tlog-proof").mkdir()
    proof.with_name("key-3.tlog-proof").symlink_to("nowhere")
    words = [sys.executable, "-m", "vitalseal", "verify", proof, "--policy", log.policy, "--trust", log.trust]
    done = subprocess.run(list(map(str, words)), check=False, timeout=30, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_strict_without_a_status_is_not_checked(vitalseal, call, log):
    """Silence is no consent: the step says what it needs, and without `--strict` it says so too."""
    proof = call.reading(GOOD, 1)
    done = vitalseal("verify", proof, "--policy", log.policy, "--trust", log.trust, "--strict")
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert f"step 7 (device key enrolled and good) not checked: needs a key-status proof of key {hexed(GOOD)[:16]}" in (
        done.err
    )
    lax = call.verify(proof, strict=False)
    assert (lax.code, results(lax.reports[0])) == (0, ["passed"] * 6 + ["not checked", "passed"])
    untrusting = call.verify(proof, trust=None)
    assert "needs the registrars to trust" in untrusting.reports[0]["error"]


@pytest.mark.parametrize(
    ("device", "seq", "says"),
    [
        ("revoked", 1, "the key ended at epoch 0 seq 1 of its chain"),
        ("revoked", 2, "the key ended at epoch 0 seq 1 of its chain"),
        ("stolen", 3, "the key was revoked at index 23, before index 26"),
        ("foreign", 0, "who is not trusted"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_reading_by_a_key_that_was_not_good_fails_step_7(call, device, seq, says, *, strict):
    """Ended before its place, revoked before its index, signed in by a stranger: unproven, strict or not."""
    proof, status = call.reading(DEVICES[device], seq), call.status(DEVICES[device])
    done = call.verify(proof, status, strict=strict)
    assert (done.code, [report["result"] for report in done.reports]) == (1, ["unproven", "proven"])
    assert results(done.reports[0]) == ["passed"] * 6 + ["failed", "not checked"]
    assert says in done.reports[0]["error"]


@pytest.mark.parametrize(("device", "seq"), [("revoked", 0), ("rotated", 2), ("next", 0), ("stolen", 2)])
def test_reading_from_before_its_keys_end_stays_proven(call, device, seq):
    """What a key sealed while it was good is good after its rotation or revocation."""
    done = call.verify(call.reading(DEVICES[device], seq), call.status(DEVICES[device]))
    assert (done.code, results(done.reports[0])) == (0, ["passed"] * 8)


def test_foreign_registrar_is_good_for_who_trusts_him(call, log, tmp_path):
    """Trust is the reader's: with that registrar in the file it is proven."""
    both = tmp_path / "both.txt"
    another = b.NoteSigner("another.example", b.seed("another registrar")).verifier
    both.write_text(f"{TRUST}{another}\n")
    done = call.verify(call.reading(FOREIGN, 0), call.status(FOREIGN), trust=both)
    assert (done.code, results(done.reports[0])) == (0, ["passed"] * 8)


def test_status_older_than_the_reading_does_not_vouch_for_it(call, vitalseal, tmp_path):
    """What a status cannot know it does not say; a newer one beside it does."""
    past = Past()
    past.enrol(GOOD)
    past.state()
    with Written(tmp_path / "data", past) as written:
        written.publish()
        make = ("ledger", "proof", "--data", written.data)
        old, new, proof = (tmp_path / f"{name}.tlog-proof" for name in ("old", "new", "reading"))
        assert vitalseal(*make, "--key-status", hexed(GOOD), "-o", old).code == 0
        seal(past, GOOD, 1)
        past.state()
        written.publish()
        assert vitalseal(*make, "--key-status", hexed(GOOD), "-o", new).code == 0
        assert vitalseal(*make, "--index", 2, "--leaf", 1, "-o", proof).code == 0
        policy = written.data / "policy.txt"
    done = call.verify(proof, old, policy=policy)
    assert (done.code, results(done.reports[0])) == (1, ["passed"] * 6 + ["not checked", "passed"])
    assert "as of size 1, older than index 2: get a newer one" in done.reports[0]["error"]
    for files in ([proof, old, new], [new, old, proof]):
        assert call.verify(*files, policy=policy).code == 0


def test_range_is_proven_with_its_status(call):
    """Completeness, strict: with everything shown, and with the number alone."""
    status = call.status(GOOD)
    ranged = ("--device", hexed(GOOD), "--from", 0, "--to", 2)
    done = call.verify(call.make("all.tlog-proof", *ranged, "--disclose"), status)
    assert (done.code, results(done.reports[0])) == (0, ["passed"] * 8)
    assert (done.reports[0]["readings"], len(done.reports[0]["disclosed"])) == (6, 6)
    done = call.verify(call.make("number.tlog-proof", *ranged), status)
    assert (done.code, results(done.reports[0])) == (0, ["passed"] * 8)
    assert (done.reports[0]["readings"], done.reports[0]["disclosed"]) == (6, [])


def test_range_that_reaches_past_its_keys_end_fails_step_7(call):
    """Its last batch is the one that counts, and the first that is not good fails the range."""
    ranged = ("--device", hexed(REVOKED), "--from", 0, "--to")
    status = call.status(REVOKED)
    assert call.verify(call.make("good.tlog-proof", *ranged, 0, "--disclose"), status).code == 0
    done = call.verify(call.make("bad.tlog-proof", *ranged, 1, "--disclose"), status)
    assert (done.code, results(done.reports[0])) == (1, ["passed"] * 6 + ["failed", "not checked"])


def test_files_without_a_directory_for_them_get_names_that_verify_finds(vitalseal, call, log, tmp_path):
    """`-o` a directory: a key status is called so that it is found beside the proofs."""
    out = tmp_path / "out"
    out.mkdir()
    make = ("ledger", "proof", "--data", log.data)
    for words in (["--key-status", hexed(GOOD)], ["--device", hexed(GOOD), "--seq", 0]):
        assert vitalseal(*make, *words, "-o", out).code == 0
    named = ["--device", hexed(GOOD), "--from", 0, "--to", 2, "--disclose"]
    assert vitalseal(*make, *named, "-o", out).code == 0
    key = hexed(GOOD)[:16]
    names = ["6-1", "6-2", f"key-{key}", f"range-{key}-0-0-2"]
    assert sorted(path.name for path in out.iterdir()) == [f"{name}.tlog-proof" for name in names]
    proofs = [path for path in out.iterdir() if not path.name.startswith("key-")]
    assert call.verify(*proofs).code == 0


@pytest.fixture
def larger(log, tmp_path):
    """A copy of the log that has grown; its public directory."""
    shutil.copytree(log.data, tmp_path / "larger")
    past = copy_of(log.past)
    with Written(tmp_path / "larger", past) as written:
        written.quorum.time_s += 86_400
        past.fill(300)
        written.publish()
    return tmp_path / "larger" / PUBLIC


def test_refreshed_proofs_of_all_forms_stay_proven_under_the_current_checkpoint(vitalseal, call, log, larger, tmp_path):
    """Re-anchored from the public log alone: the same statements, a day later, in the checkpoint that is published."""
    old = [
        call.reading(GOOD, 2),
        call.make("all.tlog-proof", "--device", hexed(GOOD), "--from", 0, "--to", 2, "--disclose"),
        call.status(GOOD, f"key-{hexed(GOOD)[:16]}.tlog-proof"),
    ]
    out = tmp_path / "new"
    for policy in (log.policy, log.pq):
        refresh = ("ledger", "proof", "--log", larger, "--policy", policy, "--refresh")
        done = vitalseal(*refresh, *old, "-o", out)
        assert (done.code, done.err) == (0, "")
        new = [out / path.name for path in old]
        for path in new:
            assert parse_proof_file(path.read_bytes()).checkpoint.encode() == (larger / "checkpoint").read_bytes()
        before, after = call.verify(*old, policy=policy), call.verify(*new, policy=policy)
        assert (before.code, after.code) == (0, 0)
        assert results(after.reports[0]) == results(after.reports[1]) == ["passed"] * 8
        for was, now in zip(before.reports[:2], after.reports[:2], strict=True):
            assert now["logged_by"] - was["logged_by"] == 86_400
            assert now["size"] - was["size"] == 300
        assert after.reports[0]["statement"] == before.reports[0]["statement"]
        assert after.reports[1]["disclosed"] == before.reports[1]["disclosed"]


def test_refresh_against_another_log_fails(vitalseal, call, log, tmp_path):
    """By the log's own policy it is a stranger's; by the stranger's, the entry is not in it."""
    past = Past()
    past.fill(500)
    with Written(tmp_path / "other", past) as other:
        other.publish()
    proof = call.reading(GOOD, 1)
    refresh = ("ledger", "proof", "--refresh", proof, "--log", tmp_path / "other" / PUBLIC, "--policy")
    for policy, says in ((log.policy, "no signature by a known key"), (tmp_path / "other/policy.txt", "step 4 ")):
        done = vitalseal(*refresh, policy, "-o", tmp_path / "new.tlog-proof")
        assert (done.code, len(done.err.splitlines())) == (1, 1)
        assert says in done.err
    assert not (tmp_path / "new.tlog-proof").exists()


def test_refresh_from_a_log_that_is_smaller_than_the_proof_fails(vitalseal, call, tmp_path):
    """An old copy of the log cannot show what came after it."""
    past = Past()
    past.fill(3)
    with Written(tmp_path / "small", past) as small:
        small.publish()
    words = ("--log", tmp_path / "small" / PUBLIC, "--policy", tmp_path / "small/policy.txt")
    for proof in (call.reading(GOOD, 1), call.status(GOOD)):
        done = vitalseal("ledger", "proof", "--refresh", proof, *words)
        assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
        assert "is outside a log of size 3" in done.err


def test_refresh_of_files_of_one_name_overwrites_neither(vitalseal, call, log, larger, tmp_path):
    """Two files that would become one are refused before anything is written."""
    one = call.reading(GOOD, 1)
    two = tmp_path / "elsewhere" / one.name
    two.parent.mkdir()
    two.write_bytes(call.reading(GOOD, 2).read_bytes())
    done = vitalseal(
        "ledger", "proof", "--log", larger, "--policy", log.policy, "--refresh", one, two, "-o", tmp_path / "new"
    )
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "two of the files have one name" in done.err
    assert not (tmp_path / "new").exists()


def test_refresh_while_the_log_publishes_is_of_one_checkpoint(vitalseal, call, log, larger, tmp_path, monkeypatch):
    """Tree and checkpoint belong together, even if the next checkpoint comes at that moment."""
    checkpoints = iter([(log.data / PUBLIC / "checkpoint").read_bytes(), (larger / "checkpoint").read_bytes()])

    @contextmanager
    def alive(_place):
        yield lambda path: next(checkpoints) if path == "checkpoint" else read_file(larger, path), ()

    monkeypatch.setattr(proof_cli, "log_reader", alive)
    proof = call.reading(GOOD, 1)
    refresh = ("ledger", "proof", "--refresh", proof, "--log", "alive", "--policy", log.policy)
    done = vitalseal(*refresh, "-o", tmp_path / "new.tlog-proof")
    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "new.tlog-proof").read_bytes() == proof.read_bytes()


def test_refresh_of_what_is_no_proof_is_one_line(vitalseal, log, larger, tmp_path):
    """The file is named."""
    bad = tmp_path / "bad.tlog-proof"
    bad.write_text("hello\n")
    for path in (bad, tmp_path / "nowhere"):
        done = vitalseal("ledger", "proof", "--log", larger, "--policy", log.policy, "--refresh", path)
        assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
        assert str(path) in done.err


def test_classical_files_are_small_and_proven_by_the_classical_policy_alone(call, log):
    """Without the post-quantum lines a file fits a page; who asks for these lines misses them."""
    words = ("--device", hexed(GOOD), "--seq", 1, "--leaf", 1)
    whole, small = call.make("whole.tlog-proof", *words), call.make("small.tlog-proof", *words, "--classical")
    status = call.make("key.tlog-proof", "--key-status", hexed(GOOD), "--classical")
    sizes = [len(path.read_bytes()) for path in (whole, small, status)]
    signatures = parse_proof_file(whole.read_bytes()).checkpoint.signatures
    assert sizes[0] - sizes[1] == sum(len(str(line).encode()) for line in signatures if len(line.signature) == 8 + 2420)
    assert max(sizes[1:]) < 3 * 1024 < 2 * 3 * 1024 < sizes[0]
    assert call.verify(small, status).code == 0
    done = call.verify(small, status, policy=log.pq)
    assert done.code == 1
    assert "step 2 (log signature) failed" in done.reports[0]["error"]


def test_classical_goes_with_every_form(vitalseal, log, larger, call, tmp_path):
    """Ranges and refreshed files too."""
    ranged = ("--device", hexed(GOOD), "--from", 0, "--to", 2, "--disclose", "--classical")
    small = call.make("range.tlog-proof", *ranged)
    refresh = ("ledger", "proof", "--log", larger, "--policy", log.policy, "--refresh", call.reading(GOOD, 1))
    assert vitalseal(*refresh, "--classical", "-o", tmp_path / "new.tlog-proof").code == 0
    for path in (small, tmp_path / "new.tlog-proof"):
        note = parse_proof_file(path.read_bytes()).checkpoint
        assert [len(line.signature) for line in note.signatures] == [64, 72]
        assert call.verify(path, call.status(GOOD)).code == 0


DEVICE = ["--device", hexed(GOOD)]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--key-status", hexed(GOOD), "--seq", "1"], "go with --device"),
        (["--key-status", hexed(GOOD), "--from", "0", "--to", "1"], "go with --device"),
        (["--key-status", hexed(GOOD), "--leaf", "1"], "leave --leaf out"),
        (["--key-status", hexed(GOOD), "--disclose"], "--disclose goes with --from and --to"),
        (["--key-status", "zz"], "0 enrolled keys begin so"),
        (["--key-status", ""], "enrolled keys begin so"),
        ([*DEVICE, "--from", "0"], "--from and --to"),
        ([*DEVICE, "--to", "1"], "--from and --to"),
        ([*DEVICE, "--from", "0", "--to", "1", "--seq", "1"], "--from and --to"),
        ([*DEVICE, "--from", "0", "--to", "1", "--leaf", "1"], "--from and --to"),
        ([*DEVICE, "--seq", "1", "--disclose"], "--disclose goes with --from and --to"),
        ([*DEVICE, "--from", "2", "--to", "1"], "--from 2 lies after --to 1"),
        ([*DEVICE, "--from", "0", "--to", "4096"], "4097 batches; one file holds at most 4096"),
        (["--index", "6", "--from", "0", "--to", "1"], "go with --device"),
        (["--index", "6", "--disclose"], "--disclose goes with --from and --to"),
        (["--index", "6", "--leaf", "1", "--log", "x"], "--log and --policy go with --refresh"),
        (["--index", "6", "--leaf", "1", "--policy", "x"], "--log and --policy go with --refresh"),
        (["--refresh", "x", "--log", "y", "--policy", "z"], "no --data"),
        (["--index", "6", *DEVICE], "not allowed with argument"),
        (["--key-status", hexed(GOOD), "--refresh", "x"], "not allowed with argument"),
        ([], "is required"),
    ],
)
def test_options_that_do_not_belong_together_are_one_line(vitalseal, log, words, says):
    """Which, and nothing is made."""
    done = vitalseal("ledger", "proof", "--data", log.data, *words)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert says in done.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--refresh", "x"], "--refresh needs --log and --policy"),
        (["--refresh", "x", "--log", "y"], "--refresh needs --log and --policy"),
        (["--refresh", "x", "--policy", "y"], "--refresh needs --log and --policy"),
        (["--refresh", "x", "--log", "y", "--policy", "z", "--leaf", "1"], "--refresh takes whole files"),
        (["--refresh", "x", "--log", "y", "--policy", "z", "--from", "1"], "--refresh takes whole files"),
        (["--refresh", "x", "--log", "y", "--policy", "z", "--disclose"], "--refresh takes whole files"),
        (["--key-status", hexed(GOOD)], "--data is needed"),
        (["--index", "1"], "--data is needed"),
    ],
)
def test_options_without_data_that_do_not_belong_together_are_one_line(vitalseal, words, says):
    """Refreshing needs no data; everything else does."""
    done = vitalseal("ledger", "proof", *words)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert says in done.err


def test_range_with_a_batch_that_is_not_there_is_unproven(vitalseal, log):
    """Exit 1: the call is right, the log has it not."""
    done = vitalseal("ledger", "proof", "--data", log.data, *DEVICE, "--from", 1, "--to", 3)
    assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert "no batch with epoch 0 seq 3" in done.err


@pytest.mark.parametrize("policy", ["policy", "pq"])
def test_flipped_byte_of_a_key_status_is_refused_or_says_nothing_else(call, log, policy):
    """No byte of it can change what is proven; only a line by a key that the policy does not name is not looked at."""
    path = call.status(GOOD)
    good = path.read_bytes()
    before = call.verify(path, policy=getattr(log, policy)).reports[0]
    ignored = 0
    for at in range(0, len(good), 37):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x01]) + good[at + 1 :])
        done = call.verify(path, policy=getattr(log, policy))
        if done.code == 0:
            ignored += 1
            assert in_other_line(good, at, policy)
            assert done.reports[0]["claim"] == before["claim"]
        else:
            assert done.reports[0]["result"] in {"unproven", "malformed"}
    assert ignored > 0


def in_other_line(data, at, policy):
    """Whether byte `at` lies in a signature line of the kind that `policy` names no key of."""
    line = data[: data.index(b"\n", at)].rpartition(b"\n")[2]
    return line.startswith("\u2014 ".encode()) and (len(line) > 1000) is (policy == "policy")


def test_module_log_is_what_this_page_says(log):
    """Size, and a first checkpoint in which everything is: so the indexes above are right."""
    note = parse_note((log.data / PUBLIC / "checkpoint").read_bytes())
    assert parse_checkpoint(note.text).size == len(log.past.entries) == 28
