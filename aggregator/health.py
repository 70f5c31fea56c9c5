"""What `/healthz`, `/metrics` and `aggregator status --metrics` tell: from a look at `status.json` and `view.json`.

No device and no patient is named: what has names here are the log's witnesses and the kinds of decisions, both few.
"""

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aggregator.config import AggregatorConfig
from aggregator.status import Status, is_running, read_status
from aggregator.upkeep import lists_fault, read_broker_state
from aggregator.view import View, read_view, view_fault
from vitalseal.errors import UserError
from vitalseal.health import Faults, HealthServer

# A look is written about once an interval; beyond two of them and this, publishing stands still.
STALE_AFTER_S = 60.0

_GAUGES: tuple[tuple[str, str, Callable[[Status], float]], ...] = (
    ("broker_connected", "1 while there is a connection to the MQTT broker.", lambda status: status.connected),
    ("updated_timestamp_seconds", "When all of this was so, in Unix time.", lambda status: status.updated_at),
    ("started_timestamp_seconds", "When the aggregator was started, in Unix time.", lambda status: status.started_at),
    ("log_entries", "Entries that are committed.", lambda status: status.log_size),
    ("published_entries", "Entries below the published checkpoint.", lambda status: status.published_size),
    (
        "published_timestamp_seconds",
        "When a checkpoint was published last, in Unix time; 0: not since the start.",
        lambda status: status.published_at,
    ),
    (
        "waiting_for_quorum",
        "1 while a signed checkpoint waits for witnesses, and receipts with it.",
        lambda status: status.waiting_for_quorum is not None,
    ),
    ("batches_without_receipt", "Batches that are committed and have no receipt.", lambda look: look.without_receipt),
    ("queued_messages", "Messages from devices that wait to be admitted.", lambda status: status.queue),
    ("queued_bytes", "The bytes of those.", lambda status: status.queue_bytes),
    ("parked_batches", "Batches that wait for the one before them.", lambda status: status.parked),
    ("parked_bytes", "The bytes of those.", lambda status: status.parked_bytes),
    ("outgoing_messages", "Messages to devices that the broker has not acknowledged.", lambda look: look.outgoing),
    ("devices_overdue", "Devices that are silent for too long.", lambda status: status.overdue),
    ("gaps", "Gaps that devices declared, ever.", lambda status: status.gaps),
    ("lost_outboxes", "Epochs that devices began because they lost their outbox, ever.", lambda look: look.new_epochs),
    ("second_headers", "Keys caught signing two headers for one place, ever.", lambda status: status.second_headers),
    ("clock_faults", "Batches whose device had a wrong clock, ever.", lambda status: status.clock_faults),
    ("missing_payloads", "Batches on the log whose readings were lost.", lambda status: status.missing_payloads),
    ("devices_online", "Devices that say they are connected.", lambda status: status.devices_online),
    ("devices_enrolled", "Devices that have or had a key, each once.", lambda look: look.devices_enrolled),
)


_VIEW_GAUGES: tuple[tuple[str, str, Callable[[View], float]], ...] = (
    ("entries", "Log entries whose readings are in the time-series store.", lambda view: view.cursor),
    (
        "away_timestamp_seconds",
        "Since when that store cannot be written, in Unix time; 0: it can.",
        lambda view: view.away_since or 0,
    ),
    ("refused_points", "Points that it would not have, since it was begun.", lambda view: view.refused),
)


class StatusCollector(Collector):
    """The metrics of the status and the view that `look` gives at each scrape, None for no status yet."""

    def __init__(self, look: Callable[[], tuple[Status | None, View]]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """All families; without a status only that nothing runs."""
        status, view = self._look()
        running = status is not None and is_running(status)
        yield GaugeMetricFamily("vitalseal_running", "1 while the aggregator's process is there.", running)
        if status is None:
            return
        for name, told, value in _GAUGES:
            yield GaugeMetricFamily(f"vitalseal_{name}", told, value(status))
        for name, told, number in _VIEW_GAUGES:
            yield GaugeMetricFamily(f"vitalseal_view_{name}", told, number(view))
        yield CounterMetricFamily("vitalseal_batches", "Batches committed since the start.", status.batches)
        yield CounterMetricFamily("vitalseal_readings", "Readings in them.", status.readings)
        yield CounterMetricFamily(
            "vitalseal_dropped_answers", "Messages to devices that were not sent.", status.dropped_answers
        )
        limits = GaugeMetricFamily("vitalseal_limit", "How much may wait where.", labels=["what"])
        for what, limit in sorted(status.limits.items()):
            limits.add_metric([what], limit)
        yield limits
        decisions = CounterMetricFamily("vitalseal_decisions", "Batches by what was decided.", labels=["decision"])
        for decision, count in sorted(status.decisions.items()):
            decisions.add_metric([decision], count)
        yield decisions
        yield from _latencies(status)
        yield from _witnesses(status)


def format_metrics(status: Status, view: View) -> str:
    """Both in Prometheus' text format."""
    return generate_latest(_registry(lambda: (status, view))).decode()


def health_server(config: AggregatorConfig) -> HealthServer:
    """The pages of the aggregator that runs with `config` in this process; raises UserError."""

    def look() -> tuple[Status | None, View]:
        view = read_view(config.data)
        try:
            return read_status(config.data), view
        except UserError:
            return None, view  # before the first publishing; the fault `service` says so

    return HealthServer(config.health, lambda: faults(*look(), config, time.time()), make_wsgi_app(_registry(look)))


def faults(status: Status | None, view: View, config: AggregatorConfig, now_s: float) -> Faults:
    """What a person has to see to, by name; the first two are the last looks, None for none, at `now_s` (Unix time)."""
    if status is None:
        return {"service": "has not said anything yet"}
    silent_s = now_s - status.updated_at
    where = f"{config.broker.host}:{config.broker.port}"
    lists = {} if config.desk is None else {"lists": lists_fault(read_broker_state(config.data), now_s)}
    waiting = status.waiting_for_quorum
    return {
        "service": f"has said nothing for {silent_s:.0f} s"
        if silent_s > STALE_AFTER_S + 2 * config.interval_s
        else None,
        "broker": None if status.connected else f"no connection to {where}: {status.broker_fault}",
        "witnesses": None
        if waiting is None
        else f"no quorum: the checkpoint of size {waiting} waits, and receipts with it",
        "view": view_fault(view, status.published_size, now_s),
        **lists,
    }


def _registry(look: Callable[[], tuple[Status | None, View]]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(StatusCollector(look))
    return registry


def _latencies(status: Status) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "vitalseal_proof_latency_seconds",
        "Seconds from sealing at the gateway to a published checkpoint, over the last batches.",
        labels=["quantile"],
    )
    for quantile, seconds in (("0.5", status.latency_p50_s), ("0.95", status.latency_p95_s)):
        if seconds is not None:
            family.add_metric([quantile], seconds)
    yield family


def _witnesses(status: Status) -> Iterator[Metric]:
    answering = GaugeMetricFamily("vitalseal_witness_ok", "1 while this witness answers.", labels=["witness"])
    sizes = GaugeMetricFamily("vitalseal_witness_size", "Entries that it has cosigned.", labels=["witness"])
    for witness in status.witnesses:
        answering.add_metric([witness["name"]], witness["ok"])
        sizes.add_metric([witness["name"]], witness["size"])
    yield answering
    yield sizes
