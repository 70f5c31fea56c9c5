"""`vitalseal export`: chosen readings, each proven, as a zip of proofs, a FHIR bundle or a Parquet file."""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from aggregator import registry
from aggregator.choosing import add_selection, chosen_kinds, chosen_window
from aggregator.config import AggregatorConfig
from aggregator.console import told
from aggregator.export.archive import write_archive
from aggregator.export.evidence import Evidence
from aggregator.export.output import check_free, whole_file
from aggregator.export.proven import Proven, Proving
from aggregator.export.selection import of_kinds, of_patient
from aggregator.timeseries.base import Selection, StoreAwayError, StoredReading
from aggregator.timeseries.opening import open_store
from ledger.writer.reader import LocalReader
from vitalseal import config as configuration
from vitalseal.errors import UserError

EXPORTED, UNPROVEN = 0, 1

# format: what it needs of the extra "export"
FORMATS = {"proofs": None, "fhir": "fhir.resources", "parquet": "pyarrow"}
_SHOWN_EVERY = 64  # readings, between two looks at the progress


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Write chosen readings with their proofs to one file, which is for its owner only (mode 600). Every reading is "
        "verified on its way out; one that is not proven is not exported, and named on stderr."
    )
    parser.epilog = (
        "Exit codes: 0 all exported, 1 a reading was not proven, or none matches; 2 a wrong call, input or state, and "
        "no file. The last line on stdout is for scripts: export: readings=N refused=N file=NAME."
    )
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--config", type=Path, metavar="FILE", help="the aggregator's configuration file")
    place.add_argument("--data", type=Path, metavar="DIR", help="its data directory, with the embedded reading store")
    add_selection(parser)
    parser.add_argument("--format", choices=FORMATS, required=True, help="what to write")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="where; it appears whole or not")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.add_argument("--policy", type=Path, metavar="F", help="verify by this policy, not by the log's policy.txt")
    parser.add_argument("--trust", type=Path, metavar="F", help="registrars that count, not those of trust.txt")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exports, and says what came of it."""
    window, kinds = chosen_window(args), chosen_kinds(args)
    check_free(args.output, force=args.force)
    write = _writer(args.format, args.patient)
    config = configuration.load(args.config, AggregatorConfig) if args.config else AggregatorConfig(args.data)
    data = config.data
    if not (data / registry.DATABASE).is_file():
        raise UserError(f"{data}: holds no {registry.DATABASE}, so it is no aggregator's data directory")
    try:
        with told(data), LocalReader(data) as log, open_store(config, readonly=True) as store:
            parts = [window] if args.patient is None else _worn(data, args.patient, window)
            evidence = Evidence(data, log, args.policy, args.trust, _warn)
            proving = Proving(store, of_kinds(parts, kinds), evidence, _refuse)
            written = _write(proving, partial(write, evidence=evidence), args.output, force=args.force)
    except StoreAwayError as error:
        raise UserError(str(error)) from None
    if not proving.exported and not proving.refused:
        _warn("no reading matches")
    if proving.incomplete:
        _warn(
            f"{proving.incomplete} readings are proven, but not every step could be checked: they are newer than the "
            "log's last key state, which comes at least daily, or the policy asks for no witness"
        )
    name = args.output if written else "none"
    print(f"export: readings={proving.exported} refused={proving.refused} file={name}")
    return EXPORTED if written and not proving.refused else UNPROVEN


def _write(proving: Proving, write: Callable[[BinaryIO, Iterable[Proven]], None], output: Path, *, force: bool) -> bool:
    """Whether there is a file now: not one without readings."""
    # Closed before the store is, however this ends.
    with closing(_shown(proving)) as readings:
        first = next(readings, None)
        if first is None:
            return False
        with whole_file(output, force=force) as file:
            write(file, chain([first], readings))
    return True


def _writer(form: str, patient: str | None) -> Callable[..., None]:
    """What writes the format `form`; raises UserError if a library for it is not installed."""
    library = FORMATS[form]
    if library is not None and importlib.util.find_spec(library.partition(".")[0]) is None:
        raise UserError(
            f"`vitalseal export --format {form}` needs {library}: in vitalseal's clone, type  pip install '.[export]'"
        )
    if form == "fhir":
        from aggregator.export.fhir import write_bundle

        return partial(write_bundle, patient=patient)
    if form == "parquet":
        from aggregator.export.parquet import write_parquet

        return write_parquet
    return write_archive


def _worn(data: Path, patient: str, window: Selection) -> list[Selection]:
    with closing(registry.Registry(data)) as opened:
        return of_patient(opened.assignments(), patient, window)


def _shown(readings: Iterable[Proven]) -> Generator[Proven, None, None]:
    """`readings`, counted on a terminal; how many there will be is not known before they were read."""
    if not sys.stderr.isatty():
        yield from readings
        return
    count = 0
    for count, proven in enumerate(readings, 1):
        if count % _SHOWN_EVERY == 0:
            print(f"\r{count:,} readings", end="", file=sys.stderr, flush=True)
        yield proven
    print(f"\r{count:,} readings", file=sys.stderr)


def _refuse(stored: StoredReading, why: str) -> None:
    _warn(f"not exported: reading {stored.ref} of {stored.device!a}: {why}")


def _warn(text: str) -> None:
    print(f"vitalseal: {text}", file=sys.stderr)
