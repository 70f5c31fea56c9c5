"""The zip of proofs: verifies with the command it names, and discloses what was chosen and nothing else."""

import csv
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from aggregator.export import archive
from ledger.batch import expand_salts, leaf_hash
from ledger.proof import parse_proof
from ledger.reading import Absent, Reading, Scalar, Waveform, format_time
from ledger.strict import decode_base64
from ledger.verify import verify_proof

from .ward import START_NS, Ward, bedside, measured

_BASE64 = re.compile(rb"[A-Za-z0-9+/]{16,}={0,2}")


def run_readme(file, folder):
    """What the command in the zip's README says, typed in the folder into which it was unpacked."""
    with zipfile.ZipFile(file) as unzipped:
        unzipped.extractall(folder)
    readme = (folder / "README.txt").read_text()
    (command,) = re.findall(r"^    (.*vitalseal verify.*)$", readme, re.MULTILINE)
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    assert shutil.which("vitalseal", path=environment["PATH"])
    return command, subprocess.run(
        ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_zip_verifies_with_the_command_that_it_names(full, device, export, tmp_path):
    """Unzipped, every proof passes every step, strictly, with nothing that is not in the zip."""
    file = export(full, "proofs")
    command, done = run_readme(file, tmp_path / "unzipped")
    assert command == (
        "vitalseal verify proofs/*.tlog-proof key-*.tlog-proof --policy policy.txt --trust trust.txt --strict"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("PROVEN") == len(bedside(device)) + 1
    assert done.stdout.count("8  passed") == len(bedside(device))


def test_more_files_than_a_command_line_holds_verify_too(full, export, tmp_path, monkeypatch):
    """Then the command is one for any number of files."""
    monkeypatch.setattr(archive, "NAMES_ON_A_LINE", 3)
    command, done = run_readme(export(full, "proofs"), tmp_path / "unzipped")
    assert command.startswith("find proofs ")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("witnessed", [True, False], ids=["newer than the key state", "nobody witnesses"])
def test_what_could_not_be_checked_is_said(tmp_path, vitalseal, witnessed):
    """Such a reading is exported, since no step failed; stderr and README say why the command is not strict."""
    ward = Ward(tmp_path / "data", witnessed=witnessed)
    device = ward.device("bedside-1", 1)
    ward.log((device, [measured(device, 1, "72")]), state=not witnessed)
    file = tmp_path / "out.zip"
    done = vitalseal("export", "--data", ward.data, "--device", "bedside-1", "--format", "proofs", "--output", file)
    assert (done.code, done.out) == (0, f"export: readings=1 refused=0 file={file}\n")
    assert "not every step could be checked" in done.err
    command, verified = run_readme(file, tmp_path / "unzipped")
    assert not command.endswith("--strict")
    assert verified.returncode == 0
    proofs = (tmp_path / "unzipped").glob("*/*.tlog-proof")
    policy, trust = ward.data / "policy.txt", ward.data / "trust.txt"
    strictly = vitalseal("verify", *proofs, "--policy", policy, "--trust", trust, "--strict")
    assert strictly.code == 1


def test_index_says_of_each_file_what_is_in_it(full, export):
    """Every column, against the reading that the file proves."""
    with zipfile.ZipFile(export(full, "proofs")) as unzipped:
        rows = list(csv.DictReader(io.StringIO(unzipped.read("index.csv").decode())))
        names = [name for name in unzipped.namelist() if name.startswith("proofs/")]
        assert [row["file"] for row in rows] == names
        assert len(set(names)) == len(full.stored())
        for row in rows:
            proven = verify_proof(unzipped.read(row["file"]), full.policy())
            reading = proven.reading
            assert (row["device"], row["source"]) == ("bedside-1", reading.source.hex())
            assert (row["time"], row["time_ns"]) == (format_time(reading.sensor_time_ns), str(reading.sensor_time_ns))
            assert (row["ordinal"], row["quality"]) == (str(reading.ordinal), str(reading.quality))
            assert row["zone_min"] == ("" if reading.zone_offset_min is None else str(reading.zone_offset_min))
            assert row["value"] == (str(reading.value) if isinstance(reading.value, Scalar) else "")
            assert bool(row["absent"]) == isinstance(reading.value, Absent)
            assert row["samples"] == (str(len(reading.value)) if isinstance(reading.value, Waveform) else "")
            assert (row["log_index"], row["leaf"]) == (str(proven.index), str(proven.leaf_index))
            assert (row["key_id"], row["epoch"], row["seq"]) == (
                proven.header.key_id.hex(),
                str(proven.header.epoch),
                str(proven.header.seq),
            )
        assert [row["loinc"] for row in rows if row["kind"] == "spo2"] == ["2708-6 59408-5"] * 4


def disclosed(data):
    """`data`, and whatever of it is base64, again and again: everything that somebody who looks could find."""
    found, layers = [data], [data]
    while layers:
        layers = [decoded for layer in layers for decoded in map(decode, _BASE64.findall(layer)) if decoded]
        found += layers
    return found


def decode(text):
    try:
        return decode_base64(text.decode(), "text")
    except Exception:  # noqa: BLE001 - not base64 after all
        return b""


def plain(form, file):
    """All that is in the file, unpacked."""
    if form == "fhir":
        return [file.read_bytes()]
    if form == "parquet":
        columns = pq.read_table(file).to_pydict().values()
        return [item if isinstance(item, bytes) else str(item).encode() for column in columns for item in column]
    with zipfile.ZipFile(file) as unzipped:
        return [unzipped.read(name) for name in unzipped.namelist()]


@pytest.mark.parametrize("form", ["proofs", "fhir", "parquet"])
def test_export_holds_nothing_of_any_other_reading(ward, device, export, form):
    """No body, no salt, no batch info and no batch secret but those of the chosen: in the bytes, or below base64."""
    other = ward.device("bedside-2", 2)
    readings = [measured(device, 1, str(60 + at), at) for at in range(40)]
    ward.log((device, readings[:20]), (device, readings[20:]), (other, [measured(other, 2, "97")]))
    words = ("--from", format_time(START_NS + 5 * 10**9), "--to", format_time(START_NS + 8 * 10**9))
    parts = [part for data in plain(form, export(ward, form, *words)) for part in disclosed(data)]
    shown = hidden = 0
    for batch in ward.sealed:
        salts = expand_salts(batch.secret, len(batch.readings) + 1)
        assert not any(batch.secret in part for part in parts)
        for salt, body in zip(salts, (batch.info, *batch.readings), strict=True):
            chosen = body in [item.encode() for item in readings[5:8]]
            shown, hidden = shown + chosen, hidden + (not chosen)
            assert any(salt in part for part in parts) == chosen
            assert any(body in part for part in parts) == chosen
    assert (shown, hidden) == (3, 41)


def test_value_of_a_neighbour_cannot_be_guessed(ward, device, export):
    """Who knows all of it but the value tries every heart rate, and finds it only with the salt, which nobody gave."""
    first, second = measured(device, 1, "72"), measured(device, 1, "131", 1)
    ward.log((device, [first, second]))
    file = export(ward, "proofs", "--to", format_time(second.sensor_time_ns))
    with zipfile.ZipFile(file) as unzipped:
        (name,) = [name for name in unzipped.namelist() if name.startswith("proofs/")]
        leaf = parse_proof(unzipped.read(name)).leaf
    assert leaf.body == first.encode()
    guesses = [measured(device, 1, str(rate), 1).encode() for rate in range(20, 301)]
    right = expand_salts(ward.sealed[0].secret, 3)[2]

    def confirmed(salt):
        place = (device.key_id, 0, 0, 2, salt)
        return [Reading.decode(guess) for guess in guesses if leaf_hash(*place, guess) in leaf.path]

    assert confirmed(right) == [second]
    assert [confirmed(salt) for salt in (b"", bytes(16), leaf.salt)] == [[], [], []]
