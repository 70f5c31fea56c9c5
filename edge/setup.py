"""A new agent's files: configuration, key, and its enrolment where a registrar is at hand.

    <dir>/edge.toml          written once, by hand from then on
    <dir>/edge.key           the device key, 0600; <dir>/edge.key.epoch appears beside it with the first outbox
    <dir>/data/              the outbox and evidence
    <enrolments>/<device>.enrol   the registrar's and the device's signatures under one statement (ledger.entry)

Nothing is overwritten. The configuration is written last: it is what `run` asks for, so a failed `init` leaves no
agent that could start.
"""

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge import files
from edge.config import EdgeConfig, load
from edge.key import create_key, load_key, read_secret
from ledger.errors import LedgerError, MalformedError
from ledger.events import Enrolment, enrol
from ledger.keys import Ed25519Signer, Signer
from ledger.note import NoteSigner
from ledger.policy import Policy, parse_policy
from vitalseal.errors import UserError

SOURCE_ID_SIZE = 16

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A source to be configured; its id is drawn when the configuration is written."""

    name: str
    type: str
    options: dict[str, Any] = field(default_factory=dict)


def initialise(
    config_path: Path,
    *,
    device: str,
    origin: str,
    policy: Path,
    broker_host: str = "127.0.0.1",
    broker_port: int = 1883,
    broker_protocol: str = "auto",
    sources: Sequence[SourceSpec] = (),
) -> EdgeConfig:
    """The configuration in `config_path`, which was not there before, with a fresh key beside it.

    `policy` must name a log with this origin: an agent that could never believe a receipt is not set up.

    Raises:
        UserError: a value is not one that works, or a file is already there.
    """
    if config_path.exists():
        raise UserError(f"{config_path}: already there, and not overwritten")
    read_policy(policy, origin)
    broker = {"host": broker_host, "port": broker_port, "protocol": broker_protocol}
    table = describe(config_path, device=device, origin=origin, policy=policy, broker=broker, sources=sources)
    text = format_configuration(config_path, table)
    create_key(key_file(config_path))
    files.write_new(config_path, text)
    return load(config_path)


def describe(
    config_path: Path,
    *,
    device: str,
    origin: str,
    policy: Path,
    broker: dict[str, Any],
    sources: Sequence[SourceSpec],
) -> dict[str, Any]:
    """A new agent's configuration as a table; the ids of its sources are drawn here."""
    return {
        "device": device,
        "origin": origin,
        "key": key_file(config_path).name,
        "policy": relative(policy, config_path),
        "data": prefixed(config_path, "data"),
        "broker": broker,
        "sources": [
            {
                "name": source.name,
                "type": source.type,
                "id": secrets.token_hex(SOURCE_ID_SIZE),
                "options": source.options,
            }
            for source in sources
        ],
    }


def format_configuration(config_path: Path, table: dict[str, Any]) -> bytes:
    """What `config_path`, whose directory is there now, would hold for `table`; raises UserError if it did not load."""
    text = _toml(table).encode()
    directory = config_path.parent.resolve()
    files.make_directory(directory)
    # The rules for values are those of reading them: what would not load is not written.
    trial = directory / f".{config_path.name}.trial"
    files.replace(trial, text)
    try:
        load(trial)
    finally:
        trial.unlink()
    return text


def key_file(config_path: Path) -> Path:
    """Where a new agent's key goes."""
    return config_path.parent.resolve() / f"{config_path.stem}.key"


def prefixed(config_path: Path, name: str) -> str:
    """The name of one of a new agent's files: two gateways in one directory must not share an outbox, nor the rest."""
    return name if config_path.stem == "edge" else f"{config_path.stem}-{name}"


def relative(path: Path, config_path: Path) -> str:
    """`path` as the configuration names it: relative where it lies in the same directory, so both can move."""
    path, directory = path.resolve(), config_path.parent.resolve()
    return str(path.relative_to(directory)) if path.is_relative_to(directory) else str(path)


def registrar_signer(path: Path) -> Ed25519Signer:
    """The registrar's key in a file that holds a Go note skey; raises UserError."""
    try:
        return NoteSigner.parse(read_secret(path, "registrar key")).key
    except (MalformedError, ValueError) as error:
        raise UserError(f"registrar key {path}: {error}") from None


def enrolment(config: EdgeConfig, registrar: Signer) -> Enrolment:
    """The enrolment of the agent's key for its log, signed by both; raises UserError."""
    return enrol(load_key(config.key), registrar, config.origin)


def write_enrolment(enrolments: Path, device: str, enrolled: Enrolment) -> Path:
    """The file `<device>.enrol` in `enrolments`, there whole or not at all; raises UserError."""
    files.make_directory(enrolments)
    path = enrolments / f"{device}.enrol"
    files.replace(path, enrolled.encode())
    return path


def read_policy(path: Path, origin: str) -> Policy:
    """The policy in `path`, which names a log with `origin`; raises UserError."""
    try:
        return check_policy(path.read_bytes(), origin, str(path))
    except OSError as error:
        raise UserError(f"policy {path}: {error.strerror or error}") from None


def check_policy(data: bytes, origin: str, where: str) -> Policy:
    """The policy in `data`, which names a log with `origin`; raises UserError that says `where` it is from."""
    try:
        policy = parse_policy(data)
    except LedgerError as error:
        raise UserError(f"policy {where}: {error}") from None
    if not policy.log_keys(origin):
        raise UserError(f"policy {where}: it names no log {origin!r}, so no receipt could ever be believed")
    return policy


def _toml(table: dict[str, Any], prefix: str = "") -> str:
    """`table` as TOML: plain values first, then tables, then lists of tables."""
    plain, tables = [], []
    for key, value in table.items():
        if isinstance(value, dict):
            if value or not prefix:
                tables.append(f"\n[{prefix}{_key(key)}]\n" + _toml(value, f"{prefix}{_key(key)}."))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            tables += [f"\n[[{prefix}{_key(key)}]]\n" + _toml(item, f"{prefix}{_key(key)}.") for item in value]
        else:
            plain.append(f"{_key(key)} = {_value(value)}\n")
    return "".join(plain + tables)


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _value(key)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
        case list():
            return "[" + ", ".join(map(_value, value)) + "]"
        case _:
            raise UserError(f"{value!r} cannot stand in a configuration file")
