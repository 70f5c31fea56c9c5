"""What a monitor must not forget: stopped anywhere, restarted, its evidence removed, its state another's."""

import pytest

from ledger.errors import MalformedError
from ledger.service.monitor_evidence import iso_time
from ledger.writer.storage import StorageError
from tests.ledger import builders as b
from tests.service.monitoring import (
    MIRROR,
    Watch,
    commitments,
    convicts,
    log_of,
)


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
        (good.replace(f'"fresh_at": {b.NOW}', '"fresh_at": 1e400'), "not a monitor's state"),
        (good.replace('\\"size\\": 5', '\\"size\\": 1e400'), "not a"),
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
