"""Every scenario by its name."""

from simulators.faults.split_view import split_view
from simulators.faults.trial import Scenario
from simulators.faults.witnesses_down import witnesses_down

SCENARIOS: dict[str, Scenario] = {
    "split-view": split_view,
    "witnesses-down": witnesses_down,
}
