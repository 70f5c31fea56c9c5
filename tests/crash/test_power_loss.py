"""The power goes after every file operation of the writer; whatever its disk then holds, all promises are kept.

`VITALSEAL_CRASH_STATES=100 pytest -s tests/crash` looks longer, at a hundred random disks for each operation.
"""

import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.crash.power_loss import Outcome, Run, cut_everywhere, kills, record
from tests.crash.promises import Promises
from tests.crash.workload import DATA, DATABASE_PATH, PUBLIC_PATH, group, make_log, open_log

# Random disks tried at each prefix, beside the three that are not random.
MIXTURES = int(os.environ.get("VITALSEAL_CRASH_STATES", "2"))

pytestmark = pytest.mark.timeout(120 * max(1, MIXTURES // 3))

# From an empty log over 256 entries, with a clean end, an end by SIGKILL, and what each recovery finds unpublished.
LIFE = (Run("oa3pa250pa4pa2x"), Run("oa1pa1k"), Run("opa2px"))

# Grows past 256 entries with every kind of new directory; killed at its syncs, then recovered.
KILLED, NEXT = "oa255pa2p", Run("ok")


@pytest.fixture
def log(root):
    """A directory with an empty log in it."""
    make_log(root / DATA)
    return root


def keeps_promises(folder, promises):
    promises.check(folder / DATA)


def report(record_property, name, outcome):
    record_property(name, str(outcome))
    print(f"\n{name}: {outcome}")  # noqa: T201 - how many states were tried is the result
    assert not outcome.violations, "\n\n".join(map(str, outcome.violations[:3]))


def test_power_loss_at_every_moment_breaks_no_promise(log, record_property):
    """Acknowledged entries, published trees and every checkpoint ever seen outlive the loss of what was unsynced."""
    outcome = cut_everywhere(record(log, LIFE), keeps_promises, Promises, mixtures=MIXTURES)
    assert outcome.prefixes > 300
    report(record_property, "power loss", outcome)


def test_power_loss_after_a_kill_breaks_no_promise(log, tmp_path, record_property):
    """What a run left unsynced when it was killed is not taken for durable by the run that recovers."""

    def recorded(run):
        root = tmp_path / f"{run.kill.name}{run.kill.number}" / "root"
        make_log(root / DATA)
        return record(root, [run, NEXT], cut_from=1)

    total = Outcome()
    killed = kills(log, Run(KILLED))
    # All of them first: a process that starts holds for a moment the locks of a log that is being checked.
    with ThreadPoolExecutor(2) as pool:
        recordings = list(pool.map(recorded, killed))
    for recording in recordings:
        total.add(cut_everywhere(recording, keeps_promises, Promises, mixtures=(MIXTURES + 2) // 3, at_most=1))
    assert len(killed) > 20
    report(record_property, f"power loss after a kill at {len(killed)} syncs", total)


def test_power_loss_after_the_public_tree_was_lost_breaks_no_promise(log, record_property):
    """A tree that was made again from the database is as durable as any other."""
    with open_log(log / DATA) as (writer, _):
        writer.append(group(0, 257))
        writer.publish()
    shutil.rmtree(log / DATA / PUBLIC_PATH)
    outcome = cut_everywhere(record(log, [Run("ox")]), keeps_promises, Promises, mixtures=MIXTURES)
    report(record_property, "power loss after a rebuild", outcome)


def test_power_loss_while_a_log_is_made_leaves_a_whole_one_or_none(root, record_property):
    """A database is what makes the directory a log: with it, all else is there; once made, the log stays."""

    def whole_or_none(folder, promises):
        if promises.created or (folder / DATA / DATABASE_PATH).exists():
            promises.check(folder / DATA)

    outcome = cut_everywhere(record(root, [Run("coa3px")]), whole_or_none, Promises, mixtures=MIXTURES)
    report(record_property, "power loss around creation", outcome)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        ("files", "StorageError: the guard|MalformedError: (checkpoint|tile)"),
        ("directories", "VerificationError: .*: missing"),
        ("database", "BrokenPromiseError: acknowledged 3 entries, 0 are there"),
    ],
)
def test_writer_that_does_not_sync_is_found_out(log, harm, reason):
    """The model can see what it is looking for: each kind of fsync, left out, breaks a promise."""
    recording = record(log, [replace(run, harm=harm) for run in LIFE])
    outcome = cut_everywhere(recording, keeps_promises, Promises, mixtures=MIXTURES, at_most=1)
    assert [violation.reason for violation in outcome.violations if re.match(reason, violation.reason)]
