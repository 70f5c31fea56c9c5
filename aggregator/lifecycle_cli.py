"""`vitalseal aggregator revoke | log-key | close`."""

import argparse
from pathlib import Path

from aggregator.config import AggregatorConfig
from aggregator.console import Commands, add_command, told
from aggregator.lifecycle import KEY_TYPES, add_log_key, close_log, retire_log_key, revoke_device
from ledger.events import REASONS
from vitalseal import config as configuration
from vitalseal.errors import UserError


def register(commands: Commands) -> None:
    """Adds the commands and their arguments."""
    revoke = add_command(
        commands, "revoke", "end a device or one key of it: nothing that it seals is taken any more", _revoke
    )
    revoke.add_argument("key", metavar="DEVICE|KEYID", help="the device's name, or a key id in hex or its beginning")
    revoke.add_argument("--epoch", type=int, default=0, metavar="N", help="with --from: the epoch (%(default)s)")
    revoke.add_argument(
        "--from",
        dest="first",
        type=int,
        metavar="SEQ",
        help="first sequence number that is not good any more (default: the one after the last that is logged now; "
        "what is logged until the revocation is taken is not good either)",
    )
    revoke.add_argument("--reason", choices=[*REASONS.values()], default="unspecified", help="goes on the log")
    key = add_command(commands, "log-key", "change the keys by which the log signs, while it is stopped", _log_key)
    change = key.add_mutually_exclusive_group(required=True)
    change.add_argument("--add", choices=sorted(KEY_TYPES), help="one key more signs, and the policy names it")
    change.add_argument("--retire", metavar="ID", help="this key, by its 8 hex digits, signs no more")
    close = add_command(commands, "close", "end the log for good and begin its successor; both are stopped", _close)
    close.add_argument("--successor", type=Path, required=True, metavar="FILE", help="the new aggregator's config")


def _revoke(args: argparse.Namespace) -> int:
    config = configuration.load(args.config, AggregatorConfig)
    if (args.first is not None and not 0 <= args.first < 2**63) or not 0 <= args.epoch < 2**32:
        raise UserError("--from and --epoch: a place in a chain is two numbers from 0")
    reason = next(number for number, name in REASONS.items() if name == args.reason)
    until = None if args.first is None else (args.epoch, args.first)
    with told(config.data):
        for path in revoke_device(config.data, args.key, until, reason):
            print(f"wrote {path}; the running aggregator takes it within seconds, or at its next start")
    if config.desk is not None:
        print("the broker is told as soon as the revocation is on the log; `aggregator status` warns if it was not")
    return 0


def _log_key(args: argparse.Namespace) -> int:
    config = configuration.load(args.config, AggregatorConfig)
    with told(config.data):
        if args.add:
            key = add_log_key(config, args.add)
            print(
                f"log {key}\ngive this line to every witness and everyone with a policy before you retire the old key"
            )
        else:
            key = retire_log_key(config, args.retire)
            print(f"{key.id.hex()} signs no more; leave its line in every policy, old proofs need it")
    return 0


def _close(args: argparse.Namespace) -> int:
    config = configuration.load(args.config, AggregatorConfig)
    successor = configuration.load(args.successor, AggregatorConfig)
    with told(config.data):
        old, new = close_log(config, successor)
    print(f"{old.origin} ended at size {old.checkpoint.size}, root {old.checkpoint.root.hex()}; {new.origin} goes on")
    return 0
