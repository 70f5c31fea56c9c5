"""Vectors published by others, read in place from `../shared/vectors` beside the project (see formats.md)."""

import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "shared" / "vectors"


def published(folder: str):
    """Parametrises a test over every file of a published set.

    Without the set the test is skipped, and says so; under CI=true it runs on the missing folder, and so fails.
    """
    files = sorted((FOLDER / folder).rglob("*.json"))
    if files:
        return pytest.mark.parametrize("path", files, ids=[str(file.relative_to(FOLDER)) for file in files])
    missing = FOLDER / folder
    skip = pytest.mark.skipif(os.environ.get("CI") != "true", reason=f"published vectors are not at {missing}")
    return pytest.mark.parametrize("path", [pytest.param(missing, marks=skip, id="absent")])
