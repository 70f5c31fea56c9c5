"""One spelling for every value: canonical msgpack, decimals, base64, text."""

import os
import subprocess
import sys

import msgpack
import pytest

from ledger import canonical
from ledger.batch import Header, Notice, NoticeKind
from ledger.entry import MAX_ENTRY, parse_entry
from ledger.envelope import MAX_ENVELOPE, format_envelope, parse_envelope
from ledger.errors import MalformedError
from ledger.info import BatchInfo, Clock, Source
from ledger.messages import parse_message, parse_status
from ledger.proof import MAX_PROOF_FILE, parse_leaf_proof, parse_proof
from ledger.reading import Absence, Absent, Quality, Reading, Scalar, Waveform
from ledger.strict import decode_base64, decode_hash, decode_text, parse_decimal

from . import builders as b


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+42",
        "-1",
        "042",
        "00",
        "4_2",
        "\uff14\uff12",
        "\u0664\u0662",
        " 42",
        "42 ",
        "42\n",
        "4 2",
        "0x2a",
        "1e3",
        "4.0",
        "\xb2",
        "\udcff",
    ],
)
def test_decimal_malformed(text):
    """Everything that `int()` takes and a number has no need of."""
    with pytest.raises(MalformedError):
        parse_decimal(text, "x")


@pytest.mark.parametrize("text", ["18446744073709551616", "99999999999999999999", "1" * 21, "1" * 5000])
def test_decimal_too_large(text):
    """A number beyond 64 bits."""
    with pytest.raises(MalformedError):
        parse_decimal(text, "x")


def test_decimal_up_to_a_limit():
    """The limit itself is allowed."""
    assert parse_decimal("7", "x", limit=7) == 7
    with pytest.raises(MalformedError, match="larger than 7"):
        parse_decimal("8", "x", limit=7)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "A",
            "AA",
            "AAA",
            "AB==",
            "AAB=",
            "AA=",
            "AAA==",
            "AAAA=",
            "=AAA",
            "AA==AA==",
            "AA==\n",
            "\nAA==",
            "A A=",
            "AA= =",
        ),
        *("__==", "--==", "\uff21\uff21==", "AAAA\u2028", "\udcff", "A\x00A=", "====", "AAAAA", "AA==A"),
    ],
)
def test_base64_malformed(text):
    """Other alphabets, missing or wrong padding, unused bits, white space."""
    with pytest.raises(MalformedError):
        decode_base64(text, "x")


@pytest.mark.parametrize("length", [0, 31, 33])
def test_hash_of_another_length(length):
    """A hash has 32 bytes."""
    with pytest.raises(MalformedError):
        decode_hash(msgpack_base64(length), "x")


def msgpack_base64(length):
    """Base64 of `length` zero bytes."""
    import base64

    return base64.b64encode(bytes(length)).decode()


@pytest.mark.parametrize(
    "data", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\x00", b"\r", b"\t", b"\x1f"]
)
def test_text_malformed(data):
    """Not UTF-8, or a control character."""
    with pytest.raises(MalformedError):
        decode_text(data, "x", limit=10)


def test_text_up_to_a_limit():
    """The limit counts bytes."""
    assert decode_text("é\u2028".encode(), "x", limit=5) == "é\u2028"
    with pytest.raises(MalformedError):
        decode_text("é\u2028".encode(), "x", limit=4)


NOT_CANONICAL = {
    "nothing": "",
    "int in uint8": "cc01",
    "int in uint16": "cd0001",
    "int in uint32": "ce00000001",
    "int in uint64": "cf0000000000000001",
    "int in int8": "d001",
    "int in int16": "d10001",
    "int in int64": "d30000000000000001",
    "negative in int8": "d0ff",
    "negative in int16": "d1ffff",
    "positive in int16 where uint16 is": "d100ff",
    "bin16 for 1": "c5000161",
    "bin32 for 1": "c60000000161",
    "str8 for 1": "d90161",
    "str16 for 1": "da000161",
    "str32 for 1": "db0000000161",
    "str not UTF-8": "a1ff",
    "str with a surrogate": "a3eda080",
    "array16 for 1": "dc000101",
    "array32 for 1": "dd0000000101",
    "array32 too long": "ddffffffff",
    "array cut short": "9201",
    "bin cut short": "c402ff",
    "bin32 too long": "c6ffffffff",
    "float32": "ca00000000",
    "float64": "cb0000000000000000",
    "nan": "cb7ff8000000000000",
    "true": "c3",
    "false": "c2",
    "never used": "c1",
    "empty map": "80",
    "map": "810101",
    "map16": "de0000",
    "map32": "df00000000",
    "fixext1": "d40500",
    "ext8 of nothing": "c70005",
    "ext8 of nothing, negative": "c700fe",
    "timestamp32": "d6ff00000000",
    "timestamp64": "d7ff0000000000000000",
    "timestamp96": "c70cff000000000000000000000000",
    "trailing": "0101",
    "trailing nil": "01c0",
    "true in an array": "91c3",
    "map in an array": "9180",
    "float in an array": "91ca00000000",
    "ext in an array": "91c70005",
    "long int in an array": "91cc01",
    "nested too deep": "91" * 9 + "c0",
    "nested far too deep": "91" * 600 + "c0",
    "nested beyond the library": "91" * 5000 + "c0",
    "nested without end": "91" * 5000,
    "large arrays nested": "dd00000fff" * 1000,
}


@pytest.mark.parametrize("data", NOT_CANONICAL.values(), ids=NOT_CANONICAL)
def test_canonical_refuses(data):
    """A longer form, a type outside the subset, something left over, something missing, nesting beyond eight."""
    with pytest.raises(MalformedError):
        canonical.decode(bytes.fromhex(data), "x")


def test_canonical_nesting_at_its_limit():
    """Eight arrays within one another are allowed."""
    data = bytes.fromhex("91" * 8 + "c0")
    assert canonical.encode(canonical.decode(data, "x")) == data


@pytest.mark.parametrize("data", NOT_CANONICAL.values(), ids=NOT_CANONICAL)
@pytest.mark.parametrize(
    "parse",
    [
        Reading.decode,
        BatchInfo.decode,
        Header.decode,
        parse_entry,
        parse_envelope,
        parse_leaf_proof,
        parse_message,
        parse_status,
    ],
)
def test_binary_parser_refuses(parse, data):
    """Every parser of a binary format refuses what is not canonical, also in the first place of an array."""
    for prefix in ("", "93", "9801"):
        with pytest.raises(MalformedError):
            parse(bytes.fromhex(prefix + data))


def relaxed(value):
    """Other values that Python takes for `value`: booleans and floats for numbers, text for bytes."""
    if isinstance(value, int):
        yield float(value)
        if value in (0, 1):
            yield bool(value)
    elif isinstance(value, bytes):
        yield value.decode("latin-1")
    elif isinstance(value, str):
        yield value.encode()
    elif value is None:
        yield from (False, b"", [])
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from ([*value[:at], other, *value[at + 1 :]] for other in relaxed(item))
        yield [*value, None]
        if not all(isinstance(item, list) for item in value):
            yield value[:-1]
        yield dict(enumerate(value))


def valid():
    """A parser of every binary format with valid inputs."""
    readings = [b.scalar(0, 1), b.scalar(1, 0, kind=1), b.waveform(), b.absent(1)]
    batch = b.sealed(readings)
    entries = b.small_log(1)
    for reading in readings:
        yield Reading.decode, reading.encode()
    yield BatchInfo.decode, batch.info
    yield Header.decode, batch.header
    yield Header.decode, b.sealed(seq=1, previous=bytes(32)).header
    yield parse_entry, entries[1]
    yield parse_envelope, format_envelope(b.sealed(readings[:2]))
    yield parse_envelope, format_envelope(b.sealed())
    yield parse_leaf_proof, b.leaf_proof(batch, 1).encode()
    yield parse_message, bytes.fromhex("9501010001") + b"\x00"
    yield parse_status, bytes.fromhex("93010101")


@pytest.mark.parametrize(("parse", "data"), [pytest.param(*pair, id=str(at)) for at, pair in enumerate(valid())])
def test_binary_parser_refuses_look_alikes(parse, data):
    """A boolean or float that equals the number, text that equals the bytes, a field more or less."""
    parse(data)
    count = 0
    for changed in relaxed(msgpack.unpackb(data)):
        with pytest.raises(MalformedError):
            parse(msgpack.packb(changed))
        count += 1
    assert count > 4


@pytest.mark.parametrize(
    "reading",
    [
        Reading(b"", 1, 0, 0, None, 0, Scalar(0, 0)),
        Reading(bytes(17), 1, 0, 0, None, 0, Scalar(0, 0)),
        Reading(b"s", 0, 0, 0, None, 0, Scalar(0, 0)),
        Reading(b"s", 65536, 0, 0, None, 0, Scalar(0, 0)),
        Reading(b"s", 1, 2**63, 0, None, 0, Scalar(0, 0)),
        Reading(b"s", 1, -(2**63) - 1, 0, None, 0, Scalar(0, 0)),
        Reading(b"s", 1, 0, -1, None, 0, Scalar(0, 0)),
        Reading(b"s", 1, 0, 65536, None, 0, Scalar(0, 0)),
        Reading(b"s", 1, 0, 0, 1081, 0, Scalar(0, 0)),
        Reading(b"s", 1, 0, 0, -1081, 0, Scalar(0, 0)),
        Reading(b"s", 1, 0, 0, None, 2**63, Scalar(0, 0)),
        Reading(b"s", 1, 0, 0, None, 0, Scalar(2**63, 0)),
        Reading(b"s", 1, 0, 0, None, 0, Scalar(0, 128)),
        Reading(b"s", 1, 0, 0, None, 0, Scalar(0, -129)),
        Reading(b"s", 1, 0, 0, None, 0, Scalar(True, 0)),
        Reading(b"s", 1, 0, 0, None, 0, Scalar(1.0, 0)),
        Reading(b"s", 1, 0, 0, None, 0, Absent(0)),
        Reading(b"s", 1, 0, 0, None, 0, Absent(256)),
        Reading(b"s", 1, 0, 0, None, 0, Scalar(0, 0), -1),
        Reading(b"s", 1, 0, 0, None, 0, Scalar(0, 0), 65536),
        Reading(b"s", 1, 0, 0, None, 0, Waveform(0, 1, (1, 0), (0, 0), 1, 1, b"a")),
        Reading(b"s", 1, 0, 0, None, 0, Waveform(1, 0, (1, 0), (0, 0), 1, 1, b"a")),
        Reading(b"s", 1, 0, 0, None, 0, Waveform(2, 4, (1, 0), (0, 0), 1, 1, b"a")),
        Reading(b"s", 1, 0, 0, None, 0, Waveform(1, 1, (1, 0), (0, 0), 0, 1, b"a")),
        Reading(b"s", 1, 0, 0, None, 0, Waveform(1, 1, (1, 0), (0, 0), 33, 1, bytes(33))),
        Reading(b"s", 1, 0, 0, None, 0, Waveform(1, 1, (1, 0), (0, 0), 1, 3, bytes(3))),
        Reading(b"s", 1, 0, 0, None, 0, Waveform(1, 1, (1, 0), (0, 0), 1, 2, bytes(3))),
        Reading(b"s", 1, 0, 0, None, 0, Waveform(1, 1, (1, 0), (0, 0), 2, 2, bytes(6))),
        Reading(b"s", 1, 0, 0, None, 0, Waveform(1, 1, (1, 0), (0, 0), 1, 1, b"")),
        Reading(b"s", 1, 0, 0, None, 0, Waveform(1, 1, (1, 0), (0, 0), 1, 1, bytes(16385))),
        Reading(b"s", 1, 0, 0, None, 0, Waveform(1, 1, (2**63, 0), (0, 0), 1, 1, b"a")),
        Reading(b"s", 1, 0, 0, None, 0, Waveform(1, 1, (1, 0), (0, 128), 1, 1, b"a")),
        Reading("s", 1, 0, 0, None, 0, Scalar(0, 0)),
    ],
)
def test_reading_out_of_range(reading):
    """No field is written outside of its range."""
    with pytest.raises(MalformedError):
        reading.encode()


def test_formats_given_their_own_enumerations():
    """The names that the modules offer can be used, and are written as their numbers."""
    named = Reading(b"s", 1, 0, 0, None, 0, Absent(Absence.NOT_MEASURED), Quality.DEMO_DATA | Quality.INVALID)
    assert Reading.decode(named.encode()) == Reading(b"s", 1, 0, 0, None, 0, Absent(6), 17)
    header = Header(b.ORIGIN, bytes(32), 0, 0, None, 0, bytes(32), None, Notice(NoticeKind.GAP, 1, 3))
    assert Header.decode(header.encode()).notice == Notice(2, 1, 3)
    assert BatchInfo.decode(b.info(clock=Clock.SYNCHRONISED).encode()).clock == 1


@pytest.mark.parametrize("text", ["é", "a\u00a0b", "\x7f", "\x00", "a\nb", "\u2028", "x" * 65, "\udcff"])
def test_text_of_ours_malformed(text):
    """Text in our binary formats is printable ASCII of bounded length."""
    with pytest.raises(MalformedError):
        b.info([b.scalar()], sources=(Source(b.SOURCE, text),)).encode()


@pytest.mark.parametrize("text", ["NaN", "inf", "-Infinity", "", "1,5", "0x1", "1e", "sNaN12"])
def test_scalar_text_that_is_no_number(text):
    """What is not a finite decimal is no scalar."""
    with pytest.raises(MalformedError):
        Scalar.parse(text)


@pytest.mark.parametrize("text", ["+42", "4_2", "\uff14\uff12", " 42", "42\n", "1" * 5000])
def test_scalar_text_in_another_spelling(text):
    """A scalar's text is as strict as every other."""
    with pytest.raises(MalformedError):
        Scalar.parse(text)


@pytest.mark.parametrize(
    ("parse", "limit"), [(parse_entry, MAX_ENTRY), (parse_envelope, MAX_ENVELOPE), (parse_proof, MAX_PROOF_FILE)]
)
def test_input_beyond_its_limit(parse, limit):
    """An input of one byte too many is refused by its size, before anything else is done with it."""
    with pytest.raises(MalformedError, match=f"{limit + 1} bytes, more than the {limit} allowed"):
        parse(bytes(limit + 1))


def test_message_and_status_beyond_their_limits():
    """A message of more than 64 KB is refused, and a status that goes on after its end."""
    with pytest.raises(MalformedError, match="more than the 65536 allowed"):
        parse_message(bytes(65537))
    with pytest.raises(MalformedError):
        parse_status(bytes.fromhex("93010101") + bytes(10**6))


HEAD, EXTRA, REST = (
    b.reading_proof(b.sealed([b.scalar()]), 1, [b.entry_of(b.sealed([b.scalar()]))], 0).encode().decode().split("\n", 2)
)


@pytest.mark.parametrize(
    "text",
    [
        f"{HEAD} \n{EXTRA}\n{REST}",
        f"{HEAD.upper()}\n{EXTRA}\n{REST}",
        f"{HEAD[:-1]}2\n{EXTRA}\n{REST}",
        f"{HEAD}\n{REST}",
        f"{HEAD}\n{EXTRA}\n{EXTRA}\n{REST}",
        f"{HEAD}\n{EXTRA} \n{REST}",
        f"{HEAD}\n{EXTRA.replace(' ', '  ')}\n{REST}",
        f"{HEAD}\nextra \n{REST}",
        f"{HEAD}\nextra\n{REST}",
        f"{HEAD}\nEXTRA{EXTRA[5:]}\n{REST}",
        f"{HEAD}\n{EXTRA}\n{REST}".replace("\n", "\r\n"),
        f"{HEAD}\u2028{EXTRA}\n{REST}",
        f"{HEAD}\n{EXTRA}\u2028{REST}",
        *(
            f"{HEAD}\n{EXTRA}\n{REST.replace('index 0', f'index {index}')}"
            for index in ("+0", "00", "0 ", " 0", "", "\uff10")
        ),
        f"{HEAD}\n{EXTRA}\nindex {2**64}\n{REST.partition(chr(10))[2]}",
        f"{HEAD}\n{EXTRA}\n{REST.partition(chr(10))[2]}",
        f"{HEAD}\n{EXTRA}\nindex 0\n" + ("A" * 43 + "=\n") * 64 + REST.partition("\n")[2],
        f"{HEAD}\n{EXTRA}\nindex 0\n" + "A" * 42 + "B=\n" + REST.partition("\n")[2],
        f"{HEAD}\n{EXTRA}\nindex 0\n" + "A" * 40 + "\n" + REST.partition("\n")[2],
        f"{HEAD}\n{EXTRA}\nindex 0",
        f"{HEAD}\n{EXTRA}\nindex 0\n\n",
        f"\n{HEAD}\n{EXTRA}\n{REST}",
        f"\ufeff{HEAD}\n{EXTRA}\n{REST}",
        f"{HEAD}\n{EXTRA}\n{REST}\n",
        f"{HEAD}\n\n{EXTRA}\n{REST}",
    ],
)
def test_proof_file_malformed(text):
    """Another first line, a missing or doubled line, another spelling of a number or hash, other line ends."""
    with pytest.raises(MalformedError):
        parse_proof(text.encode())


def test_proof_file_well_formed():
    """The file that the malformed ones are made from is itself read."""
    assert parse_proof(f"{HEAD}\n{EXTRA}\n{REST}".encode()).index == 0


PROGRAM = """
import sys, threading
sys.setswitchinterval(1e-6)
from ledger import canonical
value = tuple((number, bytes(number)) for number in range(100))
good = canonical.encode(value)
wrong = []
def run():
    for _ in range(300):
        if canonical.encode(value) != good:
            wrong.append(1)
threads = [threading.Thread(target=run) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
sys.exit(len(wrong) != 0)
"""


@pytest.mark.parametrize(
    "pure",
    [
        "",
        "1",
    ],
)
def test_canonical_from_several_threads(pure):
    """Encodings made at the same time are each their own, with msgpack's C part and without."""
    environment = os.environ | ({"MSGPACK_PUREPYTHON": pure} if pure else {})
    assert subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=False).returncode == 0
