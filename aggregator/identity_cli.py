"""`vitalseal aggregator token`, and what `init` and `status` have to do with certificates."""

import argparse
import hashlib
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from aggregator.authority import FOLDER
from aggregator.config import AggregatorConfig, DeskConfig
from aggregator.console import Commands, add_command, told
from aggregator.desk_records import DeskRecords
from aggregator.device_keys import DeviceKeys
from aggregator.floods import read_floods
from aggregator.mosquitto import AGGREGATOR, CA_FILE
from aggregator.setup import PLAIN_PORT, TLS_PORT, Identity
from aggregator.tokens import Token, make_secret, parse_span
from aggregator.upkeep import broker_warnings, read_broker_state
from ledger.reading import format_time
from vitalseal import config as configuration
from vitalseal.errors import UserError
from vitalseal.topics import check_device


def add_init_options(init: argparse.ArgumentParser) -> None:
    """The options of `init` that say who may connect, and how."""
    init.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help="name or address of this machine for gateways, once for each, the first one stands in tokens"
        " (default: for this machine alone)",
    )
    init.add_argument(
        "--broker",
        metavar="HOST:PORT",
        help=f"MQTT broker, as aggregator and gateways reach it (default: the first --host, port {TLS_PORT})",
    )
    init.add_argument("--broker-group", metavar="GROUP", help="of a broker that runs as another user than we do")
    init.add_argument(
        "--desk-port", type=int, default=DeskConfig.port, metavar="PORT", help="where gateways enrol (%(default)s)"
    )
    init.add_argument(
        "--plain",
        action="store_true",
        help=f"no TLS, no certificates, no desk: for trying things out, with a broker on this machine ({PLAIN_PORT})",
    )


def identity_of(args: argparse.Namespace) -> Identity | None:
    """What `init` is asked for, None with --plain; raises UserError."""
    if args.plain:
        if args.host or args.broker_group:
            raise UserError("--plain has no certificates: leave --host and --broker-group out")
        return None
    if not 0 < args.desk_port < 65536:
        raise UserError(f"--desk-port {args.desk_port}: not a TCP port")
    return Identity(tuple(args.host), args.desk_port, args.broker_group)


def broker_of(args: argparse.Namespace) -> tuple[str, int]:
    """Host and port of the broker; raises UserError."""
    if args.broker is None:
        return (args.host[0] if args.host else "127.0.0.1"), PLAIN_PORT if args.plain else TLS_PORT
    host, _, port = args.broker.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()):
        raise UserError(f"--broker {args.broker}: not HOST:PORT")
    return host, int(port)


def warnings(config: AggregatorConfig) -> list[str]:
    """What somebody has to look after: who floods, and, where there is a desk, how the broker's lists are."""
    now = time.time()
    floods = [
        f"{device} FLOODS and is shut out until {format_time(int(until) * 10**9)}; if it is in wrong hands,"
        f" `vitalseal aggregator revoke {device}`"
        for device, until in sorted(read_floods(config.data, now).items())
    ]
    return floods if config.desk is None else floods + broker_warnings(read_broker_state(config.data), now)


def register(commands: Commands) -> None:
    """Adds the command and its arguments."""
    token = add_command(commands, "token", "print a token by which one new gateway enrols, once", _token)
    what = token.add_mutually_exclusive_group(required=True)
    what.add_argument("device", nargs="?", metavar="DEVICE", help="the gateway's name")
    what.add_argument("--list", action="store_true", help="the tokens that nobody has used, with their ends")
    what.add_argument("--withdraw", metavar="DEVICE", help="the token of this device is good no more")
    token.add_argument("--valid", default="24h", metavar="SPAN", help="such as 90m, 24h or 7d (%(default)s)")
    token.add_argument(
        "--again",
        action="store_true",
        help="for a gateway that has a good key and lost it, or its certificate; the old key stays good until revoked",
    )


def _token(args: argparse.Namespace) -> int:
    config = configuration.load(args.config, AggregatorConfig)
    if config.desk is None:
        raise UserError(f"{args.config}: has no [desk], because its log was made with `init --plain`")
    if args.list or args.withdraw is not None:
        with told(config.data), closing(DeskRecords(config.data)) as records:
            return _list(records) if args.list else _withdraw(records, args.withdraw)
    device, valid = check_device(args.device), parse_span(args.valid)
    if device == AGGREGATOR:
        raise UserError(f"device name {device}: is the aggregator's own; choose another")
    with told(config.data), closing(DeviceKeys(config.data)) as keys:
        if not args.again and (good := keys.good(device)):
            raise UserError(
                f"{device} is enrolled, with key {good[0].key_id.hex()[:16]}; --again for one key more, and "
                f"`vitalseal aggregator revoke {device}` first if the old one is in wrong hands"
            )
        secret = make_secret()
        with closing(DeskRecords(config.data)) as records:
            records.add_token(device, secret, datetime.now(UTC) + valid)
        print(Token(config.desk.host, config.desk.port, _fingerprint(config.data / FOLDER / CA_FILE), device, secret))
    return 0


def _list(records: DeskRecords) -> int:
    found = records.open_tokens(datetime.now(UTC))
    for token in found:
        print(f"{token.device}  good until {format_time(int(token.expires_at.timestamp()) * 10**9)}")
    if not found:
        print("no token is open")
    return 0


def _withdraw(records: DeskRecords, device: str) -> int:
    if not records.withdraw_token(device):
        raise UserError(f"{device}: has no token that is not used; `token --list` shows those that are open")
    print(f"the token of {device} signs nobody in any more")
    return 0


def _fingerprint(path: Path) -> bytes:
    try:
        return hashlib.sha256(x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)).digest()
    except ValueError:
        raise UserError(f"{path}: not a certificate in PEM") from None
