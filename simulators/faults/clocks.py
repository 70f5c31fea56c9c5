"""Gateway clocks that are wrong, and that are set while devices measure.

Agents run under libfaketime, which reads how wrong their clock is from a file at every look (see also `gateway`); their
sensors are files of lines, with the right time on them, and a zone.
"""

import json
import secrets
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

from edge.outbox_reader import OutboxReader
from ledger.reading import Reading
from simulators.faults.stage import STOP_WITHIN_S, Stage, accepted, agent, receipted
from simulators.faults.trial import NotRunError, Trial
from simulators.fleet import Device

WITHIN_S = 90.0
PHASES, ROUNDS, BURST = 4, 3, 20
SUMMER, WINTER = timezone(timedelta(hours=2)), timezone(timedelta(hours=1))
# The end of summer time comes so long after everything is laid out.
SUMMER_LASTS_S = 10.0
MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86_400.0
DECADES_S = 20 * 365 * DAY_S
LINES = "sensor.ndjson"
_SOURCE = """
[[sources]]
name = "lines"
type = "lines"
id = "{id}"

[sources.options]
path = "{path}"
poll_s = 0.1
follow = {follow}
"""


@dataclass(slots=True)
class _Gateway:
    """A device whose clock is what we say, with a sensor that states lines."""

    device: Device
    offset: Path
    told: Path
    lines: Path
    stated: int = 0

    def set(self, seconds: float, *, synchronised: bool) -> None:
        """The clock is wrong by so many seconds from here on, and the kernel says whether it is synchronised."""
        _replace(self.offset, f"{seconds:+.0f}\n")
        self._tell({"synchronised": synchronised})

    def boot(self) -> None:
        """The gateway was switched off and on: another boot, and the agent runs in it."""
        self.device.agent.stop(STOP_WITHIN_S)
        self._tell({"boot": secrets.token_hex(16)})
        self.device.agent.start()

    def _tell(self, news: dict[str, object]) -> None:
        before = json.loads(self.told.read_text()) if self.told.exists() else {"boot": secrets.token_hex(16)}
        _replace(self.told, json.dumps(before | news))

    def state(self, count: int, summer_ends_s: float) -> None:
        """The sensor states `count` readings more, in local time."""
        with self.lines.open("a") as file:
            for _ in range(count):
                self.stated += 1
                now_s = time.time()
                at = datetime.fromtimestamp(now_s, SUMMER if now_s < summer_ends_s else WINTER).isoformat()
                line = {"kind": "heart_rate", "value": str(60 + self.stated % 60), "time": at, "ordinal": self.stated}
                file.write(json.dumps(line) + "\n")

    @property
    def delivered(self) -> bool:
        """All that the sensor stated has verified receipts."""
        return receipted(self.device) >= self.stated


def clock_steps(trial: Trial) -> None:
    """Gateways boot in 1970, and clocks are set forwards, backwards, and out of summer time, while devices measure.

    Sensor times stay as they were stated, nothing is lost or sealed twice, and no timeout runs on the wall clock. What
    comes while a clock is certainly wrong is accepted and held, and goes once the clock is right or the boot is over.
    """
    library = _faketime()
    stage = Stage(trial)
    began_s = time.time()
    summer_ends_s = began_s + SUMMER_LASTS_S
    no_rtc, stepped, summer = gateways = [
        _lay_out(stage, index, library, _zone_until(summer_ends_s)) for index in range(3)
    ]

    def phase(what: str) -> None:
        for _ in range(ROUNDS):
            for gateway in gateways:
                gateway.state(BURST, summer_ends_s)
            stage.measure(trial.seconds / PHASES / ROUNDS)
        all_accept = f"all accept: {what}"
        stage.wait(lambda: all(accepted(item.device) == item.stated for item in gateways), WITHIN_S, all_accept)
        trial.tell(f"{what}: all {sum(item.stated for item in gateways)} readings so far are accepted")

    def deliver(what: str) -> None:
        took_s = stage.wait(lambda: all(item.delivered for item in gateways), WITHIN_S, f"receipts: {what}")
        trial.outcome.times_s[what] = took_s

    no_rtc.set(-began_s, synchronised=False)
    stage.start(receipts=False)
    phase("one boots in 1970")
    stepped.set(-HOUR_S, synchronised=False)
    phase("another is set back by an hour")
    trial.wait(lambda: time.time() > summer_ends_s, SUMMER_LASTS_S, "summer time is over")
    no_rtc.set(0, synchronised=True)
    stepped.set(0, synchronised=True)
    phase("both learn the right time; it is winter time for the third")
    deliver("receipts once clocks are right")
    no_rtc.set(-began_s, synchronised=False)
    no_rtc.boot()
    stepped.set(2 * DAY_S, synchronised=False)
    phase("one boots in 1970 again; another is set forward by two days")
    no_rtc.set(0, synchronised=True)
    no_rtc.boot()
    stepped.set(0, synchronised=True)
    deliver("receipts once all is right again")
    for gateway in gateways:
        _end(gateway)
    stage.drain()
    found = stage.settle()
    trial.tell(f"batches by what their gateways said of their clocks: {dict(found.clocks)}")
    _check_times(trial, gateways, summer)


def _lay_out(stage: Stage, index: int, library: str, zone: str) -> _Gateway:
    """The device at `index` of the stage, not started yet, has a clock that can be set and a sensor of lines."""
    device = stage.devices[index]
    folder = device.config.parent
    offset, told = folder / "clock", folder / "clock.json"
    environment = {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "TZ": zone,
    }
    launcher = ["env", *(f"{key}={value}" for key, value in environment.items())]
    launcher += [sys.executable, "-P", "-m", "simulators.faults.gateway", str(told)]
    gateway = _Gateway(replace(device, agent=agent(device.name, folder, launcher)), offset, told, folder / LINES)
    gateway.set(0, synchronised=True)
    stage.devices[index] = gateway.device
    before, *_ = device.config.read_text().partition("[[sources]]")
    device.config.write_text(before + _SOURCE.format(id=secrets.token_hex(8), path=LINES, follow="true"))
    return gateway


def _end(gateway: _Gateway) -> None:
    """Nothing more comes from the sensor, so the agent ends when all is delivered."""
    config = gateway.device.config
    config.write_text(config.read_text().replace("follow = true", "follow = false"))
    gateway.device.agent.stop(STOP_WITHIN_S)
    gateway.device.agent.start()


def _check_times(trial: Trial, gateways: Sequence[_Gateway], summer: _Gateway) -> None:
    """Clocks were as wrong as they were meant to be, and local time went back by an hour."""
    wrong: Counter[str] = Counter()
    zones: Counter[int | None] = Counter()
    for gateway in gateways:
        with OutboxReader(gateway.device.outbox) as reader:
            for reading in map(Reading.decode, reader.bodies()):
                wrong[_how_wrong(reading.gateway_offset_ns / 1e9)] += 1
                zones[reading.zone_offset_min] += gateway is summer
    told = ", ".join(f"{wrong[how]} {how}" for how in ("as it was", "decades too early", "two days too late"))
    trial.expect(len(wrong) == 3 and "otherwise" not in wrong, f"received, as gateways believe: {told}")
    trial.expect(zones[120] and zones[60], f"{zones[120]} readings in summer time, {zones[60]} in the hour after it")


def _how_wrong(seconds: float) -> str:
    if abs(seconds) < MINUTE_S:
        return "as it was"
    if abs(seconds - 2 * DAY_S) < MINUTE_S:
        return "two days too late"
    return "decades too early" if seconds < -DECADES_S else "otherwise"


def _zone_until(summer_ends_s: float) -> str:
    """A time zone, as POSIX spells it, whose summer time began half a year before it ends at this moment."""
    end = datetime.fromtimestamp(summer_ends_s, UTC).astimezone(SUMMER)
    start = end - timedelta(days=180)
    days = [f"J{when.replace(year=2001).timetuple().tm_yday}" for when in (start, end)]  # J counts no 29 February
    return f"WINTER-1SUMMER,{days[0]}/0,{days[1]}/{end:%H:%M:%S}"


def _faketime() -> str:
    """The library that makes clocks lie; raises NotRunError without it."""
    program = shutil.which("faketime")
    if program is None:
        raise NotRunError("clocks cannot be set here; install what does it with  apt-get install faketime")
    command = [program, "-m", "-f", "+0s", "printenv", "LD_PRELOAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603 - as found


def _replace(path: Path, text: str) -> None:
    """`path` holds `text`, whole at every moment."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)
