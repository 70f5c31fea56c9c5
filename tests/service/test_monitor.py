"""What a monitor concludes: every way in which a log can lie, found, told once, with evidence that convicts."""

import pytest

from ledger.batch import Anchor
from ledger.checkpoint import Checkpoint
from ledger.errors import MalformedError
from ledger.note import ML_DSA_44, NoteSigner
from ledger.service.fetch import FetchError
from ledger.service.monitor_alarms import MAX_LASTING, PASSING, REST
from ledger.service.monitor_evidence import iso_time
from ledger.writer.storage import StorageError
from tests.ledger import builders as b
from tests.ledger import past as p
from tests.service.monitoring import (
    LOG,
    MIRROR,
    STALLED_AFTER_S,
    WITNESS,
    Watch,
    commitments,
    convicts,
    exhibited,
    log_of,
    signed_notes,
)
from tests.vectors import logs

NOTHING = FetchError("not there now")


@pytest.fixture
def watch(tmp_path):
    """A monitor of our log, whose policy wants two of three witnesses."""
    with Watch(tmp_path / "state") as monitor:
        yield monitor


@pytest.fixture
def open_watch(tmp_path):
    """The same under `quorum none`."""
    with Watch(tmp_path / "state", policy=b.policy(b.policy_text())) as monitor:
        yield monitor


@pytest.mark.parametrize("sizes", [(0, 0, 1), (5, 5, 6), (255, 256, 257), (1, 300, 700), (600, 600, 70_000)])
def test_sound_log(watch, sizes):
    """A log that grows is followed to its end, and nothing is said."""
    for size in sizes:
        assert watch.round(log_of(commitments(size))) == []
        assert watch.size == size
    assert watch.alarms.standing == []
    assert watch.state.memory.pending == []


def test_sound_log_with_everything_in_it(watch):
    """Every type of entry: no alarm, and a notice of each thing that is properly on the log."""
    told = watch.round(log_of(logs.whole().entries))
    assert sorted(told) == [f"notice {kind}" for kind in ("closed", "equivocation", "gap", "outbox-lost", "revoked")]
    assert watch.round(log_of(logs.whole().entries)) == []
    assert watch.alarms.standing == []
    assert watch.evidence() == []


@pytest.mark.parametrize("name", [name for name, log in logs.sound().items() if log.entries])
def test_sound_logs_of_the_vectors(tmp_path, name):
    """What fsck accepts is no alarm, and its notices are told once each."""
    log = logs.sound()[name]
    registrars = None if log.trust is None else [who.public_key for who in log.trust]
    with Watch(tmp_path / "state", registrars=registrars) as watch:
        told = watch.round(log_of(log.entries))
        assert sorted(told) == sorted(f"notice {kind}" for kind, count in log.notices.items() for _ in range(count))
        assert watch.alarms.standing == []


@pytest.mark.parametrize("name", list(logs.unsound()))
def test_unsound_logs_of_the_vectors(tmp_path, name):
    """What fsck refuses is an alarm with the entry as evidence, and what comes after it is followed."""
    log = logs.unsound()[name]
    registrars = None if log.trust is None else [who.public_key for who in log.trust]
    entries = [*log.entries, *commitments(3)]
    with Watch(tmp_path / "state", registrars=registrars) as watch:
        told = watch.round(log_of(entries))
        assert watch.size == len(entries)
        begun = [line for line in told if line.startswith("begin ")]
        assert begun
        assert not {alarm.kind for alarm in watch.alarms.standing} & set(PASSING)
        shown = [exhibited(path) for path in watch.evidence()]
        assert len(shown) == len(begun)
        assert (log.fault, log.entries[log.fault]) in shown
        assert watch.round(log_of(entries)) == []


@pytest.mark.parametrize(
    ("entries", "kind"),
    [
        ([logs.ENROL, logs.B0, logs.B2], "chain"),
        ([logs.ENROL, logs.B0, b.entry_of(logs.beat(1, before=logs.CHAIN[1]))], "chain"),
        ([logs.ENROL, p.rotation(logs.DEVICE, logs.NEXT, (0, 1)), logs.B0, logs.B1], "ended-key"),
        ([logs.ENROL, logs.B0, p.revocation(logs.OLD, (0, 1)), logs.B1], "ended-key"),
        ([logs.B0], "signature"),
        ([logs.ENROL, logs.ENROL], "key-event"),
        ([logs.ENROL, p.state_entry(0, [])], "key-state"),
        ([b"\xc0"], "malformed"),
        ([logs.ENROL, b.entry_of(logs.beat(anchor=Anchor(2, bytes(32))))], "anchor"),
        ([logs.CLOSING, logs.COMMITMENT], "closed"),
        ([logs.COMMITMENT, logs.OPENING], "opening"),
    ],
)
def test_entry_that_does_not_follow(watch, entries, kind):
    """The alarm is named by what is wrong, and its evidence is the log's own entry under the log's own signature."""
    assert f"begin {kind}" in watch.round(log_of(entries))
    (path,) = watch.evidence()
    assert path.name.startswith(f"{kind}-")
    assert exhibited(path) == (len(entries) - 1, entries[-1])


def test_second_fault_of_one_device_is_counted(watch):
    """A chain that goes wrong again and again is one alarm, and a number."""
    broken = [logs.ENROL, logs.B0, logs.B2, logs.B0, logs.B3]
    assert watch.round(log_of(broken)) == ["begin chain"]
    assert watch.state.memory.findings == {"chain": 3}
    assert len(watch.evidence()) == 1


def test_more_alarms_than_are_told_apart(watch):
    """Evidence is bounded: what is beyond that stands for all the rest."""
    for number in range(MAX_LASTING + 5):
        watch.alarms.convict("chain", f"key {number}", "is broken", list)
    assert len(watch.evidence()) == MAX_LASTING + 1
    assert sum(alarm.subject == REST for alarm in watch.alarms.standing) == 1


# Split views.


@pytest.mark.parametrize("shared", [0, 3, 255, 256])
@pytest.mark.parametrize("size", [257, 300, 512])
@pytest.mark.parametrize("other", [257, 300, 511, 600])
def test_mirror_with_another_history(watch, shared, size, other):
    """Two places that show two histories convict the log, whichever is longer."""
    assert watch.round(log_of(commitments(size)), mirror=log_of(commitments(other, "fork", shared=shared))) == [
        "begin split-view"
    ]
    assert watch.standing() == {"split-view": MIRROR}
    (path,) = watch.evidence()
    assert convicts(path)


def test_mirror_with_another_history_and_no_tiles(watch):
    """A checkpoint that is ahead waits until the log itself is as long; then it convicts, and is not forgotten."""
    fork = log_of(commitments(9, "fork", shared=4))["checkpoint"]
    assert watch.round(log_of(commitments(6)), mirror={"checkpoint": fork}) == []
    assert watch.round(log_of(commitments(8)), mirror=log_of(commitments(8))) == []
    assert len(watch.state.memory.pending) == 1
    assert watch.round(log_of(commitments(12))) == ["begin split-view"]
    assert watch.standing() == {"split-view": MIRROR}
    assert convicts(watch.evidence()[0])
    assert watch.state.memory.pending == []


@pytest.mark.parametrize("size", [3, 5, 7])
def test_witness_that_cosigned_another_history(watch, size):
    """What a witness has last cosigned is held against the log, now or as soon as the log is as long."""
    fork = commitments(size, "fork")
    note = b.checkpoint_note(size, b.naive_root(list(map(b.hash_entry, fork))), cosigned=[(b.HOSPITAL, b.NOW)])
    told = watch.round(log_of(commitments(5)), witness=note)
    told += watch.round(log_of(commitments(9)))
    assert told == ["begin split-view"]
    assert watch.standing() == {"split-view": WITNESS}
    assert convicts(watch.evidence()[0])


def test_witness_that_is_ahead(watch):
    """A witness has seen what is not published yet: no alarm, unless the log goes on hiding it."""
    entries = commitments(8)
    note = b.checkpoint_note(8, b.naive_root(list(map(b.hash_entry, entries))), cosigned=[(b.HOSPITAL, b.NOW)])
    fresh = b.log_files(entries[:5], cosigned=[(b.HOSPITAL, b.NOW + 5000), (b.REGULATOR, b.NOW + 5000)])
    assert watch.round(log_of(entries[:5]), witness=note) == []
    assert watch.round(fresh, witness=note, now=b.NOW + 5000) == ["begin stalled"]
    assert watch.standing() == {"stalled": WITNESS}
    assert watch.round(log_of(entries), witness=note, now=b.NOW + 5000) == ["end stalled"]


@pytest.mark.parametrize("other", [257, 300, 400])
def test_one_history_after_the_other_at_the_same_place(watch, other):
    """A log that shows another history than before has both in its own handwriting."""
    assert watch.round(log_of(commitments(300))) == []
    assert "begin split-view" in watch.round(log_of(commitments(other, "fork", shared=200)))
    assert watch.standing()["split-view"] == LOG
    (path,) = watch.evidence()
    (_, before), (_, after) = signed_notes(path.read_text())
    assert (before.size, after.size) == (300, other)
    if other >= 300:
        assert convicts(path)
    else:
        assert "shrank" in path.read_text()


def test_history_that_was_followed_is_followed_on(watch):
    """After a glance at another history the monitor goes on in its own; the alarm stands."""
    watch.round(log_of(commitments(300)))
    watch.round(log_of(commitments(310, "fork")))
    assert watch.size == 300
    assert watch.round(log_of(commitments(320))) == []
    assert watch.size == 320
    assert watch.standing() == {"split-view": LOG}


def test_log_that_shrank(watch):
    """A log that shows less than it has shown is a split view in time."""
    watch.round(log_of(commitments(300)))
    assert watch.round(log_of(commitments(299))) == ["begin split-view"]
    (path,) = watch.evidence()
    assert [checkpoint.size for _, checkpoint in signed_notes(path.read_text())] == [300, 299]


def test_two_roots_for_one_size_that_is_ahead(watch):
    """Two witnesses with two trees of one size convict the log before it gets there."""
    mirror = {"checkpoint": log_of(commitments(9, "left"))["checkpoint"]}
    fork = commitments(9, "right")
    note = b.checkpoint_note(9, b.naive_root(list(map(b.hash_entry, fork))), cosigned=[(b.HOSPITAL, b.NOW)])
    assert watch.round(log_of(commitments(5)), mirror=mirror, witness=note) == ["begin split-view"]
    assert convicts(watch.evidence()[0])


def test_device_that_saw_another_history(watch):
    """A device's anchor that is no prefix: the entry, and what the log says of that prefix now."""
    entries = [*commitments(3), logs.ENROL, b.entry_of(logs.beat(anchor=Anchor(2, b.seed("another root"))))]
    assert watch.round(log_of(entries)) == ["begin split-view"]
    (path,) = watch.evidence()
    assert exhibited(path) == (4, entries[4])
    assert f"prefix size: 2\nprefix root: {b.base64(b.naive_root(list(map(b.hash_entry, entries[:2]))))}\n" in (
        path.read_text()
    )


@pytest.mark.parametrize("size", [0, 1, 255, 256, 299, 300])
def test_stale_mirror(watch, size):
    """A mirror that is behind, or as it was yesterday, is no alarm."""
    assert watch.round(log_of(commitments(300)), mirror=log_of(commitments(size))) == []
    assert watch.round(log_of(commitments(700)), mirror=log_of(commitments(size))) == []


def test_mirror_ahead(watch):
    """A mirror that is ahead is compared by its own tiles, and again when the log is as long."""
    assert watch.round(log_of(commitments(300)), mirror=log_of(commitments(600))) == []
    assert watch.round(log_of(commitments(600)), mirror=log_of(commitments(600))) == []
    assert watch.state.memory.pending == []


# What passes.


def test_unwitnessed_log(watch):
    """Signed and not cosigned by a quorum: told once, ended once, and followed all the same."""
    entries = commitments(7)
    alone = b.log_files(entries, cosigned=[(b.HOSPITAL, b.NOW)])
    assert watch.round(alone) == ["begin unwitnessed"]
    assert watch.round(alone) == []
    assert watch.size == 7
    assert watch.round(log_of(entries)) == ["end unwitnessed"]


def test_cosignature_that_does_not_verify(watch):
    """A line by a known witness that fails is no quorum."""
    files = log_of(commitments(7))
    wrong = b.REGULATOR.cosign("of something else\n", b.NOW)
    note = b.checkpoint_note(7, checkpoint_of(commitments(7)).root, cosigned=[(b.HOSPITAL, b.NOW)])
    files["checkpoint"] = note.encode() + str(wrong).encode()
    assert watch.round(files) == ["begin unwitnessed"]


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("tile/entries/001.p/44", None),
        ("tile/entries/001.p/44", b"?"),
        ("tile/entries/000", bytes(514)),
        ("tile/0/001.p/44", None),
        ("tile/0/001.p/44", bytes(44 * 32)),
        ("tile/0/000", bytes(8192)),
        ("tile/1/000.p/1", bytes(32)),
        ("checkpoint", b"?"),
        ("checkpoint", b"\n\n"),
        ("checkpoint", bytes(300 * 1024)),
    ],
)
def test_broken_log(watch, path, data):
    """What does not lead to the signed root is told, none of it is followed, and it may be repaired."""
    files = log_of(commitments(300))
    changed = {name: content for name, content in (files | {path: data}).items() if content is not None}
    assert watch.round(log_of(commitments(200))) == []
    assert watch.round(changed) == ["begin broken"]
    assert watch.round(changed) == []
    assert watch.size in (200, 256)
    assert watch.round(files) == ["end broken"]
    assert watch.size == 300


def test_broken_log_of_an_enormous_size(watch):
    """A signed size of 2^60 over an almost empty directory is told at once."""
    huge = b.checkpoint_note(2**60, bytes(32), cosigned=[(b.HOSPITAL, b.NOW), (b.REGULATOR, b.NOW)]).encode()
    assert watch.round(log_of(commitments(5)) | {"checkpoint": huge}) == ["begin broken"]
    assert watch.round({"checkpoint": huge, "tile/0/000": bytes(8192)}) == []


@pytest.mark.parametrize("first", [None, 4])
def test_broken_log_that_exchanges_entries(watch, first):
    """An entry that is not the one under the signed root is not looked at."""
    entries = commitments(6)
    if first:
        watch.round(log_of(entries[:first]))
    files = log_of(entries) | {"tile/entries/000.p/6": b.tile_files([*entries[:5], logs.B0])["tile/entries/000.p/6"]}
    assert watch.round(files) == ["begin broken"]
    assert watch.size == (first or 0)


def test_log_of_another_origin(watch):
    """A checkpoint of a log that the policy does not name is none of this log."""
    note = b.checkpoint_note(3, bytes(32), origin="other.example.org")
    assert watch.round({"checkpoint": note.encode()}) == ["begin broken"]


def test_unreachable_log(watch):
    """A log that cannot be read is told apart from one that is broken, and so is each of its files."""
    assert watch.round({"checkpoint": NOTHING}) == ["begin unreachable"]
    files = log_of(commitments(300))
    assert watch.round(files | {"tile/entries/001.p/44": NOTHING}) == []
    assert watch.size == 256
    assert watch.round(files) == ["end unreachable"]
    assert watch.round({}) == ["begin unreachable"]


def test_unreachable_mirror(watch):
    """A view that is lost is an alarm of that view, and the log is followed."""
    assert watch.round(log_of(commitments(3)), mirror={"checkpoint": NOTHING}) == ["begin unreachable"]
    assert (watch.standing(), watch.size) == ({"unreachable": MIRROR}, 3)


def test_witness_whose_line_is_missing(watch):
    """A witness that shows what it did not cosign is broken; one that never saw the log says nothing."""
    entries = commitments(3)
    note = b.checkpoint_note(3, b.naive_root(list(map(b.hash_entry, entries))))
    assert watch.round(log_of(entries), witness=note) == ["begin broken"]
    assert watch.standing() == {"broken": WITNESS}


def test_stalled_log(watch):
    """Neither grown nor signed anew for longer than allowed; a fresh cosignature of the same tree ends it."""
    entries = commitments(3)
    assert watch.round(log_of(entries), now=b.NOW + STALLED_AFTER_S) == []
    assert watch.round(log_of(entries), now=b.NOW + STALLED_AFTER_S + 1) == ["begin stalled"]
    later = b.NOW + 2000
    renewed = b.log_files(entries, cosigned=[(b.HOSPITAL, later), (b.PATIENTS, later)])
    assert watch.round(renewed, now=later) == ["end stalled"]
    assert watch.state.memory.fresh_at == later


def test_stalled_log_by_its_quorum(watch):
    """The time is the quorum's: one witness that goes on cosigning does not make a log fresh."""
    times = [(b.HOSPITAL, b.NOW), (b.REGULATOR, b.NOW), (b.PATIENTS, b.NOW + 9000)]
    files = b.log_files(commitments(3), cosigned=times)
    assert watch.round(files, now=b.NOW) == []
    assert watch.state.memory.fresh_at == b.NOW
    assert watch.round(files, now=b.NOW + 4000) == ["begin stalled"]


def test_stalled_log_that_cannot_be_read(watch):
    """Silence is silence, whatever the reason."""
    watch.round(log_of(commitments(3)))
    told = watch.round({"checkpoint": NOTHING}, now=b.NOW + STALLED_AFTER_S + 1)
    assert sorted(told) == ["begin stalled", "begin unreachable"]


def test_stalled_log_without_witnesses(open_watch):
    """Under `quorum none` and with an Ed25519 key alone, fresh is what looks different."""
    assert open_watch.round(b.log_files(commitments(3)), now=b.NOW + 500) == []
    assert open_watch.round(b.log_files(commitments(4)), now=b.NOW + 2000) == []
    assert open_watch.round(b.log_files(commitments(4)), now=b.NOW + 2000 + STALLED_AFTER_S) == []
    assert open_watch.round(b.log_files(commitments(4)), now=b.NOW + 2001 + STALLED_AFTER_S) == ["begin stalled"]


def test_stalled_log_by_its_own_time(tmp_path):
    """Under `quorum none` the log's ML-DSA line has a time, of which none in the future counts."""
    signer = NoteSigner(b.ORIGIN, b.seed("log"), ML_DSA_44)
    entries = commitments(3)
    files = b.tile_files(entries)
    checkpoint = checkpoint_of(entries)
    with Watch(tmp_path / "state", policy=b.policy(f"log {signer.verifier}\nquorum none\n")) as watch:
        for time, now, told in (
            (b.NOW, b.NOW, []),
            (b.NOW + 9, b.NOW + 1810, ["begin stalled"]),
            (2**62, b.NOW + 1811, ["end stalled"]),
            (b.NOW + 9, b.NOW + 1820 + STALLED_AFTER_S, ["begin stalled"]),
        ):
            note = checkpoint.sign(signer, time=time)
            assert watch.round(files | {"checkpoint": note.encode()}, now=now) == told


def checkpoint_of(entries):
    """The checkpoint of `entries`."""
    return Checkpoint(b.ORIGIN, len(entries), b.naive_root(list(map(b.hash_entry, entries))))


# What lasts.


def test_restart_in_the_middle(tmp_path):
    """A monitor that was stopped behind a bundle goes on there, and reads nothing before it again."""
    files = log_of(commitments(1000))
    asked = []
    stops = iter([False, False, True])

    class Noting(dict):
        def get(self, path):
            asked.append(path)
            return super().get(path)

    with Watch(tmp_path / "state", stopped=lambda: next(stops)) as watch:
        watch.round(files)
        assert watch.size == 512
    with Watch(tmp_path / "state") as watch:
        assert watch.size == 512
        assert watch.round(Noting(files)) == []
        assert watch.size == 1000
    assert not {"tile/entries/000", "tile/entries/001"} & set(asked)


def test_restart_and_another_history_from_the_middle_on(tmp_path):
    """Stopped half-way, it knows under which signature it had come so far; a fork before that convicts."""
    stops = iter([False, False, True])
    with Watch(tmp_path / "state", stopped=lambda: next(stops)) as watch:
        watch.round(log_of(commitments(1000)))
    with Watch(tmp_path / "state") as watch:
        assert watch.round(log_of(commitments(1200, "fork", shared=500))) == ["begin split-view"]
        assert convicts(watch.evidence()[0])


def test_alarm_that_lasts_over_restarts(tmp_path):
    """A split view stands until somebody takes its evidence away; then what is seen again is told again."""
    entries, fork = log_of(commitments(5)), log_of(commitments(5, "fork"))
    with Watch(tmp_path / "state") as watch:
        watch.round(entries, mirror=fork)
        (path,) = watch.evidence()
        before = path.read_bytes()
    with Watch(tmp_path / "state") as watch:
        assert watch.standing() == {"split-view": MIRROR}
        assert watch.round(entries, mirror=fork) == []
        assert (watch.evidence(), path.read_bytes()) == ([path], before)
        path.unlink()
        assert watch.round(entries) == ["end split-view"]
        assert watch.alarms.standing == []
        assert watch.round(entries, mirror=fork, now=b.NOW + 60) == ["begin split-view"]


def test_evidence_says_what_it_is(watch):
    """A file begins with what was found, where and when."""
    watch.round(log_of(commitments(5)), mirror=log_of(commitments(5, "fork")))
    head = watch.evidence()[0].read_text().partition("\n\n")[0].splitlines()
    assert head[:4] == [
        "vitalseal monitor evidence v1",
        "kind: split-view",
        f"subject: {MIRROR}",
        f"found: {iso_time(b.NOW)}",
    ]


def test_foreign_file_among_the_evidence(tmp_path):
    """What somebody else put there is an alarm too: better one too many."""
    (tmp_path / "state" / "evidence").mkdir(parents=True)
    (tmp_path / "state" / "evidence" / "notes-of-mine.txt").write_bytes(b"\xff\xfe")
    with Watch(tmp_path / "state") as watch:
        assert watch.standing() == {"notes": "notes-of-mine.txt"}


def test_state_of_another_log_or_trust_or_version(tmp_path):
    """A state that does not belong to this call is refused, and not touched."""
    folder = tmp_path / "state"
    with Watch(folder) as watch:
        watch.round(log_of(commitments(5)))
    path = folder / "state.json"
    good = path.read_text()
    with pytest.raises(MalformedError, match="another --trust"), Watch(folder, registrars=[bytes(32)]):
        pass
    for wrong, says in (
        (good.replace(b.ORIGIN, "other.example.org"), "is a state of the log"),
        (good.replace('"monitor": 1', '"monitor": 2'), "of version 2"),
        (good[:-1], "not a monitor's state"),
        ("[" * 100_000, "not a monitor's state"),
        ("{}", "not a monitor's state"),
        (good.replace('\\"size\\": 5', '\\"size\\": 4'), "state"),
    ):
        path.write_text(wrong)
        with pytest.raises(MalformedError, match=says), Watch(folder):
            pass
        assert path.read_text() == wrong
    path.write_text(good)
    with Watch(folder) as watch:
        assert watch.size == 5


def test_two_monitors_of_one_state(watch, tmp_path):
    """The second is refused."""
    with pytest.raises(StorageError, match="another process"), Watch(tmp_path / "state"):
        pass


def test_flood_of_checkpoints_ahead(watch):
    """A log that signs a new tree for every look fills neither memory nor disk."""
    log = log_of(commitments(5))
    for number in range(300):
        note = b.checkpoint_note(1000 + number, b.seed(f"{number}"), cosigned=[(b.HOSPITAL, b.NOW)])
        watch.round(log, witness=note)
    assert len(watch.state.memory.pending) == 256
    assert watch.alarms.standing == []


def test_lines_of_strangers(watch):
    """Signature lines of others change nothing."""
    files = log_of(commitments(5))
    note = b.checkpoint_note(5, b.naive_root(list(map(b.hash_entry, commitments(5)))))
    stranger = b.STRANGER.cosign(note.text, 2**62)
    files["checkpoint"] += str(stranger).encode()
    assert watch.round(files) == []
