"""Who wears which sensor: intervals, corrections, no silent rewriting."""

from contextlib import closing

import pytest

from aggregator.registry import Registry
from ledger.entry import commit_assignment
from vitalseal.errors import UserError

SOURCE = b"\x01" * 8


@pytest.fixture
def registry(tmp_path):
    with closing(Registry(tmp_path)) as registry:
        yield registry


def assign(registry, patient, start, end=None, **options):
    return registry.assign(SOURCE, patient, start, end, now_ns=999, **options)


def test_sensor_passes_from_one_patient_to_the_next(registry):
    """Intervals that touch do not overlap."""
    assign(registry, "a", 0, 100)
    assign(registry, "b", 100)
    assert [(item.patient, item.from_ns, item.to_ns) for item in registry.assignments()] == [
        ("a", 0, 100),
        ("b", 100, None),
    ]


@pytest.mark.parametrize(("start", "end"), [(50, 150), (150, 250), (0, 1000), (120, 130), (0, None), (199, None)])
def test_overlap_is_refused_unless_it_corrects(registry, start, end):
    """Nobody's readings are given to another in silence."""
    number = assign(registry, "a", 100, 200)
    with pytest.raises(UserError, match=f"--correct {number}"):
        assign(registry, "b", start, end)
    second = assign(registry, "b", start, end, corrects=number, reason="wrong bed")
    assert [item.id for item in registry.assignments()] == [number, second]


def test_correction_of_what_is_corrected_already_is_refused(registry):
    """A record is superseded once."""
    number = assign(registry, "a", 0, 10)
    assign(registry, "b", 0, 10, corrects=number, reason="typing error")
    with pytest.raises(UserError, match="no standing assignment"):
        assign(registry, "c", 0, 10, corrects=number, reason="again")


def test_empty_interval_is_refused(registry):
    """An assignment lasts."""
    with pytest.raises(UserError, match="not after"):
        assign(registry, "a", 10, 10)


def test_each_change_is_committed_once(registry):
    """What waits for the log is handed out until it is marked, as a salted hash of exactly what was recorded."""
    number = assign(registry, "a", 0)
    [(waiting, commitment)] = registry.uncommitted()
    salt, statement = registry._db.execute("SELECT salt, statement FROM assignments").fetchone()
    assert (waiting, commitment) == (number, commit_assignment(salt, statement))
    assert b"a" in statement
    registry.mark_committed(number, 17)
    assert registry.uncommitted() == []
    assert registry.assignments()[0].log_index == 17
