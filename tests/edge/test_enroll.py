"""`vitalseal edge enroll`: from a token to a gateway that can deliver, whatever happens on the way."""

import contextlib
import io
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edge import enroll as enrolling
from edge import files, identity
from edge.config import load
from edge.database import Owner, lock
from edge.enroll import Wanted, enroll
from edge.key import load_key
from edge.outbox import Outbox
from edge.seal import Sealer
from edge.setup import SourceSpec
from edge.token import parse_token
from ledger.keys import key_id
from ledger.messages import Reason
from ledger.note import NoteSigner
from tests.brokers import HOST, free_port
from tests.edge.desk import Desk
from tests.edge.pki import HOUR, Authority, write_identity
from tests.edge.standin import ORIGIN, POLICY_TEXT
from vitalseal.cli import main
from vitalseal.errors import UserError


@pytest.fixture
def desk(tmp_path):
    with Desk(tmp_path) as desk:
        yield desk


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A gateway's empty directory, in which the commands are given."""
    path = tmp_path / "gateway"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


def names(place):
    return sorted(path.name for path in place.iterdir())


MADE = ["ca.crt", "edge.key", "edge.toml", "policy.txt", "tls.crt", "tls.key"]


def test_token_makes_a_gateway(desk, place, capsys):
    """Keys, certificate, CA, policy and configuration are there; the log has the key; and the command says so."""
    desk.broker = ("broker.example", 8883)
    assert main(["edge", "enroll", desk.token(), "--source", "wrist=lines:path=wrist.ndjson"]) == 0
    config = load(place / "edge.toml")
    signer = load_key(config.key)
    assert names(place) == MADE
    assert (config.device, config.origin, config.desk.port) == ("dev-1", ORIGIN, desk.port)
    assert (config.broker.host, config.broker.port) == desk.broker
    assert [source.name for source in config.sources] == ["wrist"]
    assert (place / "tls.key").stat().st_mode & 0o777 == 0o600
    assert (place / "policy.txt").read_text() == POLICY_TEXT
    (entry,) = desk.log
    entry.check()
    assert entry.key_id == key_id(1, signer.public_key)
    said = capsys.readouterr().out
    assert entry.key_id.hex() in said
    assert "entry 0 of the log" in said
    assert "vitalseal edge run" in said


def test_private_keys_stay_here(desk, place, monkeypatch):
    """Nothing that is sent has a byte of either private key in it."""
    sent = []
    exchange = enrolling.Desk._exchange
    monkeypatch.setattr(
        enrolling.Desk, "_exchange", lambda self, *what: sent.append(repr(what)) or exchange(self, *what)
    )
    enroll(place / "edge.toml", parse_token(desk.token()), Wanted())
    seed = load_key(place / "edge.key")._key.private_bytes_raw().hex()
    scalar = identity._read_key(place / "tls.key").private_numbers().private_value
    assert any("/v1/enrol" in what for what in sent)
    assert not any(seed in what or f"{scalar:x}" in what or "PRIVATE" in what for what in sent)


@pytest.mark.parametrize("how", ["argument", "file", "stdin"])
def test_token_comes_by_argument_file_or_standard_input(desk, place, monkeypatch, how):
    """The last two keep it out of the list of processes."""
    (place / "token").write_text(desk.token() + "\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(desk.token() + "\n"))
    arguments = {"argument": [desk.token()], "file": ["--token-file", "token"], "stdin": ["-"]}[how]
    assert main(["edge", "enroll", *arguments]) == 0


def test_another_ca_is_a_loud_refusal_and_nothing_is_sent(desk, place, capsys):
    """Somebody in between shows his own CA: the secret never leaves, and nothing is left behind."""
    assert main(["edge", "enroll", desk.token(fingerprint=Authority("m").fingerprint)]) == 2
    said = capsys.readouterr().err
    assert "NOT THE RIGHT DESK" in said
    assert said.count("\n") == 1
    assert (names(place), desk.calls) == ([], ["/v1/ca"])


def test_right_ca_shown_by_a_server_of_another_is_refused(tmp_path, desk, place, capsys):
    """The fingerprint is public; what counts is the server's certificate."""
    with Desk(tmp_path / "m", ca=Authority("m")) as false:
        false.ca = desk.ca
        assert main(["edge", "enroll", false.token()]) == 2
        assert false.calls == ["/v1/ca"]
    assert "the desk's certificate is not signed by the CA" in capsys.readouterr().err
    assert names(place) == []


def test_desk_under_another_name_is_refused(desk, place, capsys):
    """Its certificate is for 127.0.0.1 only."""
    assert main(["edge", "enroll", desk.token(host="localhost")]) == 2
    assert "is for another name" in capsys.readouterr().err


@pytest.mark.parametrize(
    "token", ["", "vst1.", "vst2.AAAA", "vst1.####", "vst1.AAAA", "vst1." + "A" * 2000, "vst1.AA+A", "vst1.kwECAw"]
)
def test_what_is_no_token_is_one_line_that_does_not_quote_it(place, capsys, token):
    """It is, or nearly is, a secret."""
    assert main(["edge", "enroll", "--token-file", "/dev/null"] if not token else ["edge", "enroll", token]) == 2
    said = capsys.readouterr().err
    assert "token" in said
    assert said.count("\n") == 1
    assert len(token) < 6 or token not in said


def test_token_cut_short_is_refused(desk):
    """Every prefix of one, and one with a byte more."""
    token = desk.token()
    for wrong in [token[:end] for end in range(len(token))] + [token + "A"]:
        with pytest.raises(UserError, match=r"^token: "):
            parse_token(wrong)
    assert parse_token(f" {token}\n").device == "dev-1"


def test_lost_answer_costs_a_second_call(desk, place):
    """The desk did its work and the answer was lost: the same command ends it, with the same key and one entry."""
    desk.lose = 1
    token = parse_token(desk.token())
    with pytest.raises(UserError, match="desk"):
        enroll(place / "edge.toml", token, Wanted())
    key = load_key(place / "edge.key").public_key
    assert not (place / "edge.toml").exists()
    assert enroll(place / "edge.toml", token, Wanted()).index == 0
    assert (load_key(place / "edge.key").public_key, len(desk.log)) == (key, 1)
    assert names(place) == MADE


class Cut(Exception):  # noqa: N818 - stands for a power cut
    """The process is gone."""


def cut_after(monkeypatch, steps):
    """Files' changes to the disk work `steps` times, and then the process is gone."""
    left = [steps]

    def counted(function):
        def change(*args, **others):
            if not left[0]:
                raise Cut
            left[0] -= 1
            return function(*args, **others)

        return change

    for name in ("write_new", "replace", "move"):
        monkeypatch.setattr(files, name, counted(getattr(files, name)))
    return left


def usable(config):
    """The gateway's certificate and key are a pair."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls_files = config.broker.tls
    context.load_cert_chain(tls_files.certificate, tls_files.key)
    return True


@pytest.mark.parametrize("steps", range(9))
def test_cut_anywhere_the_same_command_finishes(desk, place, monkeypatch, steps):
    """After any change to the disk: one key, one entry, a pair that fits, and nothing left over."""
    token = parse_token(desk.token())
    with monkeypatch.context() as patch:
        left = cut_after(patch, steps)
        with contextlib.suppress(Cut):
            enroll(place / "edge.toml", token, Wanted(sources=[SourceSpec("s", "lines", {"path": "x"})]))
        finished = left[0] > 0
    if not finished:
        enroll(place / "edge.toml", token, Wanted(sources=[SourceSpec("s", "lines", {"path": "x"})]))
    assert (names(place), len(desk.log)) == (MADE, 1)
    assert usable(load(place / "edge.toml"))
    assert desk.log[0].public_key == load_key(place / "edge.key").public_key


def test_finished_gateway_says_so(desk, place, capsys):
    """Once more: nothing is changed, nothing is asked."""
    assert main(["edge", "enroll", desk.token()]) == 0
    before = {path: path.read_bytes() for path in place.iterdir()}
    desk.calls.clear()
    assert main(["edge", "enroll", desk.token()]) == 0
    assert "enrolled already" in capsys.readouterr().out
    assert ({path: path.read_bytes() for path in place.iterdir()}, desk.calls) == (before, [])


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            lambda outbox: outbox.record_reject((0, 0), Reason.ENDED_KEY, "revoked"),
            "takes nothing of this gateway's key",
        ),
        (lambda outbox: outbox.record_reject((0, 0), Reason.UNKNOWN_KEY, ""), "unknown key; to enrol it"),
        (
            lambda outbox: outbox.record_connection("refused", "the broker refuses this: revoked; x"),
            "refuses this: revoked",
        ),
    ],
)
def test_gateway_whose_key_is_refused_is_told_to_enrol_again(desk, place, capsys, told, said):
    """Success would send it back to where it came from."""
    assert main(["edge", "enroll", desk.token()]) == 0
    config = load(place / "edge.toml")
    config.data.mkdir()
    signer = load_key(config.key)
    owner = Owner(config.device, config.origin, key_id(1, signer.public_key), config.key)
    with contextlib.closing(Outbox(config.outbox_file, owner)) as outbox:
        outbox.heartbeat(Sealer(signer, ORIGIN))
        told(outbox)
    assert main(["edge", "enroll", desk.token()]) == 2
    found = capsys.readouterr().err
    assert said in found
    assert "add --again" in found
    desk.used_by = None
    assert main(["edge", "enroll", desk.token(), "--again"]) == 0
    assert main(["edge", "enroll", desk.token()]) == 0  # what was said was said of the old key


def test_ended_certificate_is_replaced_and_the_signing_key_stays(desk, place):
    """A gateway that was away longer than its certificate lived needs a token, and no new key."""
    desk.validity = {"begins": -2 * HOUR, "ends": -HOUR}
    enroll(place / "edge.toml", parse_token(desk.token()), Wanted())
    key = (place / "edge.key").read_bytes()
    desk.validity = {"begins": -HOUR, "ends": HOUR}
    assert enroll(place / "edge.toml", parse_token(desk.token()), Wanted()).index == 0
    assert ((place / "edge.key").read_bytes(), len(desk.log)) == (key, 1)
    assert usable(load(place / "edge.toml"))


def init(place):
    (place / "policy.txt").write_text(POLICY_TEXT)
    common = ["--device", "dev-1", "--origin", ORIGIN, "--policy", "policy.txt"]
    assert main(["edge", "init", *common, "--source", "wrist=lines:path=wrist.ndjson"]) == 0


def test_gateway_made_by_hand_keeps_its_key_and_its_sources(desk, place, capsys):
    """`init` first, `enroll` then: the configuration gains broker, identity and desk; the old one stays beside it."""
    init(place)
    before = load(place / "edge.toml")
    key = (place / "edge.key").read_bytes()
    with (place / "edge.toml").open("a") as file:
        file.write("[batching]\nmax_readings = 7 # a comment\n")
    text = (place / "edge.toml").read_bytes()
    assert main(["edge", "enroll", desk.token()]) == 0
    config = load(place / "edge.toml")
    assert (config.sources, config.batching.max_readings) == (before.sources, 7)
    assert (place / "edge.key").read_bytes() == key
    assert config.desk is not None
    assert (place / "edge.toml.before-enrolment").read_bytes() == text
    assert "edge.toml.before-enrolment" in capsys.readouterr().out


def test_again_takes_a_new_key_and_keeps_the_old_file(desk, place):
    """After a revocation: another key is enrolled for the device, and takes the old one's place at the end."""
    enroll(place / "edge.toml", parse_token(desk.token()), Wanted())
    old = load_key(place / "edge.key")
    certificate = (place / "tls.crt").read_bytes()
    desk.used_by = None  # another token
    assert enroll(place / "edge.toml", parse_token(desk.token()), Wanted(), again=True).index == 1
    new = load_key(place / "edge.key")
    aside = place / f"edge.key.{key_id(1, old.public_key).hex()[:8]}"
    assert [entry.public_key for entry in desk.log] == [old.public_key, new.public_key]
    assert (load_key(aside).public_key, aside.stat().st_mode & 0o777) == (old.public_key, 0o600)
    assert (place / "tls.crt").read_bytes() != certificate
    assert names(place) == sorted([*MADE, aside.name])


@pytest.mark.parametrize("steps", range(6))
def test_again_cut_anywhere_is_finished_by_the_same_command(desk, place, monkeypatch, steps):
    """The new key takes over last, so until then the command does the rest with the same one."""
    token = parse_token(desk.token())
    enroll(place / "edge.toml", token, Wanted())
    old = load_key(place / "edge.key").public_key
    desk.used_by = None
    with monkeypatch.context() as patch:
        left = cut_after(patch, steps)
        with contextlib.suppress(Cut):
            enroll(place / "edge.toml", token, Wanted(), again=True)
        finished = left[0] > 0
    if not finished:
        enroll(place / "edge.toml", token, Wanted(), again=True)
    new = load_key(place / "edge.key").public_key
    assert [entry.public_key for entry in desk.log] == [old, new]
    assert usable(load(place / "edge.toml"))


def test_again_waits_for_the_agent_to_be_stopped(desk, place):
    """An agent that runs would go on sealing with the old key."""
    enroll(place / "edge.toml", parse_token(desk.token()), Wanted())
    config = load(place / "edge.toml")
    config.data.mkdir()
    config.outbox_file.touch()
    descriptor = lock(config.outbox_file)
    with open(descriptor, "rb"), pytest.raises(UserError, match="stop it first"):  # noqa: PTH123 - closes it
        enroll(place / "edge.toml", parse_token(desk.token()), Wanted(), again=True)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda desk, _: setattr(desk, "refuse", (409, "the token was used by another key")), "used by another key"),
        (
            lambda desk, _: setattr(desk, "refuse", (410, "the token has expired")),
            "has expired (the keys made here are kept",
        ),
        (lambda desk, _: setattr(desk, "refuse", (403, "no\nsuch\x1b token")), "no?such? token"),
        (lambda desk, _: setattr(desk, "busy", 9), "does not take it in"),
        (lambda desk, _: setattr(desk, "origin", "other.example/log"), "names no log"),
        (lambda _, place: (place / "policy.txt").write_text("another"), "not what the desk has"),
        (lambda _, place: (place / "edge.key").write_text("x"), "edge.key"),
    ],
)
def test_enrolment_that_fails_is_one_line_and_no_configuration(desk, place, capsys, change, fault):
    """Each says what is wrong; there is no agent that could start."""
    change(desk, place)
    assert main(["edge", "enroll", desk.token()]) == 2
    said = capsys.readouterr().err
    assert fault in said
    assert said.count("\n") == 1
    assert not (place / "edge.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--source", "a=lines:path=x"], "already there"),
        (["--key", "pkcs11:x"], "takes --again"),
        (["--again", "--policy", "policy.txt"], "already there"),
    ],
)
def test_what_does_not_go_with_a_configured_gateway_is_refused(desk, place, capsys, arguments, fault):
    """Nothing is silently left out."""
    init(place)
    assert main(["edge", "enroll", desk.token(), *arguments]) == 2
    assert fault in capsys.readouterr().err


def test_token_of_another_device_is_refused(desk, place, capsys):
    """One gateway, one name."""
    init(place)
    assert main(["edge", "enroll", desk.token(device="dev-2")]) == 2
    assert "this gateway is dev-1" in capsys.readouterr().err


def test_nobody_at_the_desk_is_one_line(place, capsys, desk):
    """Refused at once, and nothing is left behind."""
    token = parse_token(desk.token())
    with pytest.raises(UserError, match=f"desk {HOST}:[0-9]+: Connection refused$"):
        enroll(place / "edge.toml", type(token)(HOST, free_port(), bytes(32), "dev-1", bytes(16)), Wanted())
    assert names(place) == []


def test_certificate_for_another_key_is_not_installed(tmp_path):
    """What the desk sends is looked at before the old pair is touched."""
    ca = Authority()
    tls_files, _ = write_identity(tmp_path / "a", ca, "dev-1")
    before = tls_files.certificate.read_bytes()
    csr = x509.load_pem_x509_csr(identity.prepare(tls_files, "dev-1").encode())
    for certificate in (
        ca.issue(create_other(tmp_path), "dev-1"),
        ca.issue(csr.public_key(), "dev-2"),
        Authority("another").issue(csr.public_key(), "dev-1"),
    ):
        with pytest.raises(UserError, match="certificate that the desk sent"):
            identity.install(tls_files, "dev-1", ca.pem, pem(certificate))
    assert tls_files.certificate.read_bytes() == before
    identity.install(tls_files, "dev-1", ca.pem, pem(ca.issue(csr.public_key(), "dev-1")))
    assert tls_files.certificate.read_bytes() != before


def create_other(tmp_path):
    other, _ = write_identity(tmp_path / "other", Authority(), "x")
    return identity._read_key(other.key).public_key()


def pem(certificate):
    return certificate.public_bytes(Encoding.PEM).decode()


def test_init_that_cannot_write_the_enrolment_leaves_nothing(place, capsys):
    """A wrong --enrolments: no key and no configuration that a second try would stumble over."""
    (place / "policy.txt").write_text(POLICY_TEXT)
    (place / "registrar.key").write_text(NoteSigner("r.example", bytes(32)).skey() + "\n")
    (place / "registrar.key").chmod(0o600)
    before = names(place)
    common = ["--device", "dev-1", "--origin", ORIGIN, "--policy", "policy.txt", "--registrar", "registrar.key"]
    assert main(["edge", "init", *common, "--enrolments", "policy.txt/x"]) == 2
    assert "policy.txt" in capsys.readouterr().err
    assert names(place) == before
    assert main(["edge", "init", *common, "--enrolments", "enrolments"]) == 0


def test_desk_that_never_ends_its_answer_is_left(desk, place, monkeypatch):
    """More than an answer may have is not read on."""
    monkeypatch.setattr("edge.desk.MAX_ANSWER", 100)
    with pytest.raises(UserError, match="is it a desk"):
        enroll(place / "edge.toml", parse_token(desk.token()), Wanted())
