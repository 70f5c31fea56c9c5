"""A broker that loses what it had acknowledged."""

from simulators.faults.stage import Places, Stage, start_mosquitto
from simulators.faults.trial import Trial

ROUNDS = 3
# Fewer than one device publishes in a moment; the rest is dropped, after its PUBACK.
QUEUED = 5
DROPPING = "Outgoing messages are being dropped"
DROPPED_WITHIN_S = 60.0


def broker_forgets(trial: Trial) -> None:
    """The broker is killed with a full queue and comes back without persistence, having forgotten what it acknowledged.

    The aggregator is away meanwhile, so that behind the devices what they publish is in the broker's memory only.
    """
    stage = Stage(trial)
    stage.start()
    for number in range(ROUNDS):
        with stage.away(stage.aggregator):
            trial.kill(stage.aggregator)
            stage.measure(trial.seconds / ROUNDS)
            waiting = sum(device.counts().sealed for device in stage.devices)
            trial.kill(stage.broker.child)
            stage.broker.child.start()
        took_s = stage.wait_for_receipts("each device has a receipt again")
        trial.tell(f"{waiting} readings were on their way when the broker forgot; receipts again after {took_s:.1f} s")
        trial.outcome.times_s[f"recovery {number + 1}"] = took_s
    stage.drain()
    stage.settle()


def broker_overflow(trial: Trial) -> None:
    """The broker's queue for the aggregator is too short, so that it acknowledges batches and throws them away.

    This is how Mosquitto behaves at `max_queued_messages`; it says so in its own log, and to nobody else.
    """
    broker = start_mosquitto(trial, settings=[f"max_queued_messages {QUEUED}", "log_type notice"])
    stage = Stage(trial, Places(broker))
    stage.start()
    with stage.away(stage.aggregator):
        trial.kill(stage.aggregator)
        stage.wait(lambda: DROPPING in broker.child.log.read_text(), DROPPED_WITHIN_S, "the broker drops messages")
        trial.tell(f"with {QUEUED} messages queued the broker says: {DROPPING}")
        stage.measure(trial.seconds)
    took_s = stage.wait_for_receipts("each device has a receipt again")
    trial.outcome.times_s["recovery"] = took_s
    trial.tell(f"the aggregator is back; receipts again after {took_s:.1f} s")
    stage.drain()
    stage.settle()
