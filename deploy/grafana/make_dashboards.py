"""Writes dashboards/*.json from the table of kinds: `python deploy/grafana/make_dashboards.py`, in the clone.

Queries are InfluxQL on the measurements that docs/influx.md describes. A dashboard shows what the database holds; it
checks nothing.
"""  # noqa: INP001 - a program beside what it makes, not a package

import json
from pathlib import Path
from typing import Any

from ledger.kinds import BY_NAME, KINDS, Kind

FOLDER = Path(__file__).parent / "dashboards"
SOURCE = {"type": "influxdb", "uid": "vitalseal-influx"}
SCHEMA = 41  # of the dashboards of Grafana 12
# UCUM as people write it, where that is not the same.
SHOWN = {"Cel": "°C", "mm[Hg]": "mmHg", "{steps}": "steps", "m/s2": "m/s²", "1": ""}
PRESSURES = ("systolic_pressure", "diastolic_pressure", "mean_pressure")

CHOSEN = '"device" =~ /^$device$/ AND "source" =~ /^$source$/ AND $timeFilter'
NO_PROOF = (
    "**A picture proves nothing.** What is drawn here is what the database holds, whoever wrote it."
    " `vitalseal audit` holds every row of it against the log, and names those that were changed, added, moved or taken"
    " away; `vitalseal verify` checks one reading."
)

Json = dict[str, Any]


def main() -> None:
    """The three files are as this program and the table of kinds have them."""
    for name, dashboard in dashboards().items():
        text = json.dumps(dashboard, indent=1, ensure_ascii=False)
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def dashboards() -> dict[str, Json]:
    """Every dashboard by the name of its file."""
    scalars = [kind for kind in KINDS if not kind.waveform]
    single = [[kind] for kind in scalars if kind.name not in PRESSURES]
    pressure = [BY_NAME[name] for name in PRESSURES]
    vitals = [_scalars(kinds) for kinds in (*single[:4], pressure, *single[4:])]
    waveforms = [_waveform(kind) for kind in KINDS if kind.waveform]
    return {
        "vitals": _dashboard("vitals", "Vitals", vitals, "now-6h"),
        "waveforms": _dashboard("waveforms", "Waveforms", waveforms, "now-30s"),
        "proof-state": _dashboard("proof-state", "Proof state", _proof_state(), "now-6h"),
    }


def _scalars(kinds: list[Kind]) -> Json:
    """A chart of numbers: means of what there is, and beside them, as red points, what its source marked."""
    first = kinds[0]
    title = first.title if len(kinds) == 1 else "blood pressure"
    names = "|".join(kind.name for kind in kinds)
    select = f'SELECT mean("value") FROM "reading" WHERE "kind" =~ /^({names})$/ AND {CHOSEN}'  # noqa: S608 - of our table
    groups = 'GROUP BY time($__interval), "kind", "device", "source" fill(none)'
    marked = select.replace("$timeFilter", '"quality" > 0 AND $timeFilter')
    label = ("$tag_kind " if len(kinds) > 1 else "") + "$tag_device $tag_source"
    panel = _panel("timeseries", title, [_query(f"{select} {groups}", label)], "s")
    panel["targets"].append(_query(f"{marked} {groups}", f"{label}, marked", "B"))
    panel["description"] = "Means over each interval, at sensor time. Red: those of readings whose quality is not 0."
    panel["fieldConfig"]["defaults"]["unit"] = _unit(first)
    red = [
        {"id": "custom.drawStyle", "value": "points"},
        {"id": "custom.pointSize", "value": 7},
        {"id": "color", "value": {"mode": "fixed", "fixedColor": "red"}},
    ]
    panel["fieldConfig"]["overrides"] = [{"matcher": {"id": "byFrameRefID", "options": "B"}, "properties": red}]
    return panel


def _waveform(kind: Kind) -> Json:
    """Every frame as it is, bounded: a mean would draw another curve."""
    query = f'SELECT /^c[0-9]+$/ FROM "waveform" WHERE "kind" = \'{kind.name}\' AND {CHOSEN}'  # noqa: S608 - of our table
    label = "$tag_device $tag_source $col"
    panel = _panel("timeseries", kind.title, [_query(f'{query} GROUP BY "device", "source" LIMIT 50000', label)])
    panel["description"] = "Each frame, c0 being the first channel; the first 50,000 frames of the time that is shown."
    panel["fieldConfig"]["defaults"]["unit"] = _unit(kind)
    panel["gridPos"]["w"] = 24
    return panel


def _proof_state() -> list[Json]:
    text = _panel("text", "What this shows", [])
    text["options"] = {"mode": "markdown", "content": NO_PROOF}
    text["gridPos"] |= {"w": 24, "h": 4}
    # The times of these are places on the log, not times: so without the dashboard's time filter, and as tables.
    numbers = {
        "Log entries in this view": 'SELECT last("entries") FROM "ledger_cursor"',
        "Batch records": 'SELECT count("header") FROM "ledger_batch"',
        "Size of the newest checkpoint here": 'SELECT max("checkpoint") FROM "ledger_batch"',
    }
    stats = [_panel("stat", title, [_table(query)]) for title, query in numbers.items()]
    for stat in stats:
        stat["options"] = {"reduceOptions": {"calcs": ["last"], "fields": "/^(last|count|max)$/"}}
        stat["gridPos"] |= {"w": 8, "h": 4}
    rate = 'SELECT count("seal") * 60000 / $__interval_ms FROM "reading" WHERE "device" =~ /^$device$/ AND $timeFilter'
    query = _query(f'{rate} GROUP BY time($__interval), "device" fill(0)', "$tag_device")
    readings = _panel("timeseries", "Readings a minute", [query], "1m")
    readings["description"] = "At sensor time: what arrived late stands where it was measured."
    batches = _panel("table", "Batch records by device", [_table(f'{numbers["Batch records"]} GROUP BY "device"')])
    last = _table('SELECT last("seal") FROM "reading" WHERE "device" =~ /^$device$/ GROUP BY "device"')
    age = _panel("table", "Last reading of each device", [last])
    age["description"] = "By sensor time, as the device states it: a clock that runs ahead looks young."
    ago = [{"id": "unit", "value": "dateTimeFromNow"}]
    age["fieldConfig"]["overrides"] = [{"matcher": {"id": "byName", "options": "Time"}, "properties": ago}]
    for table, hidden in ((batches, "Time"), (age, "last")):
        table["transformations"] = [{"id": "organize", "options": {"excludeByName": {hidden: True}}}]
    return [text, *stats, readings, age, batches]


def _panel(type_: str, title: str, targets: list[Json], least_interval: str | None = None) -> Json:
    panel: Json = {
        "type": type_,
        "title": title,
        "datasource": SOURCE,
        "gridPos": {"w": 12, "h": 8},
        "fieldConfig": {"defaults": {}, "overrides": []},
        "targets": targets,
    }
    return panel if least_interval is None else panel | {"interval": least_interval}


def _query(query: str, alias: str, ref: str = "A") -> Json:
    return {
        "refId": ref,
        "datasource": SOURCE,
        "rawQuery": True,
        "query": query,
        "alias": alias,
        "resultFormat": "time_series",
    }


def _table(query: str) -> Json:
    return _query(query, "") | {"resultFormat": "table"}


def _unit(kind: Kind) -> str:
    shown = SHOWN.get(kind.unit, kind.unit)
    return f"suffix: {shown}" if shown else "none"


def _dashboard(name: str, title: str, panels: list[Json], start: str) -> Json:
    x = y = height = 0
    for number, panel in enumerate(panels, start=1):
        at = panel["gridPos"]
        if x + at["w"] > 24:
            x, y = 0, y + height
        panel["id"] = number
        at |= {"x": x, "y": y}
        x, height = x + at["w"], at["h"]
    return {
        "uid": f"vitalseal-{name}",
        "title": title,
        "description": "A view, not a proof: `vitalseal audit` checks the rows.",
        "schemaVersion": SCHEMA,
        "editable": False,
        "time": {"from": start, "to": "now"},
        "refresh": "10s",
        "templating": {"list": [_variable("device"), _variable("source", ' WHERE "device" =~ /^$device$/')]},
        "panels": panels,
    }


def _variable(tag: str, condition: str = "") -> Json:
    query = f'SHOW TAG VALUES FROM "reading" WITH KEY = "{tag}"{condition}'
    return {
        "name": tag,
        "type": "query",
        "datasource": SOURCE,
        "query": query,
        "definition": query,
        "refresh": 2,  # when the time range changes
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


if __name__ == "__main__":
    main()
