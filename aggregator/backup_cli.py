"""`vitalseal aggregator backup | restore | succeed`."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

from aggregator.backup import Progress, check_backup, make_backup
from aggregator.backup_keys import check_copy, copy_keys, keys_path
from aggregator.config import AggregatorConfig
from aggregator.console import Commands, add_command, told
from aggregator.keys_at_hand import keys_for, usual_places, verify_payloads
from aggregator.restore import Restored, restore
from aggregator.sequencer_copy import Tally
from aggregator.succession import succeed
from ledger.console import show_progress
from vitalseal import config as configuration
from vitalseal.errors import UserError

SHOWN_KEYS = 20  # of which nobody knows the device; the whole list would fill the screen


def register(commands: Commands) -> None:
    """Adds the commands and their arguments."""
    backup = add_command(commands, "backup", "copy everything that nobody else has, while the aggregator runs", _backup)
    backup.add_argument(
        "directory", type=Path, metavar="DIR", help="the new backup; holds the log's keys: keep it safe"
    )
    backup.add_argument(
        "--keys-copy", type=Path, metavar="FILE", help="where to write a copy of the keys, over the last one"
    )
    backup.add_argument("--verify", action="store_true", help="make none: check that the one in DIR is whole")
    backup.add_argument(
        "--keys", type=Path, metavar="FILE", help="with --verify: its keys, if they are not where they were"
    )
    again = add_command(commands, "restore", "put an aggregator back from a backup, without forking its log", _restore)
    again.add_argument("--from", dest="backup", type=Path, required=True, metavar="DIR", help="the backup")
    again.add_argument("--data", type=Path, required=True, metavar="DIR", help="the new data directory")
    again.add_argument(
        "--log", metavar="DIR|URL", help="the public log or a mirror of it: the entries that came after the backup"
    )
    opened = again.add_mutually_exclusive_group()
    opened.add_argument(
        "--keys", type=Path, metavar="FILE", help="the keys of the backup or a copy, if they are not where they were"
    )
    opened.add_argument("--without-keys", action="store_true", help="the keys are lost, and every payload with them")
    after = add_command(commands, "succeed", "begin a new log where a frozen one was last seen", _succeed)
    after.add_argument("--successor", type=Path, required=True, metavar="FILE", help="the new aggregator's config")


def _backup(args: argparse.Namespace) -> int:
    if args.verify:
        return _verify(args)
    config = configuration.load(args.config, AggregatorConfig)
    if args.keys_copy is not None:
        _check_apart(args.keys_copy, args.directory, config.data)
        check_copy(config, args.keys_copy)  # before there are new keys, which nobody would look for
    with told(args.directory):
        manifest = make_backup(args.config, config, args.directory, _progress())
        if args.keys_copy is not None:
            copy_keys(config, args.keys_copy)
    print(
        f"{args.directory} holds {manifest.origin} with {manifest.entries} entries; not in it is the public log "
        f"{config.data / 'log'}, which you keep a mirror of"
    )
    if args.keys_copy is None:
        print(
            f"its payloads are encrypted, and the keys {keys_path(config)} are not in it: with that disk they are "
            "lost, unless there is a copy (--keys-copy FILE)"
        )
    return 0


def _check_apart(copy: Path, backup: Path, data: Path) -> None:
    """The copy of the keys would be neither with what they open nor with the keys."""
    for folder, why in (
        (backup, "whoever reads the one could open the other"),
        (data, "it would be lost with the keys"),
    ):
        if copy.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{copy}: lies in {folder}; {why}")


def _verify(args: argparse.Namespace) -> int:
    with told(args.directory):
        manifest = check_backup(args.directory, _progress())
        data = Path(manifest.data)
        with keys_for(args.directory, manifest, data, args.keys) as keys:
            tally = verify_payloads(args.directory, manifest, keys, _progress())
    print(
        f"{args.directory} is whole: {manifest.origin}, taken at {manifest.taken_at}, {manifest.entries} entries, "
        f"checkpoint of size {manifest.checkpoint}"
    )
    if keys is not None:
        print(f"{tally.opened} payloads are their batches', with the keys {keys.path}")
        for line in _left_closed(tally):
            print(line)
    elif manifest.keys is not None:
        where = usual_places(args.directory, manifest, data)[0]
        print(f"NOT CHECKED: whether its payloads can be opened: {where} is not there; name the keys with --keys FILE")
    return 0


def _left_closed(tally: Tally) -> Iterator[str]:
    """What the keys did not open."""
    if tally.destroyed:
        yield (
            f"{tally.destroyed} readings and infos of batches in it CANNOT BE OPENED any more: their keys were "
            "destroyed, for something of their sources was erased; what is left of these only a newer backup has"
        )
    if tally.unknown:
        yield (
            f"{tally.unknown} readings and infos of batches in it cannot be opened with these keys, which are older "
            "than the backup"
        )


def _restore(args: argparse.Namespace) -> int:
    with told(args.data):
        done = restore(
            args.backup,
            args.data,
            args.config,
            args.log,
            _progress(),
            keys=args.keys,
            without_keys=args.without_keys,
        )
    for witness in done.silent:
        print(f"witness {witness} did not answer; what it alone has seen is not known")
    if done.keys is not None:
        print(f"readings were opened with the keys {done.keys}")
    if done.frozen is not None:
        raise UserError(
            f"FROZEN at size {done.newest.size}: {done.frozen}; find a mirror that has all of it, move {args.data} "
            "away and restore again, or go on with `vitalseal aggregator succeed`"
        )
    print(_told(done, args))
    return 0


def _told(done: Restored, args: argparse.Namespace) -> str:
    lines = [f"{done.newest.origin} is at size {done.newest.size} again, {done.replayed} entries of it from the log"]
    if done.missing:
        lines.append(
            f"{done.missing} batches have no payload, or not all; once it runs, it asks the devices for them, but for "
            "those that something was erased from, which no device has any more"
        )
    if done.destroyed:
        lines.append(f"{done.destroyed} leaves are hashes, for their keys were destroyed when something was erased")
    if done.unknown:
        lines.append(f"{done.unknown} leaves are hashes, for there was no key for them: the keys are older, or none")
    lines += [
        f"key {key} is enrolled and nothing says whose it is: put its .enrol file back, or enrol it again"
        for key in done.unnamed[:SHOWN_KEYS]
    ]
    if len(done.unnamed) > SHOWN_KEYS:
        lines.append(f"and {len(done.unnamed) - SHOWN_KEYS} keys more")
    if not done.given:
        lines.append(f"not every file in {args.data} belongs to whom it did; do this as root, or see to it with chown")
    lines.append(f"start it with: vitalseal aggregator run --config {args.config}")
    return "\n".join(lines)


def _succeed(args: argparse.Namespace) -> int:
    config = configuration.load(args.config, AggregatorConfig)
    successor = configuration.load(args.successor, AggregatorConfig)
    with told(config.data):
        end, new = succeed(config, successor)
    print(f"{end.origin} was last seen at size {end.size}, root {end.root.hex()}; {new.origin} goes on from there")
    return 0


def _progress() -> Progress:
    """A percentage on a terminal for each thing that takes long."""
    shown: dict[str, Callable[[int, int], None]] = {}

    def show(what: str, done: int, total: int) -> None:
        shown.setdefault(what, show_progress(what))(done, total)

    return show
