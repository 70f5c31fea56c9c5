"""The front door: help that helps, mistakes in one line, nothing loaded that is not needed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from vitalseal.cli import COMMANDS, LIBRARIES

DOCUMENTED = Path(__file__).parents[2] / "docs" / "commands.md"

SUBCOMMANDS = [
    ("demo",),
    ("verify",),
    ("ledger", "fsck"),
    ("ledger", "monitor"),
    ("ledger", "proof"),
    ("ledger", "serve"),
    ("ledger", "witness", "init"),
    ("ledger", "witness", "run"),
    ("ledger", "witness", "status"),
    ("ledger", "witness", "add-key"),
    ("audit",),
    ("export",),
    ("erase",),
    ("edge", "init"),
    ("edge", "enroll"),
    ("edge", "rotate"),
    ("edge", "recover"),
    ("edge", "run"),
    ("edge", "status"),
    ("aggregator", "init"),
    ("aggregator", "run"),
    ("aggregator", "status"),
    ("aggregator", "assign"),
    ("aggregator", "devices"),
    ("aggregator", "revoke"),
    ("aggregator", "log-key"),
    ("aggregator", "close"),
    ("aggregator", "token"),
    ("aggregator", "rebuild"),
    ("aggregator", "backup"),
    ("aggregator", "restore"),
    ("aggregator", "succeed"),
    ("simulate", "fleet"),
    ("simulate", "faults"),
    ("simulate", "load"),
]


def test_help_names_every_command(vitalseal):
    """`vitalseal --help` is the table of contents."""
    done = vitalseal("--help")
    assert done.code == 0
    assert all(f"    {name}" in done.out for name in COMMANDS)


@pytest.mark.parametrize("command", SUBCOMMANDS, ids=" ".join)
def test_help_of_each_command_explains_every_option(vitalseal, command):
    """No option stands without its sentence, and the docs know the command."""
    done = vitalseal(*command, "--help")
    assert done.code == 0
    lines = done.out[done.out.index("options:") :].splitlines()
    bare = [
        line
        for line, following in zip(lines, [*lines[1:], ""], strict=True)
        if line.startswith("  -") and "  " not in line.strip() and not following.startswith("       ")
    ]
    assert bare == []
    rows = re.findall(rf"^\| `vitalseal {' '.join(command)}\b.*", DOCUMENTED.read_text(), re.MULTILINE)
    assert rows
    for row in rows:
        # Those of the call itself, and those that its description begins with; `ledger proof --ref` is another's.
        named = re.findall(r"--[a-z-]+", row.split(" | ")[0]) + re.findall(r"`(--[a-z-]+)", row)
        assert [
            option for option in named if f"{option} " not in done.out + " " and f"{option}\n" not in done.out
        ] == []


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("nonsense",),
        ("verify",),
        ("verify", "x.tlog-proof"),
        ("ledger",),
        ("ledger", "nonsense"),
        ("edge", "run", "--nonsense"),
        ("aggregator", "status", "--config"),
        ("demo", "--seconds", "soon"),
    ],
    ids=" ".join,
)
def test_wrong_call_is_one_line_and_exit_2(vitalseal, words):
    """A mistake in the call says what and where to look."""
    done = vitalseal(*words)
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert "--help" in done.err


@pytest.mark.parametrize("room", ["edge", "aggregator"])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "there is no such configuration file"),
        ("data = ", "not TOML"),
        ("dta = 'x'", "did you mean 'data'"),
        ("data = 7", "not of type"),
        ("", "missing key"),
        ("\xff", "not UTF-8"),
    ],
)
def test_wrong_configuration_is_one_line_and_exit_2(vitalseal, tmp_path, room, text, says):
    """File, key and fault are named."""
    config = tmp_path / "c.toml"
    if text is not None:
        config.write_bytes(text.encode("latin-1"))
    done = vitalseal(room, "status", "--config", config)
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert str(config) in done.err
    assert says in done.err


def test_missing_library_sends_nobody_to_an_index(vitalseal, monkeypatch):
    """The package is on none: the hint is the clone, whichever extra is missing."""
    monkeypatch.setitem(LIBRARIES, "aggregator", ("no_such_library",))
    done = vitalseal("aggregator", "status")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "vitalseal: `vitalseal aggregator` needs no_such_library: "
        "in vitalseal's clone, type  pip install '.[aggregator]'\n"
    )


@pytest.mark.parametrize("command", ["verify", "ledger"])
def test_auditors_commands_load_no_network_library(command):
    """A verifier that loads a broker's client is a verifier with its attack surface."""
    code = (
        f"import sys; from vitalseal.cli import main\ntry: main([{command!r}, '--help'])\nexcept SystemExit: pass\n"
        "print(sorted({m.split('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stderr
    assert "'ledger'" in loaded
    forbidden = ("paho", "aiomqtt", "amqtt", "starlette", "uvicorn", "rich", "influxdb_client", "asyncio")
    assert [name for name in forbidden if f"'{name}'" in loaded] == []


def test_closed_pipe_is_no_traceback(tmp_path):
    """`vitalseal ... | head` ends quietly."""
    code = "import sys, os; os.close(1); from vitalseal.cli import main; sys.exit(main(['--version']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
