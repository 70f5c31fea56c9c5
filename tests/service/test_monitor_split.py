"""Two histories under one key: shown in two places, one after the other, to witnesses or to a device, they convict."""

import pytest

from ledger.batch import Anchor
from ledger.service.http_log import FetchError
from tests.ledger import builders as b
from tests.service.monitoring import (
    LOG,
    MIRROR,
    WITNESS,
    Watch,
    commitments,
    convicts,
    exhibited,
    log_of,
    signed_notes,
)
from tests.vectors import logs


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


@pytest.mark.parametrize("other", [300, 400])
def test_one_history_after_the_other_at_the_same_place(watch, other):
    """A log that shows another history than before has both in its own handwriting."""
    assert watch.round(log_of(commitments(300))) == []
    assert "begin split-view" in watch.round(log_of(commitments(other, "fork", shared=200)))
    assert watch.standing()["split-view"] == LOG
    (path,) = watch.evidence()
    (_, before), (_, after) = signed_notes(path.read_text())
    assert (before.size, after.size) == (300, other)
    assert convicts(path)


def test_history_that_was_followed_is_followed_on(watch):
    """After a glance at another history the monitor goes on in its own; the alarm stands."""
    watch.round(log_of(commitments(300)))
    watch.round(log_of(commitments(310, "fork")))
    assert watch.size == 300
    assert watch.round(log_of(commitments(320))) == []
    assert watch.size == 320
    assert watch.standing() == {"split-view": LOG}


def test_log_that_shrank(watch):
    """A log that shows less than it has shown is told as long as it does: an old copy convicts nobody."""
    watch.round(log_of(commitments(300)))
    assert watch.round(log_of(commitments(299))) == ["begin shrunk"]
    assert watch.evidence() == []
    assert watch.round(log_of(commitments(301))) == ["end shrunk"]


def test_log_that_shrank_into_another_history(watch):
    """The smaller checkpoint is remembered, and convicts as soon as the followed tree can be read again."""
    watch.round(log_of(commitments(300)))
    assert "begin shrunk" in watch.round(log_of(commitments(257, "fork", shared=200)))
    assert watch.evidence() == []
    assert "begin split-view" in watch.round(log_of(commitments(301)))
    (path,) = watch.evidence()
    assert convicts(path)


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


@pytest.mark.parametrize(("at", "bundle"), [(300, "tile/entries/001"), (599, "tile/entries/002.p/88")])
def test_device_that_saw_another_history_while_the_log_can_hardly_be_read(tmp_path, at, bundle):
    """However often the evidence cannot be fetched, the anchor waits, and then convicts once, with its evidence."""
    split = b.entry_of(logs.beat(anchor=Anchor(100, b.seed("another root"))))
    entries = [*commitments(at - 1), logs.ENROL, split, *commitments(599 - at)]
    gone = FetchError("HTTP status 503")
    whole = log_of(entries)
    with Watch(tmp_path / "state") as watch:
        told = watch.round(log_of(entries[:256]))
        told += watch.round(log_of(entries[:512]) | {"tile/0/000": gone})
        told += watch.round(whole | {"tile/0/000": gone})
        assert watch.size == 600
        told += watch.round(whole | {bundle: gone})
        assert told == ["begin unreachable"]
        assert watch.round(whole) == ["begin split-view", "end unreachable"]
        assert watch.state.memory.findings == {"split-view": 1}
        (path,) = watch.evidence()
        assert exhibited(path) == (at, split)
        assert watch.round(whole) == []
    with Watch(tmp_path / "state") as watch:
        assert list(watch.standing()) == ["split-view"]
        assert (watch.size, watch.round(whole)) == (600, [])


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
