"""What is InfluxDB's own: its errors, what others write into its bucket, retention, requests and their bounds."""

import contextlib
import http.server
import json
import math
import ssl
import threading
import urllib.parse
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from aggregator.config import InfluxConfig
from aggregator.timeseries import copies, influx, influxql, parsing, requests
from aggregator.timeseries.base import Refused, Selection, StoreAwayError, StoredReading, checkpoint_size
from aggregator.timeseries.copies import REMEMBERED, Copies
from aggregator.timeseries.influx import InfluxStore
from aggregator.timeseries.lines import batch_line, make_point, point_count, point_lines
from aggregator.timeseries.neighbours import occupants
from aggregator.timeseries.requests import RefusedError, Requests, TooLargeError, reason
from ledger.batch import LEAVES_PER_BATCH
from ledger.errors import MalformedError
from ledger.reading import Reading, Scalar, Waveform
from tests.edge.pki import Authority
from tests.influx_server import InfluxServer
from tests.ledger import builders as b
from tests.timeseries.conftest import batch_of, stored
from tests.timeseries.test_contract import SECOND, at, put, wave
from vitalseal.errors import UserError

HOST = "127.0.0.1"


class StandIn(http.server.BaseHTTPRequestHandler):
    """Answers as its server's `answers` say: by path, in turn, the last one again and again."""

    protocol_version = "HTTP/1.1"
    wbufsize, disable_nagle_algorithm = -1, True  # an answer is one packet, sent at once

    def do_GET(self):
        self.do_POST()

    def do_POST(self):
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((path, query, body, dict(self.headers)))
        answers = self.server.answers.get(path, [(200, {"results": [{"statement_id": 0}]})])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if callable(answer):
            answer = answer(body)
        status, document, *headers = answer
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        for name, value in (headers[0] if headers else {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, *_):
        pass


@pytest.fixture
def standin():
    """A server that says what a test wants; `write` and `query` set it."""
    server = http.server.ThreadingHTTPServer((HOST, 0), StandIn)
    server.answers, server.asked = {"/api/v2/write": [(204, b"")]}, []
    server.config = InfluxConfig(url=f"http://{HOST}:{server.server_address[1]}", bucket="vitals", timeout_s=5)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def config(influx_server):
    """A fresh bucket of the real server."""
    return influx_server.config(influx_server.fresh_database())


@pytest.fixture
def store(config):
    """The store in it."""
    with InfluxStore(config) as store:
        yield store


def write(config, readings=None):
    items = stored(0, [at(0)] if readings is None else readings)
    with InfluxStore(config, readonly=True) as store:
        return store.write([], items, 1)


@contextmanager
def raises_line(kind, *words):
    """An error of this kind, of one line that holds these words."""
    with pytest.raises(kind) as caught:
        yield caught
    text = str(caught.value)
    assert "\n" not in text
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize(
    ("status", "headers", "after_s"),
    [(429, {"Retry-After": "7"}, 7.0), (503, {"Retry-After": "99999999"}, 3600.0), (500, {}, None), (502, {}, None)],
)
@pytest.mark.parametrize("path", ["/api/v2/write", "/query"])
def test_server_that_cannot_just_now_is_away(standin, path, status, headers, after_s):
    """For as long as it asks, and one request is all that it gets."""
    standin.answers[path] = [(status, {"error": "engine: write /data/000.tsm: no space left on device"}, headers)]
    with raises_line(StoreAwayError, str(status), "no space left on device") as caught:
        write(standin.config)
    assert caught.value.after_s == after_s
    assert [asked[0] for asked in standin.asked].count(path) == 1


def test_server_that_is_not_there_is_away(own_influx_server):
    """Refused at the port, no answer in time, killed and back: what was acknowledged is there."""
    config = own_influx_server.config(own_influx_server.fresh_database(), timeout_s=0.3)
    with InfluxStore(config) as store:
        items = put(store, 0, [at(0)])
        own_influx_server.pause()
        with raises_line(StoreAwayError, "no answer within 0.3 s"):
            put(store, 1, [at(1)])
        own_influx_server.resume()
        own_influx_server.kill()
        with raises_line(StoreAwayError, "502"):
            store.cursor()
        own_influx_server.start()
        late = stored(1, [at(1), at(0)])
        store.write([], late, 2)
        assert [item for item in store.readings() if item in (*items, *late)] == [*items, *late]
    with raises_line(StoreAwayError, "refused"), InfluxStore(InfluxConfig(url=f"http://{HOST}:9")) as store:
        store.cursor()


def test_page_of_a_proxy_is_not_an_answer(standin):
    """In whatever encoding it speaks of a bad gateway."""
    standin.answers["/api/v2/write"] = [(502, "passerelle défaillante".encode("latin-1"))]
    with raises_line(StoreAwayError, "no UTF-8"):
        write(standin.config)
    page = b"<html>\r\n<head><title>502 Bad Gateway</title></head><body><hr><center>nginx/1.18.0</center></body></html>"
    for status, why in ((502, "Bad Gateway"), (504, "Gateway Timeout"), (599, "it does not say why")):
        standin.answers["/api/v2/write"] = [(status, page)]
        with raises_line(StoreAwayError) as caught:
            write(standin.config)
        assert str(caught.value).endswith(f": answers {status}: {why}")


@pytest.mark.parametrize("url", ["http://[::1", "http://host:port", "https://a b"])
def test_url_that_is_none_is_a_line(url):
    """Nobody could be asked, however often."""
    with raises_line(UserError, "is no URL"):
        InfluxStore(InfluxConfig(url=url))


def test_title_has_no_password_from_the_url():
    """Should somebody have put one there."""
    with InfluxStore(InfluxConfig(url="http://nurse:se-cret@db.example:8086"), readonly=True) as store:
        assert store.title == "InfluxDB, vitalseal at db.example:8086"


@pytest.mark.parametrize("after", [1, 4, 9])
def test_server_killed_in_the_middle_of_a_write_gets_it_again(own_influx_server, monkeypatch, after):
    """Some requests were acknowledged, the cursor was not; written again, it shows no trace of the first time."""
    monkeypatch.setattr(requests, "REQUEST_POINTS", 50)
    config = own_influx_server.config(own_influx_server.fresh_database())
    items = stored(0, [reading for second in range(100) for reading in (at(second), at(second), wave(second, 3))])
    countdown = iter(range(after))
    with InfluxStore(config) as store:
        post = store._server.post

        def kill_then_post(lines):
            if next(countdown, None) is None:
                own_influx_server.kill()
            post(lines)

        monkeypatch.setattr(store._requests, "_post", kill_then_post)
        with pytest.raises(StoreAwayError):
            store.write([], items, 1)
    own_influx_server.start()
    with InfluxStore(config) as store:
        assert store.cursor() == 0
        assert 0 < len(list(store.rows())) < len(items)
        store.write([], items, 1)
        assert list(store.readings()) == items
        assert Counter(row.copy for row in store.rows()) == {0: 200, 1: 100}
        assert Counter(sample.copy for sample in store.samples()) == {0: 300}


@pytest.mark.parametrize(
    ("status", "document", "words"),
    [
        (401, {"code": "unauthorized", "message": "unauthorized access"}, ["401", "token_file"]),
        (403, {"error": '"nurse" user is not authorized'}, ["403", "token_file"]),
        (404, {"code": "not found", "message": 'bucket "vitals" not found'}, ["no such bucket", "CREATE DATABASE"]),
        (404, b"<html>404 page not found</html>", ["404", "is the url right?"]),
        (301, b"", ["301", "is the url right?"]),
        (400, {"error": "partial write: points beyond retention policy dropped=1"}, ["unlimited retention"]),
        (422, {"code": "unprocessable", "message": "points beyond retention policy"}, ["unlimited retention"]),
    ],
)
def test_server_that_will_not_is_a_line(standin, status, document, words):
    """Trying again is of no use."""
    standin.answers["/api/v2/write"] = [(status, document)]
    with raises_line(UserError, "vitals", *words):
        write(standin.config)


@pytest.mark.parametrize(
    ("document", "kind", "words"),
    [
        (b"<html>hello</html>", UserError, ["does not answer as InfluxDB does"]),
        (b'{"results": 5}', UserError, ["does not answer as InfluxDB does"]),
        (b"[]", UserError, ["does not answer as InfluxDB does"]),
        ({"results": [{"error": "database not found: vitals"}]}, UserError, ["no such bucket"]),
        ({"results": [{"error": 'not authorized to execute statement "SELECT"'}]}, UserError, ["token_file"]),
        ({"results": [{"error": "DELETE is not supported"}]}, UserError, ["not supported"]),
        ({"results": [{"error": "timeout"}]}, StoreAwayError, ["timeout"]),
        ({"error": "too many requests"}, StoreAwayError, ["too many requests"]),
        ({"results": [{"series": [], "partial": True}]}, StoreAwayError, ["stops in the middle"]),
    ],
)
def test_answer_to_a_query_may_be_a_fault(standin, document, kind, words):
    """Although its status is 200."""
    standin.answers["/query"] = [(200, document)]
    with InfluxStore(standin.config, readonly=True) as store, raises_line(kind, *words):
        store.cursor()


def test_token_goes_with_every_request_and_nowhere_else(standin, tmp_path):
    """It is read from a file that only its owner may read, and stands in no message."""
    path = tmp_path / "influx.token"
    path.write_text("se-cret==\nwhat else stands there\n")
    config = InfluxConfig(url=standin.config.url, bucket="vitals", token_file=path)
    with raises_line(UserError, f"chmod 600 {path}"):
        InfluxStore(config)
    path.chmod(0o600)
    standin.answers["/api/v2/write"] = [(401, {"message": "unauthorized"})]
    with raises_line(UserError, str(path)) as caught:
        write(config)
    assert {asked[3].get("Authorization") for asked in standin.asked} == {"Token se-cret=="}
    assert "se-cret" not in str(caught.value)
    path.write_text("two words\n")
    with raises_line(UserError, "no token"):
        InfluxStore(config)
    path.unlink()
    with raises_line(UserError, "No such file"):
        InfluxStore(config)


def test_server_over_tls_is_believed_by_its_ca(standin, tmp_path):
    """By the one that is configured: another one, a file that is none, or none at all are a line each."""
    ours, other = Authority(), Authority("another CA")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = ours.issue(key.public_key(), "influx", address=HOST).public_bytes(Encoding.PEM)
    files = {name: tmp_path / name for name in ("server.pem", "ours.pem", "other.pem", "none.pem")}
    files["server.pem"].write_bytes(certificate + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    files["ours.pem"].write_text(ours.pem)
    files["other.pem"].write_text(other.pem)
    files["none.pem"].write_text("nothing")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["server.pem"])
    standin.socket = context.wrap_socket(standin.socket, server_side=True)
    url = standin.config.url.replace("http:", "https:")

    def config(ca):
        return InfluxConfig(url=url, bucket="vitals", ca=None if ca is None else files[ca], timeout_s=5)

    assert write(config("ours.pem")) == ()
    for ca in ("other.pem", None):
        with raises_line(UserError, "its certificate is not believed"):
            write(config(ca))
    with raises_line(UserError, f"ca = {files['none.pem']}"):
        write(config("none.pem"))
    with raises_line(StoreAwayError):
        write(standin.config)


def test_write_names_the_bucket_and_compresses_only_if_asked(standin):
    """The v2 write API."""
    write(standin.config)
    write(InfluxConfig(url=standin.config.url, bucket="vitals", org="clinic", gzip=True))
    plain, _, packed, _ = [asked for asked in standin.asked if asked[0] == "/api/v2/write"]
    assert urllib.parse.parse_qs(plain[1]) == {"bucket": ["vitals"], "precision": ["ns"]}
    assert urllib.parse.parse_qs(packed[1])["org"] == ["clinic"]
    assert plain[2].startswith(b"reading,device=wrist-1,source=")
    assert packed[2].startswith(b"\x1f\x8b")


def test_cursor_is_written_when_all_else_is_acknowledged(standin, monkeypatch):
    """A request of its own, the last; not at all if one before it failed."""
    monkeypatch.setattr(requests, "REQUEST_POINTS", 2)
    write(standin.config, [at(0), at(1), at(2)])
    assert [asked[2].split(b",")[0].split(b" ")[0] for asked in standin.asked if asked[0] != "/query"] == [
        b"reading",
        b"reading",
        b"ledger_cursor",
    ]
    standin.asked.clear()
    standin.answers["/api/v2/write"] = [(204, b""), (503, b"")]
    with pytest.raises(StoreAwayError):
        write(standin.config, [at(0), at(1), at(2)])
    assert not [asked for asked in standin.asked if asked[2].startswith(b"ledger_cursor")]


def picky(*bad, message="unable to parse it"):
    """Answers of a server that writes nothing of a request that holds one of `bad`."""

    def answer(body):
        return (400, {"error": message}) if any(word in body for word in bad) else (204, b"")

    return answer


def test_refused_points_are_found_and_the_rest_is_written(standin):
    """One fault is named at a time; log n requests find each, and every other point was acknowledged."""
    items = stored(3, [at(second) for second in range(1000)])
    bad = [items[0], items[500], items[501], items[999]]
    words = [b" %d\n" % Reading.decode(item.body).sensor_time_ns for item in bad]
    accepted = []

    def answer(body):
        if any(word in body + b"\n" for word in words):
            return 400, {"error": "partial write: unable to parse 'reading,value=72e0': invalid number dropped=0"}
        accepted.extend(body.split(b"\n"))
        return 204, b""

    standin.answers["/api/v2/write"] = [answer]
    with InfluxStore(standin.config, readonly=True) as store:
        refused = store.write([], items, 4)
    assert refused == tuple(Refused(3, item.ref, "partial write: unable to parse ...: invalid number") for item in bad)
    assert len([line for line in accepted if line.startswith(b"reading")]) == 996
    assert accepted[-1].startswith(b"ledger_cursor")
    assert len(standin.asked) < 2 * 10 * len(bad) + 5


def test_server_that_refuses_everything_is_not_asked_about_every_point(standin):
    """Nor does the view stand still over it: each point is told, and the cursor goes on."""
    standin.answers["/api/v2/write"] = [picky(b"reading", message='field type conflict: "seal" is type integer')]
    refused = write(standin.config, [at(second) for second in range(1000)])
    assert sorted(item.ref for item in refused) == list(range(1, 1001))
    assert {item.why for item in refused} == {'field type conflict: "seal" is type integer'}
    assert len(standin.asked) < 400


def test_device_that_sends_rubbish_by_the_thousand_harms_itself_only(tmp_path, monkeypatch):
    """The database has enough of its sources: what it did not take is told exactly, and all of the others is there."""
    monkeypatch.setattr(requests, "REQUEST_POINTS", 100)
    many = [at(index, source=index.to_bytes(2, "big")) for index in range(1000)]
    drawn = [replace(wave(1), source=index.to_bytes(2, "big")) for index in range(500, 550)]
    good = [item for index in (0, 2, 4) for item in stored(index, [at(index), wave(index)])]
    items = [*good, *stored(1, many[:600], "bad"), *stored(3, [*many[400:], *drawn], "bad")]
    items.sort(key=lambda item: item.ref)
    with (
        InfluxServer(tmp_path, "max-values-per-tag = 150") as server,
        InfluxStore(server.config(server.fresh_database())) as store,
    ):
        put(store, 5, [at(9)])
        batches = [batch_of(index, [item for item in items if item.log_index == index]) for index in range(5)]
        refused = store.write(batches, items, 5)
        there = {row.ref for row in store.rows()}
        assert {item.ref for item in refused} == {item.ref for item in items} - there
        assert len(refused) == len({item.ref for item in refused}) > 500
        assert {item.ref for item in good} <= there
        assert len([sample for sample in store.samples() if sample.ref in {item.ref for item in good}]) == 150
        assert (store.cursor(), list(store.batch_indexes())) == (5, list(range(6)))


def test_request_that_is_too_large_is_halved_once_and_for_all(standin):
    """What follows is kept below it; a point that is too large by itself is refused."""
    sizes = []

    def answer(body):
        sizes.append(len(body))
        return (413, b"") if len(body) > 3000 else (204, b"")

    standin.answers["/api/v2/write"] = [answer]
    with InfluxStore(standin.config, readonly=True) as store:
        assert store.write([], stored(0, [at(second) for second in range(100)]), 1) == ()
        taken = len(sizes)
        assert store.write([], stored(1, [at(second) for second in range(100, 200)]), 2) == ()
        assert [size for size in sizes[taken:] if size > 3000] == []
        large = stored(2, [wave(0, 2000)])
        (refused,) = store.write([], large, 3)
    assert (refused.log_index, refused.ref) == (2, large[0].ref)
    assert "larger than the server takes" in refused.why


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("unable to parse 'reading,device=a seal=\"x\",value=72e0 5': bad number", "unable to parse ...: bad number"),
        ("invalid value 72.5 in field", "invalid value # in field"),
        ("value -7.25e-1 is odd\nand 120/80 too", "value # is odd and #/# too"),
        ('field "value" is type float64, already integer dropped=2', 'field "value" is type float64, already integer'),
        ("", "it does not say why"),
        ("x " * 500, ("x " * 100)),
    ],
)
def test_reason_repeats_no_value(said, why):
    """Neither the line nor a number in it."""
    assert reason(said) == why[:200]


def test_wait_for_a_bucket_without_end(influx_server):
    """A bucket with finite retention is refused when it is opened for writing; reading from it is fine."""
    name = influx_server.fresh_database()
    influx_server.query(f'ALTER RETENTION POLICY autogen ON "{name}" DURATION 30d')
    with raises_line(UserError, name, "720 hours", "unlimited retention"):
        InfluxStore(influx_server.config(name))
    with InfluxStore(influx_server.config(name), readonly=True) as store:
        assert store.cursor() == 0
        with raises_line(UserError, "unlimited retention"):
            put(store, 0, [Reading(b.SOURCE, 1, 5, 0, None, 0, Scalar(1, 0))])


def test_bucket_that_begins_to_forget_is_noticed(store, config, influx_server, monkeypatch):
    """Not at once, but not at the next start only either."""
    put(store, 0, [at(0)])
    influx_server.query(f'ALTER RETENTION POLICY autogen ON "{config.bucket}" DURATION 1000000h')
    put(store, 1, [at(1)])
    monkeypatch.setattr(influx, "RETENTION_EVERY_S", 0.0)
    with raises_line(UserError, "unlimited retention"):
        put(store, 2, [at(2)])


def test_device_called_retention_is_no_reason_to_stop(standin):
    """A server repeats the line that it refuses."""
    said = "partial write: unable to parse 'reading,device=retention-1 seal=': bad retention-1"
    standin.answers["/api/v2/write"] = [picky(b"reading", message=said)]
    assert len(write(standin.config)) == 1


def test_missing_database_is_made_by_clear_only(influx_server):
    """Everything else says how to make it."""
    with InfluxStore(influx_server.config('not "there"')) as store:
        for ask in (store.cursor, lambda: list(store.rows()), lambda: put(store, 0, [at(0)])):
            with raises_line(UserError, "no such bucket or database", "CREATE DATABASE"):
                ask()
        store.clear()
        items = put(store, 0, [at(0)])
        assert list(store.readings()) == items


@pytest.mark.parametrize("empty", [True, False])
def test_server_that_drops_nothing_is_cleared_by_hand(standin, empty):
    """As 3.x: then a rebuild that was asked for goes on, and not before."""
    row = {"columns": ["time", "entries"], "values": [[0, 5]]}

    def answer(body):
        text = urllib.parse.parse_qs(body.decode())["q"][0]
        if text.startswith("DROP"):
            return 400, {"error": "DROP MEASUREMENT is not supported"}
        return 200, {"results": [{"series": [] if empty or not text.startswith("SELECT") else [row]}]}

    standin.answers["/query"] = [answer]
    with InfluxStore(standin.config, readonly=True) as store:
        if empty:
            store.clear()
        else:
            with raises_line(UserError, "not supported"):
                store.clear()


def test_retention_that_nobody_tells_is_a_warning(standin, caplog):
    """3.x has no retention policies; who runs it has to know."""
    standin.answers["/query"] = [(200, {"results": [{"statement_id": 0}]})]
    with InfluxStore(standin.config):
        pass
    assert "make sure that it is for ever" in caplog.text


@pytest.mark.parametrize(("seconds", "fine"), [([0], True), ([], True), ([3600], False)])
def test_retention_of_a_bucket_is_asked_of_its_organisation(standin, seconds, fine):
    """By the buckets API of 2.x."""
    rules = [{"type": "expire", "everySeconds": second} for second in seconds]
    standin.answers["/api/v2/buckets"] = [(200, {"buckets": [{"name": "vitals", "retentionRules": rules}]})]
    config = InfluxConfig(url=standin.config.url, bucket="vitals", org="clinic")
    if fine:
        with InfluxStore(config):
            pass
    else:
        with raises_line(UserError, "1 hours"):
            InfluxStore(config)
    assert urllib.parse.parse_qs(standin.asked[0][1]) == {"name": ["vitals"], "org": ["clinic"]}


def test_clear_leaves_what_is_not_ours(store, config, influx_server):
    """Another program's measurement in the same bucket."""
    influx_server.write("cpu,host=a load=0.5 1", config.bucket)
    put(store, 0, [at(0)])
    store.clear()
    assert [series["name"] for series in influx_server.query("SELECT * FROM cpu", config.bucket)] == ["cpu"]


def test_real_field_conflict_is_refused_point_by_point(store, config, influx_server):
    """Somebody wrote text where numbers belong, in one week: that week's points are refused, and no others."""
    influx_server.write(f'reading,device=x value="text" {b.NOW_NS}', config.bucket)
    week = 7 * 24 * 3600
    items = stored(0, [at(0), at(week * 3), b.absent(), at(week * 6)])
    refused = store.write([batch_of(0, items)], items, 1)
    assert [(item.log_index, item.ref) for item in refused] == [(0, items[0].ref)]
    assert "field type conflict" in refused[0].why
    assert list(store.readings()) == items[1:]
    assert store.cursor() == 1


def test_points_that_influx_cannot_hold_are_refused(store):
    """The ends of 64 bits, a waveform that reaches beyond them, a name with a line break."""
    ends = [Reading(b.SOURCE, 1, time_ns, 0, None, 0, Scalar(1, 0)) for time_ns in (-(2**63), 2**63 - 1)]
    beyond = Reading(b.SOURCE, 14, 2**63 - 10, 0, None, 0, Waveform(5, 1, (1, 0), (0, 0), 1, 1, b"\x01\x02\x03"))
    items = stored(0, [*ends, beyond, at(0)])
    refused = store.write([], items, 1)
    assert [item.ref for item in refused] == [item.ref for item in items[:3]]
    broken = stored(1, [at(0)], "two\nlines") + stored(1, [at(1)], "ends in \\", 2) + stored(1, [at(2)], "a\0", 3)
    refused = store.write([batch_of(1, broken, "two\nlines")], broken, 2)
    assert [(item.log_index, item.ref) for item in refused] == [(1, None), *((1, item.ref) for item in broken)]
    assert list(store.readings()) == items[3:]
    with pytest.raises(MalformedError):
        store.write([], [StoredReading(5, "a", b"no reading", bytes(16))], 3)


GARBAGE = "reading,device=wrist-1,source=07,kind=heart_rate"


@pytest.mark.parametrize(
    ("line", "shows"),
    [
        (f'{GARBAGE} seal="not base64",value=5 7', {"ref": None, "body": None, "salt": None, "value": 5.0, "copy": 0}),
        (f'{GARBAGE} seal="QUJD",value=5 7', {"ref": None, "value": 5.0}),
        (f"{GARBAGE},copy=3 value=5 7", {"ref": None, "copy": 3}),
        (f"{GARBAGE},copy=03 value=5 7", {"copy": -1}),
        (f"{GARBAGE},ward=7 value=5 7", {"copy": -1, "device": "wrist-1"}),
        ("reading value=5 7", {"device": "", "source": "", "kind": "", "copy": 0}),
        ("reading,kind=nonsense,device=d quality=9i 7", {"kind": "nonsense", "quality": 9, "value": None}),
        (f"{GARBAGE} quality=2.5 7", {"quality": None}),
        (f'{GARBAGE} note="hello",value=1 7', {"value": 1.0}),
    ],
)
def test_rows_show_what_others_wrote(store, config, influx_server, line, shows):
    """Whatever it is; and the query in `where` finds it."""
    influx_server.write(line, config.bucket)
    (row,) = store.rows()
    assert row.time_ns == 7
    assert {name: getattr(row, name) for name in shows} == shows
    assert list(store.readings()) == list(store.select(Selection())) == []
    where, _, more = row.where.partition(" (which also has ")
    assert (more, bool(row.more)) == (f"{row.more})" if row.more else "", "note=" in line or "quality=2.5" in line)
    (found,) = influx_server.query(f"SELECT * FROM {where}", config.bucket)  # noqa: S608 - it is the text under test
    assert len(found["values"]) == 1


def test_value_that_is_no_number_equals_none(store, config, influx_server):
    """Text in `value` is neither nothing nor any number."""
    influx_server.write(f'{GARBAGE} value="72" 7', config.bucket)
    (row,) = store.rows()
    assert row.value is not None
    assert math.isnan(row.value)


def test_frames_show_what_others_wrote(store, config, influx_server):
    """A channel and a ref that are not ours."""
    influx_server.write('waveform,device=d c0=1,c2=3,ref="x",more=5 7', config.bucket)
    (sample,) = store.samples()
    assert (sample.values[:3], len(sample.values), sample.ref, sample.copy) == ((1.0, None, 3.0), 4, None, 0)
    assert math.isnan(sample.values[3])
    assert "more as float" in sample.where


@pytest.mark.parametrize(
    "line",
    [
        'ledger_batch,device=d header="QUJD" 5',
        'ledger_batch,device=d key="" 5',
        'ledger_batch,device=d key="AQ==" 5',
        'ledger_batch,device=other leaves0="" 0',
        "ledger_batch,device=wrist-1,ward=3 checkpoint=1i 0",
        'ledger_batch,device=wrist-1 leaves0="QUJD" 0',
        'ledger_batch,device=wrist-1 leaves2="" 0',
        'ledger_batch,device=wrist-1 inclusion="QUJD" 0',
        'ledger_batch,device=wrist-1 signature="??" 0',
    ],
)
def test_batch_record_that_somebody_changed_is_malformed(store, config, influx_server, line):
    """It is there, and cannot be believed."""
    put(store, 0, [at(0)])
    influx_server.write(line, config.bucket)
    index = int(line.rpartition(" ")[2])
    assert index in (0, *store.batch_indexes()) or "leaves" in line
    with pytest.raises(MalformedError):
        store.batch(index)


def test_batch_records_asked_for_in_order_are_read_ahead(store, config, monkeypatch):
    """A few queries for many; what is written meanwhile, by this store or by another one, is found all the same."""
    with InfluxStore(config, readonly=True) as other:
        batches = [batch_of(index, [], size=500) for index in range(0, 300, 3)]
        store.write(batches, [], 300)
        asked = []
        query = other._query
        monkeypatch.setattr(other, "_query", lambda text, **how: asked.append(text) or query(text, **how))
        assert [other.batch(batch.log_index).header for batch in batches] == [batch.header for batch in batches]
        assert len(asked) < 10
        assert other.batch(290) is None
        store.write([batch_of(290, [])], [], 300)
        assert other.batch(290) is not None
        (before, after) = store.batch(3), batch_of(3, [], size=500)
        store.write([after], [], 300)
        assert before != after == store.batch(3)


def test_checkpoint_that_is_gone_or_unreadable_is_empty(store, config, influx_server):
    """The batch record says under which size it ought to be."""
    put(store, 0, [at(0)])
    influx_server.write('ledger_checkpoint note="???" 1', config.bucket)
    with InfluxStore(config, readonly=True) as other:
        assert (other.batch(0).checkpoint, other.batch(0).checkpoint_at) == (b"", 1)
        assert list(other.checkpoints()) == [(1, b"")]
    influx_server.query("DROP MEASUREMENT ledger_checkpoint", config.bucket)
    with InfluxStore(config, readonly=True) as other:
        assert (other.batch(0).checkpoint, list(other.checkpoints())) == (b"", [])


@pytest.mark.parametrize(
    "line", ["ledger_cursor,x=y entries=5i 0", "ledger_cursor entries=-5i 0", 'ledger_cursor entries="5" 0']
)
def test_cursor_of_somebody_else_is_none(store, config, influx_server, line):
    """So everything is written once more."""
    influx_server.write(line, config.bucket)
    assert store.cursor() == 0


def test_row_moved_within_its_device_is_erased(store, config, influx_server):
    """It is not where the batch record says."""
    items = put(store, 0, [at(0), at(1)])
    (row,) = [row for row in store.rows() if row.ref == items[1].ref]
    ((_, seal),) = influx_server.query(f"SELECT seal FROM {row.where}", config.bucket)[0]["values"]  # noqa: S608
    influx_server.query(f"DELETE FROM {row.where}", config.bucket)  # noqa: S608
    influx_server.write(f'{GARBAGE},copy=77 seal="{seal}" 7', config.bucket)
    assert list(store.readings()) == items
    store.erase(0, [2])
    assert list(store.readings()) == items[:1]


def test_erasure_that_was_cut_off_is_finished(store, monkeypatch):
    """The rows were deleted, the record's span still told of them: the next time it does not."""
    put(store, 0, [at(0), at(1), wave(2)])

    def gone(_):
        raise StoreAwayError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(store._server, "post", gone)
        with pytest.raises(StoreAwayError):
            store.erase(0, [3])
    assert store.batch(0).span_ns == (b.NOW_NS, b.NOW_NS + 2 * 10**9)
    store.erase(0, [3])
    assert store.batch(0).span_ns == (b.NOW_NS, b.NOW_NS + 10**9)


def test_cursor_that_the_server_will_not_have_is_a_line(store, config, influx_server):
    """Somebody wrote text where it stands."""
    influx_server.write('ledger_cursor entries="5" 0', config.bucket)
    with raises_line(UserError, "ledger_cursor", "field type conflict"):
        put(store, 0, [at(0)])


def test_rows_without_a_readable_record_are_erased(store, config, influx_server):
    """Everything is looked through."""
    items = put(store, 4, [at(0), wave(1)]) + put(store, 20, [at(0), wave(1)], "wrist-2")
    influx_server.query("DROP MEASUREMENT ledger_batch", config.bucket)
    store.erase(4, [1, 2])
    assert list(store.readings()) == items[2:]
    assert {sample.ref for sample in store.samples()} == {items[3].ref}


def test_server_that_does_not_delete_is_a_line(standin):
    """3.x, or a DELETE that means something else there: what is left is counted."""
    item = stored(0, [at(0)])[0]
    line = next(point_lines(make_point(item), 0))[0]
    seal = line.split(b'"')[1].decode()
    row = {"tags": {"device": "wrist-1"}, "columns": ["time", "seal"], "values": [[5, seal]]}

    def answer(body):
        text = urllib.parse.parse_qs(body.decode())["q"][0]
        return 200, {"results": [{"series": [row] if text.startswith('SELECT "seal"') else []}]}

    standin.answers["/query"] = [answer]
    with InfluxStore(standin.config, readonly=True) as store, raises_line(UserError, "still has 1 rows of entry 0"):
        store.erase(0, [1])


def test_long_answers_are_walked_in_pieces(store, config, monkeypatch):
    """One that is abandoned in the middle leaves the store usable, and others can be asked meanwhile."""
    items = put(store, 0, [at(second) for second in range(4000)])
    rows = store.rows()
    first = next(rows)
    assert store.batch(0) is not None
    rows.close()
    assert first.ref == 1
    assert [item.ref for item in store.readings()] == [item.ref for item in items]


def points(*readings):
    return [make_point(item) for item in stored(0, readings)]


def test_series_that_moves_forward_asks_nobody():
    """Nor one whose waveforms overlap a little, nor a notification of several equal times."""
    copies = Copies()
    first = points(*(at(second) for second in range(100)), *(wave(second, 51) for second in range(100)))
    copies.learn(copies.strangers(first), {})
    for point in first:
        assert copies.behind([point]) == []
        copies.take(point)
        copies.settle()
    again = points(*(at(99, ordinal=number) for number in range(REMEMBERED - 1)))
    assert copies.behind(again) == []
    assert [copies.take(point) for point in again] == list(range(1, REMEMBERED))


def test_series_that_goes_back_asks():
    """Below what it remembers; and at once if the store held something when it was opened."""
    copies = Copies()
    first = points(*(at(second) for second in range(100)))
    copies.learn(copies.strangers(first), {first[0].series: b.NOW_NS})
    assert copies.behind(first) == first[:1]
    for point in first:
        copies.take(point)
    copies.settle()
    (behind,) = copies.behind(points(at(100 - REMEMBERED - 1), at(100 - REMEMBERED)))
    assert behind.start_ns == b.NOW_NS + (100 - REMEMBERED - 1) * 10**9


def test_memory_of_a_series_is_bounded():
    """Whatever was written through it."""
    copies = Copies()
    for portion in range(5):
        for point in points(*(wave(portion * 50 + number / 2) for number in range(100))):
            copies.take(point)
        copies.settle()
    (track,) = copies._tracks.values()
    assert len(track.heads) + len(track.stretches) <= REMEMBERED


def test_series_and_tags_stay_few(store, config, influx_server):
    """One series a sensor and kind, however many readings; five measurements; no tag but four."""
    put(store, 0, [at(second) for second in range(50)] + [wave(60), at(0)])
    keys = Counter(key.partition(",")[0] for (key,) in influx_server.query("SHOW SERIES", config.bucket)[0]["values"])
    assert keys == {"reading": 3, "waveform": 1, "ledger_batch": 1, "ledger_checkpoint": 1, "ledger_cursor": 1}
    tags = {key for series in influx_server.query("SHOW TAG KEYS", config.bucket) for (key,) in series["values"]}
    assert tags == {"device", "source", "kind", "copy"}


def test_sensor_whose_clock_stands_still_gets_so_many_copies_and_no_more(store, monkeypatch):
    """Each is a tag, which the database keeps for ever; what is beyond is refused, and told."""
    monkeypatch.setattr(copies, "MAX_COPIES", 5)
    items = stored(0, [at(0)] * 3) + stored(1, [at(0)] * 4) + stored(2, [at(1), wave(9)])
    for index in range(3):
        refused = store.write([], [item for item in items if item.log_index == index], index + 1)
        assert [item.ref for item in refused] == ([items[5].ref, items[6].ref] if index == 1 else [])
    with monkeypatch.context() as patch:
        patch.setattr(store, "_copies", Copies())
        assert [item.ref for item in store.write([], items, 3)] == [items[5].ref, items[6].ref]
    assert sorted(row.copy for row in store.rows()) == [0, 0, 0, 1, 2, 3, 4]


def test_what_is_kept_of_readings_that_meet_is_bounded(store):
    """However many are drawn across each other: a number of bits for each, and no list of whom it meets."""
    day = replace(wave(0, 2).value, period_ns=86_400 * SECOND)
    waves = [Reading(b.SOURCE, 14, b.NOW_NS + second * SECOND, 0, None, 0, day) for second in range(120)]
    store.write([], stored(0, waves[:60]), 1)
    taken = occupants(store._server.query, [make_point(item) for item in stored(1, waves[60:])])
    assert {one.others.bit_count() for one in taken.values()} == {60}


def test_sensors_that_somebody_makes_up_are_forgotten_again(store, monkeypatch):
    """And found again in the database by whoever goes on: nothing is overwritten."""
    monkeypatch.setattr(copies, "KNOWN_SERIES", 10)
    readings = [at(0, source=bytes([number])) for number in range(1, 30)]
    items = put(store, 0, readings)
    assert store._copies._tracks == {}
    items += put(store, 1, readings[:5])
    assert list(store.readings()) == items


def test_frames_of_one_nanosecond_are_one_point():
    """The last of them, whatever requests they are sent in."""
    for divisor, count in ((1, 9), (2, 5), (3, 4), (8, 2), (100, 2)):
        value = Waveform(1, divisor, (1, 0), (0, 0), 1, 1, bytes(range(8)))
        lines = [line for line, _ in point_lines(points(Reading(b.SOURCE, 14, 5, 0, None, 0, value))[0], 0)]
        assert len(lines) == len({line.rpartition(b" ")[2] for line in lines[1:]}) + 1 == point_count(value) == count
        assert b" c0=7e0," in lines[-1]


def answer(series):
    return {"results": [{"statement_id": 0, "series": series}]}


@pytest.mark.parametrize(
    "document",
    [
        b"[" * 100_000,
        b'{"results": [{"series": [{"columns": ["time"], "values": [[' + b"9" * 5000 + b"]]}]}]}",
        b'{"results": [{"series": [{"columns": ["time", "seal"], "values": [[NaN, Infinity]]}]}]}',
        answer([{"columns": ["time", "seal"], "values": [[2**63, ""]]}]),
        answer([{"columns": ["time", "seal"], "values": [["x", "y"]]}]),
        answer([{"columns": ["seal"], "values": [["x"]]}]),
        answer([{"columns": ["time", "time"], "values": [[1, 1]]}]),
        answer([{"columns": ["time", None], "values": [[1, 1]]}]),
        answer([{"columns": ["time"], "values": [[]]}]),
        answer([{"columns": ["time"], "values": [5]}]),
        answer([{"columns": ["time"], "values": 5}]),
        answer([{"values": [[1]]}]),
        answer([{"tags": 5, "columns": ["time"], "values": []}]),
        answer([{"tags": {"device": 5}, "columns": ["time"], "values": []}]),
        answer([5]),
        answer(5),
        {"results": [5]},
        {"results": [{"statement_id": "x", "series": [{"columns": ["time"]}]}]},
    ],
    ids=range(18),
)
def test_answer_that_no_influx_gives_is_a_line(standin, document):
    """Whatever is asked for: who reads the database of somebody hostile gets no other error."""
    standin.answers["/query"] = [(200, document)]
    with InfluxStore(standin.config, readonly=True) as store:
        for ask in everything(store):
            with raises_line(UserError, "does not answer as InfluxDB does"):
                ask()


def everything(store):
    """All that can be asked of a store."""
    chart = Selection("a", b"b", 1, 0, 100)
    return [
        store.cursor,
        *(lambda ask=ask: list(ask()) for ask in (store.readings, store.rows, store.samples, store.batch_indexes)),
        *(lambda ask=ask: list(ask()) for ask in (store.checkpoints, lambda: store.select(Selection()))),
        lambda: store.chart(chart, 10),
        lambda: store.erase(1, [1]),
        lambda: store.write([], stored(0, [at(0)]), 1),
    ]


@pytest.mark.parametrize(
    "series",
    [
        {"columns": ["time"], "values": [[1]]},
        {"columns": ["time", "seal", "entries"], "values": []},
        {"tags": {"device": "\ud800"}, "columns": ["time", "seal", "\udc00"], "values": [[1, "A" * 64, 5]]},
        {"columns": ["time", "entries", "ref", "value"], "values": [[1, 10**400, 10**400, 10**400]]},
        {"columns": ["time", "count", "min", "mean", "max"], "values": [[1, None, "x", None, []]]},
    ],
    ids=["no columns", "no rows", "half characters", "huge numbers", "no numbers"],
)
def test_rows_that_no_influx_gives_are_rows(standin, series):
    """They are shown, or are nothing, and can be printed and stored."""
    standin.answers["/query"] = [(200, {"results": [{"statement_id": 99, "series": [series]}]})]
    with InfluxStore(standin.config, readonly=True) as store:
        for ask in everything(store):
            with contextlib.suppress(UserError, MalformedError):
                repr(ask()).encode()


def test_answer_of_one_piece_is_bounded(standin, monkeypatch):
    """In memory, whatever somebody sends without a line break."""
    monkeypatch.setattr(parsing, "MAX_DOCUMENT", 10_000)
    standin.answers["/query"] = [(200, answer([{"columns": ["time", "seal"], "values": [[1, "A"]] * 100_000}]))]
    with (
        InfluxStore(standin.config, readonly=True) as store,
        raises_line(UserError, "does not answer as InfluxDB does"),
    ):
        list(store.rows())


def test_requests_are_bounded():
    """In points and in bytes; nothing is sent where there is nothing."""
    sent = []
    sender = Requests(sent.append)
    assert sender.send([]) == ()
    assert sent == []
    line = b"x" * 1000
    sender.send((line, (0, index)) for index in range(5000))
    assert max(map(len, sent)) <= requests.REQUEST_BYTES
    assert b"\n".join(sent).split(b"\n") == [line] * 5000
    sent.clear()
    sender.send((b"y", (0, index)) for index in range(requests.REQUEST_POINTS + 1))
    assert [len(body.split(b"\n")) for body in sent] == [requests.REQUEST_POINTS, 1]


@pytest.mark.parametrize("error", [RefusedError("no"), TooLargeError()])
def test_reading_with_several_refused_points_is_refused_once(error):
    """The frames of a waveform are one reading."""

    def post(_):
        raise error

    lines = [(b"a", (1, 4097)), (b"b", (1, 4097)), (b"c", (1, None))]
    assert [(item.log_index, item.ref) for item in Requests(post).send(lines)] == [(1, 4097), (1, None)]


def test_line_of_the_largest_batch_fits_its_fields():
    """No string field is longer than 64 KB."""
    batch = batch_of(0, [], leaves=LEAVES_PER_BATCH)
    line, owner = batch_line(batch, checkpoint_size(batch.checkpoint))
    assert owner == (0, None)
    assert max(map(len, line.split(b'"'))) <= 64_000


def test_seal_pattern_finds_the_readings_of_an_entry():
    """And of its fifteen neighbours, whose refs begin with the same 48 bits."""
    assert influxql.sealed_by(0) == influxql.sealed_by(15) != influxql.sealed_by(16)
    slashed = next(index for index in range(2**20) if "\\/" in influxql.sealed_by(index * 16))
    assert "/^" in influxql.sealed_by(slashed * 16)
