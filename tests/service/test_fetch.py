"""Reading a log over HTTP: the same as from its directory, and bounded whatever the server does."""

import gzip
import sys
from concurrent.futures import wait
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import RedirectResponse
from starlette.routing import Route

from ledger.errors import LedgerError, MalformedError
from ledger.fsck import fsck
from ledger.policy import parse_policy
from ledger.service.fetch import AHEAD, ReadAhead, log_reader
from ledger.service.http_log import FetchError, HttpLog, Patience, open_url
from ledger.tiles import parse_tile_path, tiles_of
from ledger.writer.files import list_files, read_file
from vitalseal.cli import main

from .servers import (
    POLICY,
    PUBLIC,
    Scripted,
    answer,
    grow_log,
    make_certificate,
    make_log,
    ok,
    running,
    say_for_ever,
    say_nothing_more,
    serving,
)

# Nothing is worth a pause here, and only where a server is to hang is it given up soon.
HASTE = Patience(attempts=3, backoff_s=0.0, max_pause_s=0.0)
SOON = Patience(timeout_s=0.1, attempts=3, backoff_s=0.0, max_pause_s=0.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A log of 700 entries."""
    return make_log(tmp_path_factory.mktemp("log") / "data", 700)


@pytest.fixture(scope="module")
def url(data):
    """Where it is served."""
    with serving(data / PUBLIC) as url:
        yield url


def read(script: Scripted, path: str = "checkpoint", patience: Patience = HASTE) -> bytes | None:
    """What one fetch from a scripted server gives."""
    with open_url(script.url, patience) as log:
        return log(path)


def refused(script: Scripted, match: str, path: str = "checkpoint", patience: Patience = HASTE) -> None:
    """One fetch from a scripted server ends in one line that matches."""
    with pytest.raises(FetchError, match=match) as caught:
        read(script, path, patience)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert script.url in str(caught.value)


def test_every_file_reads_as_on_disk(data, url):
    """Each file of the log has the same bytes over HTTP, over one connection; what is not there is None."""
    public = data / PUBLIC
    with open_url(url) as log:
        for path in list_files(public):
            assert log(path) == read_file(public, path)
        assert log("tile/0/999") is None
        assert log("tile/entries/000") == read_file(public, "tile/entries/000")
        assert log._pool.connection_from_url(url).num_connections == 1


def test_path_of_no_log_is_not_asked_for(url):
    """Only the checkpoint and tiles have a known bound, so nothing else is read."""
    with open_url(url) as log, pytest.raises(MalformedError, match="tile path"):
        log("../sequencer.db")


@pytest.mark.parametrize("size", [0, 1, 256, 257, 700])
def test_fsck_over_http_equals_fsck_of_the_directory(tmp_path, capsys, size):
    """The command reports the same on a log's directory and on its URL, and exits 0."""
    data = make_log(tmp_path / "data", size)
    with serving(data / PUBLIC) as url:
        said = []
        for place in (str(data / PUBLIC), url, url.rstrip("/")):
            assert main(["ledger", "fsck", place, "--policy", str(data / POLICY)]) == 0
            said.append(capsys.readouterr())
    assert said[0].out.startswith(f"log.example.org/vitalseal: size {size}, root ")
    assert said == [said[0]] * 3


@pytest.mark.parametrize("path", ["tile/entries/001", "tile/0/000", "tile/0/002.p/188", "tile/1/000.p/2", "checkpoint"])
def test_fsck_over_http_finds_what_fsck_of_the_directory_finds(tmp_path, capsys, path):
    """A changed byte is found over HTTP, with the same words and exit code 1."""
    data = make_log(tmp_path / "data", 700)
    file = data / PUBLIC / path
    content = bytearray(file.read_bytes())
    content[20] ^= 1
    file.write_bytes(content)
    with serving(data / PUBLIC) as url:
        said = []
        for place in (str(data / PUBLIC), url):
            assert main(["ledger", "fsck", place, "--policy", str(data / POLICY)]) == 1
            said.append(capsys.readouterr().err.replace(place, "LOG"))
    assert said == [said[0]] * 2


def test_log_that_grows_while_it_is_read(data, tmp_path):
    """Partial tiles that make way after the checkpoint was read are found in the full ones."""
    data = make_log(tmp_path / "data", 300)
    policy = parse_policy((data / POLICY).read_bytes())

    def grow_first(done, total):
        if done == 256:
            grow_log(data, 600)

    with serving(data / PUBLIC) as url, open_url(url) as log:
        assert fsck(log, policy, progress=grow_first).checkpoint.checkpoint.size == 300


def test_directory_is_read_in_place(data, tmp_path):
    """A directory needs no HTTP; its files are listed, and what is no directory is refused."""
    with log_reader(str(data / PUBLIC)) as (fetch, paths):
        assert sorted(paths) == sorted(list_files(data / PUBLIC))
        assert fetch("tile/0/000") == read_file(data / PUBLIC, "tile/0/000")
    with pytest.raises(FetchError, match="neither a directory nor"), log_reader(str(tmp_path / "none")):
        pass


class Recording:
    """A fetch from memory that notes what it is asked for."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files
        self.asked: list[str] = []

    def __call__(self, path: str) -> bytes | None:
        self.asked.append(path)
        return self._files.get(path)


def test_reading_ahead_asks_for_each_file_once(data):
    """What is read ahead is what is then wanted: no file twice, and none that is not there."""
    public = data / PUBLIC
    fetch = Recording({path: (public / path).read_bytes() for path in list_files(public)})
    ahead = ReadAhead(fetch)
    report = fsck(ahead, parse_policy((data / POLICY).read_bytes()))
    ahead.close()
    assert report.checkpoint.checkpoint.size == 700
    assert sorted(fetch.asked) == sorted(["checkpoint", *(tile.path for tile in tiles_of(700))])


def test_reading_ahead_stays_near():
    """However large the log says it is, and wherever it is read, only the next bundles are asked for."""
    checkpoint = f"example.org/log\n{2**60}\n{'A' * 43}=\n\n\u2014 example.org/log AAAAAAAA\n".encode()
    fetch = Recording({"checkpoint": checkpoint})
    ahead = ReadAhead(fetch)
    ahead("checkpoint")
    for path in ("tile/entries/000", "tile/entries/001", "tile/entries/x001/000"):
        assert ahead(path) is None
    assert len(ahead._coming) == 2 * AHEAD - 1
    ahead._threads.shutdown()
    near = [*range(AHEAD + 1), *range(1000, 1000 + AHEAD)]
    assert sorted(parse_tile_path(path).index for path in fetch.asked[1:]) == sorted([*near, *near])
    ahead.close()


def test_reading_ahead_hands_on_what_went_wrong():
    """An error in a request sent ahead is raised where its answer is wanted."""

    def fetch(path: str) -> bytes | None:
        raise FetchError(f"{path}: no")

    ahead = ReadAhead(fetch)
    ahead._size = 600
    for path in ("tile/entries/000", "tile/0/000", "tile/entries/002.p/88", "checkpoint"):
        with pytest.raises(FetchError, match=path):
            ahead(path)
    ahead.close()


@pytest.mark.parametrize("wrong", [FetchError("HTTP status 503"), None], ids=["error", "nothing"])
def test_reading_ahead_after_an_outage(data, wrong):
    """What went wrong is forgotten when the next reading begins, with the checkpoint: it is asked for again."""
    public = data / PUBLIC
    down = True

    def fetch(path: str) -> bytes | None:
        if down and path != "checkpoint":
            if wrong is not None:
                raise wrong
            return None
        return read_file(public, path)

    policy = parse_policy((data / POLICY).read_bytes())
    ahead = ReadAhead(fetch)
    with pytest.raises((FetchError, LedgerError)):
        fsck(ahead, policy)
    wait(ahead._coming.values())
    assert ahead._coming
    down = False
    assert fsck(ahead, policy).checkpoint.checkpoint.size == 700
    ahead.close()


def test_reading_ahead_keeps_what_came(data):
    """What was read ahead before a failure is not asked for a second time after it."""
    public = data / PUBLIC
    files = {path: (public / path).read_bytes() for path in list_files(public)}
    fetch = Recording({path: content for path, content in files.items() if path != "tile/entries/001"})
    ahead = ReadAhead(fetch)
    policy = parse_policy((data / POLICY).read_bytes())
    with pytest.raises(LedgerError, match="tile/entries/001: missing"):
        fsck(ahead, policy)
    wait(ahead._coming.values())
    fetch._files, fetch.asked = files, []
    ahead("checkpoint")
    assert ahead("tile/entries/001") == files["tile/entries/001"]
    wait(ahead._coming.values())
    assert fetch.asked == ["checkpoint", "tile/entries/001"]
    ahead.close()


CHUNKED = answer("200 OK", "Transfer-Encoding: chunked")
GZIPPED = "Content-Encoding: gzip"


@pytest.mark.parametrize(
    ("path", "reply"),
    [
        ("checkpoint", ok(bytes(256 * 1024 + 1))),
        ("tile/0/000.p/2", ok(bytes(65))),
        ("tile/0/000", say_for_ever(answer("200 OK"), bytes(1024))),
        ("tile/entries/000.p/1", say_for_ever(CHUNKED, b"400\r\n" + bytes(1024) + b"\r\n")),
        ("tile/entries/000.p/1", say_for_ever(answer("200 OK", "Content-Length: 9" + "0" * 17), bytes(1024))),
        ("tile/0/000", ok(gzip.compress(bytes(10_000_000)), GZIPPED)),
        ("tile/0/000", ok(gzip.compress(bytes(8193)), GZIPPED)),
    ],
    ids=["checkpoint", "tile", "endless", "endless chunks", "enormous length", "gzip bomb", "gzip"],
)
def test_answer_that_is_too_large(path, reply):
    """No more is read, or decompressed, than can be at the path, and it is not tried again."""
    with Scripted(reply) as script:
        refused(script, "more than the [0-9,]+ bytes that can be there", path)
        assert len(script.asked) == 1


def test_answer_as_large_as_can_be():
    """The bounds are exact: what may be there is read, compressed or not."""
    for path, size in (("checkpoint", 256 * 1024), ("tile/0/000", 8192), ("tile/entries/000.p/1", 65_537)):
        with Scripted(ok(bytes(size)), ok(gzip.compress(bytes(size)), GZIPPED)) as script:
            assert read(script, path) == read(script, path) == bytes(size)


@pytest.mark.parametrize(
    ("reply", "match"),
    [
        (answer("500 Oops"), "HTTP status 500, 3 times in a row; try again later"),
        (answer("429 Slow Down", "Retry-After: 100000"), "HTTP status 429, 3 times"),
        (b"", "3 times in a row"),
        (b"SSH-2.0-OpenSSH\r\n", "3 times in a row"),
        (ok(b"12345678")[:-3], "3 times in a row"),
        (CHUNKED + b"5\r\n123", "3 times in a row"),
        (CHUNKED + b"many\r\n123", "3 times in a row"),
        (ok(gzip.compress(b"1234")[:-3], GZIPPED), "damaged gzip encoding, 3 times"),
        (ok(gzip.compress(b"1234") + b"5", GZIPPED), "damaged gzip encoding, 3 times"),
        (ok(b"1234", GZIPPED), "damaged gzip encoding, 3 times"),
        (say_nothing_more(b""), "Read timed out.*3 times"),
        (say_nothing_more(b"HTTP/1.1 200 OK\r\nContent-"), "Read timed out.*3 times"),
        (say_nothing_more(answer("200 OK", "Content-Length: 10") + b"1234"), "Read timed out.*3 times"),
        (say_for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "Read timed out.*3 times"),
        (answer("301 Moved", "Location: x" + "y" * 70_000), "3 times"),
    ],
)
def test_server_that_fails_again_and_again(reply, match):
    """What may pass is tried as often as there are attempts, then reported."""
    with Scripted(reply) as script:
        refused(script, match, patience=HASTE if isinstance(reply, bytes) else SOON)
    assert script.asked == ["GET /checkpoint HTTP/1.1"] * 3


@pytest.mark.parametrize(
    ("reply", "match"),
    [
        (answer("403 Forbidden"), "HTTP status 403; is this the URL of a log"),
        (answer("204 No Content"), "HTTP status 204"),
        (answer("206 Partial Content", "Content-Length: 0"), "HTTP status 206"),
        (answer("304 Not Modified"), "HTTP status 304"),
        (ok(b"1234", "Content-Encoding: br"), "content encoding 'br' was not asked for"),
        (ok(b"1234", "Content-Encoding: gzip, gzip"), "was not asked for"),
        (answer("302 Found"), "redirect too many"),
        (answer("302 Found", "Location: /checkpoint"), "redirect too many, after 3"),
        (answer("302 Found", "Location: file:///etc/passwd"), "redirect to 'file:///etc/passwd' is not followed"),
        (answer("302 Found", "Location: ftp://example.org/"), "is not followed"),
        (answer("302 Found", "Location: /\x1b[2J"), r"x1b\[2J' is not followed"),
        (answer("302 Found", "Location: http://[x/"), r"redirect to 'http://\[x/' is not followed"),
    ],
)
def test_answer_that_will_not_change(reply, match):
    """What another attempt would not mend is reported at the first."""
    with Scripted(reply) as script:
        refused(script, match)
        assert len(script.asked) <= 4
        assert set(script.asked) == {"GET /checkpoint HTTP/1.1"}


def test_answer_that_comes_too_slowly():
    """Bytes that keep coming do not extend the time that a whole answer has."""
    with Scripted(say_for_ever(CHUNKED, b"1\r\n1\r\n")) as script:
        refused(script, "Read timed out, 3 times", "tile/entries/000", SOON)


@pytest.mark.parametrize("first", [answer("503 Busy"), b"", ok(b"12")[:-1], say_nothing_more(b"")])
def test_server_that_fails_once(first):
    """A passing fault is passed over."""
    with Scripted(first, ok(b"fine")) as script:
        assert read(script, patience=HASTE if isinstance(first, bytes) else SOON) == b"fine"


def test_pauses_grow_or_are_what_the_server_asks_for():
    """The pause doubles; a server's own wish replaces it; neither goes beyond the longest that is waited."""
    replies = [
        answer("503 Busy"),
        answer("503 Busy"),
        answer("429 Slow Down", "Retry-After: 7"),
        answer("429 Slow Down", "Retry-After: 3600"),
        answer("503 Busy", "Retry-After: Wed, 21 Oct 2037 07:28:00 GMT"),
        ok(b"fine"),
    ]
    pauses = []

    class Patient(HttpLog):
        def _pause(self, seconds):
            pauses.append(seconds)

    patience = Patience(timeout_s=10, attempts=6, backoff_s=1, max_pause_s=10)
    with Scripted(*replies) as script, open_url(script.url, patience) as log:
        log.__class__ = Patient
        assert log("checkpoint") == b"fine"
    assert pauses == [1, 2, 7, 10, 10]


def test_redirect_within_http(url, data):
    """A log that has moved is found, wherever it went over HTTP."""
    with Scripted(answer("301 Moved", f"Location: {url}checkpoint")) as script:
        assert read(script) == read_file(data / PUBLIC, "checkpoint")


def test_redirect_to_a_host_that_cannot_be():
    """What comes of a redirect is named with where it led."""
    with Scripted(answer("301 Moved", f"Location: http://{'x' * 64}.org/")) as script:
        with pytest.raises(FetchError, match=r"^http://x{64}.org/: .*, 3 times in a row"):
            read(script)
        assert len(script.asked) == 3


def test_nobody_listens():
    """A refused connection is one line that names the URL."""
    with Scripted(b"") as script:
        pass
    refused(script, "Connection refused, 3 times")


def test_log_that_was_closed(url):
    """After `close` nothing is read, and no connection is opened."""
    with open_url(url) as log:
        pass
    with pytest.raises(FetchError, match="not read any more"):
        log("checkpoint")


def test_certificate_is_checked(data, tmp_path, monkeypatch):
    """A certificate that nobody trusts ends it at once; one that SSL_CERT_FILE names is trusted."""
    tls = make_certificate(tmp_path)
    with serving(data / PUBLIC, **tls) as url:
        assert url.startswith("https://127.0.0.1:")
        with (
            open_url(url, HASTE) as log,
            pytest.raises(FetchError, match=r"certificate not trusted: self.signed certificate; for a private CA"),
        ):
            log("checkpoint")
        monkeypatch.setenv("SSL_CERT_FILE", str(tls["tls_cert"]))
        with open_url(url) as log:
            assert log("checkpoint") == read_file(data / PUBLIC, "checkpoint")
        with (
            open_url(url.replace("127.0.0.1", "localhost"), HASTE) as log,
            pytest.raises(FetchError, match="not trusted: Hostname mismatch"),
        ):
            log("checkpoint")


def test_redirect_out_of_tls(url, tmp_path, monkeypatch):
    """What was asked for over https is not read over http."""
    tls = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tls["tls_cert"]))
    app = Starlette(routes=[Route("/checkpoint", lambda _request: RedirectResponse(f"{url}checkpoint"))])
    with running(app, **tls) as secure:
        for spelling in (secure, secure.replace("https", "HTTPS")):
            with open_url(spelling) as log, pytest.raises(FetchError, match="is not followed"):
                log("checkpoint")


@pytest.mark.parametrize(
    "place",
    [
        "ftp://example.org/log",
        "http://",
        "http:///log",
        "https://[::1/log",
        "http://example.org:99999/",
        "http://example.org:0/",
        "http://example.org:port/",
        "http://user:secret@example.org/",
        "http://example.org/?log",
        "http://example.org/#log",
        "http://example.org/a b",
        "http://example.org/\n",
        "http://ex\u00e4mple.org/",
        "://",
    ],
)
def test_place_that_is_no_url_of_a_log(place, data, capsys):
    """A URL that cannot be a log's is a wrong call: exit code 2 and one line."""
    assert main(["ledger", "fsck", place, "--policy", str(data / POLICY)]) == 2
    assert "is not the URL of a log" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["a..b", ".", "x" * 64 + ".org", "0x7f.1.1.1.1.1", "[::g]", "%41"])
def test_host_that_cannot_be(host):
    """Whatever a host's name looks like, what comes of it is a FetchError."""
    with pytest.raises(FetchError), open_url(f"http://{host}:1/", HASTE) as log:
        log("checkpoint")


def test_without_urllib3(monkeypatch, capsys, data):
    """The bare install reads directories, and says what a URL needs."""
    monkeypatch.setitem(sys.modules, "urllib3", None)
    policy = ["--policy", str(data / POLICY)]
    assert main(["ledger", "fsck", "http://example.org/", *policy]) == 2
    assert "needs urllib3: in vitalseal's clone, type  pip install '.[witness]'" in capsys.readouterr().err
    assert main(["ledger", "fsck", str(data / PUBLIC), *policy]) == 0


def test_wrong_content_is_not_believed(data):
    """A server that answers every path with the same sound bytes does not pass for a log."""
    content = (data / PUBLIC / "checkpoint").read_bytes()
    with Scripted(ok(content)) as script, log_reader(script.url) as (fetch, paths), pytest.raises(LedgerError):
        fsck(fetch, parse_policy(Path(data / POLICY).read_bytes()), paths=paths)
