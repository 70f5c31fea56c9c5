"""The power goes after every file operation of the writer; whatever its disk then holds, all promises are kept."""

import os
import shutil

import pytest

from tests.crash.operations import Mark
from tests.crash.power_loss import Outcome, Run, cut_everywhere, record
from tests.crash.workload import DATA, DATABASE_PATH, PUBLIC_PATH, group, make_log, open_log

# Random disks tried at each prefix, beside the three that are not random.
MIXTURES = int(os.environ.get("VITALSEAL_CRASH_STATES", "3"))

# From an empty log over 256 entries, with a clean end, an end by SIGKILL, and what each recovery finds unpublished.
LIFE = (Run("oa3pa250pa4pa2x"), Run("oa1pa1k"), Run("opa2px"))


# Grows past 256 entries with every kind of new directory, and is killed in place of each sync of a directory.
KILLED, NEXT = "oa255pa2p", Run("ok")
KILLED_DONE = Mark("published 257")
MOST_KILLS = 50


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
    outcome = cut_everywhere(record(log, LIFE), keeps_promises, mixtures=MIXTURES)
    assert outcome.prefixes > 300
    report(record_property, "power loss", outcome)


def test_power_loss_after_a_kill_breaks_no_promise(tmp_path, record_property):
    """What a run left unsynced when it was killed is not taken for durable by the run that goes on from there."""
    total = Outcome()
    for number in range(1, MOST_KILLS):
        root = tmp_path / str(number) / "root"
        make_log(root / DATA)
        recording = record(root, [Run(KILLED, ("--kill-at", str(number))), NEXT], cut_from=1)
        if KILLED_DONE in recording.operations[: recording.start]:
            break
        total.add(cut_everywhere(recording, keeps_promises, mixtures=(MIXTURES + 2) // 3, at_most=1))
    assert 12 < number < MOST_KILLS - 1
    report(record_property, f"power loss after a kill at {number - 1} moments", total)


def test_power_loss_after_the_public_tree_was_lost_breaks_no_promise(log, record_property):
    """A tree that was made again from the database is as durable as any other."""
    with open_log(log / DATA) as (writer, _):
        writer.append(group(0, 257))
        writer.publish()
    shutil.rmtree(log / DATA / PUBLIC_PATH)
    outcome = cut_everywhere(record(log, [Run("ox")]), keeps_promises, mixtures=MIXTURES)
    report(record_property, "power loss after a rebuild", outcome)


def test_power_loss_while_a_log_is_made_leaves_a_whole_one_or_none(root, record_property):
    """A database is what makes the directory a log: with it, all else is there; once made, the log stays."""

    def whole_or_none(folder, promises):
        if promises.created or (folder / DATA / DATABASE_PATH).exists():
            promises.check(folder / DATA)

    outcome = cut_everywhere(record(root, [Run("coa3px")]), whole_or_none, mixtures=MIXTURES)
    report(record_property, "power loss around creation", outcome)


@pytest.mark.parametrize("harm", ["files", "directories", "database"])
def test_writer_that_does_not_sync_is_found_out(log, record_property, harm):
    """The model can see what it is looking for: each kind of fsync, left out, breaks a promise."""
    recording = record(log, [Run(run.script, ("--harm", harm)) for run in LIFE])
    outcome = cut_everywhere(recording, keeps_promises, mixtures=MIXTURES, at_most=1)
    assert outcome.violations
