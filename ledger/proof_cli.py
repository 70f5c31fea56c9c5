"""`vitalseal ledger proof`: hand out proof files, and re-anchor old ones."""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ledger.batch import LEAVES_PER_BATCH
from ledger.completeness import MAX_RANGE_FILE, RANGE_FORM, verify_range
from ledger.console import OK, UNPROVEN, WRONG, fail, parse_file
from ledger.errors import MalformedError, VerificationError
from ledger.fsck import CHECKPOINT_PATH, open_log
from ledger.note import parse_note
from ledger.policy import Policy, parse_policy
from ledger.proof import LEAF_FORM, ProofFile, parse_proof_file, read_proof
from ledger.reading import Reading
from ledger.refresh import refresh
from ledger.service.fetch import log_reader
from ledger.status import STATUS_FORM, verify_status
from ledger.verify import verify_leaf
from ledger.writer.create import POLICY
from ledger.writer.prove import Prover
from ledger.writer.reader import LocalReader
from ledger.writer.storage import Place, StorageError

SUFFIX = ".tlog-proof"


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Write proof files: of one reading or of every reading of a batch, of everything that a device sealed over a "
        "range, of a device key's status; or re-anchor old proofs to the log's current checkpoint."
    )
    parser.epilog = (
        "Name a reading by --ref (as the reading store shows it), by --index and --leaf, or by --device, --seq and "
        "--leaf; without --leaf: all readings of the batch. --device with --from and --to: a completeness proof, which "
        "shows that nothing in between was left out. --key-status: what `verify --trust` needs for step 7, for every "
        "reading of that device that was logged before. Proofs end in the first checkpoint that covers them; "
        "--refresh moves them to the current one, whose keys may be stronger and whose time is later, so keep both."
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="the aggregator's data directory")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--ref", type=int, metavar="N", help="log index x 4096 + leaf index")
    place.add_argument("--index", type=int, metavar="N", help="index of the batch in the log")
    place.add_argument("--device", metavar="KEYID", help="device key id in hex, or its beginning")
    place.add_argument("--key-status", metavar="KEYID", help="the status of a device key, by its id in hex")
    place.add_argument("--refresh", type=Path, nargs="+", metavar="FILE", help="old proofs; with --log and --policy")
    parser.add_argument("--seq", type=int, metavar="N", help="the batch's sequence number")
    parser.add_argument("--epoch", type=int, metavar="N", help="the batch's epoch (0)")
    parser.add_argument("--leaf", type=int, metavar="N", help="1 to count: a reading; 0: the batch info")
    parser.add_argument("--from", dest="first", type=int, metavar="A", help="first sequence number of a range")
    parser.add_argument("--to", dest="last", type=int, metavar="B", help="last sequence number of a range")
    parser.add_argument("--disclose", action="store_true", help="show the readings of the range, not only their number")
    parser.add_argument("--classical", action="store_true", help="without post-quantum signature lines: a small file")
    parser.add_argument("--log", metavar="DIR|URL", help="the public log, for --refresh")
    parser.add_argument("--policy", type=Path, help="what the refreshed proofs must satisfy, for --refresh")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="PATH", help="file, or directory for several (default: stdout)"
    )
    parser.set_defaults(run=_proof)


def _proof(args: argparse.Namespace) -> int:
    try:
        _check_words(args)
        named = list(_refreshed(args) if args.refresh else _made(args))
        if args.classical:
            named = [(name, replace(file, checkpoint=file.checkpoint.classical())) for name, file in named]
        _write(named, args.output)
    except (MalformedError, StorageError, OSError) as error:
        return fail(error, WRONG)
    except VerificationError as error:
        return fail(error, UNPROVEN)
    return OK


def _check_words(args: argparse.Namespace) -> None:
    """The options that were given belong together; raises MalformedError."""
    if args.refresh is not None:
        _check_refresh(args)
        return
    if args.data is None:
        raise MalformedError("--data is needed: the aggregator's data directory")
    if args.log is not None or args.policy is not None:
        raise MalformedError("--log and --policy go with --refresh")
    if args.leaf is not None and (args.ref is not None or args.key_status is not None):
        raise MalformedError("--ref names a leaf already, --key-status has none; leave --leaf out")
    if args.device is None and any(word is not None for word in (args.seq, args.epoch, args.first, args.last)):
        raise MalformedError("--seq, --epoch, --from and --to go with --device")
    if args.device is not None:
        ranged = args.first is not None and args.last is not None and args.seq is None and args.leaf is None
        single = args.seq is not None and args.first is None and args.last is None
        if not ranged and not single:
            raise MalformedError("--device needs --seq, the batch's sequence number, or --from and --to")
    if args.disclose and args.first is None:
        raise MalformedError("--disclose goes with --from and --to")


def _check_refresh(args: argparse.Namespace) -> None:
    if args.log is None or args.policy is None or args.data is not None:
        raise MalformedError("--refresh needs --log and --policy, and no --data")
    if args.disclose or any(word is not None for word in (args.seq, args.epoch, args.leaf, args.first, args.last)):
        raise MalformedError("--refresh takes whole files: no --seq, --epoch, --leaf, --from, --to or --disclose")


def _made(args: argparse.Namespace) -> Iterator[tuple[str, ProofFile]]:
    """What was asked for, made from the aggregator's data, with the name of a file for each."""
    origin = _origin(parse_file(args.data / POLICY, parse_policy), args.data)
    with LocalReader(args.data) as log:
        prover = Prover(log, origin)
        if args.key_status is not None:
            key = _key(args.key_status, "--key-status", prover)
            yield f"key-{key.hex()[:16]}", prover.status(key)
        elif args.first is not None:
            key, epoch = _key(args.device, "--device", prover), args.epoch or 0
            file = prover.range(key, epoch, args.first, args.last, disclose=args.disclose)
            yield f"range-{key.hex()[:16]}-{epoch}-{args.first}-{args.last}", file
        elif args.ref is not None:
            index, leaf = divmod(args.ref, LEAVES_PER_BATCH)
            yield f"{index}-{leaf}", _of_ref(args.ref, prover)
        else:
            index = _index(args, log, prover)
            for number in prover.leaves(index) if args.leaf is None else [args.leaf]:
                yield f"{index}-{number}", prover.leaf(index, number)


def _of_ref(ref: int, prover: Prover) -> ProofFile:
    """The proof of the reading with that ref; what is wrong is said of the ref, which is all that was asked for."""
    index, leaf = divmod(ref, LEAVES_PER_BATCH)
    meaning = f"--ref {ref}, which is leaf {leaf} of entry {index} (ref = entry x {LEAVES_PER_BATCH} + leaf)"
    try:
        return prover.leaf(index, leaf)
    except MalformedError as error:
        raise MalformedError(f"{meaning}: {error}") from None
    except VerificationError as error:
        raise VerificationError(f"{meaning}: {error}") from None


def _index(args: argparse.Namespace, log: LocalReader, prover: Prover) -> int:
    if args.index is not None:
        return int(args.index)
    key, epoch = _key(args.device, "--device", prover), args.epoch or 0
    found = log.find(Place(key, epoch, args.seq))
    if found is None:
        raise MalformedError(f"no batch with epoch {epoch} seq {args.seq} by key {key.hex()[:16]}")
    return found[0]


def _key(text: str, option: str, prover: Prover) -> bytes:
    """The id of the one enrolled key whose id begins with `text`."""
    named = [record.key_id for record in prover.keys if text and record.key_id.hex().startswith(text.lower())]
    if len(named) != 1:
        raise MalformedError(f"{option} {text}: {len(named)} enrolled keys begin so, where one is wanted")
    return named[0]


def _origin(policy: Policy, data: Path) -> str:
    if not policy.logs:
        raise MalformedError(f"{data / POLICY}: names no log")
    return policy.logs[0][0].name


def _refreshed(args: argparse.Namespace) -> Iterator[tuple[str, ProofFile]]:
    """Each file under the current checkpoint of the log, and still proven."""
    policy = parse_file(args.policy, parse_policy)
    with log_reader(args.log) as (fetch, _):
        # Read once: a log that is alive may publish the next one at this very moment.
        note = fetch(CHECKPOINT_PATH)
        _, tree = open_log(lambda path: note if path == CHECKPOINT_PATH else fetch(path), policy)
        checkpoint = parse_note(note or b"", "checkpoint")
        for path in args.refresh:
            old = parse_file(path, lambda data: parse_proof_file(data, limit=MAX_RANGE_FILE), MAX_RANGE_FILE)
            try:
                new = refresh(old, tree, checkpoint)
                _verify(new, policy)
            except MalformedError as error:
                raise MalformedError(f"{path}: {error}") from None
            except VerificationError as error:
                raise VerificationError(f"{path}: {error}") from None
            yield path.name.removesuffix(SUFFIX), new


def _verify(file: ProofFile, policy: Policy) -> None:
    if file.form == STATUS_FORM:
        verify_status(file, policy)
    elif file.form == RANGE_FORM:
        verify_range(file, policy)
    else:
        verify_leaf(read_proof(file), policy)


def _write(named: list[tuple[str, ProofFile]], output: Path | None) -> None:
    if output is None:
        if len(named) != 1:
            raise MalformedError(f"{len(named)} proofs make {len(named)} files: name a directory with -o, or a --leaf")
        sys.stdout.write(named[0][1].encode().decode())
        return
    whole = len(named) == 1 and not output.is_dir()
    if not whole:
        if len({name for name, _ in named}) < len(named):
            raise MalformedError("two of the files have one name: refresh them into a directory each")
        output.mkdir(parents=True, exist_ok=True)
    for name, file in named:
        path = output if whole else output / f"{name}{SUFFIX}"
        _replace(path, file.encode())
        print(f"wrote {path}{_about(file)}")


def _replace(path: Path, data: bytes) -> None:
    """`path` holds `data`, or is as it was; a file that is there is replaced only by a proof if it was one."""
    if not path.parent.is_dir():
        raise MalformedError(f"{path.parent}: there is no such directory")
    if path.exists() and not path.read_bytes().startswith(b"c2sp.org/tlog-proof"):
        raise MalformedError(f"{path}: is there and is no proof file; not overwritten")
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(data)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _about(file: ProofFile) -> str:
    if file.form != LEAF_FORM:
        return ": the status of a key" if file.form == STATUS_FORM else ": all of a device's batches over a range"
    leaf = read_proof(file).leaf
    return f": {Reading.decode(leaf.body).describe()}" if leaf.leaf_index else ": batch info"
