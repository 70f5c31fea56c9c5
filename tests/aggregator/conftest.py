"""Fixtures: a fresh log, and enrolled devices."""

import pytest

from ledger.writer.create import create_log

from .devices import ORIGIN, Device
from .hands import by_hand


@pytest.fixture
def data(tmp_path):
    """A new log's data directory."""
    create_log(tmp_path / "data", ORIGIN)
    return tmp_path / "data"


@pytest.fixture
def device(data):
    """A device that is enrolled in it."""
    device = Device("wrist-1", 1)
    device.enrol(data)
    return device


@pytest.fixture
def other(data):
    """Another one."""
    device = Device("wrist-2", 2)
    device.enrol(data)
    return device


@pytest.fixture
def hands(data, device, other):
    """A service over it, its steps taken by hand."""
    with by_hand(data) as hands:
        yield hands
