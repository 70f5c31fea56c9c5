"""What a monitor concludes from entries: sound logs are followed in silence, each fault is told with its evidence."""

import pytest

from ledger.batch import Anchor
from ledger.service.monitor_alarms import MAX_LASTING, PASSING, REST
from tests.ledger import builders as b
from tests.ledger import past as p
from tests.service.monitoring import (
    Watch,
    commitments,
    exhibited,
    log_of,
)
from tests.vectors import logs


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
    kinds = ("closed", "equivocation", "erased", "gap", "outbox-lost", "revoked")
    assert sorted(told) == [f"notice {kind}" for kind in kinds]
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
