"""Keys in a token, with SoftHSM: made there, never out; and what a gateway says when a token is not as it should be."""

import asyncio
import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pkcs11 as library
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import pkcs11
from edge.cli import make_agent
from edge.config import BrokerConfig, load
from edge.key import create_token_key, load_key, prepare_successor, promote_successor, successor
from edge.pkcs11 import TokenUri, beside, open_key, parse_uri
from ledger.keys import ECDSA_P256, ED25519, check_signature
from tests.edge.desk import Desk
from tests.edge.standin import StandIn
from vitalseal.cli import main
from vitalseal.errors import UserError

MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
PIN = "73519462"


class Tokens:
    """A directory of SoftHSM's, with one token named gw."""

    def __init__(self, directory):
        self.module = next((path for path in MODULES if Path(path).exists()), None)
        if self.module is None or shutil.which("softhsm2-util") is None:
            raise RuntimeError("softhsm2 is missing: run  apt-get install softhsm2  (`make test` does)")
        self.config = directory / "softhsm2.conf"
        self.store = directory / "tokens"
        self.store.mkdir()
        self.config.write_text(f"directories.tokendir = {self.store}\nlog.level = ERROR\n")
        self.pin = directory / "pin"
        self.pin.write_text(PIN + "\n")
        self.pin.chmod(0o600)

    def make(self):
        pins = ("--pin", PIN, "--so-pin", "91827364")
        command = ["softhsm2-util", "--init-token", "--free", "--label", "gw", *pins]
        subprocess.run(command, check=True, capture_output=True)

    def replug(self):
        """Every session is gone, and the module looks anew which tokens there are."""
        library.lib(self.module).reinitialize()

    def uri(self, name="seal", token="gw"):  # noqa: S107 - a label
        return f"pkcs11:token={token};object={name}?module-path={self.module}&pin-source=file:{self.pin}"


@pytest.fixture
def tokens(tmp_path, monkeypatch):
    """A token of its own for this test."""
    path = tmp_path / "hsm"
    path.mkdir()
    tokens = Tokens(path)
    monkeypatch.setenv("SOFTHSM2_CONF", str(tokens.config))
    tokens.make()
    tokens.replug()
    return tokens


@pytest.fixture(params=[ED25519, ECDSA_P256])
def algorithm(request, monkeypatch):
    """Of a token that knows Ed25519, and of one that does not."""
    monkeypatch.setattr(pkcs11, "_knows_ed25519", lambda _: request.param == ED25519)
    return request.param


def test_key_is_made_in_the_token_and_signs(tokens, tmp_path, algorithm):
    """Twenty signatures in the format's one spelling (half of P-256's come with the higher s); the file has no key."""
    signer = create_token_key(tmp_path / "edge.key", tokens.uri())
    assert signer.algorithm == algorithm
    for at in range(20):
        check_signature(algorithm, signer.public_key, signer.sign(b"%d" % at), b"%d" % at)
    assert load_key(tmp_path / "edge.key").public_key == signer.public_key
    assert (tmp_path / "edge.key").read_text() == tokens.uri() + "\n"
    assert (tmp_path / "edge.key").stat().st_mode & 0o777 == 0o600


def test_private_key_cannot_be_taken_out(tokens, algorithm):
    """The token refuses its value to the user who may sign with it."""
    private = open_key(tokens.uri(), create=True)._private
    assert private[library.Attribute.EXTRACTABLE] is False
    assert private[library.Attribute.NEVER_EXTRACTABLE] is True
    with pytest.raises(library.AttributeSensitive):
        private[library.Attribute.VALUE]


def test_key_outlives_the_process_and_the_file(tokens, tmp_path):
    """A crash between making the key and writing the file: the next try finds the same key."""
    made = open_key(tokens.uri(), create=True).public_key
    tokens.replug()
    assert create_token_key(tmp_path / "edge.key", tokens.uri()).public_key == made


def test_successor_is_another_key_in_the_same_token(tokens, tmp_path):
    """Its name is the first one's and eight hex digits, however often the key is exchanged."""
    path = tmp_path / "edge.key"
    keys = [create_token_key(path, tokens.uri()).public_key]
    for _ in range(3):
        keys.append(prepare_successor(path).public_key)
        assert prepare_successor(path).public_key == keys[-1]
        promote_successor(path, keep=False)
        assert load_key(path).public_key == keys[-1]
        assert re.fullmatch(r"seal-[0-9a-f]{8}", parse_uri(path.read_text().strip()).object)
    assert len(set(keys)) == 4
    assert not successor(path).exists()


def test_token_that_was_pulled_out_is_one_line(tokens):
    """The session is gone: said in one line, and a new process finds the key again."""
    signer = open_key(tokens.uri(), create=True)
    tokens.replug()
    with pytest.raises(UserError, match="is it plugged in") as caught:
        signer.sign(b"x")
    assert "\n" not in str(caught.value)
    assert open_key(tokens.uri()).public_key == signer.public_key


def test_what_is_wrong_with_a_token_is_named(tokens, tmp_path):
    """Each in one line, and without the PIN."""
    open_key(tokens.uri(), create=True)
    for uri, fault in [
        (tokens.uri("other"), "holds no private key 'other'"),
        (tokens.uri("seal", "other"), "no token with this label"),
        (tokens.uri().replace(tokens.module, "/nowhere.so"), r"/nowhere\.so"),
        (tokens.uri().replace("pin-source=file:", "pin-source=file:/nowhere"), "PIN /nowhere"),
    ]:
        with pytest.raises(UserError, match=fault):
            open_key(uri)
    tokens.replug()
    tokens.pin.write_text("11112222")
    with pytest.raises(UserError, match="the PIN in the file is wrong") as caught:
        open_key(tokens.uri())
    assert "11112222" not in str(caught.value)
    tokens.pin.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        open_key(tokens.uri())


@pytest.mark.parametrize(
    ("uri", "fault"),
    [
        ("pkcs11:", "known, once each, are"),
        ("pkcs11:token=a;object=b", "known, once each, are"),
        ("pkcs11:token=a;object=b?module-path=/m", "names no pin-source"),
        ("pkcs11:token=a?module-path=/m&pin-source=file:/p", "names no object"),
        ("pkcs11:token=a;object=b?module-path=/m&pin-value=1234", "'pin-value'"),
        ("pkcs11:token=a;token=a;object=b?module-path=/m&pin-source=file:/p", "'token'"),
        ("pkcs11:token=a;object=b?module-path=m&pin-source=file:/p", "not absolute"),
        ("pkcs11:token=a;object=b?module-path=/m&pin-source=|cat", "pin-source is not file:"),
    ],
)
def test_uri_that_does_not_say_all_is_refused(uri, fault):
    """And a PIN in it is not quoted."""
    with pytest.raises(UserError, match=re.escape(fault)) as caught:
        parse_uri(uri)
    assert "1234" not in str(caught.value)


@given(st.text(min_size=1), st.text(min_size=1))
def test_uri_survives_any_label(token, name):
    """Labels may have any characters; what is written reads as the same."""
    text = str(TokenUri(token, name, Path("/a b/m&x.so"), Path("/p;?=%")))
    assert parse_uri(text) == TokenUri(token, name, Path("/a b/m&x.so"), Path("/p;?=%"))
    assert parse_uri(beside(text)).token == token


def test_missing_extra_is_named(tokens, monkeypatch):
    """Whoever has no token needs no library for it."""
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(UserError, match=r"pip install '.\[pkcs11\]'"):
        open_key(tokens.uri())


async def test_gateway_with_a_token_seals_for_real(tokens, mosquitto, tmp_path, monkeypatch, capsys):
    """Enrolled with a key in the token, every reading receipted; the stand-in checks each signature."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrist.ndjson").write_text(
        "".join(f'{{"kind":"steps","value":{at},"time":{at}}}\n' for at in range(300))
    )
    with Desk(tmp_path) as desk:
        source = ["--source", "wrist=lines:path=wrist.ndjson,follow=false"]
        arguments = ["edge", "enroll", desk.token(), "--key", tokens.uri(), *source]
        assert await asyncio.to_thread(main, arguments) == 0
    assert parse_uri((tmp_path / "edge.key").read_text().strip()).object == "seal"
    config = load(tmp_path / "edge.toml")
    config = dataclasses.replace(config, desk=None, broker=BrokerConfig(port=mosquitto.port))
    async with StandIn(mosquitto, load_key(config.key)) as standin, asyncio.timeout(30):
        await make_agent(config).run(exit_when_done=True)
        assert len(standin.readings) == 300
