"""An audit names exactly the rows that somebody touched, and nothing else: hundreds of random tamperings."""

import pytest

from .scene import chances
from .tampering import Tamperer

SINGLE = 6  # of each kind of tampering
MIXED = 60


def found(outcome):
    """What an audit found, by row; each row once."""
    assert outcome.fault is None
    rows = [((finding.about, finding.number), finding.what) for finding in outcome.book.findings]
    assert len(rows) == len(dict(rows)), rows
    return dict(rows)


def check(scene, expected, done, store=None):
    """Both kinds of audit find what is to be found, and the sums are right."""
    full = scene.audit(store=store)
    assert found(full) == expected.full, done
    assert full.is_proven is not bool(expected.full)
    alone = scene.audit(alone=True, store=store)
    rows = found(alone)
    surely = {key: what for key, what in expected.alone.items() if key not in expected.perhaps}
    assert {key: what for key, what in rows.items() if key not in expected.perhaps} == surely, done
    for outcome in (full, alone):
        counts = outcome.book.counts()
        assert counts["checked"] == sum(count for name, count in counts.items() if name != "checked")
        assert counts["ok"] >= 0
        assert min(outcome.book.series.values(), default=0) >= 0
    assert not full.book.unchecked
    assert sum(count for count, _ in alone.book.unchecked.values()) == expected.unjudged
    assert bool(expected.unjudged) is bool(alone.gaps)


@pytest.mark.parametrize("name", list(Tamperer.all))
def test_tampering_is_named_exactly(name, scene, sqlite_tamperer, tamperings):
    """Each kind of tampering by itself, at random places; undone, nothing is found."""
    for chance in chances(1, tamperings(SINGLE)):
        done, expected = sqlite_tamperer.tamper(chance, 1, [name])
        check(scene, expected, done)
        sqlite_tamperer.database.restore()
    assert not found(scene.audit())
    assert not found(scene.audit(alone=True))


def test_combined_tamperings_are_named_exactly(scene, sqlite_tamperer, tamperings):
    """Several kinds at once, none in the place of another; undone, nothing is found."""
    for chance in chances(2, tamperings(MIXED)):
        done, expected = sqlite_tamperer.tamper(chance, chance.randrange(2, 9))
        check(scene, expected, done)
        sqlite_tamperer.database.restore()
        assert not found(scene.audit()), done


def test_each_field_of_a_batch_record_is_compared(scene, sqlite_tamperer, tamperings):
    """Every field of the record, changed by itself."""
    for name in sqlite_tamperer.database.batch_fields:
        for chance in chances(3, tamperings(4)):
            _, expected = sqlite_tamperer.tamper(chance, 0, [])
            sqlite_tamperer.edit_batch_field(chance.choice(sqlite_tamperer.batches), name, chance, expected)
            sqlite_tamperer.settle(expected)
            check(scene, expected, name)
            sqlite_tamperer.database.restore()
