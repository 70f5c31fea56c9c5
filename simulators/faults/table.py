"""Every scenario by its name."""

from simulators.faults.broker_faults import broker_forgets, broker_overflow
from simulators.faults.clocks import clock_steps
from simulators.faults.clones import cloned_key, outbox_restored
from simulators.faults.delivery import delivery
from simulators.faults.disk import disk_full_aggregator, disk_full_edge
from simulators.faults.kills import kills
from simulators.faults.network import network
from simulators.faults.overflow import outbox_overflow
from simulators.faults.split_view import split_view
from simulators.faults.trial import Scenario
from simulators.faults.witnesses_down import witnesses_down

SCENARIOS: dict[str, Scenario] = {
    "kills": kills,
    "broker-forgets": broker_forgets,
    "broker-overflow": broker_overflow,
    "network": network,
    "delivery": delivery,
    "disk-full-edge": disk_full_edge,
    "disk-full-aggregator": disk_full_aggregator,
    "outbox-overflow": outbox_overflow,
    "clock-steps": clock_steps,
    "outbox-restored": outbox_restored,
    "cloned-key": cloned_key,
    "split-view": split_view,
    "witnesses-down": witnesses_down,
}
