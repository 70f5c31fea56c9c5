"""docs/influx.md: what it says to type into InfluxDB, nginx and `aggregator.toml` is taken by those.

Its commands of ours are checked by tests/ops/test_compose.py; those of containers and of InfluxDB 2 run nowhere here.
"""

import dataclasses
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from aggregator.config import InfluxConfig
from simulators import influx
from tests.influx_server import InfluxServer
from vitalseal import config as configuration

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "influx.md").read_text()
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


def test_data_source_for_an_older_server_is_ours_but_for_who_asks():
    """A user and a password instead of a header with a token; dashboards find it by the same name."""
    ours = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/vitalseal.yaml").read_text())
    (source,) = ours["datasources"]
    del source["jsonData"]["httpHeaderName1"]
    source |= {"user": "grafana", "secureJsonData": {"password": "$__file{/etc/grafana/influx.token}"}}
    assert yaml.safe_load(block("user: grafana")) == ours


STAND_IN = """#!/bin/sh
case "$*" in
    *"up -d"*) [ "$*" = "compose up -d --wait influxdb" ] && touch started ;;
    *"bucket list"*) [ -e started ] && printf "$BUCKETS" ;;
    *"auth create"*) echo "$*" >>asked; printf '{\\n\\t"token": "%s"\\n}\\n' "$TOLD" ;;
esac
"""


def secrets_made(folder, **answers):
    """What the page's lines say and leave, with a stand-in for docker that answers so."""
    (folder / "deploy").mkdir()
    for name, text in (("docker", STAND_IN), ("sudo", "#!/bin/sh\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", **answers}
    return subprocess.run(
        ["sh", "-c", block("influx_admin_password")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_secrets_for_containers_are_made(tmp_path):
    """Passwords of their own, and a token each, of which Grafana's may only read."""
    done = secrets_made(tmp_path, BUCKETS="0b\tvitalseal\n", TOLD="a-token==")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    secrets = tmp_path / "deploy/secrets"
    assert len({path.read_text() for path in secrets.glob("*_password")} | {"a-token==\n"}) == 3
    assert [(secrets / name).read_text() for name in ("influx_token", "grafana_influx_token")] == ["a-token==\n"] * 2
    ours, grafanas = (tmp_path / "deploy/asked").read_text().splitlines()
    assert "--read-bucket 0b --write-bucket 0b" in ours
    assert "--read-bucket 0b" in grafanas
    assert "--write-bucket" not in grafanas


@pytest.mark.parametrize(
    ("answers", "says"),
    [({"BUCKETS": "", "TOLD": "t"}, "named no bucket"), ({"BUCKETS": "0b\tvitalseal\n", "TOLD": ""}, "NO TOKEN")],
)
def test_secrets_that_were_not_made_are_missed(tmp_path, answers, says):
    """A server that answers with nothing leaves no empty file that nobody notices."""
    done = secrets_made(tmp_path, **answers)
    assert says in done.stdout + done.stderr
