"""Two histories of one device key: an outbox that was set back, and a gateway that was copied.

Neither can be prevented by a log; both are found out, shown on the log for good, and named to whoever has to act.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge.outbox_reader import OutboxReader
from simulators.faults.reckoning import Reckoning
from simulators.faults.stage import STOP_WITHIN_S, Stage, accepted, agent, ledgered
from simulators.faults.trial import Trial, UnexplainedError
from simulators.fleet import CONFIG, Device

DEVICES = 2
FOUND_OUT_WITHIN_S = 120.0
TOLD_BY_AGGREGATOR = "signed two headers for epoch"
TOLD_BY_STATUS = "THIS OUTBOX IS NOT THE LATEST ONE OF ITS KEY"


def outbox_restored(trial: Trial) -> None:
    """A device's outbox is replaced by an older copy of itself, as by a restored backup, while the log went on.

    The device seals other readings for places that the log has filled. It is refused, the evidence goes on the log, and
    its status says what to do, which is then done.
    """
    stage = Stage(trial, devices=DEVICES)
    stage.start()
    device = stage.devices[0]
    data, copy, newest = device.outbox.parent, trial.directory / "copy", trial.directory / "newest"
    with stage.away(stage.broker.child):
        trial.kill(stage.broker.child)
        # What is not delivered yet is in the copy, too.
        stage.measure(trial.seconds / 3)
        _stop(device)
        shutil.copytree(data, copy)
    device.agent.start()
    stage.wait_for_receipts("the device goes on", [device])
    stage.measure(trial.seconds / 3)
    _stop(device)
    told = f"{device.name}: outbox with {accepted(device)} readings replaced"
    data.rename(newest)
    copy.rename(data)
    trial.tell(f"{told} by its copy with {accepted(device)}")
    device.agent.start()
    _find_out(trial, stage, [device])
    _stop(device)
    _recover(trial, device)
    device.agent.start()
    took_s = stage.wait_for_receipts("the device has receipts in its new epoch", [device])
    trial.outcome.times_s["recovery"] = took_s
    stage.measure(trial.seconds / 3)
    stage.drain()
    others = [ledgered(other) for other in stage.devices[1:]]
    found = stage.settle([ledgered(device, newest / device.outbox.name), *others], twice=True)
    _check_evidence(trial, found)


def cloned_key(trial: Trial) -> None:
    """A gateway is copied with its key and its outbox, and both run, under one name and with one key.

    Whoever delivers first goes on; the other one is refused, the evidence goes on the log, and its status says so. What
    the refused one accepted stays in its outbox, until the other one is stopped for good and it is recovered.
    """
    stage = Stage(trial, devices=DEVICES)
    stage.start()
    device = stage.devices[0]
    stage.measure(trial.seconds / 3)
    _stop(device)
    clone = _clone(device)
    stage.devices.append(clone)
    device.agent.start()
    clone.agent.start()
    trial.tell(f"{device.name} runs twice, with one key and one name")
    refused = _find_out(trial, stage, [device, clone])
    winner = clone if refused is device else device
    stage.measure(trial.seconds / 3)
    _stop(refused)
    trial.tell(f"the {'clone' if refused is clone else 'original'} is refused, and is stopped")
    stage.wait_for_receipts("the other one has receipts", [winner])
    stage.drain()
    alone = (_bodies(refused.outbox) - _bodies(winner.outbox)).total()
    trial.tell(f"the other one has ended; {alone} readings were accepted by the refused one only, and are on no log")
    _recover(trial, refused)
    refused.agent.start()
    trial.outcome.times_s["recovery"] = stage.drain()
    others = [ledgered(other) for other in stage.devices if other not in (winner, refused)]
    found = stage.settle([ledgered(winner, refused.outbox), *others], twice=True)
    _check_evidence(trial, found)


def _stop(device: Device) -> None:
    device.agent.stop(STOP_WITHIN_S)
    if device.agent.code() != 0:
        raise UnexplainedError(f"{device.name} does not end well: {device.agent.last_words()}")


def _clone(device: Device) -> Device:
    """A copy of `device`, files and all, beside it; not started."""
    original = device.config.parent
    folder = original.with_name(f"{original.name}-clone")
    shutil.copytree(original, folder)
    child = agent(f"{device.name} (clone)", folder)
    return replace(device, config=folder / CONFIG, outbox=folder / device.outbox.relative_to(original), agent=child)


def _find_out(trial: Trial, stage: Stage, suspects: list[Device]) -> Device:
    """The device whose outbox is found to be outdated; it, the aggregator and the log say so."""
    found: list[Device] = []

    def told() -> bool:
        found.extend(device for device in suspects if _status(trial, device)["outdated"])
        return bool(found)

    took_s = stage.wait(told, FOUND_OUT_WITHIN_S, "an outbox is found to be outdated")
    trial.outcome.times_s["found out"] = took_s
    device = found[0]
    said = trial.call("edge", "status", "--config", device.config).stdout
    trial.expect(TOLD_BY_STATUS in said, f"after {took_s:.1f} s `edge status` of {device.agent.name}: {TOLD_BY_STATUS}")
    words = _line_with(stage.aggregator.log, TOLD_BY_AGGREGATOR)
    stage.wait(words, FOUND_OUT_WITHIN_S, "the aggregator names the device")
    trial.tell(f"the aggregator: {words()}")
    return device


def _line_with(path: Path, text: str) -> Callable[[], str]:
    return lambda: next((line for line in path.read_text().splitlines() if text in line), "")


def _status(trial: Trial, device: Device) -> dict[str, Any]:
    done = trial.call("edge", "status", "--config", device.config, "--json")
    if done.returncode:
        return {"outdated": False}  # it has no outbox yet
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _recover(trial: Trial, device: Device) -> None:
    """The outbox of `device`, whose agent does not run, goes on in a new epoch: what its status says to do."""
    done = trial.call("edge", "recover", "--config", device.config, "--yes")
    trial.expect(done.returncode == 0, f"`edge recover`: {(done.stdout or done.stderr).partition(chr(10))[0]}")


def _check_evidence(trial: Trial, found: Reckoning) -> None:
    trial.expect(found.notices["equivocation"] == 1, "the log holds the evidence: two signatures for one place")
    trial.expect(found.notices["outbox-lost"] == 1, "and it says that an outbox was lost, once")


def _bodies(outbox: Path) -> Counter[bytes]:
    with OutboxReader(outbox) as reader:
        return Counter(reader.bodies())
