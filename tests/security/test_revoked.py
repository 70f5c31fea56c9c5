"""A device that was revoked is out within seconds, wherever it tries."""

import time

import pytest

from ledger.messages import Reason
from tests.aggregator.devices import Device
from tests.aggregator.gateway import Client, csr, until
from vitalseal import topics

from .scene import Talk

OUT_WITHIN_S = 10.0


def test_revoked_while_it_publishes(scene, honest, culprit):
    """The standing session is cut off, a new one refused, the desk gives it nothing, and so says `devices`."""
    with Talk(scene, culprit) as evil:
        evil.go_on()
        scene.command("revoke", culprit.name, "--reason", "compromised")
        began = time.monotonic()
        # In full flight: whatever the broker still takes, admission refuses.
        while evil.publish(topics.batch(culprit.name), evil.next_batch()) == "Success":
            assert time.monotonic() - began < OUT_WITHIN_S
        before = len(scene.broker.log())
        with Client(scene.port, culprit.context()) as again:
            until(lambda: "gone" in again.said, "the end of a new connection")
        scene.broker_sees(before, "certificate")
        stored = set(evil.stored())
        assert set(evil.rejects()) <= {Reason.ENDED_KEY, Reason.OUT_OF_ORDER, Reason.BROKEN_CHAIN}
    for path, body in (
        ("/v1/renew", {"csr": csr(culprit.key)}),
        ("/v1/rotate", culprit.rotate_body(Device(culprit.name, 253), (0, 900))),
    ):
        status, answer = culprit.ask("POST", path, body)
        assert (status, answer["error"]) == (403, f"{culprit.name} is revoked; enrol again with a token")
        scene.sees(f"{path} from 127.0.0.1 refused: {culprit.name} is revoked")
    status, answer = culprit.ask("POST", "/v1/enrol", culprit.enrol_body(), certificate=False)
    assert (status, answer["error"]) == (403, "the key has been ended on the log; make another one")
    scene.sees("revoked key", culprit.device.key_id.hex()[:16])
    scene.sees(f"revoked a certificate of {culprit.name}")
    assert "REVOKED at entry" in scene.command("devices", culprit.name)
    assert set(scene.batches_of(culprit.device)) == stored


@pytest.mark.timeout(120)
def test_what_waits_at_the_broker_of_a_revoked_device(scene, honest, culprit):
    """Batches that the broker took while the aggregator was away are refused by admission, counted, and named."""
    with Talk(scene, culprit) as evil:
        evil.go_on()
        scene.stop()
        for _ in range(20):
            evil.send(topics.batch(culprit.name), evil.next_batch())
        assert evil.publish(topics.batch(culprit.name), evil.next_batch()) == "Success"
        scene.command("revoke", culprit.name)
        scene.start()
        until(lambda: scene.status()["decisions"].get("ended_key", 0) >= 1, "the refusals")
        until(lambda: sum(scene.decisions().values()) >= 21, "all of them")
    scene.sees(f"batch of {culprit.name} rejected: ended_key: ")
    assert scene.batches_of(culprit.device) == [0]
