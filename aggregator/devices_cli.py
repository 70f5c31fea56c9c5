"""`vitalseal aggregator devices`: every device with its keys, its last sign of life, its gaps and its oddities."""

import argparse
import json
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from aggregator.config import AggregatorConfig
from aggregator.console import Commands, add_command, told
from aggregator.faults import WORDS
from aggregator.notices import ERASURE, Activity, Noted, activity, describe, faults, notices
from aggregator.publisher import is_overdue
from aggregator.registry import Registry
from ledger.batch import LEAVES_PER_BATCH, Header
from ledger.entry import BatchEntry, parse_entry
from ledger.keystate import KeyRecord
from ledger.reading import format_time
from ledger.writer.create import load_log_keys
from ledger.writer.keybook import read_states
from ledger.writer.reader import LocalReader
from vitalseal import config as configuration
from vitalseal.errors import UserError

MAX_LAST = 10_000
SHOWN_NOTICES = 20  # of each device on a terminal; `--json` has them all


@dataclass(frozen=True, slots=True)
class Device:
    """One device: its keys in the order of their enrolment, each with what its chain has on the log."""

    name: str
    keys: list[tuple[KeyRecord, Activity | None]]
    notices: list[Noted]
    faults: dict[str, tuple[int, int]]
    overdue: bool

    @property
    def chains(self) -> list[Activity]:
        """Those of its keys that have batches on the log."""
        return [chain for _, chain in self.keys if chain]

    @property
    def last(self) -> Activity | None:
        """The chain that was heard last."""
        return max(self.chains, key=lambda chain: chain.index, default=None)


def register(commands: Commands) -> None:
    """Adds the command and its arguments."""
    devices = add_command(commands, "devices", "list the devices: keys, last sign of life, gaps, clones, clocks", _run)
    devices.add_argument("device", nargs="?", metavar="DEVICE", help="only this one")
    devices.add_argument("--last", type=int, metavar="N", help="with DEVICE: its last N batches, and their readings")
    devices.add_argument("--json", action="store_true", help="for programs")


def _run(args: argparse.Namespace) -> int:
    config = configuration.load(args.config, AggregatorConfig)
    if args.last is not None and (args.device is None or not 1 <= args.last <= MAX_LAST):
        raise UserError(f"--last takes 1 to {MAX_LAST}, and goes with the name of a device")
    now_ns = time.time_ns()
    with told(config.data), LocalReader(config.data) as log, closing(Registry(config.data)) as registry:
        found = _devices(config, log, registry, now_ns)
        if args.device is not None:
            found = [device for device in found if device.name == args.device]
            if not found:
                raise UserError(f"no device {args.device!r} is enrolled; `vitalseal aggregator devices` lists them all")
        batches = [row for device in found for row in _last(log, device, args.last)] if args.last else None
    if args.json:
        print(json.dumps([_table(device) | ({} if batches is None else {"last": batches}) for device in found]))
        return 0
    for device in found:
        _show(device, now_ns)
    for row in batches or ():
        refs = f"refs {row['first_ref']} to {row['last_ref']}" if row["count"] else "no readings"
        print(f"    entry {row['index']}  epoch {row['epoch']} seq {row['seq']}  {row['count']} readings, {refs}")
    if not found:
        print("no device is enrolled")
    return 0


def _devices(config: AggregatorConfig, log: LocalReader, registry: Registry, now_ns: int) -> list[Device]:
    states = read_states(log, load_log_keys(config.data).signers[0].verifier.name)
    chains, noted, faulty = activity(registry), notices(registry), faults(registry)
    names: dict[str, list[KeyRecord]] = {}
    for key_id, key in registry.keys().items():
        if record := states.get(key_id):
            names.setdefault(key.device, []).append(record)
    found = []
    for name, records in sorted(names.items()):
        keys = [(each, chains.get(each.key_id)) for each in sorted(records, key=lambda each: each.enrolled)]
        held = {each.key_id for each in records}
        overdue = is_overdue(keys, config.silent_after_s, now_ns)
        found.append(Device(name, keys, [item for item in noted if item.key_id in held], faulty.get(name, {}), overdue))
    return found


def _last(log: LocalReader, device: Device, count: int) -> list[dict[str, int]]:
    """The device's last batches; a reading's ref is what `ledger proof --ref` takes."""
    found = [row for record, _ in device.keys for row in log.last_batches(record.key_id, count)]
    rows = []
    for index, epoch, seq in sorted(found)[-count:]:
        (data,) = log.entries(index, index + 1)
        entry = parse_entry(data)
        readings = Header.decode(entry.header).count if isinstance(entry, BatchEntry) else 0
        first = index * LEAVES_PER_BATCH + 1  # leaf 0 is the batch info
        row = {"index": index, "epoch": epoch, "seq": seq, "count": readings}
        rows.append(row | {"first_ref": first, "last_ref": first + readings - 1})
    return rows


def _table(device: Device) -> dict[str, Any]:
    return {
        "device": device.name,
        "overdue": device.overdue,
        "heard_at": device.last.heard_ns / 1e9 if device.last else None,
        "batches": sum(chain.batches for chain in device.chains),
        "readings": sum(chain.readings for chain in device.chains),
        "keys": [_key_table(record, chain) for record, chain in device.keys],
        "notices": [asdict(item) | {"key_id": item.key_id.hex(), "text": describe(item)} for item in device.notices],
        "faults": {what: {"count": count, "last_at": at / 1e9} for what, (count, at) in device.faults.items()},
    }


def _key_table(record: KeyRecord, chain: Activity | None) -> dict[str, Any]:
    last = {"epoch": chain.epoch, "seq": chain.seq, "index": chain.index} if chain else None
    return {
        "key_id": record.key_id.hex(),
        "enrolled": record.enrolled,
        "until": record.until,
        "revoked": record.revoked,
        "last": last,
    }


def _show(device: Device, now_ns: int) -> None:
    batches, readings = sum(each.batches for each in device.chains), sum(each.readings for each in device.chains)
    heard = "never heard"
    if device.last:
        ago = max(0, now_ns - device.last.heard_ns) // 10**9
        heard = f"heard {_second(device.last.heard_ns)}, {ago} s ago" + (": OVERDUE" if device.overdue else "")
    print(f"{device.name}  {readings} readings in {batches} batches, {heard}")
    for record, chain in device.keys:
        place = f", last epoch {chain.epoch} seq {chain.seq} as entry {chain.index}" if chain else ""
        print(f"    key {record.key_id.hex()}  {_state(record)}{place}")
    # Of a wearer who is forgotten every batch is one; a gap must not vanish among them.
    erased = [item.lost or 0 for item in device.notices if item.kind == ERASURE]
    noted = [item for item in device.notices if item.kind != ERASURE]
    for item in noted[-SHOWN_NOTICES:]:
        print(f"    {describe(item)}")
    if len(noted) > SHOWN_NOTICES:
        print(f"    and {len(noted) - SHOWN_NOTICES} notices before these; --json has them all")
    if erased:
        print(f"    {sum(erased)} readings were erased, by {len(erased)} entries; --json has them all")
    for what, (count, at) in device.faults.items():
        print(f"    {count} {WORDS[what]}; last {_second(at)}")


def _second(at_ns: int) -> str:
    return format_time(at_ns - at_ns % 10**9)


def _state(record: KeyRecord) -> str:
    text = f"enrolled at entry {record.enrolled}"
    if record.revoked is not None:
        place = f", good before epoch {record.until[0]} seq {record.until[1]}" if record.until else ""
        return f"{text}, REVOKED at entry {record.revoked}{place}"
    if record.until is not None:
        return f"{text}, rotated away from epoch {record.until[0]} seq {record.until[1]} on"
    return text
