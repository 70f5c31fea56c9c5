"""The power goes after every file operation of the writer; whatever its disk then holds, all promises are kept."""

import os
import shutil

import pytest

from tests.crash.power_loss import Run, cut_everywhere, record
from tests.crash.workload import DATA

# Random disks tried at each prefix, beside the three that are not random.
MIXTURES = int(os.environ.get("VITALSEAL_CRASH_STATES", "3"))

# From an empty log over 256 entries, with a clean end, an end by SIGKILL, and what each recovery finds unpublished.
LIFE = (Run("oa3pa250pa4pa2x"), Run("oa1pa1k"), Run("opa2px"))


@pytest.fixture(autouse=True)
def _strace():
    if shutil.which("strace") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("strace is not installed; run  make servers")
        pytest.skip("strace is not installed")


def keeps_promises(folder, promises):
    promises.check(folder / DATA)


def report(record_property, name, outcome):
    record_property(name, str(outcome))
    print(f"{name}: {outcome}")  # noqa: T201 - how many states were tried is the result
    assert not outcome.violations, "\n\n".join(map(str, outcome.violations))


def test_power_loss_at_every_moment_breaks_no_promise(tmp_path, record_property):
    """Acknowledged entries, published trees and every checkpoint ever seen outlive a loss of all that was unsynced."""
    recording = record(tmp_path, LIFE)
    outcome = cut_everywhere(recording, keeps_promises, mixtures=MIXTURES)
    assert outcome.prefixes > 300
    report(record_property, "power loss", outcome)


@pytest.mark.parametrize("at", [4, 7, 8, 10])
def test_power_loss_after_a_kill_breaks_no_promise(tmp_path, record_property, at):
    """What a killed run left unsynced is not taken for durable by the run that goes on from there."""
    killed = Run("oa3p", ("--kill-at", str(at)))
    recording = record(tmp_path, [killed, Run("oa2px")], cut_from=1)
    report(
        record_property,
        f"power loss after a kill in place of fsync {at}",
        cut_everywhere(recording, keeps_promises, mixtures=MIXTURES),
    )


def test_power_loss_while_a_log_is_made_leaves_a_whole_one_or_none(tmp_path, record_property):
    """A database is what makes the directory a log: with it, all else is there; once made, the log stays."""

    def whole_or_none(folder, promises):
        if promises.created or (folder / DATA / DATABASE_PATH).exists():
            promises.check(folder / DATA)

    recording = record(tmp_path, [Run("coa3px")])
    report(record_property, "power loss around creation", cut_everywhere(recording, whole_or_none, mixtures=MIXTURES))


@pytest.mark.parametrize("harm", ["files", "directories", "database"])
def test_writer_that_does_not_sync_is_found_out(tmp_path, record_property, harm):
    """The model can see what it is looking for: each kind of fsync, left out, breaks a promise."""
    recording = record(tmp_path, [Run(run.script, ("--harm", harm)) for run in LIFE])
    outcome = cut_everywhere(recording, keeps_promises, mixtures=MIXTURES, at_most=1)
    record_property(f"without {harm} synced", str(outcome))
    assert outcome.violations
