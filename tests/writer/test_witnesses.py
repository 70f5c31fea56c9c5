"""The witness client: what is gathered, what is refused, who is waited for, and who is left alone for how long."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from ledger.checkpoint import Checkpoint
from ledger.note import ED25519_COSIGNATURE, ML_DSA_44, NoteSigner
from ledger.policy import Policy
from ledger.writer.storage import StorageError
from ledger.writer.witness_health import WitnessFault
from ledger.writer.witness_peer import MAX_ANSWER
from ledger.writer.witnesses import Witnesses
from tests.ledger.builders import NOW, ORIGIN, STRANGER, log_signer, policy, seed
from tests.service.servers import make_certificate
from tests.writer.witness_standin import (
    PATIENCE_S,
    Act,
    Log,
    StandIn,
    adding,
    before,
    forging,
    hanging,
    leaving,
    once,
    saying,
    sending,
    together,
    trickling,
    truly,
)

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n"


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class House:
    """A log, its witnesses and the client; what is started here is closed at the end, the client first."""

    def __init__(self, opened: ExitStack) -> None:
        self.opened = opened
        self.log = Log()
        self.clock = Clock()
        self.jitter = 1.0

    def witness(self, name: str, *types: int, **tls: object) -> StandIn:
        return self.opened.enter_context(StandIn(name, *types, **tls))

    def client(self, *policies: Policy, timeout_s: float = PATIENCE_S, grace_s: float = PATIENCE_S) -> Witnesses:
        witnesses = Witnesses(
            policies, timeout_s=timeout_s, grace_s=grace_s, clock=self.clock, jitter=lambda: self.jitter
        )
        self.opened.callback(witnesses.close)
        return witnesses

    def cosign(self, witnesses: Witnesses, size: int) -> list[str]:
        """The names in the key names of those who cosigned the log at `size`."""
        note = witnesses.cosign(self.log.note(size), self.log.prover(size))
        return [line.name.removeprefix("witness.example.org/") for line in note.signatures[1:]]


@pytest.fixture
def house() -> Iterator[House]:
    with ExitStack() as opened:
        yield House(opened)


def policy_of(quorum: str, *witnesses: StandIn, key: int = 0, ending: str = "") -> Policy:
    """A policy that names the `key`-th key of each witness, and its URL."""
    lines = [f"log {log_signer().verifier}"]
    lines += [f"witness {one.name} {one.signers[key].verifier} {one.url}{ending}" for one in witnesses]
    return policy("\n".join([*lines, quorum]) + "\n")


def all_of(*witnesses: StandIn) -> Policy:
    names = " ".join(witness.name for witness in witnesses)
    return policy_of(f"group everyone all {names}\nquorum everyone", *witnesses)


def error_of(witnesses: Witnesses) -> str:
    (state,) = witnesses.states()
    assert state.ok == (state.error == "")
    return state.error


def take_turns(first: StandIn, second: StandIn) -> None:
    """The second answers next after the first has been asked and answered."""
    done = threading.Event()
    first.told, second.told = [before(done)], [once(done)]


def late_fault(witnesses: Witnesses) -> BaseException | None:
    """Waits until the one request that was left under way has ended."""
    (talk,) = witnesses._late
    return talk.reply.exception(PATIENCE_S)


# What is gathered


def test_one_request_brings_the_lines_of_every_key_that_policies_name_there(house):
    """Two policies with two kinds of key, one witness: it is asked once, and both quorums are reached."""
    witness = house.witness("hospital", ED25519_COSIGNATURE, ML_DSA_44)
    witnesses = house.client(
        policy_of("quorum hospital", witness), policy_of("quorum hospital", witness, key=1, ending="/")
    )
    note = witnesses.cosign(house.log.note(5), house.log.prover(5))
    assert [line.key_id for line in note.signatures[1:]] == [signer.verifier.id for signer in witness.signers]
    assert witness.asked == ["from 0"]
    assert witnesses.satisfied(note)
    assert not witnesses.satisfied(house.log.note(5))


def test_either_key_of_a_witness_satisfies_its_group(house):
    """A quorum of groups: the hospital by any of its two keys, and one of two others."""
    hospital, regulator = house.witness("hospital", ED25519_COSIGNATURE, ML_DSA_44), house.witness("regulator")
    patients = house.witness("patients")
    text = f"log {log_signer().verifier}\n"
    text += f"witness h-ed {hospital.signers[0].verifier} {hospital.url}\n"
    text += f"witness h-pq {hospital.signers[1].verifier} {hospital.url}\n"
    text += f"witness regulator {regulator.signers[0].verifier} {regulator.url}\n"
    text += f"witness patients {patients.signers[0].verifier} {patients.url}\n"
    text += "group hospital any h-ed h-pq\ngroup others any regulator patients\n"
    text += "group quorate all hospital others\nquorum quorate\n"
    witnesses = house.client(policy(text))
    regulator.told = [saying(500)]
    hospital.signers.pop(0)
    note = witnesses.cosign(house.log.note(5), house.log.prover(5))
    assert sorted(line.name for line in note.signatures[1:]) == [
        "witness.example.org/hospital",
        "witness.example.org/patients",
    ]
    assert witnesses.satisfied(note)
    assert [state.name for state in witnesses.states()] == ["h-ed, h-pq", "regulator", "patients"]
    hospital.told, patients.told = [saying(500)], [saying(500)]
    house.clock.now += 2
    lacking = witnesses.cosign(house.log.note(6), house.log.prover(6))
    assert [line.name for line in lacking.signatures[1:]] == ["witness.example.org/regulator"]
    assert not witnesses.satisfied(lacking)


def test_lines_of_strangers_are_ignored(house):
    """A witness may pass on what it likes; only lines by keys of the policies are kept."""
    witness = house.witness("hospital")
    checkpoint = house.log.checkpoint(5)
    witness.told = [adding(STRANGER.cosign(checkpoint.text(), NOW), checkpoint.signature(log_signer(), NOW))]
    assert house.cosign(house.client(all_of(witness)), 5) == ["hospital"]


def test_line_that_is_there_twice_is_kept_once(house):
    """Repetition does not fill a note."""
    witness = house.witness("hospital")
    witness.told = [adding(*witness.lines(house.log.checkpoint(5)) * 3)]
    assert house.cosign(house.client(all_of(witness)), 5) == ["hospital"]


def test_cosignature_without_a_time_is_no_cosignature(house):
    """Time 0 says nothing about when, and no policy counts it: nobody is waited for less on its account."""
    witness = house.witness("hospital")
    timeless = house.log.checkpoint(5).signature(witness.signers[0], 0)
    witness.told = [saying(200, str(timeless).encode())]
    witnesses = house.client(all_of(witness))
    assert house.cosign(witnesses, 5) == []
    assert "has no time" in witnesses.states()[0].error


def test_who_has_signed_is_not_asked_again(house):
    """A note that lacks a quorum is taken round again, to those that are missing."""
    first, second = house.witness("first"), house.witness("second")
    witnesses = house.client(all_of(first, second))
    second.told = [saying(500)]
    note = witnesses.cosign(house.log.note(5), house.log.prover(5))
    assert not witnesses.satisfied(note)
    house.clock.now += 60
    note = witnesses.cosign(note, house.log.prover(5))
    assert witnesses.satisfied(note)
    assert (first.asked, second.asked) == (["from 0"], ["from 0"])


def test_witness_with_a_new_key_signs_once_with_each(house):
    """A line that is missing is asked for; the one that is there is not doubled."""
    witness = house.witness("hospital", ED25519_COSIGNATURE, ML_DSA_44)
    witnesses = house.client(policy_of("quorum none", witness), policy_of("quorum hospital", witness, key=1))
    new = witness.signers.pop()
    note = witnesses.cosign(house.log.note(5), house.log.prover(5))
    assert not witnesses.satisfied(note)
    witness.signers.append(new)
    note = witnesses.cosign(note, house.log.prover(5))
    assert witnesses.satisfied(note)
    assert len(note.signatures) == 3


def test_no_quorum_asked_for_is_no_reason_not_to_ask(house):
    """Under 'quorum none' witnesses are asked as a service; the log does without."""
    witness = house.witness("hospital")
    witnesses = house.client(policy_of("quorum none", witness))
    assert witnesses.satisfied(house.log.note(5))
    assert house.cosign(witnesses, 5) == ["hospital"]
    witness.told = [saying(500)]
    assert house.cosign(witnesses, 6) == []


def test_witness_without_a_url_is_never_asked(house):
    """It cosigns elsewhere, if it does."""
    witness = house.witness("hospital")
    text = f"log {log_signer().verifier}\nwitness hospital {witness.signers[0].verifier}\nquorum none\n"
    witnesses = house.client(policy(text))
    assert house.cosign(witnesses, 5) == []
    assert witnesses.confirm(house.log.checkpoint(5), house.log.root_at)
    assert witnesses.states() == []


# Who is waited for


def test_all_witnesses_are_asked_at_the_same_time(house):
    """Each answers only when all three have been asked."""
    three = [house.witness(name) for name in ("one", "two", "three")]
    barrier = threading.Barrier(3)
    for witness in three:
        witness.told = [together(barrier)]
    assert sorted(house.cosign(house.client(all_of(*three)), 5)) == ["one", "three", "two"]


def test_a_quorum_does_not_wait_for_the_dead(house):
    """Two of three have answered, the grace is over: the third is not waited for, and it is not said to be away."""
    good, better, dead = (house.witness(name) for name in ("good", "better", "dead"))
    good.told, dead.told = [once(dead.hangs)], [hanging]
    quorum = "group two 2 good better dead\nquorum two"
    witnesses = house.client(policy_of(quorum, good, better, dead), grace_s=0)
    assert sorted(house.cosign(witnesses, 5)) == ["better", "good"]
    assert [state.error for state in witnesses.states()] == ["", "", "not asked yet"]
    # Still under way, so it is not asked a second question.
    assert sorted(house.cosign(witnesses, 6)) == ["better", "good"]
    assert len(witnesses._late) == 1
    assert dead.connections == 1


def test_those_who_answer_within_the_grace_are_waited_for(house):
    """The third answers only after the two that are enough."""
    one, two, slow = (house.witness(name) for name in ("one", "two", "slow"))
    done = threading.Event()
    one.told, two.told, slow.told = [truly], [before(done)], [once(done)]
    witnesses = house.client(policy_of("group some any one two slow\nquorum some", one, two, slow))
    assert sorted(house.cosign(witnesses, 5)) == ["one", "slow", "two"]


def test_without_a_quorum_there_is_no_grace(house):
    """The grace begins with the quorum; before it, everyone who was asked is waited for."""
    one, slow = house.witness("one"), house.witness("slow")
    take_turns(one, slow)
    assert house.cosign(house.client(all_of(one, slow), grace_s=0), 5) == ["one", "slow"]


def test_late_answer_teaches_the_size_and_is_dropped_otherwise(house):
    """A witness that is always late is asked the right question all the same."""
    good, slow = house.witness("good"), house.witness("slow")
    goes_on = threading.Event()
    slow.told = [once(goes_on)]
    witnesses = house.client(policy_of("quorum good", good, slow), grace_s=0)
    assert house.cosign(witnesses, 5) == ["good"]
    goes_on.set()
    assert late_fault(witnesses) is None
    assert witnesses.states()[1].size == 0
    take_turns(slow, good)
    house.cosign(witnesses, 5)
    assert slow.asked == ["from 0", "from 5"]
    assert (witnesses.states()[1].size, witnesses.states()[1].ok) == (5, True)


def test_late_conflict_teaches_the_size_and_asks_for_no_proof(house):
    """The tree of a checkpoint whose turn is over may be gone, so nothing is proven about it any more."""
    good, slow = house.witness("good"), house.witness("slow")
    goes_on = threading.Event()
    slow.told = [once(goes_on)]
    slow.saw(house.log.note(3))
    witnesses = house.client(policy_of("quorum good", good, slow), grace_s=0)
    house.cosign(witnesses, 5)
    goes_on.set()
    assert late_fault(witnesses) is None
    assert house.log.proved == [0]
    take_turns(slow, good)
    house.cosign(witnesses, 6)
    assert house.log.proved == [0, 5, 3]
    assert slow.asked == ["from 0", "from 3"]


def test_dialogue_ends_where_its_proof_fails(house):
    """What goes wrong in our own log is not a witness's fault, and reaches the caller."""
    witness = house.witness("hospital")
    witness.saw(house.log.note(3))
    witnesses = house.client(all_of(witness))

    def prove(old: int) -> list[bytes]:
        if old == 3:
            raise ZeroDivisionError
        return []

    with pytest.raises(ZeroDivisionError):
        witnesses.cosign(house.log.note(5), prove)
    assert house.cosign(witnesses, 5) == ["hospital"]


# Answers that are of no use


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (saying(403), "does not know this log or its key (HTTP 403)"),
        (saying(404, b"unknown\nlog"), "does not know this log (HTTP 404: b'unknown')"),
        (saying(422), "has cosigned another history of this log, or cannot read our proof (HTTP 422)"),
        (saying(429), "is asked too often (HTTP 429)"),
        (saying(500, b"\x1b[2J"), "refuses (HTTP 500: b'\\x1b[2J')"),
        (saying(302, Location="http://127.0.0.1:1/"), "redirects, which is not followed"),
        (saying(200), "its cosignature is not to be used"),
        (saying(200, b"garbage\n"), "its cosignature is not to be used"),
        (saying(200, b"\xff\xfe\n"), "its cosignature is not to be used"),
        (saying(200, b"\n\n" + str(STRANGER.cosign("x\n", NOW)).encode()), "an empty line among signature lines"),
        (saying(200, str(STRANGER.cosign("x\n", NOW)).encode()), "answers without a line by a key that a policy knows"),
        (saying(200, b"x" * (MAX_ANSWER + 1)), f"answers with more than {MAX_ANSWER} bytes"),
        (saying(409, b"5\n"), "has another size than it said (HTTP 409"),
        (forging, "its cosignature is not to be used: signature of witness.example.org/hospital"),
        (leaving, "Remote end closed connection without response"),
        (sending(b"\x1b[2J is no HTTP\r\n"), "?[2J is no HTTP"),
        (sending(HEAD + b"\r\ntoo little"), "IncompleteRead"),
    ],
)
def test_answer_of_no_use_stores_nothing(house, act: Act, error: str):
    """Whatever it is, it is a state of that witness with a line for people, and no part of it gets into the note."""
    witness = house.witness("hospital", ED25519_COSIGNATURE, ML_DSA_44)
    witnesses = house.client(
        policy_of("quorum hospital", witness), policy_of("quorum hospital", witness, key=1), timeout_s=5
    )
    witness.told = [act, saying(409)]
    assert house.cosign(witnesses, 5) == []
    assert error in error_of(witnesses)
    assert error_of(witnesses).isprintable()
    witness.told = []
    house.clock.now += 60
    assert house.cosign(witnesses, 5) == ["hospital", "hospital"]
    assert error_of(witnesses) == ""


@pytest.mark.parametrize(
    "act",
    [hanging, trickling(b""), trickling(HEAD + b"X-Long: "), trickling(HEAD + b"\r\n")],
    ids=["silent", "status", "head", "body"],
)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_witness_that_takes_too_long_is_cut(house, tmp_path, monkeypatch, *, act: Act, tls: bool):
    """The bound is on the whole, however the bytes are dealt out; the thread that waits for them is free again."""
    certificate = make_certificate(tmp_path) if tls else {}
    if tls:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate["tls_cert"]))
    witness = house.witness("hospital", **certificate)
    witnesses = house.client(all_of(witness), timeout_s=0.3)
    witness.told = [act]
    assert house.cosign(witnesses, 5) == []
    assert error_of(witnesses) == "gave no answer in time"
    if witnesses._late:  # it was given up before its thread noticed the time
        assert isinstance(late_fault(witnesses), WitnessFault)
    house.cosign(witnesses, 5)
    assert witnesses._late == []
    assert witnesses.states()[0].retry_in_s == pytest.approx(2)  # it has failed once


def test_witness_that_cannot_be_cut_fails_once(house, monkeypatch):
    """As in a name resolution without an end: it is left alone, and it is not counted again at every call."""
    witness = house.witness("hospital")
    witnesses = house.client(all_of(witness), timeout_s=0.1)
    witness.told = [trickling(HEAD + b"X-Long: ")]
    with monkeypatch.context() as patched:
        patched.setattr(witnesses._links[witness.url], "cut", lambda: None)
        for _ in range(3):
            house.clock.now += 60
            assert house.cosign(witnesses, 5) == []
    assert error_of(witnesses) == "gave no answer in time"
    assert witnesses.states()[0].retry_in_s == 0
    assert len(witnesses._late) == 1


def test_late_body_ends_without_another_call(house):
    """A thread notices by itself that the time for a response is over, though the caller has long gone."""
    good, slow = house.witness("good"), house.witness("slow")
    slow.told = [trickling(HEAD + b"\r\n")]
    witnesses = house.client(policy_of("quorum good", good, slow), timeout_s=1, grace_s=0)
    assert house.cosign(witnesses, 5) == ["good"]
    assert str(late_fault(witnesses)) == "gave no answer in time"


def test_nobody_listens(house):
    """A refused connection is a state, too."""
    with StandIn("gone") as gone:
        witnesses = house.client(all_of(gone))
    assert house.cosign(witnesses, 5) == []
    assert "Connection refused" in error_of(witnesses)


def test_certificate_is_checked(house, tmp_path, monkeypatch):
    """Over TLS, a witness is who its URL says, or it is not asked."""
    certificate = make_certificate(tmp_path)
    witness = house.witness("hospital", **certificate)
    witnesses = house.client(all_of(witness))
    assert house.cosign(witnesses, 5) == []
    assert "CERTIFICATE_VERIFY_FAILED" in error_of(witnesses)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate["tls_cert"]))
    house.clock.now += 60
    assert house.cosign(witnesses, 5) == ["hospital"]
    assert house.cosign(witnesses, 6) == ["hospital"]


# Sizes


def test_size_is_remembered_and_learned_from_a_conflict(house):
    """After a restart the first question is from 0; the witness says what it should have been."""
    witness = house.witness("hospital")
    witness.saw(house.log.note(3))
    witnesses = house.client(all_of(witness))
    assert house.cosign(witnesses, 5) == ["hospital"]
    assert house.cosign(witnesses, 5) == ["hospital"]
    assert house.cosign(witnesses, 9) == ["hospital"]
    assert witness.asked == ["from 0", "from 3", "from 5", "from 5"]


@pytest.mark.parametrize("body", [b"", b"3", b"03\n", b"3\n3\n", b"<html>\n", "٣\n".encode()])
def test_conflict_without_a_size_asks_for_the_latest_checkpoint(house, body: bytes):
    """Some witnesses, and what stands before them, do not say it in the body."""
    witness = house.witness("hospital")
    witness.saw(house.log.note(3))
    witness.told = [saying(409, body)]
    assert house.cosign(house.client(all_of(witness)), 5) == ["hospital"]
    assert witness.asked == ["latest", "from 3"]


def test_witness_that_lost_its_state_begins_again(house):
    """A conflict without a size, and no checkpoint there: from 0."""
    witness = house.witness("hospital")
    witnesses = house.client(all_of(witness))
    house.cosign(witnesses, 3)
    witness.cosigned = None
    witness.told = [saying(409)]
    assert house.cosign(witnesses, 5) == ["hospital"]
    assert witness.asked == ["from 0", "latest", "from 0"]


@pytest.mark.parametrize("body", [b"0\n", b""])
def test_conflict_over_the_size_that_was_sent_is_a_fault(house, body: bytes):
    """It is not asked the same question twice."""
    witness = house.witness("hospital")
    witness.told = [saying(409, body)]
    witnesses = house.client(all_of(witness))
    assert house.cosign(witnesses, 5) == []
    assert error_of(witnesses) == "refuses a proof from size 0, and says that it has that size"
    assert "from 0" not in witness.asked


@pytest.mark.parametrize("body", [None, b""])
def test_larger_size_than_ours_is_a_grave_fault(house, caplog, body: bytes | None):
    """The witness knows more of the log than its writer: said loudly, once, and asked again all the same."""
    witness = house.witness("hospital")
    witness.saw(house.log.note(9))
    witnesses = house.client(all_of(witness))
    for _ in range(2):
        witness.told = [] if body is None else [saying(409, body)]
        assert house.cosign(witnesses, 5) == []
        assert "cosigned size 9, and our checkpoint has size 5" in error_of(witnesses)
        house.clock.now += 60
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert witness.asked == (["from 0"] * 2 if body is None else ["latest"] * 2)


def test_conflict_without_a_size_and_with_a_false_checkpoint(house):
    """A size is taken from a checkpoint that verifies, or not at all."""
    witness = house.witness("hospital")
    witness.told = [saying(409), saying(200, house.log.note(3).encode())]
    witnesses = house.client(all_of(witness))
    assert house.cosign(witnesses, 5) == []
    assert error_of(witnesses) == "its latest checkpoint is not to be used: no signature by a known key"
    assert witnesses.states()[0].size == 0


# Back-off


def test_pauses_double_up_to_a_minute(house):
    """A witness that stays away costs one request a minute; until then it is not asked."""
    witness = house.witness("hospital")
    witnesses = house.client(all_of(witness))
    pauses = []
    for _ in range(8):
        witness.told = [saying(500)]
        house.cosign(witnesses, 5)
        assert witness.told == []
        pauses.append(witnesses.states()[0].retry_in_s)
        house.clock.now += pauses[-1] - 0.001
        witness.told = [saying(500)]
        house.cosign(witnesses, 5)
        assert len(witness.told) == 1
        house.clock.now += 0.002
    assert pauses == pytest.approx([2, 4, 8, 16, 32, 60, 60, 60])


def test_pauses_are_random_above_a_second(house):
    """Full jitter, so that logs do not come back to a witness in step; never at once."""
    witness = house.witness("hospital")
    witnesses = house.client(all_of(witness))
    pauses = []
    for house.jitter in (0.0, 0.5, 0.25):
        witness.told = [saying(500)]
        house.cosign(witnesses, 5)
        pauses.append(witnesses.states()[0].retry_in_s)
        house.clock.now += pauses[-1]
    assert pauses == pytest.approx([1, 2.5, 2.75])


@pytest.mark.parametrize(
    ("asked_for", "pause"),
    [("7", 7), ("0", 1), ("86400", 60), ("-1", 2), ("soon", 2), ("Wed, 21 Oct 2025 07:28:00 GMT", 2), ("9" * 5000, 2)],
)
def test_witness_may_ask_for_a_pause(house, asked_for: str, pause: float):
    """Retry-After is honoured between a second and a minute; what is no number of seconds is not."""
    witness = house.witness("hospital")
    witness.told = [saying(429, Retry_After=asked_for)]
    witnesses = house.client(all_of(witness))
    house.cosign(witnesses, 5)
    assert witnesses.states()[0].retry_in_s == pytest.approx(pause)


def test_going_and_coming_back_are_said_once(house, caplog):
    """Two lines for an absence, however long; the state tells when it began and ended."""
    caplog.set_level(logging.INFO)
    witness = house.witness("hospital")
    witnesses = house.client(all_of(witness))
    house.cosign(witnesses, 1)
    changes = [witnesses.states()[0].changed_at]
    for act in (saying(500), saying(503), saying(500), truly, truly):
        house.clock.now += 100
        witness.told = [act]
        house.cosign(witnesses, 2)
        changes.append(witnesses.states()[0].changed_at)
    assert changes == [1000, 1100, 1100, 1100, 1400, 1400]
    where = f"hospital ({witness.url})"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"witness {where} is away, and is asked again: refuses (HTTP 500)"),
        ("INFO", f"witness {where} is back"),
    ]


def test_states_tell_who_is_asked_where_and_how_it_went(house):
    """In the order of the policies, known or not."""
    good, bad = house.witness("good"), house.witness("bad")
    witnesses = house.client(policy_of("quorum good", good, bad, ending="//"))
    assert [(state.ok, state.error) for state in witnesses.states()] == [(False, "not asked yet")] * 2
    bad.told = [saying(404)]
    house.cosign(witnesses, 5)
    first, second = witnesses.states()
    assert (first.name, first.url, first.ok, first.error, first.size) == ("good", good.url, True, "", 5)
    assert (second.name, second.ok, second.error) == ("bad", False, "does not know this log (HTTP 404)")
    assert (first.retry_in_s, second.retry_in_s, second.changed_at) == (0, 2, 1000)


# Connections


def test_connection_is_kept(house):
    """One handshake for many checkpoints."""
    witness = house.witness("hospital")
    witnesses = house.client(all_of(witness))
    for size in (1, 2, 3):
        assert house.cosign(witnesses, size) == ["hospital"]
    assert witness.connections == 1


def test_connection_that_the_server_closes_is_opened_again(house):
    """Between two checkpoints, or at the moment of the second, it is no fault of the witness."""
    witness = house.witness("hospital")
    witnesses = house.client(all_of(witness))
    witness.told = [truly, leaving]
    assert house.cosign(witnesses, 1) == ["hospital"]
    assert house.cosign(witnesses, 2) == ["hospital"]
    assert witness.connections == 2


def test_answer_that_is_the_last_on_its_connection(house):
    """'Connection: close' is honoured, and the next checkpoint goes out on another."""
    witness = house.witness("hospital")
    lines = "".join(map(str, witness.lines(house.log.checkpoint(1)))).encode()
    witness.told = [sending(b"HTTP/1.0 200 OK\r\n\r\n" + lines)]
    witnesses = house.client(all_of(witness))
    assert house.cosign(witnesses, 1) == ["hospital"]
    witness.saw(house.log.note(1))
    assert house.cosign(witnesses, 2) == ["hospital"]
    assert witness.connections == 2


def test_close_ends_what_is_under_way(house):
    """A witness that says nothing does not hold up the end of the program."""
    good, dead = house.witness("good"), house.witness("dead")
    witnesses = house.client(policy_of("quorum good", good, dead), grace_s=0)
    take_turns(dead, good)
    house.cosign(witnesses, 5)
    if witnesses._late:
        late_fault(witnesses)
    good.told, dead.told = [once(dead.hangs)], [hanging]
    house.cosign(witnesses, 6)
    began = time.monotonic()
    witnesses.close()
    assert time.monotonic() - began < PATIENCE_S / 2
    assert isinstance(late_fault(witnesses), WitnessFault)


# Before the first signature


def test_witnesses_that_never_saw_the_log_confirm_it(house):
    """'Never seen' is an answer."""
    one, two = house.witness("one"), house.witness("two")
    witnesses = house.client(all_of(one, two))
    assert witnesses.confirm(house.log.checkpoint(0), house.log.root_at)
    assert (one.asked, two.asked) == (["latest"], ["latest"])


@pytest.mark.parametrize("size", [3, 5])
def test_witnesses_that_saw_a_prefix_confirm_the_log(house, size: int):
    """What they cosigned last is ours, and the next question goes on from there."""
    witness = house.witness("hospital")
    witness.saw(house.log.note(size))
    witnesses = house.client(all_of(witness))
    assert witnesses.confirm(house.log.checkpoint(5), house.log.root_at)
    assert witnesses.states()[0].size == size
    assert house.cosign(witnesses, 7) == ["hospital"]
    assert witness.asked == ["latest", f"from {size}"]


def test_confirmation_waits_for_a_quorum_over_several_calls(house):
    """Who has answered counts, and is not asked again; the rest is asked when it is due."""
    one, two, three = (house.witness(name) for name in ("one", "two", "three"))
    one.told, three.told = [saying(500)], [saying(500)]
    witnesses = house.client(policy_of("group most 2 one two three\nquorum most", one, two, three))
    ours = house.log.checkpoint(5)
    assert not witnesses.confirm(ours, house.log.root_at)
    assert not witnesses.confirm(ours, house.log.root_at)
    house.clock.now += 60
    assert witnesses.confirm(ours, house.log.root_at)
    assert (one.asked, two.asked, three.asked) == (["latest"], ["latest"], ["latest"])


def test_larger_size_at_a_witness_means_an_old_copy(house):
    """One witness is enough, whatever the others say: going on would fork the log."""
    one, two = house.witness("one"), house.witness("two")
    two.saw(house.log.note(9))
    witnesses = house.client(policy_of("group some any one two\nquorum some", one, two))
    with pytest.raises(StorageError, match=r"witness two .* has cosigned size 9, .* size 5: it is an old copy"):
        witnesses.confirm(house.log.checkpoint(5), house.log.root_at)


@pytest.mark.parametrize("size", [3, 5])
def test_other_root_at_a_witness_means_a_second_history(house, size: int):
    """At our size or below it."""
    witness = house.witness("hospital")
    witness.saw(Log("other").note(size))
    witnesses = house.client(policy_of("quorum none", witness))
    with pytest.raises(StorageError, match=f"has cosigned another root at size {size}"):
        witnesses.confirm(house.log.checkpoint(5), house.log.root_at)


def test_latest_checkpoint_that_does_not_verify_is_no_answer(house):
    """Neither a larger size nor a smaller one is believed without both signatures."""
    witness = house.witness("hospital")
    witnesses = house.client(all_of(witness))
    large = house.log.checkpoint(9)
    own = witness.lines(large)
    forged = NoteSigner(ORIGIN, seed("forger"))
    elsewhere = Checkpoint("elsewhere.example/log", 9, bytes(32))
    for answer in (
        b"garbage",
        house.log.note(9).encode(),
        house.log.note(9, STRANGER.cosign(large.text(), NOW)).encode(),
        house.log.note(9, *witness.lines(house.log.checkpoint(8))).encode(),
        large.sign(*witness.signers, time=NOW).encode(),
        large.sign(forged, *witness.signers, time=NOW).encode(),
        elsewhere.sign(log_signer(), *witness.signers, time=NOW).encode(),
    ):
        witness.told = [saying(200, answer)]
        house.clock.now += 60
        assert not witnesses.confirm(house.log.checkpoint(5), house.log.root_at)
        assert error_of(witnesses).startswith("its latest checkpoint is ")
    witness.told = [saying(200, house.log.note(9, *own).encode())]
    house.clock.now += 60
    with pytest.raises(StorageError, match="old copy"):
        witnesses.confirm(house.log.checkpoint(5), house.log.root_at)


@pytest.mark.parametrize("act", [saying(403), saying(500), saying(302, Location="/"), hanging, leaving])
def test_other_answers_confirm_nothing(house, act: Act):
    """Silence is not a confirmation."""
    witness = house.witness("hospital")
    witness.told = [act]
    witnesses = house.client(all_of(witness), timeout_s=0.3 if act is hanging else PATIENCE_S)
    assert not witnesses.confirm(house.log.checkpoint(5), house.log.root_at)


# Policies that cannot be served


@pytest.mark.parametrize(
    "url",
    [
        "ftp://witness.example",
        "witness.example",
        "http://",
        "https:///path",
        "https://user:secret@witness.example",
        "https://witness.example/?q=1",
        "https://witness.example/#top",
        "https://witness.example:99999",
        "https://witness.example:0",
        "https://[::1",
        "https://witness.example/ö",
    ],
)
def test_url_that_cannot_be_asked_is_refused(url: str):
    """At the start, and not with every checkpoint."""
    signer = NoteSigner("witness.example.org/hospital", seed("hospital"), ED25519_COSIGNATURE)
    text = f"log {log_signer().verifier}\nwitness hospital {signer.verifier} {url}\nquorum none\n"
    with pytest.raises(StorageError, match="is not http"):
        Witnesses([policy(text)])


def test_quorum_that_no_url_can_reach_is_refused(house):
    """Such a log could never publish."""
    with_url, without = house.witness("hospital"), house.witness("regulator")
    text = f"log {log_signer().verifier}\nwitness hospital {with_url.signers[0].verifier} {with_url.url}\n"
    text += f"witness regulator {without.signers[0].verifier}\ngroup both all hospital regulator\nquorum both\n"
    with pytest.raises(StorageError, match="cannot be reached by witnesses with a URL"):
        Witnesses([policy(text)])


def test_importing_the_client_loads_no_http_library():
    """A log without witnesses needs none."""
    program = "import sys, ledger.writer.witnesses; print('urllib3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
