"""Fixtures: a ward, and `vitalseal export` called in this process."""

from types import SimpleNamespace

import pytest

from vitalseal.cli import main

from .ward import Ward, bedside


@pytest.fixture
def ward(tmp_path):
    """A witnessed log without readings."""
    return Ward(tmp_path / "data")


@pytest.fixture
def device(ward):
    """A device that is enrolled in it."""
    return ward.device("bedside-1", 1)


@pytest.fixture
def full(ward, device):
    """The ward with a bit of everything, in two batches."""
    readings = bedside(device)
    ward.log((device, readings[:9]), (device, readings[9:]))
    return ward


@pytest.fixture
def vitalseal(capsys):
    """`vitalseal("export", ...)`: exit code, stdout and stderr of one call."""

    def call(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse's usage errors
            code = stop.code
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return call


@pytest.fixture
def export(vitalseal, tmp_path):
    """`export(ward, "zip", "proofs", ...)`: the exported file, everything being proven."""

    def call(ward, form, *words, whose=("--device", "bedside-1")):
        file = tmp_path / f"export.{form}"
        done = vitalseal("export", "--data", ward.data, *whose, "--format", form, "--output", file, "--force", *words)
        assert (done.code, done.err) == (0, ""), done
        return file

    return call
