"""What a witness answers over HTTP: every row of the table, and who can keep whom from being witnessed."""

import hashlib
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.add_checkpoint import MAX_BODY, AddCheckpoint
from ledger.checkpoint import Checkpoint
from ledger.errors import MalformedError
from ledger.note import ED25519_COSIGNATURE, ED25519_NOTE, ML_DSA_44, Note, NoteSigner, Signature, parse_note
from ledger.service import witness_app, witness_service
from ledger.service.witness import known_logs, parse_logs
from ledger.service.witness_keys import add_key
from ledger.service.witness_limits import Limits
from tests.ledger.builders import seed
from tests.service.witnessing import NAME, NOW, Client, Desk, Log, body, cosigned_at, own_keys, stopped_clock, wait_for

EMPTY = hashlib.sha256(b"").digest()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def desk(tmp_path: Path, log: Log):
    """A witness that has cosigned the log at size 5."""
    with Desk(tmp_path / "w", log) as desk:
        assert desk.ask(log.body(0, 5))[0] == 200
        yield desk


def test_cosignatures_are_what_the_standard_signs(desk, log):
    """Both keys sign origin, size, root and the witness's time, and the answer holds nothing else."""
    desk.now += 7
    status, headers, lines = desk.http.request("POST", "add-checkpoint", log.body(5, 9))
    assert status == 200
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert cosigned_at(lines, own_keys(desk.data), log, 9) == [NOW + 7, NOW + 7]


def test_first_checkpoint_may_have_any_size_even_none(tmp_path, log):
    """From nothing everything follows, an empty log included."""
    with Desk(tmp_path / "w", log) as desk:
        assert desk.ask(log.body(0, 0))[0] == 200
        assert desk.ask(log.body(0, 0))[0] == 200
        assert desk.ask(log.body(0, 7))[0] == 200


def test_same_checkpoint_again_is_cosigned_at_the_new_time(desk, log):
    """A log may ask for a fresher time."""
    desk.now += 60
    status, lines = desk.ask(log.body(5, 5))
    assert (status, cosigned_at(lines, own_keys(desk.data), log, 5)) == (200, [NOW + 60] * 2)


def test_same_checkpoint_within_a_minute_has_the_same_answer(desk, log):
    """Nothing is signed (ML-DSA-44 signatures are never the same twice) or stored, and a wrong proof stays wrong."""
    lines, state = desk.ask(log.body(5, 9))[1], desk.store.load(log.origin)
    for seconds in (0, 1, 58):
        desk.now += seconds
        assert desk.ask(log.body(9, 9)) == (200, lines)
        assert desk.ask(body(9, [bytes(32)], log.note(9).encode()))[0] == 422
    assert desk.store.load(log.origin) == state
    desk.now += 1
    assert cosigned_at(desk.ask(log.body(9, 9))[1], own_keys(desk.data), log, 9) == [NOW + 60] * 2


def test_same_checkpoint_is_cosigned_at_once_by_a_key_that_is_new(tmp_path, log):
    """An answer of before has no line by it."""
    with Desk(tmp_path / "w", log) as desk:
        assert desk.ask(log.body(0, 5))[0] == 200
    add_key(tmp_path / "w", "ed25519")
    with Desk(tmp_path / "w", log) as desk:
        desk.now += 1
        lines = desk.ask(log.body(5, 5))[1]
        assert cosigned_at(lines, own_keys(desk.data), log, 5) == [NOW + 1] * 3


@pytest.mark.parametrize(
    "change",
    [
        lambda good: good[:0],
        lambda good: good[:5],
        lambda good: good.replace(b"old 5", b"old 05"),
        lambda good: good.replace(b"old 5", b"old +5"),
        lambda good: good.replace(b"old 5", b"old -1"),
        lambda good: good.replace(b"old 5\n", b"5\n"),
        lambda good: good.replace(b"old 5\n", b"old 5\r\n"),
        lambda good: good.replace(b"old 5\n", b"old 5\nAA==\n"),
        lambda good: good.replace(b"\n\n", b"\n", 1),
        lambda good: good.replace(b"\n9\n", b"\n09\n"),
        lambda good: good.replace(b"\n9\n", b"\n9\nextension\n"),
        lambda good: good.replace(b"\n9\n", b"\n9223372036854775808\n"),
        lambda good: good[:-1],
        lambda good: good[: good.rindex(b"\n\n") + 2],
        lambda good: good + b"\n",
        lambda good: b"\xff" + good,
        lambda good: good.replace(b"log.example", b"log.ex\x00mple"),
    ],
)
def test_malformed_request_is_400(desk, log, change):
    """What has another spelling than the one of its meaning is refused."""
    assert desk.ask(change(log.body(5, 9)))[0] == 400


def test_unknown_origin_is_404(desk):
    """Whoever signed it."""
    assert desk.ask(Log("log.example/other").body(0, 5))[0] == 404


def test_no_signature_by_a_known_key_is_403(desk, log):
    """A stranger's signature, and one by a stranger under the log's name."""
    other = NoteSigner(log.origin, seed("other"))
    for signer in (other, NoteSigner("stranger.example/x", seed("stranger"))):
        note = Checkpoint(log.origin, 9, log.root(9)).sign(signer)
        assert desk.ask(body(5, log.proof(5, 9), note.encode()))[0] == 403


def test_known_key_that_fails_is_403_even_beside_one_that_verifies(tmp_path):
    """One wrong line by a key that is known makes the checkpoint wrong."""
    log = Log("log.example/a", ED25519_NOTE, ML_DSA_44)
    with Desk(tmp_path / "w", log) as desk:
        good = log.note(5)
        for at in (0, 1):
            lines = list(good.signatures)
            raw = bytearray(lines[at].signature)
            raw[-1] ^= 1
            lines[at] = Signature(log.origin, lines[at].key_id, bytes(raw))
            assert desk.ask(body(0, [], Note(good.text, tuple(lines)).encode()))[0] == 403
        assert desk.ask(body(0, [], good.encode()))[0] == 200


def test_old_size_beyond_the_checkpoint_is_400(desk, log):
    """Even where the old size is the one that was cosigned."""
    assert desk.ask(body(5, [], log.note(4).encode()))[0] == 400
    assert desk.ask(body(10, [], log.note(9).encode()))[0] == 400


@pytest.mark.parametrize("old", [0, 4, 6, 9])
def test_other_old_size_is_409_with_the_last_one(desk, log, old):
    """The body is the size alone, of the standard's own type."""
    status, headers, text = desk.http.request("POST", "add-checkpoint", log.body(old, 9))
    assert (status, headers["Content-Type"], text) == (409, "text/x.tlog.size", "5\n")


def test_size_zero_with_another_root_is_422(tmp_path, log):
    """The tree of nothing has one root."""
    with Desk(tmp_path / "w", log) as desk:
        assert desk.ask(log.body(0, 0, root=bytes(32)))[0] == 422
        assert desk.ask(log.body(0, 0, root=EMPTY))[0] == 200


def test_proof_that_does_not_verify_is_422(desk, log):
    """Wrong, short, long, and right for another fork."""
    proof = log.proof(5, 9)
    note = log.note(9).encode()
    for wrong in ([], proof[:-1], [*proof, bytes(32)], proof[::-1], [bytes(32) for _ in proof]):
        assert desk.ask(body(5, wrong, note))[0] == 422
    assert desk.ask(log.body(5, 9, "fork"))[0] == 422
    assert desk.ask(body(5, proof, note))[0] == 200


def test_proof_from_size_zero_is_422(tmp_path, log):
    """There is nothing to be consistent with."""
    with Desk(tmp_path / "w", log) as desk:
        assert desk.ask(body(0, [bytes(32)], log.note(5).encode()))[0] == 422


def test_other_root_of_the_same_size_is_422_and_named_in_the_log(desk, log, caplog):
    """Two trees of one size, both signed by the log, are what a witness is for; the line holds both notes."""
    assert desk.ask(log.body(5, 5, "fork"))[0] == 422
    said = [record.getMessage() for record in caplog.records if "TWO TREES" in record.getMessage()]
    assert len(said) == 1
    assert "\n" not in said[0]
    for fork in ("", "fork"):
        checkpoint = Checkpoint(log.origin, 5, log.root(5, fork))
        assert ascii(checkpoint.text())[1:-1] in said[0]


def test_refused_requests_change_nothing(desk, log):
    """After all of these the checkpoint is served as before, and the next step is taken from it."""
    before = desk.store.load(log.origin)
    for request in (log.body(0, 9), log.body(5, 5, "fork"), log.body(5, 9, "fork"), b"", log.body(5, 9)[:-30]):
        assert desk.ask(request)[0] in (400, 403, 409, 422)
    assert desk.store.load(log.origin) == before
    assert desk.ask(log.body(5, 9))[0] == 200


def test_clock_behind_the_last_cosignature_is_503_until_it_has_caught_up(desk, log):
    """A time that went backwards is signed by nobody, and nothing is stored."""
    desk.now = NOW - 1
    assert desk.ask(log.body(5, 9))[0] == 503
    assert desk.ask(log.body(5, 5))[0] == 503
    desk.now = NOW
    assert desk.ask(log.body(5, 9))[0] == 200


def test_forged_lines_in_the_witnesss_name_are_neither_looked_at_nor_kept(desk, log):
    """Before and after the log's line, with our key ids or others: they cannot wedge what is stored."""
    ours = own_keys(desk.data)
    forged = [Signature(NAME, key.id, bytes(72)) for key in ours] + [Signature(NAME, b"fake", bytes(72))]
    note = log.note(9)
    for lines in ((*forged, *note.signatures), (*note.signatures, *forged)):
        request = body(desk.store.load(log.origin).size, [], Note(note.text, lines).encode())
        if desk.store.load(log.origin).size == 5:
            request = body(5, log.proof(5, 9), Note(note.text, lines).encode())
        status, answer = desk.ask(request)
        assert status == 200
        assert cosigned_at(answer, ours, log, 9) == [NOW, NOW]
        kept = parse_note(served(desk, log).encode())
        assert len(kept.signatures) == len(note.signatures) + len(ours)
        assert not set(kept.signatures) & set(forged)


def test_lines_of_strangers_are_ignored_and_not_kept(desk, log):
    """Another witness's line, and many that nobody knows."""
    extra = [Signature(f"stranger.example/{at}", b"1234", bytes(64)) for at in range(70)]
    assert desk.ask(log.body(5, 9, extra=extra))[0] == 200
    assert {line.name for line in parse_note(served(desk, log).encode()).signatures} == {log.origin, NAME}


def test_two_lines_by_one_key_of_the_log_are_malformed(desk, log, monkeypatch):
    """No signature is checked, whether the lines are the same or not, and whatever else is there."""
    monkeypatch.setattr(Checkpoint, "check", None)
    other = Signature(log.origin, log.vkeys[0].id, bytes(64))
    for extra in (log.note(9).signatures, [other], [Signature("x", b"1234", bytes(64)), *log.note(9).signatures * 70]):
        assert desk.ask(log.body(5, 9, extra=extra))[0] == 400


def test_line_of_the_logs_other_key_cannot_be_removed_by_sending_less(tmp_path):
    """Whoever copies a checkpoint and strikes the stronger signature does not take it from those who read here."""
    log = Log("log.example/a", ED25519_NOTE, ML_DSA_44)
    with Desk(tmp_path / "w", log) as desk:
        assert desk.ask(log.body(0, 5))[0] == 200
        poorer = Note(log.note(5).text, log.note(5).signatures[:1])
        assert desk.ask(body(5, [], poorer.encode()))[0] == 200
        kept = parse_note(served(desk, log).encode())
        assert [len(kept.by(key)) for key in (*log.vkeys, *own_keys(desk.data))] == [1, 1, 1, 1]


def test_line_of_the_logs_other_key_is_kept_when_it_comes_later(tmp_path):
    """Even a moment after the same checkpoint without it was cosigned."""
    log = Log("log.example/a", ED25519_NOTE, ML_DSA_44)
    with Desk(tmp_path / "w", log) as desk:
        poorer = Note(log.note(5).text, log.note(5).signatures[:1])
        assert desk.ask(body(0, [], poorer.encode()))[0] == 200
        assert desk.ask(log.body(5, 5))[0] == 200
        kept = parse_note(served(desk, log).encode())
        assert [len(kept.by(key)) for key in (*log.vkeys, *own_keys(desk.data))] == [1, 1, 1, 1]


def test_latest_checkpoint_is_served_with_all_lines_and_never_cached(desk, log):
    """What monitors read has the log's line and one of each of ours, all of which verify."""
    identity = hashlib.sha256(log.origin.encode()).hexdigest()
    status, headers, text = desk.http.request("GET", f"{identity}/checkpoint")
    assert (status, headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert headers["Cache-Control"] == "no-store"
    note = parse_note(text.encode())
    assert note.text == log.note(5).text
    assert note.signatures[:1] == log.note(5).signatures
    assert cosigned_at("".join(map(str, note.signatures[1:])), own_keys(desk.data), log, 5) == [NOW, NOW]


@pytest.mark.parametrize("path", ["0" * 64, "x", "%2e%2e", "A" * 5000, "log.example%2Fa"])
def test_checkpoint_of_no_such_log_is_404(desk, path):
    """Whatever stands in the path."""
    assert desk.http.request("GET", f"{path}/checkpoint")[0] == 404


def test_pages_for_people_and_monitors_tell_name_keys_logs_and_sizes(desk, log):
    """Index, health and metrics say what was done."""
    desk.ask(b"")
    index = desk.http.request("GET", "")[2]
    assert all(str(key) in index for key in own_keys(desk.data))
    assert f"{log.origin}: size 5, cosigned 2025-11-24T16:00:00Z" in index
    assert desk.http.request("GET", "healthz")[::2] == (200, "ok\n")
    metrics = desk.http.request("GET", "metrics")[2].splitlines()
    for line in (
        'vitalseal_witness_requests_total{status="200"} 1',
        'vitalseal_witness_requests_total{status="400"} 1',
        "vitalseal_witness_logs 1",
        f'vitalseal_witness_log_size{{origin="{log.origin}"}} 5',
        f'vitalseal_witness_log_cosigned_at_seconds{{origin="{log.origin}"}} {NOW}',
    ):
        assert line in metrics


def test_several_logs_have_nothing_to_do_with_each_other(tmp_path):
    """Each has its own state; one's key does not sign for the other."""
    first, second = Log("log.example/a"), Log("log.example/b", ML_DSA_44)
    with Desk(tmp_path / "w", first, second) as desk:
        assert desk.ask(first.body(0, 5))[0] == 200
        assert desk.ask(second.body(0, 3))[0] == 200
        assert desk.ask(first.body(5, 9))[0] == 200
        assert desk.ask(second.body(5, 9)) == (409, "3\n")
        note = Checkpoint(first.origin, 12, first.root(12)).sign(*second.signers)
        assert desk.ask(body(9, first.proof(9, 12), note.encode()))[0] == 403


def test_log_that_signs_with_ml_dsa_only_is_witnessed(tmp_path):
    """No Ed25519 key is needed."""
    log = Log("log.example/pq", ML_DSA_44)
    with Desk(tmp_path / "w", log) as desk:
        status, lines = desk.ask(log.body(0, 5))
        assert (status, cosigned_at(lines, own_keys(desk.data), log, 5)) == (200, [NOW, NOW])


def test_any_known_key_of_a_log_is_enough(tmp_path):
    """A log may sign with one of its keys only."""
    log = Log("log.example/a", ED25519_NOTE, ML_DSA_44)
    with Desk(tmp_path / "w", log) as desk:
        for old, size, line in ((0, 5, 0), (5, 9, 1)):
            note = Note(log.note(size).text, log.note(size).signatures[line : line + 1])
            assert desk.ask(body(old, log.proof(old, size), note.encode()))[0] == 200


def test_63_hashes_are_a_proof_and_64_are_malformed(desk, log):
    """The limit is the standard's; 63 hashes are only wrong."""
    note = log.note(9).encode()
    assert desk.ask(body(5, [bytes(32)] * 63, note))[0] == 422
    assert desk.ask(body(5, [bytes(32)] * 64, note))[0] == 400


def test_long_proof_of_a_huge_tree_is_verified(tmp_path):
    """From 1 to 2^62 a proof has 62 hashes."""
    log = Log()
    leaf = root = log.root(1)
    path = [hashlib.sha256(str(at).encode()).digest() for at in range(62)]
    for sibling in path:
        root = hashlib.sha256(b"\x01" + root + sibling).digest()
    with Desk(tmp_path / "w", log) as desk:
        assert desk.ask(body(0, [], log.note(1, root=leaf).encode()))[0] == 200
        assert desk.ask(body(1, path, log.note(2**62, root=root).encode()))[0] == 200
        assert desk.store.load(log.origin).size == 2**62


def test_body_over_the_limit_is_413_without_being_read(desk, log):
    """By its stated length, or as soon as too much has come."""
    with Client(desk.url) as client:
        client._connection.putrequest("POST", "/add-checkpoint")
        client._connection.putheader("Content-Length", str(10**12))
        client._connection.endheaders()
        with client._connection.getresponse() as answer:
            assert (answer.status, answer.headers["Connection"]) == (413, "close")
    with Client(desk.url) as client:
        chunks = iter([b"x" * (MAX_BODY // 2)] * 3)
        client._connection.request(
            "POST", "/add-checkpoint", chunks, encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
        )
        assert client._connection.getresponse().status == 413
    assert desk.ask(b"x" * MAX_BODY)[0] == 400


def test_body_that_does_not_come_is_408(desk, log, monkeypatch):
    """Who sends no end holds a connection for a limited time."""
    monkeypatch.setattr(witness_app, "BODY_WITHIN_S", 0.01)
    with Client(desk.url) as client:
        client._connection.putrequest("POST", "/add-checkpoint")
        client._connection.putheader("Content-Length", "100")
        client._connection.endheaders(b"old 5\n")
        with client._connection.getresponse() as answer:
            assert (answer.status, answer.headers["Connection"]) == (408, "close")
    monkeypatch.undo()
    assert desk.ask(log.body(5, 9))[0] == 200


def test_client_that_leaves_within_its_body_is_no_fault_of_ours(desk, log, caplog):
    """Nothing is logged, and the next one is answered."""
    with Client(desk.url) as client:
        client._connection.putrequest("POST", "/add-checkpoint")
        client._connection.putheader("Content-Length", "100")
        client._connection.endheaders(b"old 5\n")
    wait_for(lambda: (400, 1) in desk.witness.counts())
    assert desk.ask(log.body(5, 9))[0] == 200
    assert caplog.records == []


def test_other_methods_and_paths_are_refused_in_one_line(desk):
    """405 and 404 have a line of text like every answer."""
    assert desk.http.request("GET", "add-checkpoint")[::2] == (405, "Method Not Allowed\n")
    assert desk.http.request("POST", "", b"")[0] == 405
    assert desk.http.request("GET", "nothing")[::2] == (404, "Not Found\n")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_sent_is_refused_with_4xx(desk, log, data):
    """Garbage, and good requests with bytes changed, taken away or doubled: never 500, never a cosignature."""
    good = log.body(5, 9)
    begin = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(begin, len(good)))
    filling = data.draw(st.one_of(st.binary(max_size=40), st.sampled_from([good, b"\n", b"\n\n", good[begin:end] * 2])))
    request = data.draw(
        st.one_of(st.just(good[:begin] + filling + good[end:]), st.binary(max_size=300), st.text().map(str.encode))
    )
    if request != good:
        answer = desk.witness.add_checkpoint(request)
        assert 400 <= answer.status < 500
        assert answer.body.endswith("\n")
        assert "\n" not in answer.body[:-1]


def test_of_two_steps_from_one_size_exactly_one_is_cosigned(tmp_path, log):
    """Both were checked against the same state; the slower one is told the new size, and no leaf is rolled back."""
    meet = threading.Barrier(2, timeout=20)

    def clock() -> int:
        meet.wait()  # between the check and the signature: both have passed the one, neither made the other
        return NOW

    with Desk(tmp_path / "w", log, clock=clock) as desk:
        size = 0
        for _ in range(40):
            answers = {}

            def submit(target: int, answers=answers, size=size) -> None:
                with Client(desk.url) as client:
                    answers[target] = client.request("POST", "add-checkpoint", log.body(size, target))

            threads = [threading.Thread(target=submit, args=(size + step,)) for step in (1, 2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            winner, loser = sorted(answers, key=lambda target: answers[target][0])
            assert (answers[winner][0], answers[loser][0]) == (200, 409)
            assert answers[loser][2] == f"{winner}\n"
            assert desk.store.load(log.origin).size == winner > size
            size = winner


def test_restart_keeps_the_state(desk, log):
    """What was cosigned is served, and counts, after a start from disk."""
    before = served(desk, log)
    desk.restart()
    assert served(desk, log) == before
    assert desk.ask(log.body(0, 9)) == (409, "5\n")
    assert desk.ask(log.body(5, 9))[0] == 200


def test_log_that_is_no_longer_known_is_404_and_still_served(desk, log):
    """Monitors can go on reading what was cosigned."""
    desk.witness.logs = {}
    assert desk.ask(log.body(5, 9))[0] == 404
    assert served(desk, log)
    assert "no longer known" in desk.http.request("GET", "")[2]


def test_strangers_cannot_use_up_a_logs_requests(tmp_path, log):
    """Garbage, unknown origins, wrong signatures, copied checkpoints and made-up proofs leave a log all that it needs.

    It can step forward, ask again because an answer was lost, hear its size, and have its last checkpoint renewed.
    """
    _, buckets = stopped_clock()
    with Desk(tmp_path / "w", log, limits=Limits(log=1, strangers=1), buckets=buckets) as desk:
        assert desk.ask(log.body(0, 5))[0] == 200
        noise = [b"", Log("log.example/other").body(0, 5), log.body(5, 9)[:-4] + b"AA=\n"]
        made_up = [body(5, [bytes(32)] * number, log.note(9).encode()) for number in (3, 4, 5)]
        copies = [log.body(0, 5), log.body(5, 5), log.body(0, 0)]
        for requests, statuses in ((noise, {400, 404, 403}), (made_up, {422})):
            answers = [desk.ask(request)[0] for request in requests * 3]
            assert set(answers[:3]) == statuses
            assert set(answers[3:]) == {429}
        assert {desk.ask(request)[0] for request in copies * 10} == {200, 409}
        assert desk.ask(log.body(5, 9))[0] == 200
        assert desk.ask(log.body(5, 9)) == (409, "9\n")
        assert desk.ask(log.body(9, 9))[0] == 200
        desk.now += 60
        assert cosigned_at(desk.ask(log.body(9, 9))[1], own_keys(desk.data), log, 9) == [NOW + 60] * 2
        assert desk.ask(log.body(0, 12)) == (409, "9\n")


def test_flood_is_429_before_anything_is_parsed_or_checked(tmp_path, log, monkeypatch):
    """Requests of usual size and large ones are counted apart, whoever sends them, and both limits lift."""
    clock, buckets = stopped_clock()
    large = log.body(0, 5, extra=[Signature("x", b"1234", bytes(2420))] * 6)
    with Desk(tmp_path / "w", log, limits=Limits(), buckets=buckets) as desk:
        flood = [desk.witness.add_checkpoint(b"x" * len(large)).status for _ in range(60)]
        assert set(flood) == {400}
        with monkeypatch.context() as patch:
            patch.setattr(witness_service, "admit", None)
            assert desk.ask(large)[0] == 429
        assert desk.ask(log.body(0, 5))[0] == 200
        for _ in range(1499):
            desk.witness.add_checkpoint(b"")
        with monkeypatch.context() as patch:
            patch.setattr(witness_service, "admit", None)
            assert desk.ask(log.body(5, 9))[0] == 429
        clock.at += 1
        assert desk.ask(log.body(5, 9))[0] == 200
        assert desk.ask(large) == (409, "9\n")


def test_limits_that_are_set_higher_are_not_cut_by_the_one_for_all():
    """What the operator allows to one log, everybody together may ask."""
    assert [Limits(log=2000).of_all(large=large) for large in (False, True)] == [2000, 2000]
    assert Limits(strangers=100).of_all(large=True) == 100
    assert [Limits().of_all(large=large) for large in (False, True)] == [500, 20]


def test_limit_is_429_with_the_seconds_to_wait_and_then_lifts(tmp_path, log):
    """Another log's requests are not counted."""
    clock, buckets = stopped_clock()
    other = Log("log.example/b")
    with Desk(tmp_path / "w", log, other, limits=Limits(log=0.25), buckets=buckets) as desk:
        assert desk.ask(log.body(0, 1))[0] == 200
        status, headers, _ = desk.http.request("POST", "add-checkpoint", log.body(1, 2))
        assert (status, headers["Retry-After"]) == (429, "4")
        assert desk.ask(other.body(0, 1))[0] == 200
        clock.at += 4
        assert desk.ask(log.body(1, 2))[0] == 200


def test_list_of_logs_is_a_policy_or_lines(log):
    """Comments, blank lines, URLs and bare vkeys; a policy's witnesses are not logs."""
    vkey = log.vkeys[0]
    witness = NoteSigner(NAME, seed("w"), ED25519_COSIGNATURE).verifier
    for text in (
        f"{vkey}\n",
        f"# ours\n\n \tlog\t{vkey}  https://log.example \n",
        f"log {vkey}\nwitness w {witness}\ngroup g any w\nquorum g\n",
        f"witness w {witness}\nlog {vkey}\nquorum none",
    ):
        assert parse_logs(text.encode()) == (vkey,)


@pytest.mark.parametrize(
    "text", ["nonsense", "log", "log x+00000000+AAAA", "log a b c d", "log {0}\nlog {0}", "log {0}\nquorum x"]
)
def test_wrong_list_of_logs_is_refused_with_its_line(log, text):
    """A list is taken whole or not at all."""
    with pytest.raises(MalformedError, match=r"line \d"):
        parse_logs(text.format(log.vkeys[0]).encode())


def test_known_logs_are_those_of_all_lists_and_no_key_is_the_witnesss_own(log):
    """The same key in two lists counts once."""
    second = Log("log.example/b", ED25519_NOTE, ML_DSA_44)
    keys = [*log.vkeys, *second.vkeys, *log.vkeys]
    assert known_logs(keys, ()) == {log.origin: tuple(log.vkeys), second.origin: tuple(second.vkeys)}
    own = NoteSigner(NAME, seed(f"{log.origin} {ED25519_NOTE}"), ED25519_COSIGNATURE).verifier
    with pytest.raises(MalformedError, match="one role"):
        known_logs(keys, [own])
    with pytest.raises(MalformedError, match="no log"):
        known_logs([], ())


def test_request_of_our_own_codec_is_what_the_tests_send(log):
    """The body of the tests and the codec that the log's writer uses are the same bytes."""
    request = AddCheckpoint(5, tuple(log.proof(5, 9)), log.note(9))
    assert request.encode() == log.body(5, 9)


def served(desk: Desk, log: Log) -> str:
    """What the witness shows of a log."""
    return desk.http.request("GET", f"{hashlib.sha256(log.origin.encode()).hexdigest()}/checkpoint")[2]
