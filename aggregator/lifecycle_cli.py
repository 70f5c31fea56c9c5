"""`vitalseal aggregator revoke | log-key | close`."""

import argparse
import re
from pathlib import Path

from aggregator.config import AggregatorConfig
from aggregator.console import Commands, add_command, told
from aggregator.lifecycle import KEY_TYPES, add_log_key, close_log, plan_device, retire_log_key, revoke_key
from ledger.events import REASONS
from vitalseal import config as configuration
from vitalseal.errors import UserError

_PLACE = re.compile(r"(?:([0-9]{1,10})/)?([0-9]{1,19})", re.ASCII)


def register(commands: Commands) -> None:
    """Adds the commands and their arguments."""
    revoke = add_command(
        commands, "revoke", "end a device or one key of it: nothing that it seals is taken any more", _revoke
    )
    revoke.add_argument("key", metavar="DEVICE|KEYID", help="the device's name, or a key id in hex or its beginning")
    revoke.add_argument(
        "--from",
        dest="first",
        metavar="PLACE",
        help="first place of its chain that is not good any more: EPOCH/SEQ, or SEQ in the epoch that it is in now, as "
        "`devices` shows them (default: the one after the last that is logged now; what is logged until the "
        "revocation is taken is not good either)",
    )
    revoke.add_argument("--yes", action="store_true", help="also if readings that are on the log are good no more then")
    revoke.add_argument("--reason", choices=[*REASONS.values()], default="unspecified", help="goes on the log")
    key = add_command(commands, "log-key", "change the keys by which the log signs, while it is stopped", _log_key)
    change = key.add_mutually_exclusive_group(required=True)
    change.add_argument("--add", choices=sorted(KEY_TYPES), help="one key more signs, and the policy names it")
    change.add_argument("--retire", metavar="ID", help="this key, by its 8 hex digits, signs no more")
    close = add_command(commands, "close", "end the log for good and begin its successor; both are stopped", _close)
    close.add_argument("--successor", type=Path, required=True, metavar="FILE", help="the new aggregator's config")


def _revoke(args: argparse.Namespace) -> int:
    config = configuration.load(args.config, AggregatorConfig)
    reason = next(number for number, name in REASONS.items() if name == args.reason)
    first = None if args.first is None else _place(args.first)
    with told(config.data):
        endings = plan_device(config.data, args.key, first)
        for ending in endings:
            place = f"key {ending.key_id.hex()[:16]} from epoch {ending.until[0]} seq {ending.until[1]} on"
            loss = f"{ending.batches} batches with {ending.readings} readings that are on the log"
            if ending.batches and not args.yes:
                raise UserError(f"{place}: {loss} would be good no more, for ever; --yes if that is what you want")
            print(f"{place}: {loss} are good no more" if ending.batches else f"{place}: all that is logged stays good")
        for ending in endings:
            path = revoke_key(config.data, ending, reason)
            print(f"wrote {path}; the running aggregator takes it within seconds, or at its next start")
    if config.desk is not None:
        print("the broker's lists follow; `aggregator status` warns while the broker does not go by them")
    return 0


def _place(text: str) -> tuple[int | None, int]:
    """Epoch, None for the present one, and sequence number; raises UserError."""
    match = _PLACE.fullmatch(text)
    epoch, seq = (match[1], int(match[2])) if match else (None, -1)
    if not 0 <= seq < 2**63 or int(epoch or 0) >= 2**32:
        raise UserError(f"--from {text}: not a place in a chain, which is EPOCH/SEQ or SEQ, numbers from 0")
    return None if epoch is None else int(epoch), seq


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
