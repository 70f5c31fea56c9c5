"""The zip of proof files: for whoever wants to verify one reading or all of them, with nothing but the verifier.

The order is that of the readings, every time in it is the zip format's first, so the same export is the same bytes. The
index is written beside the zip while proofs go into it, because a zip takes one file at a time.
"""

import csv
import io
import tempfile
import zipfile
from collections.abc import Iterable
from typing import BinaryIO

from aggregator.export.evidence import Evidence, status_name
from aggregator.export.proven import Proven
from ledger.kinds import BY_CODE, kind_name, kind_unit
from ledger.reading import Absent, Scalar, Waveform, format_time
from ledger.writer.create import POLICY, POLICY_PQ, TRUST

PROOFS, INDEX, README = "proofs", "index.csv", "README.txt"
# More file names than this do not fit one command line, 128 KB of it being what every system has.
NAMES_ON_A_LINE = 1000

_COLUMNS = (
    *("file", "device", "source", "kind", "loinc", "unit", "time", "time_ns", "ordinal", "zone_min"),
    *("value", "absent", "samples", "quality", "log_index", "leaf", "key_id", "epoch", "seq"),
)
# Moments are in the index; a zip's own have no zone, and would make two equal exports differ.
_NO_TIME = (1980, 1, 1, 0, 0, 0)
_REGULAR_FILE, _UNIX = 0o100644 << 16, 3


def write_archive(file: BinaryIO, readings: Iterable[Proven], evidence: Evidence) -> None:
    """The zip is in `file`; what is in memory of a reading is its name and place."""
    count, complete, keys = 0, True, set()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as index,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        table = csv.writer(index, lineterminator="\n")
        table.writerow(_COLUMNS)
        for proven in readings:
            name = f"{PROOFS}/{proven.file_name}"
            archive.writestr(_member(name), proven.file)
            table.writerow(_row(name, proven))
            count, complete = count + 1, complete and proven.complete
            keys.add(proven.verified.header.key_id)
        index.seek(0)
        with archive.open(_member(INDEX), "w", force_zip64=True) as member:
            for line in index:
                member.write(line.encode())
        statuses = {status_name(key): found for key in keys if (found := evidence.status_file(key))}
        for name, data in sorted(statuses.items()):
            archive.writestr(_member(name), data)
        archive.writestr(_member(POLICY), evidence.policy_file)
        if evidence.policy_pq_file is not None:
            archive.writestr(_member(POLICY_PQ), evidence.policy_pq_file)
        archive.writestr(_member(TRUST), evidence.trust_file)
        archive.writestr(_member(README), _readme(evidence, count, complete=complete, statuses=len(statuses)))


def command(count: int, *, complete: bool, statuses: int) -> str:
    """What verifies `count` proofs, typed in the unpacked folder."""
    options = f"--policy {POLICY} --trust {TRUST}" + (" --strict" if complete else "")
    keys = " key-*.tlog-proof" if statuses else ""
    if count <= NAMES_ON_A_LINE:
        return f"vitalseal verify {PROOFS}/*.tlog-proof{keys} {options}"
    return f"find {PROOFS} -name '*.tlog-proof' -print0 | xargs -0 vitalseal verify {options}{keys}"


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, _NO_TIME)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.create_system, member.external_attr = _UNIX, _REGULAR_FILE
    return member


def _row(name: str, proven: Proven) -> tuple[object, ...]:
    reading, header = proven.reading, proven.verified.header
    kind = BY_CODE.get(reading.kind)
    value = reading.value
    return (
        name,
        proven.stored.device,
        reading.source.hex(),
        kind_name(reading.kind),
        " ".join(kind.loinc) if kind else "",
        kind_unit(reading.kind),
        format_time(reading.sensor_time_ns),
        reading.sensor_time_ns,
        reading.ordinal,
        reading.zone_offset_min,
        str(value) if isinstance(value, Scalar) else None,
        str(value).removeprefix("absent: ") if isinstance(value, Absent) else None,
        len(value) if isinstance(value, Waveform) else None,
        int(reading.quality),
        proven.stored.log_index,
        proven.stored.leaf_index,
        header.key_id.hex(),
        header.epoch,
        header.seq,
    )


def _readme(evidence: Evidence, count: int, *, complete: bool, statuses: int) -> str:
    text = io.StringIO()
    text.write(
        f"{count} readings from the log {evidence.origin}, each with its proof.\n\n"
        f"{INDEX} lists them; {PROOFS}/ holds one file a reading. To verify all of them, offline:\n\n"
        f"    {command(count, complete=complete, statuses=statuses)}\n\n"
    )
    if not complete:
        text.write(
            "Without --strict, because not every step could be checked when this was made: a reading is newer than the "
            "log's last\nstatement about its key, which comes at least daily, or the policy asks for no witness. What "
            "was not checked is named.\n\n"
        )
    text.write(
        "Each file shows that the holder of a device key committed to this value before the witnesses' time, and that "
        "it has\nnot changed since. That the sensor measured it, and when, is the key holder's statement.\n\n"
        f"{POLICY} and {TRUST} say whose signatures count. They came from whoever gave you this file: if it has to "
        "convince\nyou, take them from somebody whom you trust.\n\n"
        "Nothing is in here but the readings that were chosen. The other hashes in a proof are salted: they tell "
        "nothing about\nthe readings that they stand for, nor whether there are more readings that would have fitted "
        "the choice.\n"
    )
    return text.getvalue()
