"""What ships is what is tested: the wheel, installed bare and with each extra, away from the source tree."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors" / "proofs"
UV = str(Path(sys.executable).with_name("uv"))


def run(*command, cwd, check=True):
    """The finished process, its output as text."""
    return subprocess.run([str(part) for part in command], cwd=cwd, check=check, capture_output=True, text=True)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel, built from the tree."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out, cwd=ROOT)
    [built] = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def install(wheel, tmp_path_factory):
    """Makes an environment with the wheel, one extra and its locked dependencies: `install(extra)` is its home."""
    made = {}

    def make(extra):
        if extra not in made:
            home = tmp_path_factory.mktemp(extra)
            run(UV, "venv", "--quiet", "--python", sys.executable, home / "venv", cwd=home)
            python = home / "venv" / "bin" / "python"
            pip = (UV, "pip", "install", "--quiet", "--python", python)
            run(*pip, "--require-hashes", "-r", ROOT / "requirements" / f"{extra}.txt", cwd=home)
            run(*pip, "--no-deps", "--no-index", wheel, cwd=home)
            made[extra] = home
        return made[extra]

    return make


def test_wheel_holds_the_rooms_and_nothing_else(wheel):
    """Packages, their data files and licences; no tests, no benchmarks."""
    names = zipfile.ZipFile(wheel).namelist()
    rooms = {name.split("/")[0] for name in names}
    assert rooms == {
        "aggregator",
        "dashboard",
        "edge",
        "ledger",
        "simulators",
        "vitalseal",
        next(room for room in rooms if room.endswith(".dist-info")),
    }
    data = {"ledger/FORMAT.md", "ledger/py.typed", "simulators/recordings/index.toml", "aggregator/audit/report.html"}
    assert data <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def good_vectors():
    return sorted((VECTORS / "good").glob("*.tlog-proof"))


def test_bare_install_verifies(install):
    """The auditor's install: good vectors are proven, bad ones are not, one line says why."""
    home = install("bare")
    vitalseal = home / "venv" / "bin" / "vitalseal"
    proofs = good_vectors()
    assert proofs
    for proof in proofs[:5]:
        done = run(vitalseal, "verify", proof, "--policy", proof.with_suffix(".policy"), cwd=home)
        assert ": PROVEN" in done.stdout
    for proof in sorted((VECTORS / "bad").glob("*.tlog-proof"))[:5]:
        done = run(vitalseal, "verify", proof, "--policy", proof.with_suffix(".policy"), cwd=home, check=False)
        assert done.returncode in {1, 2}
        assert len(done.stderr.splitlines()) == 1


def test_bare_install_holds_only_cryptography_and_msgpack(install):
    """Verifier, checker and proofs import where there is nothing else."""
    home = install("bare")
    rooms = "ledger.verify, ledger.fsck, ledger.proof, ledger.receipt, ledger.writer.log"
    code = f"import {rooms}, sys; print(sorted(sys.modules))"
    loaded = run(home / "venv" / "bin" / "python", "-c", code, cwd=home).stdout
    assert "'ledger.verify'" in loaded
    listed = run(UV, "pip", "list", "--python", home / "venv" / "bin" / "python", cwd=home).stdout
    names = {line.split()[0] for line in listed.splitlines()[2:]}
    assert names <= {"cffi", "cryptography", "msgpack", "pycparser", "vitalseal"}


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("edge", "edge"),
        ("aggregator", "aggregator"),
        ("audit", "audit"),
        ("export", "audit"),
        ("erase", "aggregator"),
        ("demo", "all"),
        ("simulate", "edge"),
    ],
)
def test_missing_extra_is_named_in_one_line(install, command, extra):
    """A command whose libraries are not installed says which extra to install."""
    home = install("bare")
    done = run(home / "venv" / "bin" / "vitalseal", command, "--help", cwd=home, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.endswith(f"in vitalseal's clone, type  pip install '.[{extra}]'\n")


@pytest.mark.parametrize(
    "words",
    [
        ("serve", "."),
        ("witness", "run", "--data", "w", "--logs", "policy.txt"),
        ("fsck", "http://127.0.0.1:9/", "--policy", "policy.txt"),
        ("monitor", "http://127.0.0.1:9/", "--policy", "policy.txt", "--state", "s", "--once"),
    ],
    ids=lambda words: words[0],
)
def test_programs_around_a_log_name_their_extra_in_one_line(install, words):
    """What speaks HTTP says which extra brings its libraries; `verify`, `proof` and `fsck` of a directory need none."""
    home = install("bare")
    (home / "policy.txt").write_text((VECTORS / "good" / "absent-1.policy").read_text())
    (home / "checkpoint").touch()
    done = run(home / "venv" / "bin" / "vitalseal", "ledger", *words, cwd=home, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "pip install '.[witness]'" in done.stderr


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ("edge", "import edge.cli, edge.agent, simulators.sources"),
        ("aggregator", "import aggregator.cli, aggregator.projection"),
        ("audit", "import aggregator.audit.cli, aggregator.export.cli, aggregator.timeseries.influx"),
        ("witness", "import ledger.service.serve, ledger.service.witness_app, ledger.service.monitor, urllib3"),
        ("dashboard", "import dashboard.app"),
    ],
)
def test_each_extra_brings_its_room(install, extra, code):
    """With its extra and nothing more, a room imports."""
    home = install(extra)
    run(home / "venv" / "bin" / "python", "-c", code, cwd=home)


@pytest.mark.parametrize("command", ["audit", "export"])
def test_audit_extra_runs_what_needs_it(install, command):
    """The command that the bare install names is enough."""
    home = install("audit")
    done = run(home / "venv" / "bin" / "vitalseal", command, "--help", cwd=home)
    assert f"usage: vitalseal {command}" in done.stdout


def test_all_runs_the_demo(install):
    """The whole pipeline, from the installed wheel."""
    home = install("all")
    done = run(
        home / "venv" / "bin" / "vitalseal", "demo", "--seconds", 4, "--data", home / "demo", "--no-browser", cwd=home
    )
    assert "lost=0 duplicates=0" in done.stdout.splitlines()[-1]
