"""The command line, called in this process."""

from types import SimpleNamespace

import pytest

from vitalseal.cli import main


@pytest.fixture
def vitalseal(capsys):
    """`vitalseal("verify", ...)`: exit code, stdout and stderr of one call."""

    def call(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse's --help and usage errors
            code = stop.code
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return call
