"""The status page: the same numbers everywhere, nothing but text from the outside, nothing from elsewhere."""

import json
import re
import urllib.error
import urllib.request
from dataclasses import replace

import pytest

from dashboard.app import render
from dashboard.server import StatusServer
from dashboard.snapshot import TITLES, DeviceLine, Published, Snapshot
from simulators.broker import free_port
from vitalseal.errors import UserError

EVIL = "<img src=x onerror=alert(1)>&\"'"
SNAPSHOT = Snapshot(
    phase="running",
    running_s=12.5,
    devices=(DeviceLine("strap-01", "running", 1234, 1200), DeviceLine("patch-02", "restarting", 10, 0)),
    readings_per_s=321.4,
    log_size=77,
    checkpoint=Published("demo.example/log", 76, "ab" * 32, "demo.example/log\n76\n…\n"),
    proof_p50_s=0.512,
    proof_p95_s=1.03,
    rejects={"unknown_key": 2},
)


class Page:
    """A running server and the snapshot that it shows."""

    def __init__(self, port):
        self.snapshot = SNAPSHOT
        self.server = StatusServer(lambda: self.snapshot, port)

    def get(self, path="", **headers):
        request = urllib.request.Request(self.server.url + path, headers=headers)  # noqa: S310 - http, to ourselves
        return urllib.request.urlopen(request, timeout=20)  # noqa: S310 - http, to ourselves


@pytest.fixture
def page():
    """The page, served on a free port."""
    shown = Page(free_port())
    with shown.server:
        yield shown


def test_page_has_all_numbers_without_scripts(page):
    """What a browser without JavaScript shows is complete."""
    with page.get() as answer:
        html = answer.read().decode()
    for name, title in TITLES.items():
        assert f'<dt>{title}</dt><dd id="{name}">' in html
    for text in ("1,244 accepted, 1,200 with a verified receipt", "321 readings/s", "77 entries", "0.51 s median"):
        assert text in html
    assert "unknown key 2" in html
    assert '<th scope="row">strap-01</th><td>running</td><td>1,234</td><td>1,200</td>' in html


def test_status_json_has_the_same_numbers(page):
    """For programs: raw numbers, and the words of the page beside them."""
    with page.get("status.json") as answer:
        assert answer.headers["content-type"] == "application/json"
        status = json.load(answer)
    assert status["lines"] == SNAPSHOT.lines()
    assert status["checkpoint"] == {"origin": "demo.example/log", "size": 76, "root": "ab" * 32, "note": ANY_NOTE}
    assert (status["accepted"], status["receipted"], status["log_size"]) == (1244, 1200, 77)
    assert status["devices"][1] == {"name": "patch-02", "state": "restarting", "accepted": 10, "receipted": 0}


ANY_NOTE = SNAPSHOT.checkpoint.note


def test_events_bring_every_change(page):
    """The first event is now, the next one comes when something is different."""
    with page.get("events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert next_event(answer)["log_size"] == 77
        page.snapshot = replace(SNAPSHOT, log_size=78)
        assert next_event(answer)["log_size"] == 78


def next_event(answer):
    for line in answer:
        if line.startswith(b"data: "):
            return json.loads(line.removeprefix(b"data: "))
    raise AssertionError("the stream ended")


@pytest.mark.parametrize("path", ["", "status.json", "events", "static/status.js", "static/status.css"])
def test_every_answer_forbids_everything_from_elsewhere(page, path):
    """The policy would stop an inline script even if one got in."""
    with page.get(path) as answer:
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_page_refers_to_itself_only():
    """No other host, nothing inline."""
    html = render(SNAPSHOT)
    assert re.findall(r'(?:src|href)="([^"]*)"', html) == ["/static/status.css", "/static/status.js"]
    assert not re.search(r"<script>|<style|style=|\son\w+=|https?:", html)


def test_page_escapes_whatever_it_shows():
    """A name, an origin or a note is text."""
    evil = replace(
        SNAPSHOT,
        phase=EVIL,
        devices=(DeviceLine(EVIL, EVIL, 1, 1),),
        checkpoint=Published(EVIL, 1, EVIL, EVIL + "$numbers"),
        rejects={EVIL: 1},
    )
    html = render(evil)
    assert "<img" not in html
    assert "$numbers</pre>" in html


def test_page_answers_to_loopback_names_only(page):
    """A web site whose name was pointed here cannot read it through the visitor's browser."""
    with page.get(Host=f"localhost:{page.server.url.rpartition(':')[2].strip('/')}") as answer:
        assert answer.status == 200
    with pytest.raises(urllib.error.HTTPError) as error:
        page.get(Host="evil.example")
    error.value.close()
    assert error.value.code == 400


@pytest.mark.parametrize("path", ["static/status.html", "static/..%2fapp.py", "nowhere"])
def test_nothing_else_is_served(page, path):
    """Two static files and no others."""
    with pytest.raises(urllib.error.HTTPError) as error:
        page.get(path)
    error.value.close()
    assert error.value.code == 404


def test_busy_port_is_one_line(page):
    """Two pages on one port: the second says so."""
    second = StatusServer(lambda: SNAPSHOT, int(page.server.url.rpartition(":")[2].strip("/")))
    with pytest.raises(UserError, match="is the port taken"), second:
        pass


def test_snapshot_before_anything_is_known_can_be_shown():
    """The page comes up before the first device does."""
    assert "none yet" in render(Snapshot())
