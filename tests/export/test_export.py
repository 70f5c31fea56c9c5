"""What is exported, what is refused, and how the file comes to be."""

import json
import os
import stat
import subprocess
import sys
import zipfile
from collections import Counter
from contextlib import closing
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from aggregator.export import cli, fhir, output, parquet, proven, selection
from aggregator.export.evidence import Evidence
from aggregator.export.proven import Proving
from aggregator.registry import Registry
from aggregator.timeseries.base import Selection
from aggregator.timeseries.embedded import EmbeddedStore
from aggregator.timeseries.influx import InfluxStore
from ledger import verify
from ledger.reading import format_time
from ledger.strict import decode_base64
from ledger.verify import verify_proof
from ledger.writer.reader import LocalReader

from .ward import SECOND, START_NS, measured

FORMATS = ("proofs", "fhir", "parquet")


def exported(ward, file):
    """The readings of a zip, in order."""
    with zipfile.ZipFile(file) as unzipped:
        names = [name for name in unzipped.namelist() if name.startswith("proofs/")]
        return [verify_proof(unzipped.read(name), ward.policy()).reading for name in names]


def test_zip_has_no_times(full, export):
    """A member's time would be that of the export; they are all the format's first."""
    with zipfile.ZipFile(export(full, "proofs")) as unzipped:
        assert {member.date_time for member in unzipped.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("form", FORMATS)
def test_same_export_is_the_same_bytes(full, export, form):
    """Nothing in a file depends on when it was made."""
    assert export(full, form).read_bytes() == export(full, form).read_bytes()


def test_kinds_and_times_choose(full, export):
    """Several kinds, and [from, to)."""
    found = exported(full, export(full, "proofs", "--kind", "spo2", "--kind", "heart_rate", "--kind", "spo2"))
    assert [item.kind for item in found] == [1, 1, 1, 2, 2, 2, 2]
    words = ("--from", format_time(START_NS + SECOND), "--to", format_time(START_NS + 3 * SECOND))
    found = exported(full, export(full, "proofs", *words))
    assert sorted((item.kind, item.sensor_time_ns - START_NS) for item in found) == [
        (1, SECOND),
        (2, SECOND),
        (2, 2 * SECOND),
    ]


def test_times_choose_to_the_nanosecond_in_any_zone(ward, device, export):
    """As `index.csv` spells them; nothing is cut off."""
    at = START_NS + 123_456_788
    readings = [measured(device, 1, str(70 + ns), sensor_time_ns=at + ns) for ns in range(4)]
    ward.log((device, readings))
    words = ("--from", "2025-11-13T04:13:20.123456789+02:00", "--to", format_time(at + 3))
    assert exported(ward, export(ward, "proofs", *words)) == readings[1:3]


def test_source_chooses(ward, device, export):
    """One sensor of a device that has two."""
    mine, others = measured(device, 1, "72"), measured(device, 1, "99", source=b"another")
    ward.log((device, [mine, others]))
    assert exported(ward, export(ward, "proofs", "--source", device.source.hex())) == [mine]


def test_patient_is_who_wore_it_by_the_standing_assignments(ward, device, export):
    """[from, to) of what stands, on any device; what was corrected does not count, and nobody else's readings come."""
    other = ward.device("bedside-2", 2)
    readings = [measured(device, 1, str(60 + at), at) for at in range(10)]
    ward.log((device, readings), (other, [measured(other, 2, "97", at) for at in range(3)]))
    at = [START_NS + second * SECOND for second in range(11)]
    wrong = ward.assign(device.source, "patient-7", at[0], at[9])
    ward.assign(device.source, "patient-7", at[2], at[4], corrects=wrong)
    ward.assign(device.source, "patient-8", at[4], at[6])
    ward.assign(device.source, "patient-7", at[8])
    ward.assign(other.source, "patient-7", at[0], at[1])
    patient = ("--patient", "patient-7")
    found = exported(ward, export(ward, "proofs", whose=patient))
    assert [(item.kind, item.sensor_time_ns) for item in found] == [
        *((1, at[second]) for second in (2, 3, 8, 9)),
        (2, at[0]),
    ]
    words = ("--from", format_time(at[3]), "--to", format_time(at[9]))
    assert exported(ward, export(ward, "proofs", *words, whose=patient)) == [readings[3], readings[8]]


def test_intervals_are_cut_to_the_window(ward, device):
    """One that lies outside is no selection at all; an open one is open."""
    ward.assign(device.source, "patient-7", 100, 200)
    ward.assign(device.source, "patient-7", 300)
    with closing(Registry(ward.data)) as registry:
        assignments = registry.assignments()

    def parts(*window):
        found = selection.of_patient(assignments, "patient-7", Selection(from_ns=window[0], to_ns=window[1]))
        return [(item.from_ns, item.to_ns) for item in found]

    assert parts(None, None) == [(100, 200), (300, None)]
    assert parts(150, 310) == [(150, 200), (300, 310)]
    assert parts(200, 300) == []
    assert parts(400, None) == [(400, None)]


def tamper(ward, statement, *values):
    with EmbeddedStore(ward.data) as store:
        store._db.execute(statement, values)


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_not_proven_is_refused_by_name(full, vitalseal, tmp_path, form):
    """A changed body is named on stderr, without its value, and is not in the file; the rest is; exit code 1."""
    victim = full.stored()[0]
    changed = measured(type("device", (), {"source": b"\x01" * 8}), 1, "73").encode()
    tamper(full, "UPDATE readings SET body = ? WHERE ref = ?", changed, victim.ref)
    file = tmp_path / "out"
    done = vitalseal("export", "--data", full.data, "--device", "bedside-1", "--format", form, "--output", file)
    assert done.code == 1
    assert done.out.splitlines()[-1] == f"export: readings={len(full.stored()) - 1} refused=1 file={file}"
    (line,) = done.err.splitlines()
    assert line.startswith(f"vitalseal: not exported: reading {victim.ref} of 'bedside-1': step 6")
    assert "73" not in done.err.replace(str(victim.ref), "")
    if form == "proofs":
        assert len(exported(full, file)) == len(full.stored()) - 1


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("device", "bedside-2", ("--device", "bedside-2")),
        ("source", b"\x02" * 8, ("--patient", "patient-8")),
        ("kind", 2, ("--device", "bedside-1", "--kind", "spo2")),
        ("sensor_time_ns", START_NS - 3600 * SECOND, ("--device", "bedside-1", "--to", "2025-11-13T02:00:00Z")),
    ],
    ids=["device", "source", "kind", "time"],
)
def test_row_whose_columns_lie_is_refused(ward, device, vitalseal, tmp_path, column, value, words):
    """Whoever writes to the database cannot put a true reading into the export of somebody else."""
    other = ward.device("bedside-2", 2)
    ward.log((device, [measured(device, 1, "72")]))
    ward.assign(other.source, "patient-8", START_NS - SECOND)
    tamper(ward, f"UPDATE readings SET {column} = ?", value)  # noqa: S608 - a constant of this test
    file = tmp_path / "out"
    done = vitalseal("export", "--data", ward.data, *words, "--format", "proofs", "--output", file)
    assert (done.code, done.out) == (1, "export: readings=0 refused=1 file=none\n")
    assert "columns say another device, source, kind or time" in done.err
    assert not file.exists()


def test_row_without_its_batch_is_refused(full, vitalseal, tmp_path):
    """A database that lost a batch record loses what hung on it, and says so of each reading."""
    tamper(full, "DELETE FROM batches WHERE log_index = (SELECT min(log_index) FROM batches)")
    file = tmp_path / "out"
    done = vitalseal("export", "--data", full.data, "--device", "bedside-1", "--format", "proofs", "--output", file)
    assert (done.code, done.err.count("the store has no batch record")) == (1, 9)
    assert len(exported(full, file)) == len(full.stored()) - 9


def test_reading_is_exported_once(full, device, vitalseal, tmp_path):
    """A second row that leads to the same reading is refused: in a zip it would be a second file of one name."""
    victim = full.stored()[0]

    class Doubling(EmbeddedStore):
        def select(self, chosen):
            for stored in super().select(chosen):
                yield stored
                if stored.ref == victim.ref:
                    yield replace(stored, device=device.key_id.hex()[:16])

    with Doubling(full.data) as store, LocalReader(full.data) as log:
        evidence, refused = Evidence(full.data, log, None, None, pytest.fail), []
        tell = lambda stored, why: refused.append((stored.ref, why))  # noqa: E731 - one line of a test
        proving = Proving(store, [Selection(source=device.source)], evidence, tell)
        assert [item.stored.ref for item in proving].count(victim.ref) == 1
    assert refused == [(victim.ref, "another row holds this reading too, and is exported")]


def test_readings_of_a_batch_share_its_checks(ward, device, export, monkeypatch):
    """A batch is read once, its tree made once, and each signature checked once, however many readings it has."""
    ward.log((device, [measured(device, 1, "72", at) for at in range(50)]))
    calls = Counter()

    def counted(where, name):
        real = getattr(where, name)

        def call(*args, **named):
            calls[name] += 1
            return real(*args, **named)

        monkeypatch.setattr(where, name, call)

    counted(verify, "verify_quorum")
    counted(verify, "verify_log_signature")
    counted(verify, "check_header_signature")
    counted(proven, "Provable")
    counted(EmbeddedStore, "batch")
    file = export(ward, "proofs")
    monkeypatch.undo()
    assert len(exported(ward, file)) == 50
    assert calls == {
        "verify_quorum": 1,
        "verify_log_signature": 1,
        "check_header_signature": 1,
        "Provable": 1,
        "batch": 1,
    }


def test_influxdb_gives_the_same_files(full, export, vitalseal, influx_server, tmp_path):
    """What the embedded store gives, in the order of its own; a second row of a reading there is refused."""
    bucket = influx_server.fresh_database()
    with InfluxStore(influx_server.config(bucket)) as store:
        full.project(store)
    config, file = tmp_path / "aggregator.toml", tmp_path / "out"
    config.write_text(f'data = "data"\n[influx]\nurl = "{influx_server.url}"\nbucket = "{bucket}"\n')
    words = ("export", "--config", config, "--device", "bedside-1", "--output", file, "--force", "--format")
    proofs = {}
    for form in FORMATS:
        done = vitalseal(*words, form)
        assert (done.code, done.err) == (0, "")
        proofs[form] = proof_files(form, file)
        assert proofs[form] == proof_files(form, export(full, form))
    assert proofs["proofs"] == proofs["fhir"] == proofs["parquet"]
    assert len(proofs["proofs"]) == len(full.stored())
    (found,) = influx_server.query("SELECT seal, value FROM reading WHERE kind = 'weight' OR kind = 'battery'", bucket)
    ((time_ns, seal, value),) = found["values"]
    source = full.stored()[0].body[2:10].hex()
    influx_server.write(
        f'reading,device=bedside-1,source={source},kind=battery,copy=7 seal="{seal}",value={value} {time_ns}', bucket
    )
    done = vitalseal(*words, "proofs")
    assert (done.code, done.err.count("another row holds this reading too")) == (1, 1)
    assert len(exported(full, file)) == len(full.stored())


def proof_files(form, file):
    """The proofs of readings in an export of any format."""
    if form == "parquet":
        return sorted(pq.read_table(file)["proof"].to_pylist())
    if form == "proofs":
        with zipfile.ZipFile(file) as unzipped:
            return sorted(unzipped.read(name) for name in unzipped.namelist() if name.startswith("proofs/"))
    items = [entry["resource"] for entry in json.loads(file.read_text())["entry"]]
    documents = [item["content"][0]["attachment"]["data"] for item in items if "related" in item.get("context", {})]
    return sorted(decode_base64(data, "proof") for data in documents)


def test_nothing_that_matches_is_no_file(full, vitalseal, tmp_path):
    """One line, exit code 1."""
    file = tmp_path / "out"
    words = ("--format", "proofs", "--output", file)
    for whose in (("--patient", "nobody"), ("--device", "bedside-9")):
        done = vitalseal("export", "--data", full.data, *whose, *words)
        assert (done.code, done.err) == (1, "vitalseal: no reading matches\n")
        assert not file.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--patient", "p", "--source", "aa"), "--source goes with --device"),
        (("--device", "bedside-1", "--source", "xy"), "not 1 to 16 bytes in hex"),
        (("--device", "bedside-1", "--kind", "pulse"), "none of heart_rate"),
        (("--device", "bedside-1", "--from", "yesterday"), "not a time such as"),
        (("--device", "bedside-1", "--from", "2025-11-13T02:13:20.1234567891Z"), "finer than a nanosecond"),
        (("--device", "bedside-1", "--policy", "/nowhere"), "/nowhere: No such file"),
        (("--device", "bedside-1", "--trust", os.devnull, "--output", "/nowhere/out"), "there is no such directory"),
    ],
)
def test_wrong_call_is_one_line(full, vitalseal, tmp_path, words, says):
    """What, where, what to do; no file."""
    file = tmp_path / "out"
    done = vitalseal("export", "--data", full.data, "--format", "proofs", "--output", file, *words)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert says in done.err
    assert not file.exists()


def test_directory_of_something_else_is_left_alone(vitalseal, tmp_path):
    """No database is made where there was none."""
    done = vitalseal(
        *("export", "--data", tmp_path, "--device", "bedside-1", "--format", "proofs", "--output", tmp_path / "out")
    )
    assert (done.code, list(tmp_path.iterdir())) == (2, [])
    assert "no aggregator's data directory" in done.err


def test_configuration_names_the_data(full, vitalseal, tmp_path):
    """--config finds the same readings."""
    config, file = tmp_path / "aggregator.toml", tmp_path / "out"
    config.write_text('data = "data"\n')
    done = vitalseal("export", "--config", config, "--device", "bedside-1", "--format", "proofs", "--output", file)
    assert (done.code, len(exported(full, file))) == (0, len(full.stored()))


def test_policy_of_another_proves_nothing(full, vitalseal, tmp_path):
    """Under a policy that names another log nothing is exported, whatever the data directory says."""
    policy, file = tmp_path / "policy.txt", tmp_path / "out"
    policy.write_text("log example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k\nquorum none\n")
    done = vitalseal(
        *("export", "--data", full.data, "--device", "bedside-1", "--format", "proofs", "--output", file),
        *("--policy", policy),
    )
    assert (done.code, done.out) == (1, f"export: readings=0 refused={len(full.stored())} file=none\n")
    assert not file.exists()


def test_file_is_private_and_not_overwritten(full, vitalseal, tmp_path):
    """Mode 600 whatever the umask; a file that is there stays as it is without --force."""
    file = tmp_path / "out"
    words = ("export", "--data", full.data, "--device", "bedside-1", "--format", "proofs", "--output", file)
    before = os.umask(0)
    try:
        assert vitalseal(*words).code == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text("mine")
    done = vitalseal(*words)
    assert (done.code, file.read_text()) == (2, "mine")
    assert "--force" in done.err
    assert vitalseal(*words, "--force").code == 0
    assert zipfile.is_zipfile(file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


@pytest.mark.parametrize("form", FORMATS)
def test_full_disk_leaves_no_file(full, vitalseal, tmp_path, monkeypatch, form):
    """An error on the way is one line that names the file; an older file stays, nothing is left beside it."""
    file = tmp_path / "out"
    file.write_text("mine")
    claim = output._claim

    def full_disk(staged):
        os.close(claim(staged))
        return os.open("/dev/full", os.O_RDWR)

    monkeypatch.setattr(output, "_claim", full_disk)
    words = ("export", "--data", full.data, "--device", "bedside-1", "--format", form, "--output", file, "--force")
    done = vitalseal(*words)
    assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
    assert done.err == f"vitalseal: {file}: No space left on device\n"
    assert file.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


def test_killed_export_leaves_no_file_and_the_next_one_is_whole(full, tmp_path):
    """SIGKILL in the middle: nothing under the name; what it left beside is taken over."""
    file = tmp_path / "out"
    program = (
        "import os, signal, sys\n"
        "from aggregator.export import archive\n"
        "from vitalseal.cli import main\n"
        "row, seen = archive._row, []\n"
        "def die(*args):\n"
        "    seen.append(1)\n"
        "    return row(*args) if len(seen) < 5 else os.kill(os.getpid(), signal.SIGKILL)\n"
        "if sys.argv.pop(1) == 'die':\n"
        "    archive._row = die\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = ["export", "--data", full.data, "--device", "bedside-1", "--format", "proofs", "--output", file]

    def call(how):
        command = [sys.executable, "-c", program, how, *words]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert call("die") == -9
    assert not file.exists()
    (left,) = tmp_path.glob(".out*")
    assert stat.S_IMODE(left.stat().st_mode) == 0o600
    assert call("live") == 0
    assert len(exported(full, file)) == len(full.stored())
    assert not left.exists()


def test_what_a_killed_export_left_is_made_private(full, export, tmp_path):
    """Whatever lies under that name, however long and open to whom."""
    left = tmp_path / ".export.proofs.new"
    left.write_bytes(bytes(10**6))
    left.chmod(0o644)
    file = export(full, "proofs")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.stat().st_size < 10**6
    assert len(exported(full, file)) == len(full.stored())


def test_two_exports_to_one_file_do_not_mix(tmp_path):
    """The second is told; the first one's file is whole."""
    file = tmp_path / "out"
    with output.whole_file(file, force=False) as first:
        with pytest.raises(Exception, match="another export"), output.whole_file(file, force=False):
            pass
        first.write(b"whole")
    assert file.read_bytes() == b"whole"


def test_library_that_is_not_there_is_one_line(full, vitalseal, tmp_path, monkeypatch):
    """It names the extra; the zip needs none."""
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None if name in {"fhir", "pyarrow"} else name)
    for form, code in (("fhir", 2), ("parquet", 2), ("proofs", 0)):
        file = tmp_path / form
        done = vitalseal("export", "--data", full.data, "--device", "bedside-1", "--format", form, "--output", file)
        assert (done.code, "pip install '.[export]'" in done.err) == (code, code == 2)
    assert fhir.__name__ != parquet.__name__


def test_zip_needs_no_service_and_no_format_library(full, tmp_path):
    """Neither MQTT nor a web server is loaded, nor a library of another format."""
    program = (
        "import sys\n"
        "from vitalseal.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "unwanted = {'paho', 'starlette', 'uvicorn', 'influxdb_client', 'fhir', 'pyarrow'} & sys.modules.keys()\n"
        "sys.exit(f'{unwanted}' if unwanted else code)\n"
    )
    words = ["export", "--data", full.data, "--device", "bedside-1", "--format", "proofs", "--output", tmp_path / "out"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
