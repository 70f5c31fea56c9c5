"""The vectors of what is msgpack: values, readings, batches, entries, messages; and of device keys."""

import hashlib
from collections.abc import Iterator

import msgpack

from tests.ledger import builders as b
from tests.vectors import curve, signatures

pack = msgpack.packb
ZERO, ONES = bytes(32), b"\xff" * 32
MIXED = curve.OddKey("device", curve.TORSION)


def good(name: str, data: bytes, fields: object) -> dict:
    """A vector that is accepted."""
    return {"name": name, "hex": data.hex(), "result": "ok", "fields": shown(fields)}


def bad(name: str, data: bytes) -> dict:
    """A vector that is refused."""
    return {"name": name, "hex": data.hex(), "result": "malformed"}


def shown(value: object) -> object:
    """A value as JSON: integers as decimal strings, bytes as hex."""
    match value:
        case bool() | None | str():
            return value
        case int():
            return str(value)
        case bytes():
            return value.hex()
        case dict():
            return {key: shown(item) for key, item in value.items()}
        case _:
            return [shown(item) for item in value]


def changed(fields: list, at: int, value: object) -> list:
    """`fields` with another value at `at`."""
    return [*fields[:at], value, *fields[at + 1 :]]


def replacements(fields: list, wrong: dict[int, list]) -> Iterator[tuple[str, list]]:
    """Each wrong value in its place, with a name for the vector."""
    for at, values in wrong.items():
        for number, value in enumerate(values):
            yield f"item {at} wrong, {number + 1}", changed(fields, at, value)
    yield "an item less", fields[:-1]
    yield "an item more", [*fields, None]


def canonical() -> list[dict]:
    """Section 2: one encoding for every value."""
    integers = (0, 1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63, 2**64 - 1)
    negative = (-1, -32, -33, -128, -129, -32768, -32769, -(2**31), -(2**31) - 1, -(2**63))
    vectors = [good(f"integer {number}", pack(number), {"int": number}) for number in integers + negative]
    for length in (0, 1, 31, 32, 255, 256, 65535, 65536):
        if length < 300:
            vectors.append(good(f"text of {length}", pack("a" * length), {"text": "a" * length}))
            vectors.append(good(f"bytes of {length}", pack(bytes(length)), {"bytes": bytes(length)}))
    vectors.append(good("text of three bytes a letter", pack("\u2028"), {"text": "\u2028"}))
    vectors.append(good("nil", b"\xc0", {"nil": True}))
    vectors += [
        good(f"array of {count}", pack([None] * count), {"array": [{"nil": True}] * count}) for count in (0, 1, 15, 16)
    ]
    nested: object = {"nil": True}
    for _ in range(8):
        nested = {"array": [nested]}
    vectors.append(good("eight arrays in one another", b"\x91" * 8 + b"\xc0", nested))
    wrong = {
        "nothing": "",
        "1 in uint8": "cc01",
        "127 in uint8": "cc7f",
        "255 in uint16": "cd00ff",
        "65535 in uint32": "ce0000ffff",
        "1 in uint64": "cf0000000000000001",
        "1 in int8": "d001",
        "-1 in int8": "d0ff",
        "-128 in int16": "d1ff80",
        "255 in int16": "d100ff",
        "-1 in int64": "d3ffffffffffffffff",
        "text of 1 in str8": "d90161",
        "text of 1 in str32": "db0000000161",
        "text not UTF-8": "a1ff",
        "text with a surrogate": "a3eda080",
        "text in an overlong form": "a2c080",
        "bytes of 1 in bin16": "c5000161",
        "bytes of 1 in bin32": "c60000000161",
        "array of 1 in array16": "dc0001c0",
        "array of 1 in array32": "dd00000001c0",
        "float32": "ca3f800000",
        "float64": "cb3ff0000000000000",
        "NaN": "cb7ff8000000000000",
        "true": "c3",
        "false": "c2",
        "empty map": "80",
        "map": "810101",
        "extension": "d40100",
        "empty extension": "c70005",
        "timestamp": "d6ff00000000",
        "reserved c1": "c1",
        "true in an array": "91c3",
        "map in an array": "9180",
        "float in an array": "91ca00000000",
        "long integer in an array": "91cc01",
        "nine arrays in one another": "91" * 9 + "c0",
        "array of 4097": "dc1001" + "c0" * 4097,
        "a thousand arrays in one another": "91" * 1000 + "c0",
        "cut short": "9201",
        "bytes cut short": "c402ff",
        "length beyond the end": "c6ffffffff",
        "array beyond the end": "ddffffffff",
        "something after the value": "0100",
        "nil after the value": "01c0",
    }
    return vectors + [bad(name, bytes.fromhex(data)) for name, data in wrong.items()]


READING = [b.SOURCE, 1, b.NOW_NS, 0, 120, 250_000_000, [0, 72, 0], 0]
READING_NAMES = ("source", "kind", "sensor_time", "ordinal", "zone", "gateway_offset", "value", "quality")
WAVE = [1, 100_000_000, 13, 1, -3, 0, 0, 1, 2, bytes.fromhex("00000001ffff012c")]


def readings() -> list[dict]:
    """Section 4: every form of value, every kind, every bound."""
    found: dict[str, list] = {"scalar": READING}
    found |= {f"kind {kind}": changed(READING, 1, kind) for kind in range(1, 18)}
    found["kind that no table has"] = changed(READING, 1, 65535)
    for name, value in {
        "2": [0, 2, 0],
        "2.0": [0, 20, -1],
        "2.00": [0, 200, -2],
        "zero": [0, 0, 0],
        "negative": [0, -365, -1],
        "least mantissa and exponent": [0, -(2**63), -128],
        "greatest mantissa and exponent": [0, 2**63 - 1, 127],
        "waveform": WAVE,
        "waveform of one byte": [1, 1, 1, 1, 0, 0, 0, 1, 1, b"\x80"],
        "waveform, 32 channels of 4 bytes": [1, 2**63 - 1, 2, -5, 3, 7, -7, 32, 4, bytes(range(128))],
        "waveform of the most bytes": changed(WAVE, 9, bytes(16384)),
        **{f"absent, reason {reason}": [2, reason] for reason in (1, 2, 3, 4, 5, 6, 7, 255)},
    }.items():
        found[name] = changed(READING, 6, value)
    found["source of one byte"] = changed(READING, 0, b"\x00")
    found["zone unknown"] = changed(READING, 4, None)
    found["zone east"] = changed(READING, 4, 1080)
    found["zone west"] = changed(READING, 4, -1080)
    found["least times"] = changed(changed(READING, 2, -(2**63)), 5, -(2**63))
    found["greatest times"] = changed(changed(READING, 2, 2**63 - 1), 5, 2**63 - 1)
    found["greatest ordinal and quality"] = changed(changed(READING, 3, 65535), 7, 65535)
    vectors = [good(name, pack(item), dict(zip(READING_NAMES, item, strict=True))) for name, item in found.items()]
    wrong = {
        0: [b"", bytes(17), "source", 1, None],
        1: [0, 65536, -1, None, 1.0, True],
        2: [2**63, None, 1.0, "0"],
        3: [-1, 65536, None],
        4: [1081, -1081, False],
        5: [2**63, None],
        6: [None, 72, [], [0], [0, 72], [0, 72, 0, 0], [3, 1], [True, 72, 0], [0, 2**63, 0], [0, 1.0, 0]],
        7: [-1, 65536, None, False],
    }
    wrong[6] += [[0, 72, 128], [0, 72, -129], [0, None, 0], [2], [2, 0], [2, 256], [2, None], [2, 1, 1], [0.0, 72, 0]]
    waves = {1: [0, 2**63], 2: [0, 2**63], 3: [2**63], 4: [128], 5: [2**63], 6: [-129], 7: [0, 33], 8: [0, 3, 8]}
    for at, values in waves.items():
        wrong[6] += [changed(WAVE, at, value) for value in values]
    wrong[6] += [changed(WAVE, 9, data) for data in (b"", bytes(3), bytes(16386), "text")]
    wrong[6] += [changed(changed(WAVE, 1, 26), 2, 2), WAVE[:-1], [*WAVE, 0]]
    vectors += [bad(name, pack(item)) for name, item in replacements(READING, wrong)]
    return [*vectors, bad("something after it", pack(READING) + b"\xc0"), bad("not an array", pack(72))]


INFO = [b.BOOT, b.NOW_NS, 123_456_789, 1, 2_000_000, b.NOW_NS - 5, b.NOW_NS, [[b.SOURCE, "Example Strap 10"]], None]
INFO_NAMES = (*("boot_id", "sealed_at", "monotonic", "clock", "clock_error", "first", "last", "sources", "window"),)


def infos() -> list[dict]:
    """Section 5.3."""
    many = [[bytes([at]), "d" * 64] for at in range(128)]
    found = {
        "of readings": INFO,
        "clock unknown": changed(changed(INFO, 3, 0), 4, None),
        "clock not synchronised": changed(INFO, 3, 2),
        "no readings": [*INFO[:5], None, None, [], None],
        "gap with its window": [*INFO[:5], None, None, [], [b.NOW_NS, b.NOW_NS + 1]],
        "least times": [b.BOOT, -(2**63), 0, 0, 0, -(2**63), -(2**63), [[b"\x00", ""]], [-(2**63), -(2**63)]],
        "greatest times": [b.BOOT, 2**63 - 1, 2**64 - 1, 2, 2**64 - 1, 0, 2**63 - 1, [[b"\x00", "~"]], None],
        "sources in order": changed(INFO, 7, [[b"\x00\x01", "a"], [b"\x01", "b"]]),
        "sources, one id the beginning of the next": changed(INFO, 7, [[b"\x01", "a"], [b"\x01\x00", "b"]]),
        "one moment": changed(INFO, 5, INFO[6]),
        "window beside readings": changed(INFO, 8, [b.NOW_NS, b.NOW_NS + 1]),
        "the most sources": changed(INFO, 7, many),
    }
    vectors = [good(name, pack(item), dict(zip(INFO_NAMES, item, strict=True))) for name, item in found.items()]
    wrong = {
        0: [bytes(15), bytes(17), None],
        1: [2**63, None],
        2: [-1, None],
        3: [3, -1, None, True],
        4: [-1, "0"],
        5: [None, 2**63],
        6: [None],
        7: [
            None,
            [[b.SOURCE]],
            [[b"", "a"]],
            [[bytes(17), "a"]],
            [["a", "a"]],
            [[b.SOURCE, b"a"]],
            [[b.SOURCE, "d" * 65]],
        ],
        8: [[], [1], [1, 2, 3], [1, None], [2**63, 0], 0],
    }
    wrong[7] += [[[b.SOURCE, text]] for text in ("\n", "\x7f", "\u00e9", "\x00")]
    wrong[7] += [[[b"\x01", "b"], [b"\x00", "a"]], [[b"\x00", "a"], [b"\x00", "b"]]]
    wrong[7] += [[[at.to_bytes(2, "big"), ""] for at in range(129)]]
    vectors += [bad(name, pack(item)) for name, item in replacements(INFO, wrong)]
    return vectors + [bad(name, pack(item)) for name, item in unfit_infos().items()]


def unfit_infos() -> dict[str, list]:
    """Infos each of whose fields is well formed, but not beside the others."""
    return {
        "first time after the last": changed(INFO, 5, INFO[6] + 1),
        "first time alone": changed(INFO, 6, None),
        "last time alone": changed(INFO, 5, None),
        "times without sources": changed(INFO, 7, []),
        "sources without times": changed(changed(INFO, 5, None), 6, None),
        "window that ends before it starts": changed(INFO, 8, [b.NOW_NS, b.NOW_NS - 1]),
        "sources, the longer id before its beginning": changed(INFO, 7, [[b"\x01\x00", "b"], [b"\x01", "a"]]),
        "sources in order of length": changed(INFO, 7, [[b"\x02", "b"], [b"\x01\x00", "a"]]),
        "a source twice": changed(INFO, 7, [[b.SOURCE, "a"], [b.SOURCE, "b"]]),
    }


HEADER = [1, b.ORIGIN, ONES, 0, 0, None, 2, ZERO, None, None]
HEADER_NAMES = ("version", "origin", "key_id", "epoch", "seq", "previous", "count", "root", "anchor", "notice")


def headers() -> list[dict]:
    """Section 5.4: every notice, anchors, the rules between fields."""
    later = changed(changed(HEADER, 4, 7), 5, ZERO)
    empty = changed(later, 6, 0)
    found = {
        "first": HEADER,
        "later": later,
        "the most readings": changed(HEADER, 6, 4095),
        "anchored": changed(HEADER, 8, [70_000, ONES]),
        "anchored to nothing": changed(HEADER, 8, [0, ZERO]),
        "anchored to the greatest size": changed(HEADER, 8, [2**64 - 1, ZERO]),
        "heartbeat": changed(empty, 9, [1]),
        "gap": changed(empty, 9, [2, 1, 400]),
        "gap of unknown size": changed(empty, 9, [2, 2, None]),
        "gap of the greatest size": changed(empty, 9, [2, 255, 2**64 - 1]),
        "outbox lost": [1, b.ORIGIN, ONES, 1, 0, None, 0, ZERO, None, [3]],
        "greatest place": [1, b.ORIGIN, ONES, 2**32 - 1, 2**64 - 1, ONES, 1, ZERO, None, None],
        "shortest origin": changed(HEADER, 1, "~"),
        "longest origin": changed(HEADER, 1, "o" * 255),
    }
    vectors = [good(name, pack(item), dict(zip(HEADER_NAMES, item, strict=True))) for name, item in found.items()]
    wrong = {
        0: [0, 2, True, None],
        1: ["", "o" * 256, "a b", "a+b", "a\n", "\u00e9", "\x7f", b"origin", None],
        2: [bytes(31), bytes(33), None, "k" * 32],
        3: [-1, 2**32, None],
        4: [-1, None, 1],
        5: [ZERO],
        6: [0, 4096, -1, None],
        7: [bytes(31), None],
        8: [[], [1], [1, bytes(31)], [-1, ZERO], [1, ZERO, 0], 0],
        9: [[1], [], 0],
    }
    vectors += [bad(name, pack(item)) for name, item in replacements(HEADER, wrong)]
    vectors += [bad(f"later: {name}", pack(item)) for name, item in replacements(later, {5: [None, bytes(31)]})]
    notices = [
        None,
        [],
        [0],
        [3],
        [4],
        [1, None],
        [1, 1, 1],
        [2],
        [2, 1],
        [2, 0, 1],
        [2, 256, 1],
        [2, 1, 0],
        [2, 1, 1, 1],
    ]
    vectors += [bad(f"empty: {name}", pack(item)) for name, item in replacements(empty, {9: [*notices, [2, None, 1]]})]
    lost = found["outbox lost"]
    vectors += [
        bad("epoch without its notice", pack(changed(lost, 9, [1]))),
        bad("outbox lost in epoch 0", pack(changed(lost, 3, 0))),
        bad("outbox lost later in an epoch", pack(changed(changed(lost, 4, 1), 5, ZERO))),
        bad("something after it", pack(HEADER) + b"\xc0"),
    ]
    return vectors


def envelopes() -> list[dict]:
    """Section 6."""
    vectors = []
    window = b.info(window_ns=(b.NOW_NS - 10, b.NOW_NS))
    batches = {
        "two readings": b.sealed([b.scalar(), b.absent()]),
        "waveform": b.sealed([b.waveform()]),
        "heartbeat": b.sealed(),
        "in a chain": b.chain(2)[1],
        "gap with its window": b.sealed(notice=b.Notice(2, 1, 400), batch_info=window),
        "gap without a window": b.sealed(notice=b.Notice(2, 2, None)),
    }
    for name, batch in batches.items():
        salts = b.salts_of(batch)
        fields = {
            "header": batch.header,
            "signature": batch.signature,
            "salts": salts,
            "bodies": [batch.info, *batch.readings],
            "leaf_hashes": b.leaves_of(batch),
            "root": b.naive_root(b.leaves_of(batch)),
        }
        vectors.append(good(name, b.envelope(batch), fields))
    batch = batches["two readings"]
    fields = msgpack.unpackb(b.envelope(batch))
    wrong = {
        0: [0, 2, True],
        1: [b"", b"\xc0", batch.header + b"\xc0", None],
        2: [bytes(63), bytes(65)],
        3: [bytes(31), bytes(33)],
        4: [None, batch.info, changed(fields[4], 5, b.NOW_NS - 1), changed(fields[4], 7, [])],
        5: [None, [], fields[5][:1], [*fields[5], fields[5][0]], [fields[5][0], 72], list(batch.readings)],
    }
    vectors += [bad(name, pack(item)) for name, item in replacements(fields, wrong)]
    data = b.envelope(batch)
    vectors += [bad("something after it", data + b"\xc0"), bad("cut short", data[:-1])]
    two, at = [b.scalar(), b.absent()], b.NOW_NS
    more = (*b.info(two).sources, b.Source(b"\xff", ""))
    unfit = {
        "window beside readings": b.sealed(two, batch_info=b.info(two, window_ns=(at, at))),
        "window beside a heartbeat": b.sealed(batch_info=window),
        "window beside a lost outbox": b.sealed(epoch=1, notice=b.Notice(3), batch_info=window),
        "info with an earlier first time": b.sealed(two, batch_info=b.info(two, first_ns=at - 1)),
        "info with a later last time": b.sealed(two, batch_info=b.info(two, last_ns=at + 1)),
        "info with another source": b.sealed(two, batch_info=b.info(two, sources=more[1:])),
        "info with a source more": b.sealed(two, batch_info=b.info(two, sources=more)),
        "info of no readings beside readings": b.sealed(two, batch_info=b.info()),
        "info of readings beside a heartbeat": b.sealed(batch_info=b.info(two)),
    }
    return vectors + [bad(name, b.envelope(item)) for name, item in unfit.items()]


def entries() -> list[dict]:
    """Section 7."""
    batch = b.sealed([b.scalar()])
    digest = hashlib.sha256(b"vitalseal/v1/assignment\n" + bytes(16) + b"statement").digest()
    entry = b.entry_of(batch)
    committed = {"type": "commitment", "digest": digest}
    parts = {"type": "batch", "header": batch.header, "signature": batch.signature, "leaf_hash": b.hash_entry(entry)}
    vectors = [good("batch", entry, parts), good("commitment", pack([6, 1, digest]), committed)]
    for name, fields in {
        "unknown type": [77, 1, b"?"],
        "reserved type": [9, 1, ZERO],
        "erased of another version": [5, 2, 7, [1]],
        "key state of another version": [3, 2, "?"],
        "equivocation of another version": [4, 0],
        "closing of another version": [7, 2],
        "opening of another version": [8, 65535, None],
        "key event of another version": [2, 2, b"?", []],
        "greatest type and version": [65535, 65535],
        "batch of another version": [1, 2, "?"],
        "commitment of version 0": [6, 0],
    }.items():
        data = pack(fields)
        vectors.append(good(name, data, {"type": "unknown", "leaf_hash": b.hash_entry(data)}))
    wrong = {
        "nothing": b"",
        "nil": b"\xc0",
        "no version": pack([1]),
        "type too large": pack([65536, 1]),
        "negative type": pack([-1, 1]),
        "version is nil": pack([9, None]),
        "batch without signature": pack([1, 1, batch.header]),
        "batch with a short signature": pack([1, 1, batch.header, bytes(63)]),
        "batch with no header": pack([1, 1, b"", bytes(64)]),
        "batch with another header": pack([1, 1, pack([1]), bytes(64)]),
        "batch with a header too long": pack([1, 1, bytes(897), bytes(64)]),
        "digest too short": pack([6, 1, bytes(31)]),
        "digest is text": pack([6, 1, "d" * 32]),
        "too long": pack([77, 1, bytes(65535)]),
        "something after it": pack([77, 1]) + b"\xc0",
    }
    return vectors + [bad(name, data) for name, data in wrong.items()]


def keys() -> list[dict]:
    """Section 3: key ids, and public keys that are refused."""
    vectors = []
    for name in ("device", "other"):
        key = b.device(name).public_key
        vectors.append(
            {
                "name": name,
                "seed": b.seed(name).hex(),
                "algorithm": 1,
                "public_key": key.hex(),
                "result": "ok",
                "key_id": hashlib.sha256(b"vitalseal/v1/key\n\x01" + key).hexdigest(),
            }
        )
    for name, key in {"no point of the curve": curve.OFF_CURVE, "of mixed order": MIXED.public_key}.items():
        known = {"result": "ok", "key_id": b.key_id(1, key).hex()}
        vectors.append({"name": name, "algorithm": 1, "public_key": key.hex(), **known})
    p = 2**255 - 19
    order8 = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
    other8 = bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")
    points = {"y = 0": 0, "y = 1": 1, "y = p - 1": p - 1, "y = p": p, "y = p + 1": p + 1, "y = 2^255 - 1": 2**255 - 1}
    points |= {"order 8": int.from_bytes(order8, "little"), "other order 8": int.from_bytes(other8, "little")}
    for name, y in points.items():
        for sign in (0, 1):
            data = (y | sign << 255).to_bytes(32, "little")
            vectors.append(
                {"name": f"{name}, sign {sign}", "algorithm": 1, "public_key": data.hex(), "result": "malformed"}
            )
    key = b.device().public_key
    for name, algorithm, data in (
        ("31 bytes", 1, key[:-1]),
        ("33 bytes", 1, key + b"\0"),
        ("algorithm 0", 0, key),
        ("algorithm 2", 2, key),
        ("algorithm 3", 3, key),
        ("algorithm 255", 255, key),
    ):
        vectors.append({"name": name, "algorithm": algorithm, "public_key": data.hex(), "result": "malformed"})
    for name, data, usable in signatures.p256_keys():
        known = {"result": "ok", "key_id": b.key_id(2, data).hex()} if usable else {"result": "malformed"}
        vectors.append({"name": name, "algorithm": 2, "public_key": data.hex(), **known})
    return vectors


def messages() -> list[dict]:
    """Section 9: stored, receipt, reject, wanted, erased."""
    note = b.checkpoint_note(5, ONES).encode()
    stored = {"type": "stored", "epoch": 1, "seq": 2, "index": 3}
    placed = [[0, 1, 2, ONES + ZERO], [0, 2, 3, b""]]
    receipt = {"type": "receipt", "checkpoint": note, "old_size": 3, "consistency": [ZERO]}
    receipt["placed"] = [
        {"epoch": 0, "seq": 1, "index": 2, "inclusion": [ONES, ZERO]},
        {"epoch": 0, "seq": 2, "index": 3, "inclusion": []},
    ]
    reject = {"type": "reject", "epoch": None, "seq": None, "reason": 1, "detail": "not msgpack"}
    vectors = [
        good("stored", pack([1, 1, 1, 2, 3]), stored),
        good("receipt", pack([1, 2, note, 3, ZERO, placed]), receipt),
        good(
            "receipt of nothing",
            pack([1, 2, note, 0, b"", []]),
            receipt | {"old_size": 0, "consistency": [], "placed": []},
        ),
        good("reject", pack([1, 3, None, None, 1, "not msgpack"]), reject),
        good(
            "reject of a batch",
            pack([1, 3, 0, 9, 255, ""]),
            reject | {"epoch": 0, "seq": 9, "reason": 255, "detail": ""},
        ),
        good(
            "reject over quota", pack([1, 3, 0, 9, 13, ""]), reject | {"epoch": 0, "seq": 9, "reason": 13, "detail": ""}
        ),
        good("wanted", pack([1, 4, [[1, 2]]]), {"type": "wanted", "places": [{"epoch": 1, "seq": 2}]}),
        good(
            "wanted, as many as may be",
            pack([1, 4, [[2**32 - 1, at] for at in range(256)]]),
            {"type": "wanted", "places": [{"epoch": 2**32 - 1, "seq": at} for at in range(256)]},
        ),
    ]
    vectors += _erased_messages(note)
    many = [[0, at, at, b""] for at in range(1025)]
    wrong = {
        "version 2": [2, 1, 1, 2, 3],
        "type 4 with the items of another": [1, 4, 1, 2, 3],
        "type 5 with the items of another": [1, 5, [[0, 1]]],
        "type 6": [1, 6, [[0, 1]]],
        "stored with a negative index": [1, 1, 1, 2, -1],
        "stored in an epoch too large": [1, 1, 2**32, 2, 3],
        "stored without index": [1, 1, 1, 2],
        "receipt with half a hash": [1, 2, note, 3, bytes(16), []],
        "receipt with 64 hashes": [1, 2, note, 3, bytes(32 * 64), []],
        "receipt without checkpoint": [1, 2, b"", 3, b"", []],
        "receipt of too many": [1, 2, note, 3, b"", many],
        "receipt with a batch cut short": [1, 2, note, 3, b"", [[0, 1, 2]]],
        "reject with half a place": [1, 3, None, 1, 1, ""],
        "reject with a reason too large": [1, 3, 0, 1, 256, ""],
        "reject with reason 0": [1, 3, 0, 1, 0, ""],
        "reject with a detail too long": [1, 3, 0, 1, 1, "d" * 201],
        "reject with a newline": [1, 3, 0, 1, 1, "a\nb"],
        "reject beyond ASCII": [1, 3, 0, 1, 1, "\u00e9"],
        "wanted nothing": [1, 4, []],
        "wanted too many": [1, 4, [[0, at] for at in range(257)]],
        "wanted with a place cut short": [1, 4, [[0]]],
        "wanted with an index": [1, 4, [[0, 1, 2]]],
        "wanted in an epoch too large": [1, 4, [[2**32, 0]]],
        "wanted without list": [1, 4, 0, 1],
    }
    vectors += [bad(name, pack(fields)) for name, fields in (wrong | _no_erased_messages(note)).items()]
    return [*vectors, bad("too long", pack([1, 2, bytes(65536), 0, b"", []]))]


def _erased_messages(note: bytes) -> list[dict]:
    entries = [pack([5, 1, 2, [1]]), pack([5, 1, 3, [0, 1, 2]])]
    message = {"type": "erased", "checkpoint": note, "old_size": 3, "consistency": [ZERO]}
    batches = [
        {"epoch": 0, "seq": 1, "index": 4, "log_index": 2, "leaves": [1], "inclusion": [ONES, ZERO]},
        {"epoch": 1, "seq": 0, "index": 5, "log_index": 3, "leaves": [0, 1, 2], "inclusion": []},
    ]
    both = [[0, 1, 4, entries[0], ONES + ZERO], [1, 0, 5, entries[1], b""]]
    most = [[0, at, 2**64 - 1, entries[0], b""] for at in range(256)]
    last = [{"epoch": 0, "seq": at, "index": 2**64 - 1, "log_index": 2, "leaves": [1]} for at in range(256)]
    return [
        good("erased", pack([1, 5, note, 3, ZERO, both]), message | {"batches": batches}),
        good(
            "erased without a proof of consistency",
            pack([1, 5, note, 0, b"", both[:1]]),
            message | {"old_size": 0, "consistency": [], "batches": batches[:1]},
        ),
        good(
            "erased, as many as may be",
            pack([1, 5, note, 3, ZERO, most]),
            message | {"batches": [item | {"inclusion": []} for item in last]},
        ),
    ]


def _no_erased_messages(note: bytes) -> dict[str, list]:
    batch = [0, 1, 4, pack([5, 1, 2, [1]]), ONES]
    entries = {
        "of another type": pack([6, 1, ZERO]),
        "of another version": pack([5, 2, 2, [1]]),
        "of no leaf": pack([5, 1, 2, []]),
        "that is empty": b"",
        "not in bytes": [5, 1, 2, [1]],
    }
    wrong = {
        "without checkpoint": [1, 5, b"", 3, b"", [batch]],
        "with half a hash": [1, 5, note, 3, bytes(16), [batch]],
        "with 64 hashes": [1, 5, note, 3, bytes(32 * 64), [batch]],
        "of nothing": [1, 5, note, 3, b"", []],
        "of too many": [1, 5, note, 3, b"", [batch] * 257],
        "without list": [1, 5, note, 3, b"", 0],
        "with an item more": [1, 5, note, 3, b"", [batch], None],
        "with a batch cut short": [1, 5, note, 3, b"", [batch[:4]]],
        "with a batch in an epoch too large": [1, 5, note, 3, b"", [changed(batch, 0, 2**32)]],
        "with a negative index": [1, 5, note, 3, b"", [changed(batch, 2, -1)]],
        "with a batch with half a hash": [1, 5, note, 3, b"", [changed(batch, 4, bytes(16))]],
    }
    wrong |= {
        f"with an entry {name}": [1, 5, note, 3, b"", [changed(batch, 3, entry)]] for name, entry in entries.items()
    }
    return {f"erased {name}": fields for name, fields in wrong.items()}


def statuses() -> list[dict]:
    """Section 9: status."""
    vectors = [
        good("online", pack([1, 1, 70_000]), {"online": 1, "size": 70_000}),
        good("offline", pack([1, 0, 2**64 - 1]), {"online": 0, "size": 2**64 - 1}),
    ]
    wrong = {"version 2": [2, 1, 0], "online 2": [1, 2, 0], "online true": [1, True, 0], "negative size": [1, 1, -1]}
    return vectors + [bad(name, pack(fields)) for name, fields in wrong.items()]
