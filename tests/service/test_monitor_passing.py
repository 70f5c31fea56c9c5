"""What is wrong now and may pass: a log that is broken, unreachable, unwitnessed or stalled, and then is not."""

import pytest

from ledger.checkpoint import Checkpoint
from ledger.note import ML_DSA_44, NoteSigner
from ledger.service.http_log import FetchError
from tests.ledger import builders as b
from tests.service.monitoring import (
    MIRROR,
    STALLED_AFTER_S,
    WITNESS,
    Watch,
    commitments,
    log_of,
)
from tests.vectors import logs

NOTHING = FetchError("not there now")


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


@pytest.mark.parametrize("size", [200, 256, 300])
def test_broken_log_that_exchanges_entries_that_were_followed(watch, size):
    """A bundle is another file when it is wider: its first entries are looked at again, though they were followed."""
    entries = commitments(size)
    assert watch.round(log_of(entries[:100])) == []
    files = log_of(entries)
    forged = b.tile_files([*entries[:7], logs.B0, *entries[8:]])
    bundle = next(path for path in files if path.startswith("tile/entries/000"))
    assert watch.round(files | {bundle: forged[bundle]}) == ["begin broken"]
    assert watch.size == 100
    assert watch.round(files) == ["end broken"]
    assert watch.size == size


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


def test_stalled_log_that_was_closed(watch):
    """A log that ended, and was followed to its end, owes no new signature; one that hides its end still does."""
    entries, late = [*commitments(300), logs.CLOSING], b.NOW + STALLED_AFTER_S + 1
    files = log_of(entries)
    hidden = files | {"tile/entries/001.p/45": NOTHING}
    assert sorted(watch.round(hidden, now=late)) == ["begin stalled", "begin unreachable"]
    assert sorted(watch.round(files, now=late)) == ["end stalled", "end unreachable", "notice closed"]
    assert watch.round(files, now=late + 10 * STALLED_AFTER_S) == []
    assert watch.round({"checkpoint": NOTHING}, now=late + 20 * STALLED_AFTER_S) == ["begin unreachable"]


def test_stalled_log_that_goes_on_after_its_end(watch):
    """A log that shows more than could be followed after its closing is not excused by it."""
    entries, late = [*commitments(255), logs.CLOSING, *commitments(3)], b.NOW + STALLED_AFTER_S + 1
    watch.round(log_of(entries[:256]))
    hidden = log_of(entries) | {"tile/entries/001.p/3": NOTHING}
    assert sorted(watch.round(hidden, now=late)) == ["begin stalled", "begin unreachable"]


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
