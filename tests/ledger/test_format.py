"""The examples and the numbers in FORMAT.md are true."""

from pathlib import Path

import pytest

from ledger import add_checkpoint, completeness, entry, events, keystate, note, proof
from ledger.keys import key_id
from ledger.reading import Reading, Scalar
from tests.vectors import mldsa, p256

from . import builders as b
from . import past as p

TEXT = (Path(proof.__file__).parent / "FORMAT.md").read_text()

ED25519 = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
RECORDS = [b.pack([key_id(1, ED25519), 0, None, None]), b.pack([key_id(2, p256.encoded(p256.BASE)), 7, [0, 1000], 12])]
READING = Reading(bytes.fromhex("0102030405060708"), 1, 1_764_000_000 * 10**9, 0, 60, 12_000_000, Scalar(72, 0), 0)


@pytest.mark.parametrize(
    "example",
    [
        key_id(1, ED25519),
        p256.encoded(p256.BASE),
        key_id(2, p256.encoded(p256.BASE)),
        READING.encode(),
        *RECORDS,
        *map(p.record_hash, RECORDS),
        p.state_entry(13, RECORDS),
    ],
    ids=bytes.hex,
)
def test_format_example(example):
    """Each example stands in the text as it comes out of the code."""
    assert example.hex() in TEXT


def test_format_example_of_a_cosigned_message():
    """The example of what a key of type 0x06 signs, which is spaced for people."""
    text = f"log.example\n5\n{b.base64(bytes(32))}\n"
    message = mldsa.message("w.example", text, 1_750_000_000).hex()
    lines = TEXT.partition("root of 32 zero bytes:")[2].split("\n")[2:4]
    assert "".join(lines).replace(" ", "") == message


@pytest.mark.parametrize(
    "limit",
    [
        entry.MAX_ENTRY,
        entry.MAX_HEADER,
        entry.MAX_VKEY,
        events.MAX_EVENT,
        note.MAX_NOTE,
        note.MAX_SIGNATURES,
        proof.MAX_PROOF_FILE,
        completeness.MAX_RANGE_FILE,
        completeness.MAX_BATCHES,
        add_checkpoint.MAX_BODY,
        note.ML_DSA_44_KEY_SIZE,
    ],
)
def test_format_limit(limit):
    """Each limit of the code stands in the text."""
    assert f"{limit:,}" in TEXT or f"{limit}" in TEXT


def test_format_labels():
    """Each label of a signature or hash about keys stands in the text."""
    labels = [label for kind in p.LABELS.values() for label in kind]
    assert all(f'"vitalseal/v1/{label}\\n"' in TEXT for label in (*labels, "key-state", "key", "header"))
    assert keystate.KeyRecord(bytes(32), 0).encode() == b.pack([bytes(32), 0, None, None])
