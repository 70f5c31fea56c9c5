"""deploy/grafana/: dashboards and data source agree, and a real InfluxDB answers every query with what it was given."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml

from aggregator.timeseries.base import StoredBatch, StoredReading
from aggregator.timeseries.lines import batch_line, checkpoint_line, cursor_line, make_point, point_lines
from ledger.kinds import KINDS
from ledger.reading import Quality, Reading, Scalar, Waveform
from tests.influx_server import InfluxServer

DEPLOY = Path(__file__).parents[2] / "deploy"
GRAFANA = DEPLOY / "grafana"
NOW_NS = 1_764_000_000 * 10**9
MINUTE_NS = 60 * 10**9
# What Grafana puts there for an hour around NOW_NS in 60 steps, with every device chosen.
MACROS = {
    "$timeFilter": f"time >= {NOW_NS - 30 * MINUTE_NS} AND time <= {NOW_NS + 30 * MINUTE_NS}",
    "$__interval_ms": "60000",
    "$__interval": "1m",
    "$device": ".*",
    "$source": ".*",
}


def load(path):
    return yaml.safe_load((GRAFANA / "provisioning" / path).read_text())


DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").iterdir())}
PANELS = [panel for dashboard in DASHBOARDS.values() for panel in dashboard["panels"]]
QUERIES = [target["query"] for panel in PANELS for target in panel["targets"]]
VARIABLES = [variable["query"] for board in DASHBOARDS.values() for variable in board["templating"]["list"]]


@pytest.fixture(scope="module")
def grafana():
    """The service of the compose file."""
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["grafana"]


def test_dashboards_are_what_the_program_makes():
    """From the table of kinds as it is."""
    spec = importlib.util.spec_from_file_location("make_dashboards", GRAFANA / "make_dashboards.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    assert program.dashboards() == DASHBOARDS


def test_dashboards_name_the_source_that_is_provisioned():
    """Every panel, target and variable; no two dashboards or panels are one to Grafana."""
    (source,) = load("datasources/vitalseal.yaml")["datasources"]
    named = [panel["datasource"] for panel in PANELS]
    named += [target["datasource"] for panel in PANELS for target in panel["targets"]]
    named += [variable["datasource"] for board in DASHBOARDS.values() for variable in board["templating"]["list"]]
    assert {(each["type"], each["uid"]) for each in named} == {(source["type"], source["uid"])}
    assert len({board["uid"] for board in DASHBOARDS.values()}) == len(DASHBOARDS) == 3
    for board in DASHBOARDS.values():
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        places = [panel["gridPos"] for panel in board["panels"]]
        cells = [
            (x, y)
            for at in places
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        ]
        assert len(set(cells)) == len(cells)
        assert max(x for x, _ in cells) == 23


def test_provisioning_finds_what_compose_gives_it(grafana):
    """The folder of the dashboards, the variables, and the file of the token: no secret is in the repository."""
    (provider,) = load("dashboards/vitalseal.yaml")["providers"]
    targets = {volume.split(":")[1]: volume.split(":")[0] for volume in grafana["volumes"]}
    assert targets[provider["options"]["path"]] == "./grafana/dashboards"
    assert targets["/etc/grafana/provisioning"] == "./grafana/provisioning"
    (source,) = load("datasources/vitalseal.yaml")["datasources"]
    values = [source["url"], source["jsonData"]["dbName"], *source["secureJsonData"].values()]
    for value in values:
        variables, files = re.findall(r"\$\{(\w+)\}", value), re.findall(r"\$__file\{/run/secrets/(\w+)\}", value)
        assert set(variables) <= set(grafana["environment"])
        assert set(files) <= set(grafana["secrets"])
        assert variables or files


def test_every_kind_is_on_a_dashboard():
    """With its unit."""
    for kind in KINDS:
        board = DASHBOARDS["waveforms" if kind.waveform else "vitals"]
        (panel,) = [
            panel for panel in board["panels"] if re.search(rf"[('|]{kind.name}[)'|]", panel["targets"][0]["query"])
        ]
        assert (panel["fieldConfig"]["defaults"]["unit"] == "none") == (kind.unit == "1")


def test_proof_state_says_what_it_is_not():
    """A picture proves nothing, and where proof is to be had."""
    (text,) = [panel for panel in PANELS if panel["type"] == "text"]
    assert "proves nothing" in text["options"]["content"]
    assert "`vitalseal audit`" in text["options"]["content"]


def stored(number, kind, quality):
    """A reading of each kind as a store gets it."""
    samples = Waveform(4_000_000, 1, (1, -3), (0, 0), 2, 2, bytes(range(16)))
    value = samples if kind.waveform else Scalar(605, -1)
    reading = Reading(b"chest", kind.code, NOW_NS + number * 10**9, 0, 60, 0, value, quality)
    return StoredReading(4096 + number, "bed-12", reading.encode(), bytes(16))


@pytest.fixture(scope="module")
def influx(tmp_path_factory):
    """A server with two readings of each kind, one of them marked, a batch record, a checkpoint and the cursor."""
    with InfluxServer(tmp_path_factory.mktemp("influx")) as server:
        database = server.fresh_database()
        readings = [
            stored(2 * at + (quality > 0), kind, quality)
            for at, kind in enumerate(KINDS, start=1)
            for quality in (Quality(0), Quality.QUESTIONABLE)
        ]
        batch = StoredBatch(1, "bed-12", 1, bytes(32), b"header", bytes(64), (bytes(32),), (), b"note", None)
        lines = [line for reading in readings for line, _ in point_lines(make_point(reading), 0)]
        lines += [batch_line(batch, 2)[0], checkpoint_line(2, b"note"), cursor_line(2)]
        server.write(b"\n".join(lines).decode(), database)
        yield lambda text: server.query(text, database)


@pytest.mark.parametrize("query", [*dict.fromkeys([*QUERIES, *VARIABLES])])
def test_query_is_answered(influx, query):
    """Accepted, and with something, because there is a reading of every kind; it names what the store writes."""
    names = set(re.findall(r'"(\w+)"', query))
    (measurement,) = re.findall(r'FROM "(\w+)"', query)
    keys = [
        key
        for what in ("TAG", "FIELD")
        for series in influx(f'SHOW {what} KEYS FROM "{measurement}"')
        for key in series["values"]
    ]
    assert names - {measurement} <= {key[0] for key in keys}
    for macro, text in MACROS.items():
        query = query.replace(macro, text)
    assert "$" not in re.sub(r"\$/", "", query)
    series = influx(query)
    assert sum(len(each["values"]) for each in series) > 0
