"""The project's own vectors: the committed files are what the generator writes, and the ledger agrees with each."""

import contextlib
import glob
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ledger import canonical, merkle
from ledger.batch import Header
from ledger.checkpoint import parse_checkpoint
from ledger.completeness import verify_range
from ledger.entry import BatchEntry, Closing, Commitment, Equivocation, Erased, KeyStateEntry, Opening, parse_entry
from ledger.envelope import parse_envelope
from ledger.errors import MalformedError, VerificationError
from ledger.events import Enrolment, Revocation, Rotation
from ledger.fsck import fsck
from ledger.info import BatchInfo
from ledger.keys import check_public_key, check_signature, key_id
from ledger.keystate import parse_record
from ledger.messages import ErasedNotice, Receipt, Reject, Stored, Wanted, parse_message, parse_status
from ledger.note import Note, parse_note, parse_vkey, verify_note
from ledger.policy import parse_policy, parse_trust
from ledger.proof import parse_proof_file
from ledger.reading import Absent, Reading, Scalar
from ledger.report import UnprovenError
from ledger.status import verify_status
from ledger.tiles import ENTRIES, Tile, TileReader, parse_bundle, parse_tile_path, tiles_of
from ledger.verify import verify_proof

from . import builders as b

FOLDER = Path(__file__).parents[1] / "vectors"


def vectors(name):
    """Parametrises a test over the vectors of one file."""
    found = json.loads((FOLDER / f"{name}.json").read_text())
    assert len({vector["name"] for vector in found}) == len(found)
    return pytest.mark.parametrize("vector", [pytest.param(vector, id=vector["name"]) for vector in found])


def shown(value):
    """A value as the vectors show it."""
    match value:
        case bool() | None | str():
            return value
        case int():
            return str(value)
        case bytes():
            return value.hex()
        case _:
            return [shown(item) for item in value]


def check(vector, parse, fields):
    """`parse` accepts or refuses the vector's bytes as it says, and finds its fields."""
    data = bytes.fromhex(vector["hex"])
    if vector["result"] == "malformed":
        with pytest.raises(MalformedError):
            parse(data)
    else:
        assert fields(parse(data)) == vector["fields"]


def test_vectors_are_what_the_generator_writes():
    """`generate.py --check` finds nothing that differs, is missing or does not belong."""
    done = subprocess.run(
        [sys.executable, FOLDER / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def tagged(value):
    """A canonical value with its types named."""
    match value:
        case None:
            return {"nil": True}
        case int():
            return {"int": str(value)}
        case bytes():
            return {"bytes": value.hex()}
        case str():
            return {"text": value}
        case tuple():
            return {"array": [tagged(item) for item in value]}


@vectors("canonical")
def test_canonical_vector(vector):
    """Canonical msgpack."""
    check(vector, lambda data: canonical.decode(data, "x"), tagged)


def reading_fields(reading):
    """A reading as the vectors show it."""
    match reading.value:
        case Scalar(mantissa, exponent):
            value = (0, mantissa, exponent)
        case Absent(reason):
            value = (2, reason)
        case wave:
            rest = (wave.channels, wave.width, wave.samples)
            value = (1, wave.period_ns, wave.period_divisor, *wave.scale, *wave.origin, *rest)
    return {
        "source": shown(reading.source),
        "kind": shown(reading.kind),
        "sensor_time": shown(reading.sensor_time_ns),
        "ordinal": shown(reading.ordinal),
        "zone": shown(reading.zone_offset_min),
        "gateway_offset": shown(reading.gateway_offset_ns),
        "value": shown(value),
        "quality": shown(reading.quality),
    }


@vectors("readings")
def test_reading_vector(vector):
    """Readings."""
    check(vector, Reading.decode, reading_fields)


def info_fields(info):
    """A batch info as the vectors show it."""
    names = ("boot_id", "sealed_at_ns", "monotonic_ns", "clock", "clock_error_ns", "first_ns", "last_ns", "window_ns")
    fields = {name.removesuffix("_ns"): shown(getattr(info, name)) for name in names}
    return fields | {"sources": [[source.source.hex(), source.description] for source in info.sources]}


@vectors("infos")
def test_info_vector(vector):
    """Batch infos."""
    check(vector, BatchInfo.decode, info_fields)


def header_fields(header):
    """A header as the vectors show it."""
    notice = header.notice
    if notice is not None:
        notice = (notice.kind, notice.reason, notice.lost) if notice.kind == 2 else (notice.kind,)
    names = ("origin", "key_id", "epoch", "seq", "previous", "count", "root")
    anchor = None if header.anchor is None else [str(header.anchor.size), header.anchor.root.hex()]
    fields = {name: shown(getattr(header, name)) for name in names}
    return fields | {"version": "1", "anchor": anchor, "notice": shown(notice)}


@vectors("headers")
def test_header_vector(vector):
    """Headers."""
    check(vector, Header.decode, header_fields)


def envelope_fields(envelope):
    """An envelope as the vectors show it."""
    return {
        "header": envelope.header_bytes.hex(),
        "signature": envelope.signature.hex(),
        "salts": shown(envelope.salts),
        "bodies": shown(envelope.bodies),
        "leaf_hashes": shown(envelope.check_root()),
        "root": envelope.header.root.hex(),
    }


@vectors("envelopes")
def test_envelope_vector(vector):
    """Envelopes, their salts, leaves and roots."""
    check(vector, parse_envelope, envelope_fields)


PLAIN = {
    Commitment: ("commitment", "digest"),
    KeyStateEntry: ("key state", "size", "count", "root"),
    Erased: ("erased", "log_index", "leaves"),
    Closing: ("closing", "successor", "keys"),
    Opening: ("opening", "predecessor", "size", "root"),
}


def entry_fields(entry, data):
    """An entry as the vectors show it."""
    match entry:
        case BatchEntry():
            fields = {"type": "batch", "header": entry.header.hex(), "signature": entry.signature.hex()}
        case Enrolment() | Rotation() | Revocation():
            fields = event_fields(entry)
        case Equivocation():
            return equivocation_fields(entry)
        case Commitment() | KeyStateEntry() | Erased() | Closing() | Opening():
            kind, *names = PLAIN[type(entry)]
            return {"type": kind} | named(entry, *names)
        case _:
            fields = {"type": "unknown"}
    return fields | {"leaf_hash": merkle.hash_leaf(data).hex()}


def equivocation_fields(entry):
    """An equivocation as the vectors show it."""
    parts = {
        f"{which}_{part}": getattr(getattr(entry, which), part).hex()
        for which in ("first", "second")
        for part in ("header", "signature")
    }
    return {"type": "equivocation", **parts, "signed": holds(lambda: entry.check(1, b.device().public_key))}


def event_fields(event):
    """A key event as the vectors show it."""
    match event:
        case Enrolment():
            names = ("origin", "algorithm", "public_key", "registrar_key", "key_id")
            signatures = (event.device_signature, event.registrar_signature)
        case Rotation():
            names = ("origin", "old_algorithm", "old_public_key", "algorithm", "public_key", "registrar_key")
            names += ("key_id", "old_key_id")
            signatures = (event.device_signature, event.old_signature, event.registrar_signature)
        case Revocation():
            names = ("origin", "key_id", "reason", "registrar_key")
            signatures = (event.registrar_signature,)
    fields = {"type": type(event).__name__.lower()} | named(event, *names)
    if not isinstance(event, Enrolment):
        fields |= dict(zip(("epoch", "seq"), shown(event.until), strict=True))
    return fields | {"signatures": shown(signatures), "signed": holds(event.check)}


def named(value, *names):
    """These fields of a value as the vectors show them."""
    return {name: shown(getattr(value, name)) for name in names}


def holds(check):
    """Whether `check` passes."""
    try:
        check()
    except VerificationError:
        return False
    return True


@vectors("entries")
def test_entry_vector(vector):
    """Entries, their leaf hashes, and whether the signatures in them hold."""
    check(vector, parse_entry, lambda entry: entry_fields(entry, bytes.fromhex(vector["hex"])))


@vectors("records")
def test_record_vector(vector):
    """Records of key states and their leaf hashes."""

    def fields(record):
        return named(record, "key_id", "enrolled", "until", "revoked") | {"leaf_hash": record.leaf_hash().hex()}

    check(vector, parse_record, fields)


@vectors("goodness")
def test_goodness_vector(vector):
    """Whether a record is good for a place and an index."""
    record = parse_record(bytes.fromhex(vector["record"]))
    place = (int(vector["epoch"]), int(vector["seq"]))
    assert holds(lambda: record.check_good(place, int(vector["index"]))) == (vector["result"] == "ok")


@vectors("logs")
def test_log_vector(vector):
    """Whole logs: what they report, or the index of their first fault."""
    files = b.log_files([bytes.fromhex(entry) for entry in vector["entries"]])
    trust = parse_trust(vector["trust"].encode()) if "trust" in vector else None
    try:
        report = fsck(files.get, b.policy(b.policy_text()), trust=trust, paths=list(files))
        found = {"result": "ok", "notices": {kind: str(count) for kind, count in sorted(report.notices.items())}}
    except (MalformedError, VerificationError) as error:
        result = "malformed" if isinstance(error, MalformedError) else "unproven"
        found = {"result": result, "index": re.fullmatch(r"entry ([0-9]+): .*", str(error))[1]}
    assert found == {name: vector[name] for name in found}


@vectors("keys")
def test_key_vector(vector):
    """Key ids and unusable keys."""
    key = bytes.fromhex(vector["public_key"])
    if vector["result"] == "malformed":
        with pytest.raises(MalformedError):
            check_public_key(vector["algorithm"], key)
    else:
        check_public_key(vector["algorithm"], key)
        assert key_id(vector["algorithm"], key).hex() == vector["key_id"]


@vectors("signatures")
def test_signature_vector(vector):
    """Device signatures."""
    key, signature, message = (bytes.fromhex(vector[name]) for name in ("public_key", "signature", "message"))
    held = holds(lambda: check_signature(vector["algorithm"], key, signature, message))
    assert held == (vector["result"] == "ok")


@vectors("vkeys")
def test_vkey_vector(vector):
    """Vkeys."""
    if vector["result"] == "malformed":
        with pytest.raises(MalformedError):
            parse_vkey(vector["text"])
    else:
        key = parse_vkey(vector["text"])
        fields = {"name": key.name, "id": key.id.hex(), "type": str(key.type), "key": key.public_key.hex()}
        assert fields == vector["fields"]


@vectors("notes")
def test_note_vector(vector):
    """Signed notes under a list of known keys."""
    data = bytes.fromhex(vector["note_hex"]) if "note_hex" in vector else vector["note"].encode()
    keys = [parse_vkey(text) for text in vector["keys"]]
    try:
        verify_note(parse_note(data), keys)
        result = "ok"
    except MalformedError:
        result = "malformed"
    except VerificationError:
        result = "unproven"
    assert result == vector["result"]


@vectors("checkpoints")
def test_checkpoint_vector(vector):
    """Texts of checkpoints."""
    if vector["result"] == "malformed":
        with pytest.raises(MalformedError):
            parse_checkpoint(vector["text"])
    else:
        checkpoint = parse_checkpoint(vector["text"])
        fields = {name: shown(getattr(checkpoint, name)) for name in ("origin", "size", "root")}
        assert fields == vector["fields"]


@vectors("cosignatures")
def test_cosignature_vector(vector):
    """Timestamped cosignatures."""
    note = parse_note((vector["checkpoint"] + "\n" + vector["line"]).encode())
    key = parse_vkey(vector["vkey"])
    (line,) = Note(note.text, note.signatures).by(key)
    if vector["result"] == "unproven":
        with pytest.raises(VerificationError):
            parse_checkpoint(note.text).check(line, key)
    else:
        assert str(parse_checkpoint(note.text).check(line, key)) == vector["time"]


TILES = json.loads((FOLDER / "tiles.json").read_text())


@pytest.mark.parametrize("size", TILES["sizes"])
def test_tiles_vector(size):
    """The tiles that a size has."""
    assert sorted(tile.path for tile in tiles_of(int(size))) == TILES["sizes"][size]


@pytest.mark.parametrize("vector", TILES["paths"], ids=lambda vector: ascii(vector["path"]))
def test_tile_path_vector(vector):
    """Paths of tiles."""
    if vector["result"] == "malformed":
        with pytest.raises(MalformedError):
            parse_tile_path(vector["path"])
    else:
        level = ENTRIES if vector["level"] == "entries" else int(vector["level"])
        assert parse_tile_path(vector["path"]) == Tile(level, int(vector["index"]), vector["width"])


@pytest.mark.parametrize("vector", TILES["bundles"], ids=lambda vector: vector["hex"][:16] or "empty")
def test_bundle_vector(vector):
    """Entry bundles."""
    tile = Tile(ENTRIES, 0, vector["width"])
    if vector["result"] == "malformed":
        with pytest.raises(MalformedError):
            parse_bundle(bytes.fromhex(vector["hex"]), tile)
    else:
        assert shown(parse_bundle(bytes.fromhex(vector["hex"]), tile)) == vector["entries"]


def test_small_log_vector():
    """A small log: its files, hashes and proofs."""
    log = TILES["log"]
    files = {path: bytes.fromhex(data) for path, data in log["files"].items()}
    tree = TileReader(files.get, len(log["entries"]), bytes.fromhex(log["root"]))
    for index, entry in enumerate(log["entries"]):
        assert tree.entry(index).hex() == entry
        assert tree.hash_at(0, index).hex() == log["leaf_hashes"][index]
        assert shown(tree.prove_inclusion(index)) == log["inclusion"][index]
    for old, proof in enumerate(log["consistency"]):
        assert shown(tree.prove_consistency(old)) == proof


def text_of(vector):
    """The bytes of a text vector."""
    return bytes.fromhex(vector["text_hex"]) if "text_hex" in vector else vector["text"].encode()


@vectors("policies")
def test_policy_vector(vector):
    """Policies."""
    if vector["result"] == "malformed":
        with pytest.raises(MalformedError):
            parse_policy(text_of(vector))
    else:
        parse_policy(text_of(vector))


@vectors("trust")
def test_trust_vector(vector):
    """Trust files."""
    if vector["result"] == "malformed":
        with pytest.raises(MalformedError):
            parse_trust(text_of(vector))
    else:
        assert all(str(key).encode() in text_of(vector) for key in parse_trust(text_of(vector)))


def message_fields(message):
    """A message as the vectors show it."""
    match message:
        case Stored():
            names = ("epoch", "seq", "index")
        case Reject():
            names = ("epoch", "seq", "reason", "detail")
        case Receipt():
            placed = [
                {name: shown(getattr(item, name)) for name in ("epoch", "seq", "index", "inclusion")}
                for item in message.placed
            ]
            fields = {name: shown(getattr(message, name)) for name in ("checkpoint", "old_size", "consistency")}
            return {"type": "receipt", **fields, "placed": placed}
        case ErasedNotice():
            batches = [
                named(item, "epoch", "seq", "index", "inclusion") | named(item.entry, "log_index", "leaves")
                for item in message.batches
            ]
            return {"type": "erased", **named(message, "checkpoint", "old_size", "consistency"), "batches": batches}
        case Wanted():
            return {"type": "wanted", "places": [{"epoch": str(at[0]), "seq": str(at[1])} for at in message.places]}
    return {"type": type(message).__name__.lower(), **{name: shown(getattr(message, name)) for name in names}}


@vectors("messages")
def test_message_vector(vector):
    """Stored, receipt, reject, wanted, erased."""
    check(vector, parse_message, message_fields)


@vectors("statuses")
def test_status_vector(vector):
    """Status."""
    check(vector, parse_status, lambda status: {"online": str(int(status.online)), "size": str(status.size)})


def stems(form):
    """Parametrises a test over the proof files of one form, by what is common to the names of their files."""
    found = sorted(path.with_suffix("") for path in (FOLDER / form).glob("*/*.tlog-proof"))
    return pytest.mark.parametrize("stem", found, ids=lambda path: f"{path.parent.name}/{path.name}")


def beside(stem, suffix):
    """The bytes of a file of a vector, None if it has none."""
    path = Path(f"{stem}.{suffix}")
    return path.read_bytes() if path.exists() else None


def given(stem):
    """Policy, trust, and the key statuses that count, of those beside a proof."""
    policy = parse_policy(beside(stem, "policy"))
    data = beside(stem, "trust")
    statuses = []
    for path in sorted(stem.parent.glob(f"{glob.escape(stem.name)}.status-*")):
        with contextlib.suppress(MalformedError, UnprovenError):
            statuses.append(verify_status(parse_proof_file(path.read_bytes()), policy))
    return policy, None if data is None else parse_trust(data), statuses


def outcome(verify, fields):
    """What `verify` found, as the vectors say it."""
    try:
        return fields(verify())
    except MalformedError:
        return {"result": "malformed"}
    except UnprovenError as error:
        failed = [step.number for step in error.steps if step.result == "failed"]
        assert len(failed) == 1
        return {"result": "unproven", "step": failed[0]}


def strictly(verify):
    """The step that a strict verification reports, None if it proves."""
    try:
        verify()
    except UnprovenError as error:
        unpassed = [step for step in error.steps if step.result != "passed"]
        return next((step.number for step in unpassed if step.result == "failed"), unpassed[0].number)
    return None


def proven_fields(proven):
    """What was proven, as the vectors show it."""
    checkpoint, header, reading = proven.checkpoint, proven.header, proven.reading
    body = (reading or proven.info).encode()
    fields = {
        "result": "proven",
        "steps": [str(step.result) for step in proven.steps],
        "origin": checkpoint.origin,
        "size": str(checkpoint.size),
        "root": checkpoint.root.hex(),
        "index": str(proven.index),
        "logged_by": shown(proven.logged_by),
        "witnesses": list(proven.witnesses),
        "key_id": header.key_id.hex(),
        "epoch": str(header.epoch),
        "seq": str(header.seq),
        "count": str(header.count),
        "leaf_index": str(proven.leaf_index),
        "body": body.hex(),
        "reading": None,
    }
    return fields if reading is None else fields | {"reading": leaf_fields(reading)}


def leaf_fields(reading):
    """A reading as the vectors of proofs show it."""
    common = reading_fields(reading)
    form, *rest = common.pop("value")
    match form:
        case "0":
            value = {"form": "scalar", "mantissa": rest[0], "exponent": rest[1]}
        case "2":
            value = {"form": "absent", "reason": rest[0]}
        case _:
            names = ("period_ns", "period_divisor", "channels", "width", "samples")
            parts = (*rest[:2], *rest[6:])
            value = {
                "form": "waveform",
                **dict(zip(names, parts, strict=True)),
                "scale": rest[2:4],
                "origin": rest[4:6],
            }
    return common | value


@stems("proofs")
def test_proof_vector(stem):
    """Proof files: proven with exactly this statement, or refused at exactly this step."""
    expected = json.loads(beside(stem, "json"))

    def verify(**how):
        policy, trust, statuses = given(stem)
        return verify_proof(beside(stem, "tlog-proof"), policy, trust=trust, statuses=statuses, **how)

    check_outcome(expected, verify, proven_fields)


def check_outcome(expected, verify, fields):
    """A verification, and the strict one where the vector tells of it, come out as expected."""
    found = outcome(verify, fields)
    if "strict" in expected:
        found["strict"] = strictly(lambda: verify(strict=True))
    assert found == expected


def status_fields(proven):
    """What was proven of a key, as the vectors show it."""
    return {
        "result": "proven",
        "steps": [str(step.result) for step in proven.steps],
        "as_of_size": str(proven.size),
        **named(proven, "origin", "logged_by", "registrar_key"),
        **named(proven.record, "key_id", "enrolled", "until", "revoked"),
    }


@stems("key-statuses")
def test_key_status_vector(stem):
    """Key-status proofs: proven with exactly this record, or refused at exactly this step."""

    def verify():
        policy, _, _ = given(stem)
        return verify_status(parse_proof_file(beside(stem, "tlog-proof")), policy)

    assert outcome(verify, status_fields) == json.loads(beside(stem, "json"))


def range_fields(proven):
    """What was proven of a range, as the vectors show it."""
    return {
        "result": "proven",
        "steps": [str(step.result) for step in proven.steps],
        **named(proven.checkpoint, "origin", "size", "root"),
        **named(proven, "index", "logged_by", "witnesses", "key_id", "epoch", "first", "last", "readings", "gaps"),
        "disclosed": [named(item, "seq", "leaf_index") | leaf_fields(item.reading) for item in proven.disclosed],
    }


@stems("completeness")
def test_completeness_vector(stem):
    """Completeness proofs: proven with exactly this range, or refused at exactly this step."""

    def verify(**how):
        policy, trust, statuses = given(stem)
        file = parse_proof_file(beside(stem, "tlog-proof"))
        return verify_range(file, policy, trust=trust, statuses=statuses, **how)

    check_outcome(json.loads(beside(stem, "json")), verify, range_fields)


@pytest.mark.parametrize(
    ("form", "steps"),
    [("proofs", {2, 3, 4, 5, 6, 7, 8}), ("key-statuses", {2, 3, 4, 5, 6, 7}), ("completeness", {2, 3, 4, 5, 6, 7, 8})],
)
def test_proof_vectors_cover_every_step(form, steps):
    """There is a proof of each form that fails at each step that can fail, and one that is malformed."""
    expected = [json.loads(path.read_text()) for path in (FOLDER / form / "bad").glob("*.json")]
    assert {item.get("step", 0) for item in expected} == steps | {0}


def test_proof_vectors_are_read_by_their_form():
    """The command that verifies any file tells the forms apart as the folders do."""
    for number, form in enumerate(("proofs", "key-statuses", "completeness"), 1):
        for path in (FOLDER / form / "good").glob("*.tlog-proof"):
            assert parse_proof_file(path.read_bytes()).form == number
