"""Policies and trust files as C2SP tlog-policy specifies them, and the logged-by time of a quorum."""

import itertools

import pytest

from ledger.errors import MalformedError, VerificationError
from ledger.note import Note, Signature, VerifierKey
from ledger.policy import Group, Witness, parse_policy, parse_trust, verify_checkpoint, verify_quorum
from tests.vectors import texts

from . import builders as b

LOG = str(b.log_signer().verifier)
OTHER_LOG = str(b.log_signer(name="other").verifier)
KEYS = [str(b.Cosigner(f"w{number}.example.org").vkey) for number in range(40)]


def lines(*items):
    """A policy file of `items`."""
    return "\n".join([*items, ""]).encode()


def test_policy_of_the_formats():
    """The example policy is read: one log, three witnesses, two of them a quorum."""
    policy = b.policy(b.two_of_three())
    assert [key.name for key, _ in policy.logs] == [b.ORIGIN]
    assert [witness.name for witness in policy.witnesses] == ["hospital", "regulator", "patients"]
    assert isinstance(policy.quorum, Group)
    assert (policy.quorum.name, policy.quorum.threshold, policy.quorum.members) == ("quorate", 2, policy.witnesses)


@pytest.mark.parametrize(
    "data",
    [
        lines(f"log {LOG}", "quorum none"),
        lines(f"log {LOG} https://log.example.org/", "quorum none"),
        lines("quorum none"),
        lines("", "# comment", "  # another", "\t#\ttabs", f"\t log \t {LOG}\t", " quorum\tnone \t"),
        f"log {LOG}\nquorum none".encode(),
        b"# \xff\xfe opaque\n" + lines("quorum none"),
        lines(f"witness a {KEYS[0]}", "quorum a"),
        lines(f"witness \xe9\u2028 {KEYS[0]} \xe9:", "quorum \xe9\u2028"),
        lines(f"witness # {KEYS[0]}", "quorum #"),
        lines(f"witness all {KEYS[0]}", "group any all all", "quorum any"),
        lines(f"witness a {KEYS[0]}", "group g any a", "group h all g", "quorum h"),
        lines(f"witness a {KEYS[0]}", "group g 1 a", "quorum a"),
        lines(f"witness a {KEYS[0]}", "quorum none", "group g 1 a"),
        lines(f"log {LOG}", f"log {OTHER_LOG}", "quorum none"),
        b"witness \xff " + KEYS[0].encode() + b"\nquorum \xff\n",
    ],
)
def test_policy_well_formed(data):
    """Comments, free white space, opaque bytes, any order that defines before it uses."""
    parse_policy(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no quorum line"),
        (lines(f"log {LOG}"), "no quorum line"),
        (lines("quorum none", "quorum none"), "line 2: a second quorum"),
        (lines("quorum"), "not a log, witness, group or quorum line"),
        (lines("quorum none none"), "not a log"),
        (lines("quorum x"), "not defined above"),
        (lines("quorum w", f"witness w {KEYS[0]}"), "not defined above"),
        (lines("Quorum none"), "not a log"),
        (lines("log"), "not a log"),
        (lines("log x", "quorum none"), "not of the form"),
        (lines(f"log {LOG} a b", "quorum none"), "not a log"),
        (lines(f"log {LOG}", f"log {LOG}", "quorum none"), "same log key twice"),
        (lines(f"log {KEYS[0]}", "quorum none"), "type 0x01"),
        (lines(f"witness w {LOG}", "quorum none"), "type 0x04"),
        (lines(f"witness w {KEYS[0]} a b", "quorum none"), "not a log"),
        (lines("witness w", "quorum none"), "not a log"),
        (lines(f"witness none {KEYS[0]}", "quorum none"), "is taken"),
        (lines(f"witness w {KEYS[0]}", f"witness w {KEYS[1]}", "quorum none"), "is taken"),
        (lines(f"witness v {KEYS[0]}", f"witness w {KEYS[0]}", "quorum none"), "same witness key twice"),
        (lines("group g any", "quorum none"), "not a log"),
        (lines("group g any w", "quorum none"), "not defined above"),
        (lines("group g any g", "quorum none"), "not defined above"),
        (lines("group g any none", "quorum none"), "not defined above"),
        (lines(f"witness w {KEYS[0]}", "group none any w", "quorum none"), "is taken"),
        (lines(f"witness w {KEYS[0]}", "group w any w", "quorum none"), "is taken"),
        (lines(f"witness w {KEYS[0]}", "group g any w w", "quorum none"), "member already"),
        (lines(f"witness w {KEYS[0]}", "group g any w", "group h any w", "quorum g"), "member already"),
        (lines(f"witness w {KEYS[0]}", "group g 0 w", "quorum g"), "threshold 0"),
        (lines(f"witness w {KEYS[0]}", "group g 2 w", "quorum g"), "threshold 2"),
        (lines(f"witness w {KEYS[0]}", "group g +1 w", "quorum g"), "not a decimal"),
        (lines(f"witness w {KEYS[0]}", "group g 01 w", "quorum g"), "not a decimal"),
        (lines(f"witness w {KEYS[0]}", "group g \uff11 w", "quorum g"), "not a decimal"),
        (lines(f"witness w {KEYS[0]}", "group g ALL w", "quorum g"), "not a decimal"),
        (b"quorum none\r\n", "U\\+000D"),
        (b"quorum none\x00\n", "U\\+0000"),
        (b"quorum none\x7f\n", "U\\+007F"),
        (b"quorum none\x0c\n", "U\\+000C"),
        (b"# \x1b[31m\nquorum none\n", "line 1: control"),
        ("quorum\u00a0none\n".encode(), "not a log"),
        (b"\xef\xbb\xbfquorum none\n", "not a log"),
        (b"#" * 262_145, "more than the 262144 allowed"),
    ],
)
def test_policy_malformed(data, message):
    """A policy that is not one names its line and its fault."""
    with pytest.raises(MalformedError, match=message):
        parse_policy(data)


@pytest.mark.parametrize("types", [(1, 1), (4, 4), (1, 4)])
def test_policy_with_two_keys_of_one_name_and_id(types):
    """Two keys that a signature line cannot tell apart are refused, be they logs', witnesses' or one of each."""
    entries = ["log {}" if kind == 1 else f"witness w{at} {{}}" for at, kind in enumerate(types)]
    twins = [entry.format(key) for entry, key in zip(entries, texts.twins(*types), strict=True)]
    for alone in twins:
        parse_policy(lines(alone, "quorum none"))
    with pytest.raises(MalformedError, match="line 2: another key has this name and id"):
        parse_policy(lines(*twins, "quorum none"))


@pytest.mark.parametrize("quorum", ["none", "w"])
def test_policy_of_groups_too_deep(quorum):
    """Groups nest 64 deep and no deeper, whether the quorum uses them or not."""
    witness = f"witness w {KEYS[0]}"
    assert isinstance(parse_policy(lines(*texts.chained(witness, 64))).quorum, Group)
    with pytest.raises(MalformedError, match="nest deeper than 64"):
        parse_policy(lines(*texts.chained(witness, 65)[:-1], f"quorum {quorum}"))


def test_policy_with_a_key_that_is_no_point():
    """A key on no curve point is well formed, and whatever it is said to have signed does not verify."""
    stray = VerifierKey(b.ORIGIN, 1, (2).to_bytes(32, "little"))
    policy = parse_policy(lines(f"log {LOG}", f"log {stray}", "quorum none"))
    note = cosigned((None, None, None))
    assert verify_checkpoint(note, policy).checkpoint.size == 5
    (line,) = note.signatures
    with pytest.raises(VerificationError):
        verify_checkpoint(Note(note.text, (line, Signature(stray.name, stray.id, line.signature))), policy)


def test_checkpoint_with_a_line_by_a_log_of_another_origin():
    """A log key whose name is not the checkpoint's origin counts as unknown, whatever its line holds."""
    other = b.log_signer("other", "other").verifier
    policy = parse_policy(lines(f"log {LOG}", f"log {other}", "quorum none"))
    note = cosigned((None, None, None))
    for data in (bytes(64), b"?"):
        more = Note(note.text, (*note.signatures, Signature(other.name, other.id, data)))
        assert verify_checkpoint(more, policy).checkpoint.size == 5


def test_policy_names_with_opaque_octets():
    """The octet FF and the four characters that a program may show it by are two names."""
    parse_policy(b"witness \xff %b\nwitness \\xff %b\nquorum \xff\n" % (KEYS[0].encode(), KEYS[1].encode()))


def test_policy_with_a_key_name_that_is_not_utf8():
    """A vkey whose name holds an octet that is not UTF-8 is malformed (FORMAT.md section 8.1)."""
    escaped = str(b.log_signer("a\\xff").verifier).encode()
    assert parse_policy(lines(f"log {escaped.decode()}", "quorum none")).logs
    with pytest.raises(MalformedError):
        parse_policy(b"log " + escaped.replace(b"\\xff", b"\xff") + b"\nquorum none\n")


def test_policy_of_forty_each():
    """More logs, witnesses and groups than the 32 that the specification asks for."""
    logs = [f"log {b.log_signer(name=f'log {number}').verifier}" for number in range(40)]
    witnesses = [f"witness w{number} {key}" for number, key in enumerate(KEYS)]
    groups = [f"group g{number} any w{number}" for number in range(40)]
    members = " ".join(f"g{number}" for number in range(40))
    policy = parse_policy(lines(*logs, *witnesses, *groups, f"group top 40 {members}", "quorum top"))
    assert (len(policy.logs), len(policy.witnesses)) == (40, 40)


def test_policy_names_are_octets():
    """The Kelvin sign is not a K, and composed letters are not decomposed ones."""
    data = lines(f"witness K {KEYS[0]}", f"witness \u212a {KEYS[1]}", f"witness \xe9 {KEYS[2]}", "quorum \u212a")
    quorum = parse_policy(data).quorum
    assert isinstance(quorum, Witness)
    assert str(quorum.key) == KEYS[1]
    with pytest.raises(MalformedError):
        parse_policy(lines(f"witness \xe9 {KEYS[2]}", "quorum e\u0301"))


def cosigned(times):
    """A checkpoint cosigned by those of the three witnesses that have a time."""
    witnesses = (b.HOSPITAL, b.REGULATOR, b.PATIENTS)
    found = [(witness, time) for witness, time in zip(witnesses, times, strict=True) if time is not None]
    return b.checkpoint_note(5, bytes(32), cosigned=found)


@pytest.mark.parametrize("times", list(itertools.permutations((10, 20, 30))))
def test_quorum_time_is_the_kth_smallest(times):
    """A group of two of three has the second smallest time, in whatever order its members signed."""
    assert verify_quorum(cosigned(times), b.policy(b.two_of_three()))[0] == 20


@pytest.mark.parametrize(
    ("quorum", "times", "expected"),
    [
        ("group g any hospital regulator patients\nquorum g", (30, 20, 40), 20),
        ("group g all hospital regulator patients\nquorum g", (30, 20, 40), 40),
        ("group g 2 hospital regulator patients\nquorum g", (30, None, 40), 40),
        ("group g any hospital regulator\ngroup h all g patients\nquorum h", (30, 20, 10), 20),
        ("group g any hospital regulator\ngroup h all g patients\nquorum h", (30, None, 40), 40),
        ("group g all hospital regulator\ngroup h any g patients\nquorum h", (30, 20, None), 30),
        ("group g all hospital regulator\ngroup h any g patients\nquorum h", (None, 20, 99), 99),
        ("hospital", (7, 1, 1), 7),
        ("none", (7, 1, 1), None),
        ("none", (None, None, None), None),
    ],
)
def test_quorum_reached(quorum, times, expected):
    """The time is a witness's own, or for a group the k-th smallest of its members'."""
    policy = b.policy(b.policy_text(quorum, witnesses=(b.HOSPITAL, b.REGULATOR, b.PATIENTS)))
    verified = verify_checkpoint(cosigned(times), policy)
    assert verified.logged_by == expected
    assert len(verified.witnesses) == sum(time is not None for time in times)


@pytest.mark.parametrize(
    ("quorum", "times"),
    [
        ("group g 2 hospital regulator patients\nquorum g", (30, None, None)),
        ("group g all hospital regulator patients\nquorum g", (30, 20, None)),
        ("group g any hospital regulator\ngroup h all g patients\nquorum h", (30, 20, None)),
        ("group g any hospital regulator\nquorum g", (None, None, 5)),
        ("hospital", (None, 1, 1)),
    ],
)
def test_quorum_missed(quorum, times):
    """Too few witnesses are no quorum."""
    policy = b.policy(b.policy_text(quorum, witnesses=(b.HOSPITAL, b.REGULATOR, b.PATIENTS)))
    with pytest.raises(VerificationError, match="is not reached"):
        verify_checkpoint(cosigned(times), policy)


def test_quorum_counts_a_witness_once():
    """Two cosignatures of one witness are one witness, with the earlier time."""
    note = cosigned((30, None, None))
    twice = Note(note.text, (*note.signatures, b.HOSPITAL.cosign(note.text, 20)))
    with pytest.raises(VerificationError):
        verify_checkpoint(twice, b.policy(b.two_of_three()))
    single = b.policy(b.policy_text("hospital", witnesses=(b.HOSPITAL,)))
    assert verify_checkpoint(twice, single).logged_by == 20


def test_quorum_with_a_bad_line_by_a_known_witness():
    """A known witness's line that does not verify refuses the checkpoint, even where it is not needed."""
    note = cosigned((10, 20, 30))
    forged = b.HOSPITAL.cosign("another text\n", 5)
    for text in (b.two_of_three(), b.policy_text(witnesses=(b.HOSPITAL,))):
        with pytest.raises(VerificationError):
            verify_checkpoint(Note(note.text, (*note.signatures, forged)), b.policy(text))


def test_checkpoint_of_a_log_that_the_policy_does_not_name():
    """Another origin, and another key under the right origin, are refused."""
    with pytest.raises(VerificationError, match="names no log"):
        verify_checkpoint(b.checkpoint_note(5, bytes(32), origin="other"), b.policy(b.policy_text()))
    with pytest.raises(VerificationError, match="no signature by a known key"):
        verify_checkpoint(cosigned((1, 2, 3)), parse_policy(lines(f"log {OTHER_LOG}", "quorum none")))


def test_checkpoint_signed_by_a_witness_as_log():
    """A witness's key does not stand in for the log's."""
    note = cosigned((1, 2, 3))
    with pytest.raises(VerificationError):
        verify_checkpoint(Note(note.text, note.signatures[1:]), b.policy(b.two_of_three()))


def test_policy_nested_without_end():
    """A policy of thousands of nested groups is refused, or works, but does not exhaust the stack."""
    witness = f"witness g0 {b.HOSPITAL.vkey}"
    groups = [f"group g{number} any g{number - 1}" for number in range(1, 5000)]
    try:
        policy = parse_policy(lines(f"log {LOG}", witness, *groups, "quorum g4999"))
        verify_checkpoint(cosigned((1, None, None)), policy)
    except (MalformedError, VerificationError):
        pass


def test_policy_with_an_opaque_name_can_be_printed():
    """What is said about a group or witness whose name is not UTF-8 can be written to any terminal or JSON."""
    policy = parse_policy(
        f"log {LOG}\nwitness \udcff {b.HOSPITAL.vkey}\nquorum \udcff\n".encode("utf-8", "surrogateescape")
    )
    _, names = verify_quorum(cosigned((1, None, None)), policy)
    "".join(names).encode()
    with pytest.raises(VerificationError) as caught:
        verify_quorum(cosigned((None, None, None)), policy)
    str(caught.value).encode()


def test_trust_file():
    """A trust file is one registrar vkey a line, comments allowed."""
    keys = [b.log_signer(f"registrar{number}", f"registrar {number}").verifier for number in range(40)]
    data = lines("# registrars", "", *(f" {key}\t" for key in keys))
    assert parse_trust(data) == tuple(keys)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"# nobody\n",
        lines(LOG, LOG),
        lines(LOG, str(b.log_signer("another.name", "log").verifier)),
        lines(f"{LOG} {OTHER_LOG}"),
        lines(f"log {LOG}"),
        lines(KEYS[0]),
        lines(LOG + "\r"),
        lines(LOG[:-1]),
        b"#" * 65_537,
    ],
)
def test_trust_file_malformed(data):
    """No key, a key twice, a witness's key, another line."""
    with pytest.raises(MalformedError):
        parse_trust(data)
