"""`vitalseal ledger proof`: hand out proof files."""

import argparse
import sys
from pathlib import Path

from ledger.batch import LEAVES_PER_BATCH, Header
from ledger.console import OK, UNPROVEN, WRONG, fail, parse_file
from ledger.entry import BatchEntry, parse_entry
from ledger.errors import MalformedError, VerificationError
from ledger.events import Enrolment
from ledger.fsck import CHECKPOINT_PATH, open_log
from ledger.leaves import Leaf
from ledger.policy import Policy, parse_policy
from ledger.proof import ReadingProof
from ledger.reading import Reading
from ledger.writer.create import POLICY
from ledger.writer.local import LocalReader
from ledger.writer.payload import parse_payload, prove_leaf, prove_reading
from ledger.writer.storage import Place, StorageError


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = "Write the .tlog-proof file of one reading, or of every reading of one batch."
    parser.epilog = (
        "Name the reading by --ref (as the reading store shows it), by --index and --leaf, or by --device, "
        "--seq and --leaf. Without --leaf: all readings of the batch."
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the aggregator's data directory")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--ref", type=int, metavar="N", help="log index x 4096 + leaf index")
    place.add_argument("--index", type=int, metavar="N", help="index of the batch in the log")
    place.add_argument("--device", metavar="KEYID", help="device key id in hex, or its beginning; with --seq")
    parser.add_argument("--seq", type=int, metavar="N", help="the batch's sequence number")
    parser.add_argument("--epoch", type=int, metavar="N", help="the batch's epoch (0)")
    parser.add_argument("--leaf", type=int, metavar="N", help="1 to count: a reading; 0: the batch info")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="PATH", help="file, or directory for several (default: stdout)"
    )
    parser.set_defaults(run=_proof)


def _proof(args: argparse.Namespace) -> int:
    try:
        with LocalReader(args.data) as log:
            policy = parse_file(args.data / POLICY, parse_policy)
            index = _index(args, log)
            leaf = args.ref % LEAVES_PER_BATCH if args.ref is not None else args.leaf
            proofs = _prove(log, policy, index, leaf)
    except (MalformedError, StorageError, OSError) as error:
        return fail(error, WRONG)
    except VerificationError as error:
        return fail(error, UNPROVEN)
    try:
        _write(proofs, args.output)
    except (MalformedError, OSError) as error:
        return fail(error, WRONG)
    return OK


def _index(args: argparse.Namespace, log: LocalReader) -> int:
    if args.ref is not None and args.leaf is not None:
        raise MalformedError("--ref names a leaf already; leave --leaf out")
    if args.device is None and (args.seq is not None or args.epoch is not None):
        raise MalformedError("--seq and --epoch go with --device")
    if args.ref is not None:
        return int(args.ref) // LEAVES_PER_BATCH
    if args.index is not None:
        return int(args.index)
    if args.seq is None:
        raise MalformedError("--device needs --seq, the batch's sequence number")
    events = (parse_entry(data) for _, data in log.key_events())
    keys = [event.key_id for event in events if isinstance(event, Enrolment)]
    named = [key for key in keys if args.device and key.hex().startswith(args.device.lower())]
    if len(named) != 1:
        raise MalformedError(f"--device {args.device}: {len(named)} enrolled keys begin so, where one is wanted")
    epoch = args.epoch or 0
    found = log.find(Place(named[0], epoch, args.seq))
    if found is None:
        raise MalformedError(f"no batch with epoch {epoch} seq {args.seq} by key {named[0].hex()[:16]}")
    return found[0]


def _prove(log: LocalReader, policy: Policy, index: int, leaf: int | None) -> list[ReadingProof]:
    _, tree = open_log(log.read, policy)
    checkpoint = log.read(CHECKPOINT_PATH) or b""
    entry = parse_entry(tree.entry(index))
    payload = log.payload(index)
    if not isinstance(entry, BatchEntry) or payload is None:
        raise MalformedError(f"entry {index} is not a batch with readings")
    header = Header.decode(entry.header)
    keys = (parse_entry(data) for _, data in log.key_events())
    key = next((key for key in keys if isinstance(key, Enrolment) and key.key_id == header.key_id), None)
    if key is None:
        raise VerificationError(f"entry {index}: its key is not enrolled")
    leaves = parse_payload(payload)
    wanted = range(1, header.count + 1) if leaf is None else [leaf]
    return [
        prove_reading(
            prove_leaf(entry, leaves, number, algorithm=key.algorithm, public_key=key.public_key),
            index,
            tree,
            checkpoint,
        )
        for number in wanted
        if leaf is not None or isinstance(leaves[number], Leaf)
    ]


def _write(proofs: list[ReadingProof], output: Path | None) -> None:
    if output is None:
        if len(proofs) > 1:
            raise MalformedError(
                f"{len(proofs)} readings make {len(proofs)} files: name a directory with -o, or a --leaf"
            )
        sys.stdout.write(proofs[0].encode().decode())
        return
    whole = len(proofs) == 1 and not output.is_dir()
    if not whole:
        output.mkdir(parents=True, exist_ok=True)
    for proof in proofs:
        path = output if whole else output / f"{proof.index}-{proof.leaf.leaf_index}.tlog-proof"
        _replace(path, proof.encode())
        print(f"wrote {path}{_about(proof)}")


def _replace(path: Path, data: bytes) -> None:
    """`path` holds `data`, or is as it was; a file that is there is replaced only by a proof if it was one."""
    if path.exists() and not path.read_bytes().startswith(b"c2sp.org/tlog-proof"):
        raise MalformedError(f"{path}: is there and is no proof file; not overwritten")
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(data)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _about(proof: ReadingProof) -> str:
    return f": {Reading.decode(proof.leaf.body).describe()}" if proof.leaf.leaf_index else ": batch info"
