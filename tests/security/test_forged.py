"""What a device cannot seal: another's batch, one for another log, one by a key that nobody signed in, one twice."""

import pytest

from ledger.envelope import split_head
from ledger.messages import Reason, Stored
from tests.aggregator.devices import Device
from tests.aggregator.gateway import csr, until
from vitalseal import topics

from .scene import Talk


def replayed(honest, _evil):
    """A batch of another device, as the network or the broker may have kept it."""
    return honest.captured


def resigned(honest, evil):
    """The header of another device, under our signature."""
    _, theirs = split_head(honest.captured)
    _, ours = split_head(evil.next_batch())
    return honest.captured.replace(theirs, ours)


def swapped(honest, evil):
    """Our header, under the signature of another device."""
    _, theirs = split_head(honest.captured)
    envelope = evil.next_batch()
    return envelope.replace(split_head(envelope)[1], theirs)


def never_enrolled(_honest, evil):
    """By a key that no registrar knows."""
    return Device(evil.device.name, 250).batch()


def for_another_log(_honest, evil):
    """By our own key, for a log of another name."""
    return Device(evil.device.name, evil.device.number, "other.example/log").batch()


def changed(_honest, evil):
    """Ours, with a reading that is not the one which was sealed."""
    envelope = evil.next_batch()
    return envelope[:-1] + bytes([envelope[-1] ^ 1])


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (replayed, Reason.WRONG_DEVICE),
        (resigned, Reason.WRONG_DEVICE),
        (swapped, Reason.BAD_SIGNATURE),
        (never_enrolled, Reason.UNKNOWN_KEY),
        (for_another_log, Reason.WRONG_ORIGIN),
        (changed, Reason.BAD_ROOT),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_forged_batch(scene, honest, evil, forge, reason):
    """Its sender is told, it is counted by reason and named in the log, and nothing of it is on the log."""
    name = reason.name.lower()
    with scene.counting(**{name: 3}):
        envelope = forge(honest, evil)
        for _ in range(3):
            evil.refused(envelope, reason)
    scene.sees(f"batch of {evil.device.name} rejected: {name}: ")
    assert f"{name} " in scene.command("status")
    assert scene.batches_of(evil.device) == []
    assert [message for _, message in evil.heard if message.reason != reason] == []


def test_old_envelope_of_our_own_again(scene, evil):
    """It is answered as it was, as often as it comes, and is on the log once."""
    evil.go_on()
    with scene.counting(repeated=20):
        for _ in range(20):
            evil.send(topics.batch(evil.device.name), evil.captured)
    until(lambda: sum(isinstance(message, Stored) for _, message in evil.heard) == 21, "21 answers")
    assert len({message for _, message in evil.heard if isinstance(message, Stored)}) == 1
    assert scene.batches_of(evil.device) == [0]


def test_second_header_for_a_place(scene, evil):
    """The first one counts; the second is evidence on the log, and the device is named as cloned."""
    evil.go_on()
    evil.refused(Device(evil.device.name, evil.device.number).batch(1, value=99), Reason.EQUIVOCATION)
    scene.sees(f"{evil.device.name} signed two headers for epoch 0 seq 0")
    until(lambda: "a cloned key" in scene.command("devices", evil.device.name), "the word of it")
    assert scene.batches_of(evil.device) == [0]


def test_stolen_tls_key_without_the_signing_key(scene, honest, culprit):
    """The thief connects, throws its owner off, reads its receipts, renews the certificate; and seals nothing.

    Only revoking the device ends that. It is why the keys are two, and only the signing key may be in a token.
    """
    stolen = Device(culprit.name, 251)
    with Talk(scene, culprit) as owner:
        owner.go_on()
        with Talk(scene, culprit) as thief:
            until(lambda: not owner.connected, "the owner is thrown off")
            thief.subscribe(topics.receipt(honest.device.name), topics.BATCHES)
            honest.go_on()
            thief.refused(stolen.batch(), Reason.UNKNOWN_KEY)
            thief.refused(honest.captured, Reason.WRONG_DEVICE)
            thief.go_on()  # what the owner sealed and the thief holds up, is the owner's all the same
        assert culprit.renew()[0] == 200
        body = culprit.rotate_body(Device(culprit.name, 252), (0, 5)) | {"old_signature": "00" * 64}
        status, answer = culprit.ask("POST", "/v1/rotate", body)
        assert status == 403, answer
        status, answer = culprit.ask("POST", "/v1/enrol", culprit.enrol_body(secret="00" * 16))
        assert status == 403, answer
        assert culprit.ask("POST", "/v1/renew", {"csr": csr(culprit.key, honest.device.name)})[0] == 200
    scene.sees(f"batch of {culprit.name} rejected: unknown_key")
    scene.sees("/v1/rotate from 127.0.0.1 refused: ")
    assert scene.batches_of(stolen) == []
