"""`/healthz` and `/metrics`: what a program says of itself while it works, and while it does not."""

import dataclasses
import http.client
import json
import re
import socket
import time
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from aggregator.config import AggregatorConfig, BrokerConfig, DeskConfig
from aggregator.health import STALE_AFTER_S, faults, format_metrics, health_server
from aggregator.status import Status, write_status
from aggregator.upkeep import FILE, BrokerState
from aggregator.view import VIEW, View, view_line
from edge.health import COUNTERS, GAUGES
from vitalseal.errors import UserError
from vitalseal.health import HealthConfig, HealthServer

RULES = Path(__file__).parents[2] / "deploy" / "prometheus-rules.yml"
NOW = 1_800_000_000.0
LEVEL = View("InfluxDB", 9, 70, level_at=NOW, updated_at=NOW)


def metrics(_environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"vitalseal_running 1\n"]


def ask(port, path="/healthz", method="GET"):
    """Status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def serving(found, listen="127.0.0.1:0"):
    return HealthServer(HealthConfig(listen), lambda: found, metrics)


def test_healthz_names_each_state_and_what_is_wrong():
    """200 while nothing is wrong, 503 with the reason as soon as something is."""
    found = {"outbox": None, "broker": None}
    with serving(found) as server:
        assert ask(server.port) == (
            200,
            '{"healthy": true, "states": {"outbox": {"ok": true, "why": null}, "broker": {"ok": true, "why": null}}}\n',
        )
        found["broker"] = "no connection for 700 s"
        status, body = ask(server.port)
        assert status == 503
        assert json.loads(body)["states"]["broker"] == {"ok": False, "why": "no connection for 700 s"}
        assert ask(server.port, "/metrics") == (200, "vitalseal_running 1\n")


@pytest.mark.parametrize(("path", "method", "expected"), [("/", "GET", 404), ("/healthz", "POST", 405)])
def test_there_is_nothing_else(path, method, expected):
    """One line of JSON says so."""
    with serving({}) as server:
        status, body = ask(server.port, path, method)
    assert status == expected
    assert json.loads(body)["error"]


def test_clients_that_say_nothing_hold_up_nobody(capfd):
    """Each has a thread of its own, and one that leaves is not worth a line."""
    with serving({}) as server:
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        garbage = socket.create_connection(("127.0.0.1", server.port))
        garbage.sendall(b"\xff\x00\r\n\r\n")
        assert ask(server.port)[0] == 200
        for client in (*silent, garbage):
            client.close()
    assert capfd.readouterr().err == ""


def test_nowhere_is_the_default_and_serves_nothing():
    """Nothing listens that nobody asked for."""
    with serving({}, listen="") as server:
        assert server.port == 0


@pytest.mark.parametrize("listen", ["9464", "127.0.0.1", "127.0.0.1:", ":1", "127.0.0.1:65536", "h:+1", "h:x"])
def test_what_is_no_address_is_refused(listen):
    """As every value of a configuration."""
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        HealthConfig(listen)


def test_port_that_is_taken_is_one_line():
    """And says what to do."""
    with serving({}) as server, pytest.raises(UserError, match=r"\[health\] listen = .*choose another"):
        serving({}, listen=f"127.0.0.1:{server.port}")


@pytest.fixture
def status():
    """An aggregator that is well."""
    return Status(
        pid=1,
        started_at=NOW - 100,
        updated_at=NOW,
        origin="a.example/log",
        connected=True,
        log_size=10,
        published_size=9,
        published_root="00" * 32,
        published_at=NOW - 1,
        waiting_for_quorum=None,
        devices_online=2,
        devices_enrolled=3,
        batches=7,
        readings=70,
        readings_per_s=1.0,
        queue=0,
        without_receipt=1,
        latency_p50_s=0.5,
        latency_p95_s=None,
        decisions={"admitted": 7, "equivocation": 1},
        witnesses=[{"name": 'w"1\\', "ok": True, "size": 9, "error": None}],
        limits={"queue_messages": 4096},
    )


@pytest.fixture
def config(tmp_path):
    return AggregatorConfig(tmp_path, BrokerConfig("broker.example"), health=HealthConfig("127.0.0.1:0"))


@pytest.mark.parametrize(
    ("change", "state", "why"),
    [
        ({}, None, None),
        (
            {"connected": False, "broker_fault": "did not answer"},
            "broker",
            "no connection to broker.example:1883: did not answer",
        ),
        ({"waiting_for_quorum": 12}, "witnesses", "no quorum: the checkpoint of size 12 waits, and receipts with it"),
        ({"updated_at": NOW - STALE_AFTER_S - 10}, "service", "has said nothing for 70 s"),
    ],
)
def test_faults_of_the_aggregator(status, config, change, state, why):
    """Each has its name, and nothing else is wrong."""
    found = faults(dataclasses.replace(status, **change), LEVEL, config, NOW)
    assert {name: text for name, text in found.items() if text} == ({state: why} if state else {})


def test_broker_that_does_not_go_by_its_lists_is_a_fault(status, config):
    """After half a minute, where there is a desk that keeps them."""
    config = dataclasses.replace(config, desk=DeskConfig("log.example"))
    state = BrokerState(NOW, NOW + 10**6, NOW + 10**7, 1, unseen="it lets in a certificate", changed_at=NOW - 29)
    assert faults(status, LEVEL, config, NOW)["lists"] is None
    (config.data / FILE).write_text(json.dumps(dataclasses.asdict(state)))
    assert faults(status, LEVEL, config, NOW)["lists"] is None
    assert "THE BROKER is not known to go by its lists" in faults(status, LEVEL, config, NOW + 1)["lists"]


@pytest.mark.parametrize(
    ("view", "why"),
    [
        ({}, None),
        ({"cursor": 5}, None),
        (
            {"away_since": NOW - 50, "why": "connection refused"},
            "InfluxDB is away since 2027-01-15T07:59:10Z: connection refused",
        ),
        (
            {"away_since": NOW - 50, "why": "there is no such bucket", "wont": True},
            "InfluxDB will not take any since 2027-01-15T07:59:10Z: there is no such bucket",
        ),
        (
            {"cursor": 5, "updated_at": NOW - 61},
            "it shows 5 of 9 entries, and nobody fills it since 2027-01-15T07:58:59Z",
        ),
        (
            {"cursor": 5, "level_at": NOW - 601},
            "it shows 5 of 9 entries, and had all of them last at 2027-01-15T07:49:59Z",
        ),
        ({"updated_at": NOW - 10**6, "level_at": 0.0}, None),
    ],
)
def test_view_that_does_not_show_what_is_published_is_a_fault(status, config, view, why):
    """The store is away, or nobody fills it, or it has been behind for long; a moment behind it is at any time."""
    assert faults(status, dataclasses.replace(LEVEL, **view), config, NOW)["view"] == why


def test_view_in_words():
    """What `aggregator status` shows of it."""
    assert view_line(LEVEL, 9) == "9 of 9 entries projected into InfluxDB"
    assert view_line(View(), 9) == "0 of 9 entries projected"
    away = dataclasses.replace(LEVEL, cursor=5, away_since=NOW, why="answers 500", refused=3)
    assert view_line(away, 9) == (
        "5 of 9 entries projected into InfluxDB; AWAY since 2027-01-15T08:00:00Z: answers 500; 3 points were REFUSED, "
        "see refused-points.ndjson"
    )
    wont = dataclasses.replace(LEVEL, away_since=NOW, why="no such bucket", wont=True)
    assert view_line(wont, 9).endswith("; WILL NOT TAKE ANY since 2027-01-15T08:00:00Z: no such bucket")


def test_view_has_metrics(status):
    """How much is in it, since when it is away, how many points it lacks for good."""
    text = format_metrics(status, View(cursor=7, away_since=NOW, refused=2))
    assert "vitalseal_view_entries 7.0" in text
    assert "vitalseal_view_away_timestamp_seconds 1.8e+09" in text
    assert "vitalseal_view_refused_points 2.0" in text


def test_aggregator_serves_what_its_status_says(status, config):
    """Before the first look nothing is said to be well; metrics are Prometheus', with help and no device."""
    with health_server(config) as server:
        assert ask(server.port)[0] == 503
        assert "vitalseal_running 0.0" in ask(server.port, "/metrics")[1]
        write_status(config.data, dataclasses.replace(status, updated_at=time.time()))
        (config.data / VIEW).write_text(json.dumps(dataclasses.asdict(LEVEL)))
        assert ask(server.port)[0] == 200
        code, text = ask(server.port, "/metrics")
    assert code == 200
    helped = re.findall(r"^# HELP (\S+)", text, re.MULTILINE)
    assert len(set(helped)) == len(helped)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert all(family.documentation for family in families.values())
    assert families["vitalseal_log_entries"].samples[0].value == 10
    assert families["vitalseal_witness_ok"].samples[0].labels == {"witness": 'w"1\\'}
    assert {sample.labels["decision"] for sample in families["vitalseal_decisions"].samples} == set(status.decisions)


def test_rules_are_rules_on_metrics_that_there_are(status):
    """Every alarm has an expression and a summary, and each metric that it names is one that is served."""
    witness = Path("ledger/service/witness_app.py")
    source = (RULES.parents[1] / witness).read_text()
    known = set(re.findall(r"^(vitalseal_\w+?)(?:{| )", format_metrics(status, LEVEL), re.MULTILINE))
    known |= {f"vitalseal_witness_{name}" for name in re.findall(r'\("(\w+) (?:gauge|counter)"', source)}
    known |= edge_metrics()
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 10
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "annotations"}
        assert rule["annotations"]["summary"].endswith(".")
        named = set(re.findall(r"vitalseal_\w+", rule["expr"]))
        assert named
        assert named <= known, rule["alert"]


def edge_metrics():
    """Names of the agent's metrics."""
    counters = {f"vitalseal_edge_{name}_total" for name, _, _ in COUNTERS}
    own = {"vitalseal_edge_up", "vitalseal_edge_refused_input_total"}
    return counters | own | {f"vitalseal_edge_{name}" for name, _, _ in GAUGES}
