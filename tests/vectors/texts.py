"""The vectors of what is text: keys, notes, checkpoints, cosignatures, tile paths, policies, trust files."""

import hashlib
from collections.abc import Iterator

from ledger.note import NoteSigner, Signature, VerifierKey
from tests.ledger import builders as b
from tests.vectors import curve, mldsa
from tests.vectors.binary import ONES, ZERO, shown

SPACES = (0x85, 0xA0, 0x1680, 0x2000, 0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)  # not in a key name
PQ_LOG = mldsa.PostQuantum(b.ORIGIN, "log, post-quantum")
PQ_HOSPITAL = mldsa.PostQuantum(b.HOSPITAL.name, "hospital, post-quantum")
NOT_SPACES = (0x21, 0x7F, *(at + by for at in SPACES for by in (-1, 1) if at + by not in (*SPACES, 0x2001, 0x2009)))


def vkeys() -> list[dict]:
    """Section 8.3: vkeys."""
    example = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
    vectors = []
    for name, text in {
        "published": example,
        "log": str(b.log_signer().verifier),
        "witness": str(b.HOSPITAL.vkey),
        "base64 with a plus": str(next(key for key in many_keys() if "+" in str(key).split("+", 2)[2])),
        "name beyond ASCII": str(b.log_signer("log.example.org/\u8a9e").verifier),
        "key that is no point of the curve": str(VerifierKey("a", 1, curve.OFF_CURVE)),
        "log with ML-DSA-44": str(PQ_LOG.vkey),
        "ML-DSA-44 of ones": str(VerifierKey("a", 6, b"\xff" * 1312)),
        "ML-DSA-44, a name too long to sign": str(VerifierKey("n" * 256, 6, bytes(1312))),
    }.items():
        key, _, rest = text.partition("+")
        fields = {"name": key, "id": rest[:8], "type": b.unbase64(rest[9:])[0], "key": b.unbase64(rest[9:])[1:]}
        vectors.append({"name": name, "text": text, "result": "ok", "fields": shown(fields)})
    short = VerifierKey("a", 1, b.device().public_key[:-1])
    wrong = {
        "empty": "",
        "no id": "example.com/foo",
        "no key": "example.com/foo+530d903a",
        "empty key": "example.com/foo+530d903a+",
        "no name": example[15:],
        "other name": example.replace("foo", "bar"),
        "other id": example.replace("530d903a", "530d903b"),
        "upper-case id": example.replace("530d903a", "530D903A"),
        "short id": example.replace("530d903a", "530d903"),
        "plus in the name": example.replace("/", "+"),
        "space in the name": example.replace("/", " "),
        "no-break space in the name": example.replace("/", "\u00a0"),
        "line separator in the name": example.replace("/", "\u2028"),
        "newline after it": example + "\n",
        "short key": str(short),
        **{f"unknown type {kind}": str(VerifierKey("a", kind, b.device().public_key)) for kind in (0, 2, 3, 5, 7, 255)},
        "ML-DSA-44 with a key of 1311 bytes": str(VerifierKey("a", 6, bytes(1311))),
        "ML-DSA-44 with a key of 1313 bytes": str(VerifierKey("a", 6, bytes(1313))),
        "ML-DSA-44 with an Ed25519 key": str(VerifierKey("a", 6, b.device().public_key)),
        "ML-DSA-44 with the id of type 1": _renumbered(PQ_LOG.vkey),
        "Ed25519 with an ML-DSA-44 key": str(VerifierKey("a", 1, bytes(1312))),
        "small-order key": str(VerifierKey("a", 1, (1).to_bytes(32, "little"))),
        "unused bits set": example[:-1] + "l",
    }
    return vectors + [{"name": name, "text": text, "result": "malformed"} for name, text in wrong.items()]


def _renumbered(key: VerifierKey) -> str:
    other = VerifierKey(key.name, 1, key.public_key)
    return str(key).replace(key.id.hex(), other.id.hex())


def many_keys() -> Iterator:
    """Keys until one has what is looked for."""
    return (b.log_signer(name=f"plus {number}").verifier for number in range(100))


def notes() -> list[dict]:
    """Section 8.3: notes and what becomes of them under a list of known keys."""
    log, other = b.log_signer(), b.log_signer("other.example.org", "other")
    text = "A text.\n\nWith an empty line, \u2028 and \u00e9.\n"
    line, stranger = str(log.sign(text)), str(other.sign(text))
    forged = str(Signature(log.verifier.name, log.verifier.id, bytes(64)))
    misnamed = str(Signature("other", log.verifier.id, log.sign(text).signature))
    almost = "".join(f"\u2014 a{chr(at)}b AAAAAAA=\n" for at in NOT_SPACES)
    key = str(log.verifier)
    example = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
    signed = (
        "This is an example message.\n\n\u2014 example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1E"
        "RYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
    )
    found = [
        ("published", signed, [example], "ok"),
        ("one line", f"{text}\n{line}", [key], "ok"),
        ("a stranger's line before", f"{text}\n{stranger}{line}", [key], "ok"),
        ("the same line twice", f"{text}\n{line}{line}", [key], "ok"),
        ("the right id under another name", f"{text}\n{misnamed}{line}", [key], "ok"),
        ("sixteen lines", f"{text}\n{stranger * 15}{line}", [key], "ok"),
        ("eighty lines", f"{text}\n{stranger * 79}{line}", [key], "ok"),
        ("names with what is almost a space", f"{text}\n{almost}{line}", [key], "ok"),
        ("the text is a newline", "\n\n" + str(log.sign("\n")), [key], "ok"),
        ("only strangers", f"{text}\n{stranger}", [key], "unproven"),
        ("no known key", f"{text}\n{line}", [], "unproven"),
        ("a good and a bad line by one key", f"{text}\n{line}{forged}", [key], "unproven"),
        ("a bad and a good line by one key", f"{text}\n{forged}{line}", [key], "unproven"),
        ("another text", f"Another text.\n\n{line}", [key], "unproven"),
        ("eighty-one lines", f"{text}\n{stranger * 80}{line}", [key], "malformed"),
        ("no line", f"{text}\n", [key], "malformed"),
        ("no empty line", f"A text.\n{line}", [key], "malformed"),
        ("no newline at the end", f"{text}\n{line[:-1]}", [key], "malformed"),
        ("an empty line at the end", f"{text}\n{line}\n", [key], "malformed"),
        ("a hyphen for the dash", f"{text}\n{line.replace(chr(0x2014), '-')}", [key], "malformed"),
        ("two spaces", f"{text}\n{line.replace(' ', '  ', 1)}", [key], "malformed"),
        ("a space at the end", f"{text}\n{line[:-1]} \n", [key], "malformed"),
        ("CRLF", f"{text}\n{line}".replace("\n", "\r\n"), [key], "malformed"),
        ("a control character in the text", f"A\ttext.\n\n{line}", [key], "malformed"),
        ("only a key id", f"{text}\n\u2014 a AAAAAA==\n", [key], "malformed"),
        ("unused bits set", f"{text}\n\u2014 a AAAAAAB=\n", [key], "malformed"),
        ("no padding", f"{text}\n\u2014 a AAAAAAA\n", [key], "malformed"),
        ("a plus in a name", f"{text}\n\u2014 a+b AAAAAAA=\n", [key], "malformed"),
        ("a no-break space in a name", f"{text}\n\u2014 a\u00a0b AAAAAAA=\n", [key], "malformed"),
        ("empty", "", [key], "malformed"),
    ]
    found += [
        (f"U+{at:04X} in a name", f"{text}\n\u2014 a{chr(at)}b AAAAAAA=\n{line}", [key], "malformed") for at in SPACES
    ]
    vectors = [{"name": name, "note": note, "keys": keys, "result": result} for name, note, keys, result in found]
    for name, octets in {"not UTF-8": b"\xff", "a surrogate": b"\xed\xa0\x80", "an overlong form": b"\xc1\xa1"}.items():
        broken = text.encode() + octets + b"\n\n" + line.encode()
        vectors.append({"name": name, "note_hex": broken.hex(), "keys": [key], "result": "malformed"})
    return vectors


def checkpoints() -> list[dict]:
    """Section 8.3: the text of a checkpoint."""
    root = b.base64(ONES)
    found = {
        "small": ("log.example.org", 42, ONES),
        "empty log": ("log.example.org", 0, hashlib.sha256(b"").digest()),
        "greatest size": ("o", 2**64 - 1, ZERO),
        "longest origin": ("o" * 255, 1, ZERO),
        "origin beyond ASCII": ("log.example.org/\u8a9e", 1, ZERO),
    }
    vectors = []
    for name, (origin, size, top) in found.items():
        fields = shown({"origin": origin, "size": size, "root": top})
        text = f"{origin}\n{size}\n{b.base64(top)}\n"
        vectors.append({"name": name, "text": text, "result": "ok", "fields": fields})
    wrong = {
        "empty": "",
        "two lines": "o\n1\n",
        "no newline at the end": f"o\n1\n{root}",
        "an extension line": f"o\n1\n{root}\nextension\n",
        "an empty line at the end": f"o\n1\n{root}\n\n",
        "CRLF": f"o\r\n1\r\n{root}\r\n",
        "line separator": f"o\u20281\n{root}\n",
        "no origin": f"\n1\n{root}\n",
        "a space in the origin": f"o o\n1\n{root}\n",
        "a plus in the origin": f"o+o\n1\n{root}\n",
        "origin too long": f"{'o' * 256}\n1\n{root}\n",
        "origin too long in bytes": f"{chr(0xE9) * 128}\n1\n{root}\n",
        **{
            f"size {size!a}": f"o\n{size}\n{root}\n"
            for size in ("", "+42", "-1", "042", "00", "4_2", "\uff14\uff12", " 42", "42 ", "0x2a", "1e3", str(2**64))
        },
        "root of 31 bytes": f"o\n1\n{b.base64(bytes(31))}\n",
        "root of 33 bytes": f"o\n1\n{b.base64(bytes(33))}\n",
        "root without padding": f"o\n1\n{root[:-1]}\n",
        "root with unused bits set": f"o\n1\n{root[:-2]}9=\n",
        "root in URL base64": f"o\n1\n{root.replace('/', '_')}\n",
        "a space after the root": f"o\n1\n{root} \n",
    }
    return vectors + [{"name": name, "text": text, "result": "malformed"} for name, text in wrong.items()]


def cosignatures() -> list[dict]:
    """Section 8.3: Ed25519 cosignatures over a checkpoint."""
    text = f"{b.ORIGIN}\n42\n{b.base64(ONES)}\n"
    key, vectors = b.HOSPITAL.vkey, []

    def add(name: str, line: object, result: object) -> None:
        told = {"result": "ok", "time": str(result)} if isinstance(result, int) else {"result": result}
        vectors.append({"name": name, "checkpoint": text, "vkey": str(key), "line": str(line), **told})

    for name, time in {"now": b.NOW, "time 0": 0, "greatest time": 2**63 - 1}.items():
        add(name, b.HOSPITAL.cosign(text, time), time)
    one = b.HOSPITAL.cosign(text, b.NOW)
    for name, blob in {
        "time beyond 63 bits": b.HOSPITAL.cosign(text, 2**63).signature,
        "another time": (b.NOW + 1).to_bytes(8, "big") + one.signature[8:],
        "another text": b.HOSPITAL.cosign(text.replace("42", "43"), b.NOW).signature,
        "another key's": b.REGULATOR.cosign(text, b.NOW).signature,
        "a byte short": one.signature[:-1],
        "a byte long": one.signature + b"\0",
        "no time": one.signature[8:],
        "over the text alone": bytes(8) + NoteSigner(key.name, b.seed(key.name)).sign(text).signature,
    }.items():
        add(name, Signature(key.name, key.id, blob), "unproven")
    return vectors + _post_quantum(text)


def _post_quantum(text: str) -> list[dict]:
    """Lines of type 0x06, by a log and by a witness."""
    vectors = []

    def add(name: str, who: mldsa.PostQuantum, blob: bytes, time: int | None, note: str = text) -> None:
        told = {"result": "unproven"} if time is None else {"result": "ok", "time": str(time)}
        line = str(Signature(who.name, who.vkey.id, blob))
        vectors.append({"name": f"ML-DSA-44, {name}", "checkpoint": note, "vkey": str(who.vkey), "line": line, **told})

    log, witness = PQ_LOG, PQ_HOSPITAL
    add("a log's", log, log.cosign(text, b.NOW).signature, b.NOW)
    add("a witness's", witness, witness.cosign(text, b.NOW).signature, b.NOW)
    greatest = f"{'o' * 255}\n{2**64 - 1}\n{b.base64(ZERO)}\n"
    long = mldsa.PostQuantum("n" * 255, witness.key)
    add(
        "the longest names and the greatest numbers",
        long,
        long.cosign(greatest, 2**63 - 1).signature,
        2**63 - 1,
        greatest,
    )
    least = f"~\n0\n{b.base64(hashlib.sha256(b'').digest())}\n"
    short = mldsa.PostQuantum("\u8a9e", witness.key)
    add("a name beyond ASCII, time 0, an empty log", short, short.cosign(least, 0).signature, 0, least)
    one = witness.cosign(text, b.NOW).signature
    stamp, other = one[:8], text.replace("42", "43")

    def signed(message: bytes) -> bytes:
        return stamp + mldsa.sign(witness.key, message)

    message = mldsa.message(witness.name, text, b.NOW)
    middle = len(message) - 48  # the start of the subtree
    add("another time", witness, (b.NOW + 1).to_bytes(8, "big") + one[8:], None)
    beyond = witness.cosign(text, 2**63).signature
    add("time beyond 63 bits", witness, beyond, None)
    add("another size", witness, witness.cosign(other, b.NOW).signature, None)
    add("another name signed", witness, log.cosign(text, b.NOW).signature, None)
    add("another key's", witness, mldsa.PostQuantum(witness.name, log.key).cosign(text, b.NOW).signature, None)
    add(
        "over a subtree that starts later",
        witness,
        signed(message[:middle] + (1).to_bytes(8, "big") + message[middle + 8 :]),
        None,
    )
    add(
        "over the text of an Ed25519 cosignature",
        witness,
        signed(f"cosignature/v1\ntime {b.NOW}\n{text}".encode()),
        None,
    )
    add("over the note's text", witness, signed(text.encode()), None)
    add("an Ed25519 cosignature", witness, b.HOSPITAL.cosign(text, b.NOW).signature, None)
    add("a byte short", witness, one[:-1], None)
    add("a byte long", witness, one + b"\0", None)
    add("no time", witness, one[8:], None)
    add("a bit changed", witness, one[:1000] + bytes([one[1000] ^ 1]) + one[1001:], None)
    unnamed = mldsa.PostQuantum("n" * 256, witness.key)
    add("a name of 256 bytes", unnamed, one, None)
    return vectors


def tiles() -> dict:
    """Section 7: which tiles a size has, their paths, their bytes."""
    sizes = {}
    for size in (0, 1, 255, 256, 257, 70_000):
        sizes[str(size)] = sorted(b.tile_paths(size))
    paths = [
        {"path": path, "result": "ok", "level": level, "index": str(index), "width": width}
        for path, level, index, width in (
            ("tile/0/000", "0", 0, 256),
            ("tile/0/x001/x234/067", "0", 1234067, 256),
            ("tile/entries/x001/x234/067.p/255", "entries", 1234067, 255),
            ("tile/7/999.p/1", "7", 999, 1),
            ("tile/1/x001/000", "1", 1000, 256),
        )
    ]
    wrong = (
        *("", "tile/0", "tile/0/0", "tile/0/0000", "tile/0/x000/001", "tile/0/001/002", "tile/0/x001", "tile/00/001"),
        *("tile/0/001.p/0", "tile/0/001.p/01", "tile/0/001.p/256", "tile/0/001.p/300", "tile/0/001.p/", "tile/8/001"),
        *("/tile/0/001", "tile/0/001/", "tile/0/../001", "tile/0/+01", "tile/0/\uff10\uff10\uff11", "tile/0/001\n"),
    )
    paths += [{"path": path, "result": "malformed"} for path in wrong]
    log = [b"", b"a", bytes(300)]
    bundles = [{"hex": (b"\0\0\0\1a\1\x2c" + bytes(300)).hex(), "width": 3, "result": "ok", "entries": shown(log)}]
    for data, width in (
        (b"", 1),
        (b"\0", 1),
        (b"\0\1", 1),
        (b"\0\0\0", 1),
        (b"\0\1ab", 1),
        (b"\0\0\0\0", 1),
        (b"\0\0", 2),
    ):
        bundles.append({"hex": data.hex(), "width": width, "result": "malformed"})
    hashes = [b.hash_entry(entry) for entry in log]
    small = {
        "entries": shown(log),
        "leaf_hashes": shown(hashes),
        "root": b.naive_root(hashes).hex(),
        "files": {path: data.hex() for path, data in sorted(b.tile_files(log).items())},
        "inclusion": [shown(b.naive_path(at, hashes)) for at in range(3)],
        "consistency": [shown(b.naive_consistency(old, hashes)) if old else [] for old in range(4)],
    }
    return {"sizes": sizes, "paths": paths, "bundles": bundles, "log": small}


def policies() -> list[dict]:
    """Section 8.4."""
    log, other = str(b.log_signer().verifier), str(b.log_signer(name="other").verifier)
    keys = [str(b.Cosigner(f"w{number}.example.org").vkey) for number in range(40)]
    w, v = f"witness w {keys[0]}", f"witness v {keys[1]}"
    logs = [f"log {b.log_signer(name=f'log {number}').verifier}" for number in range(40)]
    forty = [*logs, *(f"witness w{at} {key}" for at, key in enumerate(keys))]
    forty += [f"group g{at} any w{at}" for at in range(40)]
    forty += ["group top 40 " + " ".join(f"g{at}" for at in range(40)), "quorum top"]
    stray = VerifierKey(b.ORIGIN, 1, curve.OFF_CURVE)
    doubled = VerifierKey(b.ORIGIN, 4, b.log_signer().verifier.public_key)
    found: dict[str, list[str] | bytes] = {
        "example": b.two_of_three().encode(),
        "no witness": [f"log {log}", "quorum none"],
        "no log": ["quorum none"],
        "url": [f"log {log} https://log.example.org/", f"{w} https://w.example.org/", "quorum w"],
        "comments, tabs, blanks": ["# comment", "", "\t # \x7e", f" \tlog\t{log}  ", "quorum \t none\t"],
        "lines of blanks alone": [" ", f"log {log}", "\t", "quorum none", " \t "],
        "no newline at the end": f"log {log}\nquorum none".encode(),
        "opaque octets": b"# \xff\xfe\nwitness \xff " + keys[0].encode() + b"\nquorum \xff\n",
        "a witness is the quorum": [f"log {log}", w, "quorum w"],
        "groups in groups": [f"log {log}", w, v, "group g any w", "group h all g v", "quorum h"],
        "names like keywords": [w.replace(" w ", " all "), "group any all all", "quorum any"],
        "two logs": [f"log {log}", f"log {other}", "quorum none"],
        "forty of each": forty,
        "groups 64 deep": chained(w, 64),
        "one key as log and as witness": [f"log {log}", f"witness w {doubled}", "quorum w"],
        "keys that are no points of the curve": [f"log {stray}", "quorum none"],
        "the quorum before the logs": [w, "quorum w", f"log {log}"],
        "the quorum is a member": [w, "group g any w", "quorum w"],
        "a log's keys of both types": [f"log {log}", f"log {PQ_LOG.vkey}", "quorum none"],
        "a log's key of type 6 alone": [f"log {PQ_LOG.vkey}", "quorum none"],
        "a witness's keys of both types": [
            *(f"log {log}", f"witness h-ed {b.HOSPITAL.vkey}", f"witness h-pq {PQ_HOSPITAL.vkey}"),
            *("group hospital any h-ed h-pq", "quorum hospital"),
        ],
        "a key of type 6 as log and as witness": [
            *(f"log {PQ_LOG.vkey}", f"witness w {VerifierKey('w', 6, PQ_LOG.vkey.public_key)}", "quorum w"),
        ],
        "log of 300 bytes": [f"log {b.log_signer('o' * 300).verifier}", "quorum none"],
        "urls that are not UTF-8": b"log " + log.encode() + b" \xff\nquorum none\n",
    }
    wrong: dict[str, list[str] | bytes] = {
        "empty": b"",
        "no quorum": [f"log {log}"],
        "two quorums": ["quorum none", "quorum none"],
        "quorum of two": [w, v, "quorum w v"],
        "quorum not defined": ["quorum w"],
        "quorum before its definition": ["quorum w", w],
        "unknown keyword": ["Log x", "quorum none"],
        "log without key": ["log", "quorum none"],
        "log with two urls": [f"log {log} a b", "quorum none"],
        "log twice": [f"log {log}", f"log {log}", "quorum none"],
        "two log keys of one name and id": [*(f"log {key}" for key in twins(1, 1)), "quorum none"],
        "two witness keys of one name and id": [
            *(f"witness w{at} {key}" for at, key in enumerate(twins(4, 4))),
            "quorum none",
        ],
        "a log's and a witness's key of one name and id": [
            *("{} {}".format(*pair) for pair in zip(("log", "witness w"), twins(1, 4), strict=True)),
            "quorum none",
        ],
        "groups 65 deep": chained(w, 65),
        "groups 65 deep that are not the quorum": [*chained(w, 65)[:-1], "quorum none"],
        "witness with two urls": [f"{w} a b", "quorum none"],
        "group called none": [w, "group none any w", "quorum none"],
        "group called as a witness": [w, "group w any w", "quorum w"],
        "key name not UTF-8": b"log " + raw_vkey(b"log\xff", 1, b.device().public_key) + b"\nquorum none\n",
        "log with a witness's key": [f"log {keys[0]}", "quorum none"],
        "log key of type 6 twice": [f"log {PQ_LOG.vkey}", f"log {PQ_LOG.vkey}", "quorum none"],
        "witness key of type 6 under two names": [
            *(f"witness w {PQ_HOSPITAL.vkey}", f"witness v {PQ_HOSPITAL.vkey}", "quorum none"),
        ],
        "one key of type 6 as log and as witness under one name": [
            *(f"log {PQ_LOG.vkey}", f"witness w {PQ_LOG.vkey}", "quorum none"),
        ],
        "log key of type 6, of 1311 bytes": [f"log {VerifierKey('a', 6, bytes(1311))}", "quorum none"],
        "witness with a log's key": [f"witness w {log}", "quorum none"],
        "witness called none": [w.replace(" w ", " none "), "quorum none"],
        "witness defined twice": [w, v.replace(" v ", " w "), "quorum none"],
        "witness key twice": [w, w.replace(" w ", " v "), "quorum none"],
        "group without members": ["group g any", "quorum none"],
        "group of the undefined": ["group g any w", "quorum none"],
        "group of itself": [w, "group g any w g", "quorum g"],
        "group of none": [w, "group g any w none", "quorum g"],
        "member twice": [w, "group g any w w", "quorum g"],
        "member of two groups": [w, "group g any w", "group h any w", "quorum g"],
        **{
            f"threshold {k!a}": [w, f"group g {k} w", "quorum g"] for k in ("0", "2", "+1", "01", "-1", "ALL", "\uff11")
        },
        "CRLF": b"quorum none\r\n",
        "zero octet": b"quorum none\x00\n",
        "octet 7F": b"quorum none\x7f\n",
        "form feed": b"quorum none\x0c\n",
        "no-break space": "quorum\u00a0none\n".encode(),
        "byte order mark": b"\xef\xbb\xbfquorum none\n",
        "control octet in a comment": b"# \x1b\nquorum none\n",
    }
    return [_text(name, data, "ok") for name, data in found.items()] + [
        _text(name, data, "malformed") for name, data in wrong.items()
    ]


def raw_vkey(name: bytes, kind: int, public_key: bytes) -> bytes:
    """A vkey of whatever name and key are given, with the id that they have."""
    typed = bytes([kind]) + public_key
    return b"+".join((name, hashlib.sha256(name + b"\n" + typed).hexdigest()[:8].encode(), b.base64(typed).encode()))


def chained(witness: str, depth: int) -> list[str]:
    """A policy of `depth` groups, each the only member of the next."""
    groups = [f"group g{at} any {f'g{at - 1}' if at else 'w'}" for at in range(depth)]
    return [witness, *groups, f"quorum g{depth - 1}"]


# Names of keys whose ids are the same four bytes under the name of the log: found by trying numbers from 0 up.
TWINS = {(1, 1): (386, 4601), (4, 4): (17467, 28011), (1, 4): (21046, 70434)}


def twins(*types: int) -> list[VerifierKey]:
    """Two keys of these types that only their public keys tell apart: one name, one id."""
    keys = [
        VerifierKey(b.ORIGIN, kind, b.device(f"twin {number}").public_key)
        for kind, number in zip(types, TWINS[types], strict=True)
    ]
    assert keys[0].id == keys[1].id
    return keys


def trust() -> list[dict]:
    """Section 8.5."""
    one, two = (str(b.log_signer(f"registrar{at}", f"registrar {at}").verifier) for at in (1, 2))
    alias = str(b.log_signer("registrar3", "registrar 1").verifier)
    found: dict[str, list[str] | bytes] = {
        "one": [one],
        "two, comments, blanks": ["# registrars", "", f" {one}\t", two],
        "lines of blanks alone": [" ", one, "\t \t", ""],
        "no newline at the end": one.encode(),
        "opaque octets in a comment": b"# \xff\n" + one.encode() + b"\n",
        "two of one name": [one, str(b.log_signer("registrar1", "registrar 2").verifier)],
    }
    wrong = {
        "empty": [],
        "comments only": ["# none"],
        "twice": [one, one],
        "one key under two names": [one, alias],
        "a url": [f"{one} https://registrar.example.org/"],
        "control octet in a comment": ["# \x1b", one],
        "two in a line": [f"{one} {two}"],
        "a witness's key": [str(b.HOSPITAL.vkey)],
        "a key of type 6": [str(PQ_LOG.vkey)],
        "a policy line": [f"log {one}"],
        "CRLF": [one + "\r"],
    }
    return [_text(name, lines, "ok") for name, lines in found.items()] + [
        _text(name, lines, "malformed") for name, lines in wrong.items()
    ]


def _text(name: str, data: list[str] | bytes, result: str) -> dict:
    data = data if isinstance(data, bytes) else "\n".join([*data, ""]).encode()
    try:
        return {"name": name, "text": data.decode(), "result": result}
    except UnicodeDecodeError:
        return {"name": name, "text_hex": data.hex(), "result": result}
