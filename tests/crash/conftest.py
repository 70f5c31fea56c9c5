"""What every test of a power loss needs: strace, and a directory whose every change it sees."""

import os
import shutil

import pytest


@pytest.fixture(autouse=True)
def _strace():
    if shutil.which("strace") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("strace is not installed; run  make servers")
        pytest.skip("strace is not installed")


@pytest.fixture
def root(tmp_path):
    """A directory with nothing in it."""
    (tmp_path / "root").mkdir()
    return tmp_path / "root"
