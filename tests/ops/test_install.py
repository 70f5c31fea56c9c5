"""deploy/install-edge.sh: what it refuses, and that it builds with nothing that is not locked.

The way in which it succeeds is typed by tests/docs/test_operating.py.
"""

import importlib.metadata
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "install-edge.sh"


@pytest.fixture
def install(tmp_path):
    """Runs the script with stand-ins for root and for a Python that says of itself what a test wants."""
    programs = tmp_path / "bin"
    programs.mkdir()

    def call(*words, version=(3, 11), pointer=8, user="0"):
        python = (
            f'#!/bin/sh\ncase "$2" in *version_info*) exit {int(version < (3, 11))} ;;'
            f" *calcsize*) exit {int(pointer != 8)} ;; esac\n"
            f"[ $1 = -V ] && echo Python {version[0]}.{version[1]}\nexit 3\n"
        )
        for name, text in {"id": f"#!/bin/sh\necho {user}\n", "python-of-here": python}.items():
            (programs / name).write_text(text)
            (programs / name).chmod(stat.S_IRWXU)
        given = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        done = subprocess.run(["sh", str(SCRIPT), *words], env=given, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return call


def test_help_says_what_it_does_and_does_nothing(install):
    """Without root, too."""
    code, said, wrong = install("--help", user="1000")
    assert (code, wrong) == (0, "")
    for word in ("/opt/vitalseal", "vitalseal-edge", "--wheel FILE", "--python PROGRAM"):
        assert word in said


@pytest.mark.parametrize(
    ("words", "machine", "why"),
    [
        ((), {"user": "1000"}, "run it as root"),
        (("--nonsense",), {}, "--nonsense: not an option; see --help"),
        (("--wheel",), {}, "--wheel needs a value"),
        (("--wheel", "/nowhere.whl"), {}, "/nowhere.whl: there is no such file"),
        (("--python", "python-of-nowhere"), {}, "there is no such program"),
        (("--python", "python-of-here"), {"version": (3, 9)}, "Python 3.9: 3.11 or newer is needed"),
        (("--python", "python-of-here"), {"pointer": 4}, "this is a 32-bit system"),
    ],
)
def test_what_cannot_be_is_one_line(install, words, machine, why):
    """Before anything is changed."""
    code, said, wrong = install(*words, **machine)
    assert (code, said) == (2, "")
    assert why in wrong
    assert len(wrong.splitlines()) == 1


def test_build_needs_nothing_that_is_not_named_and_locked():
    """The names in the script are the build backend and all that it needs; each has its hashes in the lock file."""
    [names] = re.findall(r"\^\(([a-z|-]+)\)==", SCRIPT.read_text())
    needed, todo = set(), ["hatchling"]
    while todo:
        needed.add(name := todo.pop())
        for line in importlib.metadata.requires(name) or []:
            if "extra ==" not in line and not ("python_version" in line and "3.11" in line):
                todo += {re.match(r"[\w-]+", line)[0].lower()} - needed
    assert set(names.split("|")) == needed
    locked = (ROOT / "requirements" / "dev.txt").read_text()
    assert all(re.search(rf"^{name}==\S+ \\\n +--hash=sha256:", locked, re.MULTILINE) for name in needed)
