"""The power goes after every file operation of the outbox; whatever its disk then holds, all promises are kept."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.crash import outbox_workload
from tests.crash.outbox_promises import OutboxPromises
from tests.crash.power_loss import Outcome, Run, cut_everywhere, kills, record
from tests.crash.test_power_loss import MIXTURES, report

pytestmark = pytest.mark.timeout(120 * max(1, MIXTURES // 3))


def run(script):
    return Run(script, program=outbox_workload.__file__)


# Made, filled, sealed, stored, receipted and purged; a backlog that waits behind; an end by SIGKILL; what is dropped on
# a small budget and the gap that says so; a new epoch.
LIFE = (run("oa5sa9sdhtra3sba2x"), run("oa20sstpk"), run("oa400df80ga5sbtx"), run("oa4sea3sx"))

KILLED, NEXT = run("oa5sa9sdbtrpa3s"), run("oa2sx")


def keeps_promises(folder, promises):
    promises.check(folder)


def test_power_loss_at_every_moment_loses_no_reading_and_seals_no_place_twice(root, record_property):
    """Accepted readings and sealed batches outlive the loss of everything that was not synced."""
    recording = record(root, LIFE)
    outcome = cut_everywhere(recording, keeps_promises, OutboxPromises, mixtures=MIXTURES)
    assert outcome.prefixes > 200
    report(record_property, "power loss at the edge", outcome)


def test_power_loss_after_a_kill_loses_no_reading(root, tmp_path, record_property):
    """What a killed agent left unsynced is not taken for durable by the next one."""

    def recorded(killed):
        own = tmp_path / f"{killed.kill.name}{killed.kill.number}" / "root"
        own.mkdir(parents=True)
        return record(own, [killed, NEXT], cut_from=1)

    killed = kills(root, KILLED)
    with ThreadPoolExecutor(2) as pool:
        recordings = list(pool.map(recorded, killed))
    total = Outcome()
    for recording in recordings:
        total.add(cut_everywhere(recording, keeps_promises, OutboxPromises, mixtures=(MIXTURES + 2) // 3, at_most=1))
    assert len(killed) > 10
    report(record_property, f"power loss at the edge after a kill at {len(killed)} syncs", total)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        ("database", "BrokenPromiseError: (accepted|the outbox is gone)"),
        ("directories", "BrokenPromiseError: the outbox is gone"),
    ],
)
def test_outbox_that_does_not_sync_is_found_out(root, harm, reason):
    """The model can see what it is looking for."""
    recording = record(root, [replace(one, harm=harm) for one in LIFE[:1]])
    outcome = cut_everywhere(recording, keeps_promises, OutboxPromises, mixtures=MIXTURES, at_most=1)
    assert [violation.reason for violation in outcome.violations if re.match(reason, violation.reason)]
