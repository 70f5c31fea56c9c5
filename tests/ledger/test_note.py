"""Signed notes, vkeys, checkpoints and cosignatures as C2SP specifies them, and every way to spell them wrongly."""

import pytest

from ledger.checkpoint import Checkpoint, parse_checkpoint
from ledger.errors import MalformedError, VerificationError
from ledger.note import (
    MAX_NOTE,
    MAX_SIGNATURES,
    Note,
    NoteSigner,
    Signature,
    VerifierKey,
    parse_note,
    parse_vkey,
    sign_note,
    verify_note,
)
from ledger.strict import encode_base64

from . import builders as b

# The known answer of signed-note, from golang.org/x/mod.
EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE_NOTE = (
    "This is an example message.\n\n"
    "\u2014 example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72Ine"
    "yaQM=\n"
)
# The checkpoint with cosignature in tlog-cosignature, whose form we must read.
SOFA = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "\u2014 example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+"
    "zyWE+xeMcTOAYQ8=\n"
    "\u2014 witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0"
    "xUe+mbIUBkBIfZ+qnA==\n"
)


def line(name="a", blob=bytes(5)):
    """A signature line."""
    return str(Signature(name, blob[:4], blob[4:]))


def test_note_known_answer():
    """The published example verifies under its published key, and is spelled as published."""
    key = parse_vkey(EXAMPLE_KEY)
    note = parse_note(EXAMPLE_NOTE.encode())
    assert verify_note(note, [key]) == (key,)
    assert note.text == "This is an example message.\n"
    assert str(key) == EXAMPLE_KEY


def test_checkpoint_published():
    """The checkpoint printed in tlog-cosignature is read, with its cosignature's time."""
    note = parse_note(SOFA.encode())
    checkpoint = parse_checkpoint(note.text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert int.from_bytes(note.signatures[1].signature[:8], "big") == 1679315147


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\n\n",
        b"text\n",
        b"text\n\n",
        b"text\n" + line().encode(),
        b"text\n\n" + line().encode()[:-1],
        b"text\r\n\r\n" + line().encode(),
        b"text\n\n" + line().encode().replace(b"\n", b"\r\n"),
        b"te\x00xt\n\n" + line().encode(),
        b"te\txt\n\n" + line().encode(),
        b"te\xffxt\n\n" + line().encode(),
        b"te\xed\xa0\x80xt\n\n" + line().encode(),
        b"text\n\n" + line().encode() + b"\n",
        b"text\n\n" + line().encode() + b"trailing",
        b"text\n\n" + line().encode() + b"trailing\n",
        b"text\n\n- a AAAAAAA=\n",
        "text\n\n\u2014a AAAAAAA=\n".encode(),
        "text\n\n\u2014  a AAAAAAA=\n".encode(),
        "text\n\n\u2014 a  AAAAAAA=\n".encode(),
        "text\n\n\u2014 a AAAAAAA= \n".encode(),
        "text\n\n \u2014 a AAAAAAA=\n".encode(),
        "text\n\n\u2014 a b AAAAAAA=\n".encode(),
        "text\n\n\u2014 a+b AAAAAAA=\n".encode(),
        "text\n\n\u2014 a\u00a0b AAAAAAA=\n".encode(),
        "text\n\n\u2014 a\u2028b AAAAAAA=\n".encode(),
        "text\n\n\u2014\u00a0a AAAAAAA=\n".encode(),
        "text\n\n\u2014 a AAAAAAB=\n".encode(),
        "text\n\n\u2014 a AAAAAAA\n".encode(),
        "text\n\n\u2014 a AAAA\n".encode(),
        "text\n\n\u2014 a AAAAAA==\n".encode(),
        "text\n\n\u2014 a ==AAAAAAA=\n".encode(),
        "text\n\n\u2014 a AAAA\u2028AAA=\n".encode(),
        "text\n\n\u2014 a AAAA_AA=\n".encode(),
        "text\n\n\u2014 a \uff21AAAAAA=\n".encode(),
        "text\n\n\u2014 a \n".encode(),
    ],
)
def test_note_malformed(data):
    """What is not a signed note, or another spelling of one, is refused."""
    with pytest.raises(MalformedError):
        parse_note(data)


def test_note_splits_at_its_last_empty_line():
    """Empty lines and look-alike signature lines may stand in the text, line separators of Unicode too."""
    text = "a\n\n" + line("fake") + "\u2028b\n\n\n"
    note = parse_note((text + "\n" + line()).encode())
    assert (note.text, len(note.signatures)) == (text, 1)


@pytest.mark.parametrize("count", [1, 16, MAX_SIGNATURES])
def test_note_with_many_lines(count):
    """Up to 80 signature lines are read; the specification asks for 16."""
    assert len(parse_note(("text\n\n" + line() * count).encode()).signatures) == count


def test_note_with_too_many_lines():
    """One line more is refused."""
    with pytest.raises(MalformedError, match="81 signature lines"):
        parse_note(("text\n\n" + line() * 81).encode())


def test_note_of_the_largest_size():
    """A note of 256 KB is read, one byte more is refused."""
    tail = "\n\n" + line()
    data = "x" * (MAX_NOTE - len(tail.encode())) + tail
    assert len(parse_note(data.encode()).text) > 250_000
    with pytest.raises(MalformedError, match="more than the 262144 allowed"):
        parse_note(("x" + data).encode())


def test_note_by_nobody_known():
    """A note without a line by a known key is refused, whatever strangers signed."""
    note = sign_note("text\n", [b.log_signer("stranger")])
    with pytest.raises(VerificationError, match="no signature by a known key"):
        verify_note(note, [b.log_signer().verifier])


def test_note_with_lines_by_strangers():
    """Lines by unknown keys are ignored, those that share a name or an id with a known key included."""
    signer = b.log_signer()
    good = signer.sign("text\n")
    strangers = (
        Signature("x", bytes(4), b"?"),
        Signature(good.name, bytes(4), good.signature),
        Signature("other", good.key_id, good.signature),
    )
    note = parse_note(Note("text\n", (*strangers, good)).encode())
    assert verify_note(note, [signer.verifier]) == (signer.verifier,)


def test_note_with_a_good_and_a_bad_line_by_one_key():
    """A bad line by a known key refuses the note, before or after a good one; a second good one does not."""
    signer = b.log_signer()
    good = signer.sign("text\n")
    bad = Signature(good.name, good.key_id, bytes(64))
    assert verify_note(Note("text\n", (good, good)), [signer.verifier]) == (signer.verifier,)
    for lines in ((good, bad), (bad, good), (good, Signature(good.name, good.key_id, good.signature[:-1]))):
        with pytest.raises(VerificationError):
            verify_note(Note("text\n", lines), [signer.verifier])


@pytest.mark.parametrize("name", ["a\u200bb", "a\u00adb", "a\U0001fae9b", "a\ue000b", "a\u061cb"])
def test_note_with_a_stranger_whose_name_is_unprintable(name):
    """A stranger's line is ignored whatever his name, as long as it holds no space or plus sign (signed-note)."""
    signer = b.log_signer()
    note = parse_note(("text\n\n" + str(signer.sign("text\n")) + line(name)).encode())
    assert verify_note(note, [signer.verifier]) == (signer.verifier,)


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "example.com/foo",
        "example.com/foo+530d903a",
        "+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530D903A+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903b+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903a0+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903\uff11+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/bar+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k\n",
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2",
        "example.com/foo+530d903a+",
        "example com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "\udcff+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        str(VerifierKey("a", 1, bytes(32))),
        str(VerifierKey("a", 1, b.device().public_key[:-1])),
        str(VerifierKey("a", 2, b.device().public_key)),
        str(VerifierKey("a", 6, bytes(1311))),
    ],
)
def test_vkey_malformed(vkey):
    """Another form, id, type, length or a useless key is refused."""
    with pytest.raises(MalformedError):
        parse_vkey(vkey)


def test_vkey_whose_base64_holds_a_plus():
    """A vkey is split at its first two plus signs only."""
    for number in range(100):
        key = b.log_signer(name=f"plus {number}").verifier
        if "+" in encode_base64(b"\x01" + key.public_key):
            break
    assert str(key).count("+") > 2
    assert parse_vkey(str(key)) == key


@pytest.mark.parametrize(
    "skey",
    [
        "",
        "PRIVATE+KEY+",
        "PRIVATE+KEY+a+00000000+AQ==",
        b.log_signer().skey().removeprefix("PRIVATE+KEY+"),
        "x" + b.log_signer().skey(),
        b.log_signer().skey() + "\n",
        b.log_signer().skey().replace("log.example.org", "log.example.net"),
        b.log_signer().skey().replace("PRIVATE", "private"),
    ],
)
def test_private_key_malformed(skey):
    """A private key that does not belong to its name and id is refused."""
    with pytest.raises(MalformedError):
        NoteSigner.parse(skey)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u00a0b", "a\u2028b", "\udcff"])
def test_signer_with_a_name_that_is_none(name):
    """A key name is not empty and holds no space or plus sign."""
    with pytest.raises(MalformedError):
        NoteSigner(name, bytes(32))


ROOT = encode_base64(bytes(32))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        f"o\n1\n{ROOT}",
        f"o\n1\n{ROOT}\n\n",
        f"o\n1\n{ROOT}\nextension\n",
        f"o\n1\n{ROOT} \n",
        f"\n1\n{ROOT}\n",
        f"o o\n1\n{ROOT}\n",
        f"o+o\n1\n{ROOT}\n",
        f"{'o' * 256}\n1\n{ROOT}\n",
        f"{'é' * 128}\n1\n{ROOT}\n",
        f"o\n\n{ROOT}\n",
        f"o\n+42\n{ROOT}\n",
        f"o\n-1\n{ROOT}\n",
        f"o\n042\n{ROOT}\n",
        f"o\n00\n{ROOT}\n",
        f"o\n4_2\n{ROOT}\n",
        f"o\n\uff14\uff12\n{ROOT}\n",
        f"o\n\u0664\u0662\n{ROOT}\n",
        f"o\n 42\n{ROOT}\n",
        f"o\n42 \n{ROOT}\n",
        f"o\n0x2a\n{ROOT}\n",
        f"o\n1e3\n{ROOT}\n",
        f"o\n{2**64}\n{ROOT}\n",
        f"o\n{'9' * 5000}\n{ROOT}\n",
        f"o\r\n1\r\n{ROOT}\r\n",
        f"o\u20281\n{ROOT}\n",
        f"o\n1\u2028{ROOT}\n",
        "o\n1\nAA==\n",
        "o\n1\nAB==\n",
        f"o\n1\n{ROOT[:-2]}B=\n",
        f"o\n1\n{ROOT[:-1]}\n",
        f"o\n1\n{ROOT.replace('A', '_', 1)}\n",
        f"o\n1\n{encode_base64(bytes(33))}\n",
    ],
)
def test_checkpoint_malformed(text):
    """A checkpoint is three lines in one spelling."""
    with pytest.raises(MalformedError):
        parse_checkpoint(text)


@pytest.mark.parametrize("size", [0, 1, 2**64 - 1])
def test_checkpoint_of_extreme_size(size):
    """Sizes reach from 0 to the largest 64-bit number."""
    assert parse_checkpoint(f"{'o' * 255}\n{size}\n{ROOT}\n") == Checkpoint("o" * 255, size, bytes(32))


def test_cosignature_known_form():
    """A cosignature is the time in 8 bytes and an Ed25519 signature over prefix, time line and text."""
    note = b.checkpoint_note(5, bytes(32))
    assert parse_checkpoint(note.text).check(b.HOSPITAL.cosign(note.text, 0), b.HOSPITAL.vkey) == 0
    assert parse_checkpoint(note.text).check(b.HOSPITAL.cosign(note.text, b.NOW), b.HOSPITAL.vkey) == b.NOW


@pytest.mark.parametrize("change", [lambda blob: blob[:-1], lambda blob: blob + b"\0", lambda blob: b"\1" + blob[1:]])
def test_cosignature_changed(change):
    """A cosignature of another length or time does not hold."""
    note = b.checkpoint_note(5, bytes(32))
    good = b.HOSPITAL.cosign(note.text, b.NOW)
    with pytest.raises(VerificationError):
        parse_checkpoint(note.text).check(Signature(good.name, good.key_id, change(good.signature)), b.HOSPITAL.vkey)


def test_cosignature_that_is_a_plain_signature():
    """A witness's signature over the text alone is no cosignature."""
    note = b.checkpoint_note(5, bytes(32))
    plain = NoteSigner(b.HOSPITAL.name, b.seed(b.HOSPITAL.name)).sign(note.text)
    forged = Signature(b.HOSPITAL.name, b.HOSPITAL.vkey.id, bytes(8) + plain.signature)
    with pytest.raises(VerificationError):
        parse_checkpoint(note.text).check(forged, b.HOSPITAL.vkey)


def test_cosignature_beyond_time():
    """A timestamp of more than 63 bits is refused."""
    note = b.checkpoint_note(5, bytes(32))
    with pytest.raises(VerificationError):
        parse_checkpoint(note.text).check(b.HOSPITAL.cosign(note.text, 2**63), b.HOSPITAL.vkey)
