"""What whoever watches an agent is told: `/healthz`, `/metrics`, and systemd.

All of it follows from the agent's report at the moment of asking. A gateway is one device, so its metrics have no
labels but the few sources of its configuration.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edge.agent import Agent
from edge.status import Report
from vitalseal.errors import UserError
from vitalseal.health import Faults, HealthServer
from vitalseal.systemd import Heart, notify, under_systemd

BEAT_EVERY_S = 1.0
TELL_EVERY_S = 15.0  # `systemctl status` shows it; a report reads the outbox, which costs a gateway something
# A broker that is away for a while is no fault, and readings wait for it; for this long it is a person's business.
AWAY_S = 900.0

_log = logging.getLogger(__name__)

GAUGES: tuple[tuple[str, str, Callable[[Report], float]], ...] = (
    ("connected", "1 while there is a connection to the broker.", lambda report: report.connected),
    ("readings_open", "Readings that are accepted and not sealed.", lambda report: report.counts.unsealed),
    ("readings_held", "Readings of these that wait for a clock.", lambda report: report.counts.held),
    ("readings_sealed", "Readings that are sealed and not stored.", lambda report: report.counts.sealed),
    ("readings_stored", "Readings that are stored and have no receipt.", lambda report: report.counts.stored),
    (
        "oldest_unstored_seconds",
        "Seconds since the oldest reading was received that the aggregator lacks; 0: it has all.",
        lambda report: report.oldest_unstored_s or 0.0,
    ),
    (
        "checkpoint_entries",
        "Entries below the largest verified checkpoint.",
        lambda report: report.checkpoint_size or 0,
    ),
    ("outbox_bytes", "Bytes of the disk that the outbox takes.", lambda report: report.used_bytes),
    ("outbox_max_bytes", "Bytes of the disk that it may take.", lambda report: report.max_bytes),
    ("outbox_outdated", "1: this outbox is not the latest one of its key.", lambda report: report.outdated),
    ("key_ended", "1: the log takes nothing more of this key.", lambda report: report.key_ended),
    (
        "batches_refused",
        "1: the log refuses a batch for good, for another reason.",
        lambda report: bool(report.refused),
    ),
    ("sources_silent", "Sources that fail, or whose file is missing.", lambda report: len(report.sources)),
    ("disk_full", "1 while nothing can be accepted for want of room.", lambda report: report.disk_full),
    ("clock_state", "0 unknown, 1 synchronised, 2 not synchronised.", lambda report: report.clock),
    ("epoch", "Rises when an outbox was lost.", lambda report: report.epoch),
)
COUNTERS: tuple[tuple[str, str, Callable[[Report], float]], ...] = (
    ("readings_accepted", "Readings accepted since the outbox was made.", lambda report: report.counts.accepted),
    ("readings_receipted", "Readings of these with a verified receipt.", lambda report: report.counts.receipted),
    ("readings_dropped", "Readings for which the disk budget had no room.", lambda report: report.counts.dropped),
    ("gaps_declared", "Gaps that the device's chain tells of.", lambda report: report.gaps_declared),
)


class ReportCollector(Collector):
    """The metrics of the report that `report` gives at each scrape, None where the outbox cannot be read."""

    def __init__(self, report: Callable[[], Report | None]) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        """All families; without a report only that there is none."""
        report = self._report()
        yield GaugeMetricFamily("vitalseal_edge_up", "1 while the outbox can be read.", report is not None)
        if report is None:
            return
        for name, told, value in GAUGES:
            yield GaugeMetricFamily(f"vitalseal_edge_{name}", told, value(report))
        for name, told, value in COUNTERS:
            yield CounterMetricFamily(f"vitalseal_edge_{name}", told, value(report))
        refused = CounterMetricFamily(
            "vitalseal_edge_refused_input", "Pieces of a source's input that made no reading.", labels=["source"]
        )
        for source, count in report.refused_input.items():
            refused.add_metric([source], count)
        yield refused


def faults(report: Report | None) -> Faults:
    """What a person has to see to, by name; `report` is None where the outbox cannot be read."""
    if report is None:
        return {"outbox": "cannot be read"}
    waits_s = report.oldest_unstored_s or 0.0
    away = not report.connected and waits_s > AWAY_S
    return {
        "outbox": "is not the latest one of its key; `vitalseal edge status` says what to do"
        if report.outdated
        else None,
        "key": "the log takes nothing more of it" if report.key_ended else None,
        "batches": f"are refused: {report.refused}" if report.refused else None,
        "source": "; ".join(f"{name}: {why}" for name, why in report.sources.items()) or None,
        "disk": "is full: nothing is accepted"
        if report.disk_full
        else "the outbox is over its budget: readings are dropped"
        if report.over_budget
        else None,
        "clock": f"is not set: {report.counts.held} readings are held" if report.counts.held else None,
        "broker": f"{report.broker_why or 'no connection'}; a reading has waited for {waits_s:.0f} s" if away else None,
    }


async def watching(agent: Agent) -> None:
    """A companion: systemd knows that the agent works, and both pages are answered where its configuration says."""

    def report() -> Report | None:
        try:
            return agent.report()
        except UserError:
            return None

    registry = CollectorRegistry()
    registry.register(ReportCollector(report))
    pages = make_wsgi_app(registry)
    heart, told_s = Heart("agent"), -TELL_EVERY_S
    notify("READY=1")
    while True:
        config = agent.config.health
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(HealthServer(config, lambda: faults(report()), pages))
            except UserError as error:
                _log.error("%s; the agent goes on without it", error)
            while agent.config.health == config:
                await agent.come_round()
                heart.beat("agent")
                if under_systemd() and (now_s := time.monotonic()) - told_s >= TELL_EVERY_S:
                    told_s = now_s
                    found = await asyncio.to_thread(report)
                    notify("STATUS=" + ("the outbox cannot be read" if found is None else "; ".join(found.states)))
                await asyncio.sleep(BEAT_EVERY_S)
