"""MQTT topic names: `vitalseal/v1/<device>/batch|receipt|status`."""

import re

from vitalseal.errors import UserError

_PREFIX = "vitalseal/v1"
BATCHES = f"{_PREFIX}/+/batch"
STATUSES = f"{_PREFIX}/+/status"
CONTENT_TYPE = "application/vnd.vitalseal.batch+msgpack"

# Safe in a topic, a file name, a certificate's common name and a tag: no level, wildcard, space or case trap.
_DEVICE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
_TOPIC = re.compile(rf"{_PREFIX}/([^/]+)/(batch|receipt|status)", re.ASCII)


def batch(device: str) -> str:
    """Where `device` publishes its sealed batches."""
    return f"{_PREFIX}/{device}/batch"


def receipt(device: str) -> str:
    """Where `device` listens for stored, receipt and reject."""
    return f"{_PREFIX}/{device}/receipt"


def status(device: str) -> str:
    """Where `device` says, retained, whether it is there."""
    return f"{_PREFIX}/{device}/status"


def device_of(topic: str) -> str | None:
    """The device whose topic this is, or None for a topic that is not ours."""
    match = _TOPIC.fullmatch(topic)
    return match[1] if match and _DEVICE.fullmatch(match[1]) else None


def check_device(name: str) -> str:
    """`name` as a device name; raises UserError."""
    if not _DEVICE.fullmatch(name):
        raise UserError(f"device name {name!r}: use 1 to 64 of a-z, 0-9, '-' and '_', beginning with a letter or digit")
    return name
