"""Monitors of our log."""

import pytest

from tests.ledger import builders as b
from tests.service.monitoring import Watch


@pytest.fixture
def watch(tmp_path):
    """A monitor whose policy wants two of three witnesses."""
    with Watch(tmp_path / "state") as monitor:
        yield monitor


@pytest.fixture
def open_watch(tmp_path):
    """The same under `quorum none`."""
    with Watch(tmp_path / "state", policy=b.policy(b.policy_text())) as monitor:
        yield monitor
