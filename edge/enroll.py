"""Enrolment with a one-time token: from nothing, or from a gateway that `edge init` made, to one that can deliver.

    1  the CA, fetched unverified and compared with the fingerprint in the token; everything after that goes over TLS
    2  the log's facts, and the policy that receipts will have to satisfy
    3  the signing key and a TLS key, made here; neither ever leaves
    4  the desk enrols the signing key, as an entry on the log, and signs a certificate for the TLS key
    5  CA, policy, certificate and configuration, in this order; the configuration is what `run` asks for

Killed anywhere, or its answer lost, the same command with the same token finishes the work: the keys that are there
are used again, and to the same key the desk gives the same answer.

With `again` a new signing key is enrolled for a gateway whose old one was revoked. It takes the old one's place last,
and the agent begins a new chain with it. The old one's file is kept, though it is good for nothing any more.
"""

import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge import files, identity
from edge.config import EdgeConfig, TlsFiles, load
from edge.courier import reason_name
from edge.database import OutboxError, locked
from edge.desk import Desk, LogFacts, RefusedError, fetch_ca
from edge.key import create_key, create_token_key, load_key, prepare_successor, promote_successor
from edge.outbox_reader import OutboxReader
from edge.setup import (
    SourceSpec,
    check_policy,
    describe,
    format_configuration,
    key_file,
    prefixed,
    read_policy,
    relative,
)
from edge.tls import EXPIRED, client_context
from edge.token import Token
from ledger.events import request_enrolment
from ledger.keys import Signer, key_id
from ledger.messages import Reason
from vitalseal.errors import UserError

BEFORE = ".before-enrolment"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a new gateway shall have: sensors, the URI of a key in a token, a policy that is not the desk's word."""

    sources: Sequence[SourceSpec] = ()
    key_uri: str | None = None
    policy: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The gateway as it is now; `index` is the enrolment's entry, None if nothing was left to do."""

    config: EdgeConfig
    index: int | None


def enroll(config_path: Path, token: Token, wanted: Wanted, *, again: bool = False) -> Outcome:
    """The gateway of `config_path` is enrolled and can run; raises UserError, and then this may be called again."""
    existing = load(config_path) if config_path.exists() else None
    if existing is None and again:
        raise UserError(f"{config_path}: not there, so nothing is to be enrolled again; leave --again out")
    if existing is not None:
        if existing.device != token.device:
            raise UserError(f"{config_path}: this gateway is {existing.device}, and the token is for {token.device}")
        if not again and _finished(existing):
            _check_accepted(existing)
            return Outcome(existing, None)
        _check_existing(config_path, existing, wanted, again=again)
    ca_pem = fetch_ca(token.host, token.port)
    token.check_ca(identity.ca_der(ca_pem))
    with Desk(token.host, token.port, client_context(ca_pem)) as desk:
        facts = desk.log()
    policy = _policy(config_path, existing, wanted, facts)
    files.make_directory(config_path.parent)
    signer = _signing_key(config_path, existing, wanted, again=again)
    tls_files = _tls_files(config_path, existing)
    request = identity.prepare(tls_files, token.device)
    statement = request_enrolment(signer, facts.registrar, facts.origin)
    # Another connection: a PKCS#11 module may leave errors in this thread's OpenSSL (SoftHSM: "no such engine"), which
    # one that stands takes for its own, while a handshake begins by forgetting them.
    with Desk(token.host, token.port, client_context(ca_pem)) as desk:
        try:
            enrolled = desk.enrol(token.secret, token.device, statement, request)
        except RefusedError as error:
            raise RefusedError(f"{error} (the keys made here are kept for the next try)") from None
    if not policy.exists():
        files.write_new(policy, facts.policy.encode())
    files.replace(tls_files.ca, ca_pem.encode())
    identity.install(tls_files, token.device, ca_pem, enrolled.certificate)
    _write_configuration(config_path, existing, token, facts, policy, tls_files, wanted)
    if again:
        promote_successor(load(config_path).key, keep=True)
    return Outcome(load(config_path), enrolled.index)


def _check_existing(config_path: Path, existing: EdgeConfig, wanted: Wanted, *, again: bool) -> None:
    """What is asked for goes with the gateway that is there."""
    if wanted.sources or wanted.policy:
        raise UserError(f"{config_path}: already there; sources and policy are changed in it, not by this command")
    if wanted.key_uri and not again:
        raise UserError(f"{config_path}: the gateway has a key; another one takes --again")
    if existing.outbox_file.exists() and locked(existing.outbox_file):
        raise UserError(f"{config_path}: the agent is running; stop it first, for it does not see what changes here")


def _finished(existing: EdgeConfig) -> bool:
    """The gateway has what enrolment gives, and its certificate has not ended."""
    tls_files = existing.broker.tls
    if existing.desk is None or tls_files is None or not tls_files.certificate.exists():
        return False
    return identity.validity(tls_files.certificate).ends > time.time()


def _check_accepted(existing: EdgeConfig) -> None:
    """As far as this gateway was told, the log takes what its key seals; raises UserError."""
    if not existing.outbox_file.exists():
        return
    signer = load_key(existing.key)
    try:
        with OutboxReader(existing.outbox_file) as reader:
            facts, reject, used_by = reader.facts(), reader.waiting_reject(), reader.key_id()
    except OutboxError:
        return  # of an earlier version, or damaged: for the agent to say
    if used_by != key_id(signer.algorithm, signer.public_key):
        return  # what was said was said of an earlier key
    if reject is not None and reject.reason in (Reason.ENDED_KEY, Reason.UNKNOWN_KEY):
        why = f"the log takes nothing of this gateway's key: {reject.detail or reason_name(reject.reason)}"
    elif facts.broker == "refused" and EXPIRED not in facts.broker_why:  # that one has been replaced since
        why = facts.broker_why.partition(";")[0]
    else:
        return
    raise UserError(f"enrolled already, but {why}; to enrol it with a new key, add --again")


def _policy(config_path: Path, existing: EdgeConfig | None, wanted: Wanted, facts: LogFacts) -> Path:
    """Where the policy is or will be; it names the desk's log, and nobody's own is replaced by the desk's."""
    if existing is not None:
        if existing.origin != facts.origin:
            raise UserError(
                f"{config_path}: made for the log {existing.origin}, and the desk is that of {facts.origin}"
            )
        read_policy(existing.policy, facts.origin)
        return existing.policy
    if wanted.policy is not None:
        read_policy(wanted.policy, facts.origin)
        return wanted.policy
    check_policy(facts.policy.encode(), facts.origin, "of the desk")
    path = config_path.parent.resolve() / prefixed(config_path, "policy.txt")
    if path.exists() and path.read_bytes() != facts.policy.encode():
        raise UserError(f"{path}: already there, and not what the desk has; give it with --policy, or move it away")
    return path


def _signing_key(config_path: Path, existing: EdgeConfig | None, wanted: Wanted, *, again: bool) -> Signer:
    """The key to be enrolled: the one that is there, or waits there, or a fresh one."""
    path = key_file(config_path) if existing is None else existing.key
    if again:
        return prepare_successor(path, wanted.key_uri)
    if path.exists():
        return load_key(path)
    return create_key(path) if wanted.key_uri is None else create_token_key(path, wanted.key_uri)


def _tls_files(config_path: Path, existing: EdgeConfig | None) -> TlsFiles:
    if existing is not None and existing.broker.tls is not None:
        return existing.broker.tls
    directory = config_path.parent.resolve()
    return TlsFiles(*(directory / prefixed(config_path, name) for name in ("ca.crt", "tls.crt", "tls.key")))


def _write_configuration(
    config_path: Path,
    existing: EdgeConfig | None,
    token: Token,
    facts: LogFacts,
    policy: Path,
    tls_files: TlsFiles,
    wanted: Wanted,
) -> None:
    """`config_path` names broker, identity and desk; what else stood in it still does, but for comments."""
    paths = {"ca": tls_files.ca, "certificate": tls_files.certificate, "certificate_key": tls_files.key}
    broker: dict[str, Any] = {"host": facts.broker_host, "port": facts.broker_port}
    broker |= {key: relative(path, config_path) for key, path in paths.items()}
    desk = {"host": token.host, "port": token.port}
    if existing is None:
        facts_of = {"device": token.device, "origin": facts.origin}
        table = describe(config_path, **facts_of, policy=policy, broker=broker, sources=wanted.sources)
        files.write_new(config_path, format_configuration(config_path, table | {"desk": desk}))
        return
    old = config_path.read_bytes()
    table = tomllib.loads(old.decode())
    changed = table | {"broker": table.get("broker", {}) | broker, "desk": desk}
    if changed != table:
        files.replace(config_path.with_name(config_path.name + BEFORE), old)
        files.replace(config_path, format_configuration(config_path, changed))
