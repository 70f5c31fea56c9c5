"""Policies (C2SP tlog-policy): which logs an auditor accepts, which witnesses he counts, and what is a quorum.

    log <vkey> [url]
    witness <name> <vkey> [url]
    group <name> all|any|<k> <member>...
    quorum <name>|none

Names are defined before use, each a member of at most one group; no public key stands twice among the logs or
among the witnesses. Comment lines and free spaces and tabs are allowed, so "parse, re-encode, compare" does not
apply; bytes above 0x7F are opaque.

The logged-by time of a checkpoint is the witnesses', never the log's or ours: a witness's own timestamp, for a
group of k the k-th smallest of its members' - the earliest moment by which a quorum had seen it. Under
`quorum none` there is no such time. Whoever removes a cosignature that the quorum can do without may make this time
later, which is a weaker bound and still a true one; nobody can make it earlier.
"""

import re
from dataclasses import dataclass

from ledger.checkpoint import Checkpoint, parse_checkpoint, verify_signed
from ledger.errors import MalformedError, VerificationError
from ledger.note import ED25519_COSIGNATURE, ED25519_NOTE, ML_DSA_44, Note, VerifierKey, parse_vkey
from ledger.strict import parse_decimal

MAX_POLICY = 256 * 1024
MAX_TRUST = 64 * 1024
MAX_GROUP_DEPTH = 64  # more than the 32 groups that everyone must support; a bound, because evaluation recurses

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_BLANK = re.compile(r"[ \t]+")


@dataclass(frozen=True, slots=True)
class Witness:
    """A cosigner that the policy knows, and where it can be reached, if the policy says."""

    name: str
    key: VerifierKey
    url: str | None


@dataclass(frozen=True, slots=True)
class Group:
    """Satisfied when at least `threshold` of its members are."""

    name: str
    threshold: int
    members: tuple["Witness | Group", ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed policy; `quorum` is None for `quorum none`."""

    logs: tuple[tuple[VerifierKey, str | None], ...]
    witnesses: tuple[Witness, ...]
    quorum: Witness | Group | None

    def trim(self, note: Note) -> Note:
        """`note` with no other signature lines than those by keys that this policy names."""
        pairs = {(key.name, key.id) for key in (*(key for key, _ in self.logs), *(w.key for w in self.witnesses))}
        return Note(note.text, tuple(line for line in note.signatures if (line.name, line.key_id) in pairs))

    def log_keys(self, origin: str) -> tuple[VerifierKey, ...]:
        """The log keys whose name is `origin`."""
        return tuple(key for key, _ in self.logs if key.name == origin)


@dataclass(frozen=True, slots=True)
class VerifiedCheckpoint:
    """A checkpoint that satisfies a policy.

    `logged_by` is the witnesses' time in Unix seconds, None under `quorum none`; `witnesses` are the names, for
    people, of those whose cosignature verified.
    """

    checkpoint: Checkpoint
    log_keys: tuple[VerifierKey, ...]
    logged_by: int | None
    witnesses: tuple[str, ...]


def verify_log_signature(note: Note, policy: Policy) -> tuple[Checkpoint, tuple[VerifierKey, ...]]:
    """The checkpoint in `note`, signed by a log that the policy names.

    Raises:
        MalformedError: the text is not a checkpoint.
        VerificationError: the policy does not name the origin, or no key of it signed, or one's line fails.
    """
    checkpoint = parse_checkpoint(note.text)
    keys = policy.log_keys(checkpoint.origin)
    if not keys:
        # Whoever made the file chose this name: no control or direction character of it reaches a terminal.
        raise VerificationError(f"the policy names no log {checkpoint.origin!a}")
    return checkpoint, verify_signed(checkpoint, note, keys)


def verify_quorum(note: Note, policy: Policy) -> tuple[int | None, tuple[str, ...]]:
    """The logged-by time of `note`, and the witnesses whose cosignatures verified.

    Raises:
        VerificationError: a known witness's line does not verify, or the quorum is not reached.
    """
    checkpoint = parse_checkpoint(note.text)
    times: dict[str, int] = {}
    for witness in policy.witnesses:
        checked = [checkpoint.check(line, witness.key) for line in note.by(witness.key)]
        # Time 0 says that the witness makes no statement about time (tlog-cosignature): such a line counts for nothing,
        # or whoever gets one could move the logged-by time to 1970.
        if seen := [time for time in checked if time]:
            times[witness.name] = min(seen)
    witnesses = tuple(map(_shown, times))
    if policy.quorum is None:
        return None, witnesses
    logged_by = _satisfied(policy.quorum, times)
    if logged_by is None:
        name = _shown(policy.quorum.name)
        plural = "" if len(times) == 1 else "es"
        raise VerificationError(f"quorum {name} is not reached: {len(times)} witness{plural} cosigned")
    return logged_by, witnesses


def verify_checkpoint(note: Note, policy: Policy) -> VerifiedCheckpoint:
    """The checkpoint in `note`, shown to satisfy `policy`; raises as the two functions above."""
    checkpoint, keys = verify_log_signature(note, policy)
    return VerifiedCheckpoint(checkpoint, keys, *verify_quorum(note, policy))


def parse_policy(data: bytes) -> Policy:
    """The policy in `data`; raises MalformedError naming the line and the fault."""
    return _Parser().parse(_lines(data, "policy", MAX_POLICY))


def parse_trust(data: bytes) -> tuple[VerifierKey, ...]:
    """The registrar keys in a trust file: one vkey a line, comment lines as in a policy; raises MalformedError."""
    keys: list[VerifierKey] = []
    for number, words in _lines(data, "trust", MAX_TRUST):
        where = f"trust: line {number}"
        if len(words) != 1:
            raise MalformedError(f"{where}: not one vkey")
        key = parse_vkey(words[0], where)
        if key.type != ED25519_NOTE:
            raise MalformedError(f"{where}: a registrar's key is of type 0x01")
        if key.public_key in {known.public_key for known in keys}:
            raise MalformedError(f"{where}: the same key twice")
        keys.append(key)
    if not keys:
        raise MalformedError("trust: names no registrar")
    return tuple(keys)


class _Parser:
    """One pass over the lines; what is defined so far is the state."""

    def __init__(self) -> None:
        self._logs: dict[bytes, tuple[VerifierKey, str | None]] = {}
        self._named: dict[str, Witness | Group] = {}
        self._witness_keys: set[bytes] = set()
        self._pairs: set[tuple[str, bytes]] = set()
        self._members: set[str] = set()
        self._depths: dict[str, int] = {}
        self._quorum: tuple[Witness | Group | None] | None = None

    def parse(self, lines: list[tuple[int, list[str]]]) -> Policy:
        for number, words in lines:
            where = f"policy: line {number}"
            match words:
                case ["log", vkey, *url] if len(url) <= 1:
                    self._log(where, vkey, url[0] if url else None)
                case ["witness", name, vkey, *url] if len(url) <= 1:
                    self._witness(where, name, vkey, url[0] if url else None)
                case ["group", name, threshold, *members] if members:
                    self._group(where, name, threshold, members)
                case ["quorum", name]:
                    self._set_quorum(where, name)
                case _:
                    raise MalformedError(f"{where}: not a log, witness, group or quorum line: {words[0][:20]!a}")
        if self._quorum is None:
            raise MalformedError("policy: has no quorum line (write 'quorum none' to ask for no witness)")
        witnesses = tuple(item for item in self._named.values() if isinstance(item, Witness))
        return Policy(tuple(self._logs.values()), witnesses, self._quorum[0])

    def _log(self, where: str, vkey: str, url: str | None) -> None:
        key = parse_vkey(vkey, where)
        if key.type not in (ED25519_NOTE, ML_DSA_44):
            raise MalformedError(f"{where}: a log's key is of type 0x01 or 0x06")
        if key.public_key in self._logs:
            raise MalformedError(f"{where}: the same log key twice")
        self._take_pair(where, key)
        self._logs[key.public_key] = (key, url)

    def _witness(self, where: str, name: str, vkey: str, url: str | None) -> None:
        self._define(where, name)
        key = parse_vkey(vkey, where)
        if key.type not in (ED25519_COSIGNATURE, ML_DSA_44):
            raise MalformedError(f"{where}: a witness's key is of type 0x04 or 0x06")
        if key.public_key in self._witness_keys:
            raise MalformedError(f"{where}: the same witness key twice")
        self._take_pair(where, key)
        self._witness_keys.add(key.public_key)
        self._named[name] = Witness(name, key, url)

    def _group(self, where: str, name: str, threshold: str, names: list[str]) -> None:
        self._define(where, name)
        for member in names:
            if member not in self._named:
                raise MalformedError(f"{where}: {member[:40]!a} is not defined above")
            if member in self._members:
                raise MalformedError(f"{where}: {member[:40]!a} is a member already")
            self._members.add(member)
        count = {"all": len(names), "any": 1}.get(threshold) or parse_decimal(threshold, f"{where}: threshold")
        if not 1 <= count <= len(names):
            raise MalformedError(f"{where}: threshold {count} of {len(names)} members")
        self._depths[name] = 1 + max(self._depths.get(member, 0) for member in names)
        if self._depths[name] > MAX_GROUP_DEPTH:
            raise MalformedError(f"{where}: groups nest deeper than {MAX_GROUP_DEPTH}")
        self._named[name] = Group(name, count, tuple(self._named[member] for member in names))

    def _set_quorum(self, where: str, name: str) -> None:
        if self._quorum is not None:
            raise MalformedError(f"{where}: a second quorum line")
        if name != "none" and name not in self._named:
            raise MalformedError(f"{where}: {name[:40]!a} is not defined above")
        self._quorum = (self._named.get(name),)

    def _take_pair(self, where: str, key: VerifierKey) -> None:
        """Name and 32-bit id are all that a signature line tells of its key; two keys that share them are refused."""
        pair = (key.name, key.id)
        if pair in self._pairs:
            raise MalformedError(f"{where}: another key has this name and id")
        self._pairs.add(pair)

    def _define(self, where: str, name: str) -> None:
        if name in self._named or name == "none":
            raise MalformedError(f"{where}: the name {name[:40]!a} is taken")


def _lines(data: bytes, what: str, limit: int) -> list[tuple[int, list[str]]]:
    """Line number and words of every line that says something."""
    if len(data) > limit:
        raise MalformedError(f"{what}: {len(data)} bytes, more than the {limit} allowed")
    lines = []
    # Names are opaque octets: what is not UTF-8 survives as surrogates, which no key name may hold (`check_name`).
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        if control := _CONTROL.search(line):
            raise MalformedError(f"{what}: line {number}: control character U+{ord(control[0]):04X}")
        words = _BLANK.sub(" ", line).strip(" ").split(" ")
        if words != [""] and not words[0].startswith("#"):
            lines.append((number, words))
    return lines


def _shown(name: str) -> str:
    """A name as every terminal can show it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _satisfied(item: Witness | Group, times: dict[str, int]) -> int | None:
    if isinstance(item, Witness):
        return times.get(item.name)
    seen = sorted(time for member in item.members if (time := _satisfied(member, times)) is not None)
    return seen[item.threshold - 1] if len(seen) >= item.threshold else None
