"""An outbox that is full: the only case in which readings may go, and not without a word."""

from simulators.faults.stage import Stage
from simulators.faults.trial import Trial

# The smallest outbox there is, and a device (an ECG patch) that fills it in a quarter of a minute.
MAX_MB = 16
SPEED = 200.0
ECG_PATCH = 1
DROPPED_WITHIN_S = 120.0


def outbox_overflow(trial: Trial) -> None:
    """The broker stays away for longer than a small outbox has room, so that the oldest readings in it are dropped.

    What goes is counted, and the device signs how many they were; everything else is on the log.
    """
    stage = Stage(trial, devices=ECG_PATCH + 1, speed=SPEED)
    device = stage.devices[ECG_PATCH]
    with device.config.open("a") as file:
        file.write(f"\n[outbox]\nmax_mb = {MAX_MB}\n")
    stage.start()
    with stage.away(stage.broker.child):
        trial.kill(stage.broker.child)
        dropping = f"an outbox of {MAX_MB} MB is full"
        took_s = stage.wait(lambda: device.counts().dropped, DROPPED_WITHIN_S, dropping)
        trial.tell(f"{dropping} after {took_s:.1f} s without a broker")
        stage.measure(trial.seconds)
    took_s = stage.wait_for_receipts("each device has a receipt again")
    trial.outcome.times_s["recovery"] = took_s
    trial.tell(f"the broker is back; receipts again after {took_s:.1f} s")
    stage.drain()
    found = stage.settle()
    trial.expect(
        found.gaps, f"the log shows {found.notices['gap']} gaps, in which {found.gaps} readings are declared lost"
    )
