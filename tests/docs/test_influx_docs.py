"""docs/influx.md: what it says to type into InfluxDB, nginx and `aggregator.toml` is taken by those.

Its commands of ours are checked by tests/ops/test_compose.py; those of containers and of InfluxDB 2 run nowhere here.
"""

import dataclasses
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from aggregator.config import InfluxConfig
from simulators import influx
from tests.influx_server import InfluxServer
from vitalseal import config as configuration

PAGE = (Path(__file__).parents[2] / "docs" / "influx.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def block(word):
    """The one block that has `word` in it."""
    (found,) = [text for _, text in BLOCKS if word in text]
    return found


def test_section_is_one_that_the_aggregator_takes(tmp_path):
    """And the table beside it has every key, with its default."""
    table = tomllib.loads(block("[influx]"))["influx"]
    config = configuration.from_table(InfluxConfig, table, "", tmp_path)
    assert config.bucket == "vitalseal"
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", PAGE, re.MULTILINE))
    defaults = {field.name: field.default for field in dataclasses.fields(InfluxConfig)}
    assert defaults.keys() <= rows.keys()
    assert rows["bucket"] == f"`{defaults['bucket']}`"
    assert rows["timeout_s"] == f"{defaults['timeout_s']:g}"
    assert rows["gzip"] == str(defaults["gzip"]).lower()


def test_statements_are_taken_by_a_real_server(tmp_path):
    """The database is there afterwards, and forgets nothing."""
    with InfluxServer(tmp_path) as server:
        for statement in block("CREATE USER").splitlines():
            server.query(statement)
        (series,) = server.query('SHOW RETENTION POLICIES ON "vitalseal"')
        assert [row[:2] for row in series["values"]] == [["autogen", "0s"]]


def test_nginx_lines_are_those_of_the_tests():
    """As far as they go: ports are others."""
    for line in block("upstream influxd").splitlines():
        if not re.search("listen|server 127|client_max", line):
            assert " ".join(line.split()) in " ".join(influx._NGINX.replace("{{", "{").replace("}}", "}").split())


@pytest.mark.parametrize("text", [text for language, text in BLOCKS if language == "sh"])
def test_shell_is_shell(text):
    """Not one word of complaint."""
    done = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
