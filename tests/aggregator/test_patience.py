"""A store that is away is asked again, ever less often, and as late as it wants; all of it is two lines in the log."""

import pytest

from aggregator.patience import FIRST_WAIT_S, MAX_ASKED_S, MAX_WAIT_S, Patience
from aggregator.timeseries.base import StoreAwayError
from aggregator.view import ViewRecord, read_view
from vitalseal.errors import UserError


class Clock:
    """In place of the event that ends the waiting: counts what is waited for, and is set after `limit` waits."""

    def __init__(self, limit=10**9):
        self.waits, self._limit = [], limit

    def wait(self, seconds):
        self.waits.append(seconds)
        return len(self.waits) >= self._limit

    def is_set(self):
        return False


class Store:
    """Raises `errors`, one at each call; then it gives 7."""

    def __init__(self, *errors):
        self._errors = list(errors)

    def __call__(self):
        if self._errors:
            raise self._errors.pop(0)
        return 7


@pytest.fixture
def record(tmp_path):
    record = ViewRecord(tmp_path)
    record.note(store="InfluxDB")
    return record


def test_store_that_is_away_is_asked_ever_less_often(record, caplog):
    """From half a second to half a minute, with jitter; one line when it goes, one when it is back."""
    caplog.set_level("INFO")
    clock = Clock()
    patience = Patience(record, clock)
    assert patience(Store(*[StoreAwayError(f"InfluxDB: gone {number}") for number in range(12)])) == 7
    bounds = [min(FIRST_WAIT_S * 2**number, MAX_WAIT_S) for number in range(12)]
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(clock.waits, bounds, strict=True))
    assert clock.waits[-1] != clock.waits[-2]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert caplog.messages[0].startswith("the store is away: InfluxDB: gone 0; the view stands still")
    assert patience(Store(StoreAwayError("again"))) == 7
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"] * 2


def test_store_is_left_alone_for_as_long_as_it_asks(record):
    """Within reason."""
    clock = Clock()
    Patience(record, clock)(Store(StoreAwayError("429", 60.0), StoreAwayError("429", 10**6), StoreAwayError("429", 0)))
    assert clock.waits[:2] == [60.0, MAX_ASKED_S]
    assert 0 < clock.waits[2] <= 4 * FIRST_WAIT_S


def test_view_says_since_when_and_why(record, tmp_path):
    """As long as it lasts, over the end of a process too; that the store was opened does not end it."""
    with pytest.raises(StoreAwayError):
        Patience(record, Clock(3))(Store(*[StoreAwayError(f"InfluxDB: reason {number}") for number in range(5)]))
    first = read_view(tmp_path)
    assert (first.why, first.wont) == ("reason 2", False)
    with pytest.raises(UserError):
        Patience(ViewRecord(tmp_path), Clock())(Store(UserError("gone for good")))
    assert (read_view(tmp_path).why, read_view(tmp_path).wont) == ("gone for good", True)
    assert read_view(tmp_path).away_since == first.away_since
    patience = Patience(ViewRecord(tmp_path), Clock())
    assert patience(Store(), opening=True) == 7
    assert read_view(tmp_path).away_since == first.away_since
    patience(Store())
    after = read_view(tmp_path)
    assert (after.away_since, after.why, after.wont) == (None, "", False)
