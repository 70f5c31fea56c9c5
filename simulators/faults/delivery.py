"""Batches and answers that come twice, late, and in another order."""

from simulators.faults.relay import Relay
from simulators.faults.stage import Places, Stage, start_mosquitto
from simulators.faults.trial import Trial


def delivery(trial: Trial) -> None:
    """Every batch and every answer passes a relay that delivers it up to three times, late, and in another order."""
    near, far = start_mosquitto(trial, "broker-of-devices"), start_mosquitto(trial)
    relay = trial.stack.enter_context(Relay(near.port, far.port, trial.rng))
    stage = Stage(trial, Places(far, devices_port=near.port))
    stage.start()
    stage.measure(trial.seconds)
    took_s = stage.wait_for_receipts("each device has a receipt")
    trial.outcome.times_s["until a receipt"] = took_s
    stage.drain()
    done = relay.counts
    trial.expect(
        done["copies"] and done["out of order"],
        f"{done['messages']} messages came with {done['copies']} copies more, {done['out of order']} out of order",
    )
    decided = ", ".join(f"{name} {count}" for name, count in sorted(stage.status().decisions.items()))
    trial.tell(f"admission decided: {decided}")
    stage.settle()
