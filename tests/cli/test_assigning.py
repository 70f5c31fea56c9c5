"""`aggregator assign` and sources that nobody knows: a slip of the pen would leave readings out of every export."""

from contextlib import closing

import pytest

from aggregator import known_sources
from aggregator.registry import Registry
from tests.aggregator.devices import Device
from tests.aggregator.hands import by_hand

from .test_lifecycle import new_log

FROM = ("--from", "2026-11-21T08:00:00Z")
WORN, SILENT = "01" * 8, "ab" * 8


@pytest.fixture
def log(vitalseal, tmp_path):
    """Two devices, of which the second was not heard of for long."""
    log = new_log(vitalseal, tmp_path, "worn")
    log.devices = [Device(f"wrist-{number}", number, log.origin) for number in (2, 1)]
    log.devices[0].source = bytes.fromhex("01" * 4 + "02" * 4)
    for device in log.devices:
        device.enrol(log.data)
    with by_hand(log.data) as hands:
        hands.scan()
        hands.take_all((device, device.batch()) for device in [*log.devices, log.devices[1]])
    return log


def assign(vitalseal, log, *words):
    return vitalseal("aggregator", "assign", "--config", log.config, *words)


def recorded(log):
    with closing(Registry(log.data)) as registry:
        return [item.source.hex() for item in registry.assignments()]


def test_source_with_readings_is_recorded(vitalseal, log):
    """Of the newest batch or of the first, in capitals or not."""
    for source in (WORN, log.devices[0].source.hex().upper()):
        done = assign(vitalseal, log, source, "patient-7", *FROM)
        assert (done.code, done.err) == (0, "")
    assert recorded(log) == [WORN, log.devices[0].source.hex()]


def test_truncated_source_is_refused_and_its_likes_are_named(vitalseal, log):
    """In one line, and nothing is recorded."""
    both = f"{WORN}, {log.devices[0].source.hex()} begin so"
    for typed, likes in ((WORN[:8], both), (WORN[:10], f"{WORN} begin so")):
        done = assign(vitalseal, log, typed, "patient-7", *FROM)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert f"SOURCE {typed}: no reading on this log is of this source, but " in done.err
        assert likes in done.err
        assert "--unknown" in done.err
    assert recorded(log) == []


def test_unknown_source_is_refused_unless_it_is_asked_for(vitalseal, log):
    """A sensor that will be worn from tomorrow on; from then on its id is known, and what begins it is named."""
    done = assign(vitalseal, log, SILENT, "patient-7", *FROM)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "none begins so" in done.err
    assert recorded(log) == []
    assert assign(vitalseal, log, SILENT, "patient-7", "--unknown", *FROM).code == 0
    assert SILENT in assign(vitalseal, log, SILENT[:6], "patient-7", *FROM).err
    done = assign(vitalseal, log, SILENT, "patient-8", *FROM, "--correct", 1, "--reason", "another bed")
    assert (done.code, done.err) == (0, "")
    assert recorded(log) == [SILENT, SILENT]


def test_bytes_of_a_source_elsewhere_in_a_batch_make_it_no_source(vitalseal, log):
    """What counts is what a batch says of its sensors, not which bytes it has."""
    inside = b"chest strap".hex()
    assert "none begins so" in assign(vitalseal, log, inside, "patient-7", *FROM).err
    assert recorded(log) == []


@pytest.mark.parametrize("what", ["time", "payload", "damage"])
def test_where_it_cannot_be_told_there_is_a_warning(vitalseal, log, monkeypatch, what):
    """A log too long to look through, or whose payloads are not all there: whoever types knows better then."""
    if what == "time":
        monkeypatch.setattr(known_sources, "LOOK_FOR_S", -1.0)
    elif what == "payload":
        monkeypatch.setattr("ledger.writer.reader.LocalReader.missing_payload_count", lambda _: 1)
    else:
        monkeypatch.setattr("ledger.writer.reader.LocalReader.payload", lambda *_: bytes.fromhex(SILENT))
    done = assign(vitalseal, log, SILENT, "patient-7", *FROM)
    assert (done.code, done.err.count("\n")) == (0, 1)
    assert "not every batch could be looked at" in done.err
    assert recorded(log) == [SILENT]


def test_unknown_goes_with_a_source(vitalseal, log):
    """Alone it is a mistake, as the other options are."""
    done = assign(vitalseal, log, "--unknown")
    assert (done.code, done.err.count("\n")) == (2, 1)
