"""An edge agent with a backlog, as a process of its own, against a real broker and aggregator."""

from pathlib import Path

from simulators.load import Drained, run_load

BACKLOG = 100_000
SPEED = 10.0


def measure_agent(scratch: Path) -> Drained:
    """What came of a backlog that drained while the device went on measuring."""
    return run_load(BACKLOG, SPEED, lambda _text: None, scratch / "agent")
