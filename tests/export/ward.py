"""A log of a small ward: devices that measure whatever a test wants, a quorum of witnesses, and the reading store."""

import hashlib
from contextlib import closing
from dataclasses import replace

from aggregator.admission import Admission
from aggregator.decisions import Admitted
from aggregator.enrolment import Keys
from aggregator.projection import Projection
from aggregator.registry import Registry
from aggregator.timeseries.embedded import EmbeddedStore
from ledger.batch import header_hash, seal
from ledger.envelope import format_envelope
from ledger.info import BatchInfo, Clock, Source
from ledger.policy import parse_policy, parse_trust
from ledger.reading import Absence, Absent, Quality, Reading, Scalar, Waveform, pack_samples
from ledger.writer.create import POLICY, TRUST, create_log
from ledger.writer.local import LocalStorage
from tests.aggregator.devices import ORIGIN, Device
from tests.writer.logs import open_writer
from tests.writer.quorum import WITNESSES, Cosigners

START_NS = 1_763_000_000 * 10**9
SECOND = 10**9
LOGGED_BY = 1_764_000_000


class Ward:
    """The log in `data`; `witnessed` says whether anybody cosigns it."""

    def __init__(self, data, *, witnessed=True):
        create_log(data, ORIGIN, witnesses=WITNESSES if witnessed else ())
        self.data = data
        self._quorum = Cosigners(LOGGED_BY) if witnessed else None
        self.sealed = []

    def device(self, name, number, **options):
        device = Device(name, number, **options)
        device.enrol(self.data)
        return device

    def log(self, *batches, state=True):
        """Each of `batches`, a device and its readings, is logged, published and in the store."""
        with LocalStorage(self.data) as storage, closing(Registry(self.data)) as registry:
            writer = open_writer(storage, self.data, lambda: LOGGED_BY * SECOND, self._quorum)
            keys = Keys(self.data, writer, storage, registry)
            admission = Admission(ORIGIN, storage, keys.find, keys.record)
            for device, readings in batches:
                decision = admission.admit(device.name, self._seal(device, [item.encode() for item in readings]))
                assert isinstance(decision, Admitted), decision
                writer.append([decision.submission])
                admission.committed()
            keys.renew(now=state)
            assert writer.publish()
        with EmbeddedStore(self.data) as store:
            self.project(store)

    def project(self, store):
        """All of the log is in `store`."""
        with closing(Projection(self.data, store)) as projection:
            projection.catch_up()

    def assign(self, source, patient, start_ns, end_ns=None, corrects=None):
        with closing(Registry(self.data)) as registry:
            reason = "mixed up" if corrects else None
            return registry.assign(source, patient, start_ns, end_ns, now_ns=START_NS, corrects=corrects, reason=reason)

    def policy(self):
        return parse_policy((self.data / POLICY).read_bytes())

    def trust(self):
        return parse_trust((self.data / TRUST).read_bytes())

    def stored(self):
        with EmbeddedStore(self.data, readonly=True) as store:
            return list(store.readings())

    def _seal(self, device, bodies):
        readings = [Reading.decode(body) for body in bodies]
        times = [reading.sensor_time_ns for reading in readings]
        sources = tuple(Source(source, "sensor") for source in sorted({reading.source for reading in readings}))
        info = BatchInfo(bytes(16), times[0], 7, Clock.UNKNOWN, None, min(times), max(times), sources, None)
        batch = seal(
            device.signer,
            origin=ORIGIN,
            epoch=0,
            seq=device.seq,
            previous=device.previous,
            anchor=None,
            info=info,
            readings=bodies,
            secret=hashlib.sha256(b"secret %d of %d" % (device.seq, device.number)).digest(),
        )
        device.seq, device.previous = device.seq + 1, header_hash(batch.header)
        self.sealed.append(batch)
        return format_envelope(batch)


def measured(device, kind, value, after_s=0, **others):
    """A reading `after_s` the start; a text is a scalar, spelled as the device spells it."""
    value = Scalar.parse(value) if isinstance(value, str) else value
    reading = Reading(device.source, kind, START_NS + after_s * SECOND, 0, None, 5, value)
    return replace(reading, **others)


def wave(period_ns=7_812_500, divisor=1, channels=1, samples=(-3, 0, 400), scale=(5, -3), origin=(-20, -1)):
    """A waveform of 16-bit samples; a physical value is -2.0 + sample x 0.005 in the kind's unit."""
    return Waveform(period_ns, divisor, scale, origin, channels, 2, pack_samples(samples, 2))


def bedside(device):
    """A bit of everything that is awkward: digits, absences, marks, pressures, waveforms."""
    berlin, ns = {"zone_offset_min": 60}, {"sensor_time_ns": START_NS + 123_456_789}
    return [
        measured(device, 1, "72"),
        measured(device, 1, "72.0", 1, **berlin),
        measured(device, 1, "72.00", **ns, ordinal=1, zone_offset_min=-210),
        measured(device, 2, "97", quality=Quality.DEMO_DATA),
        measured(device, 2, Absent(Absence.NOT_A_NUMBER), 1),
        measured(device, 2, "31", 2, quality=Quality.INVALID),
        measured(device, 2, "88", 3, quality=Quality.QUESTIONABLE | Quality.CONTACT_LOST | 0x200),
        measured(device, 4, "3.66e1"),
        measured(device, 5, "120", 10),
        measured(device, 6, "80", 10),
        measured(device, 7, "93.3", 10),
        measured(device, 5, "118", 20),
        measured(device, 5, "121", 30),
        measured(device, 5, "122", 30),
        measured(device, 6, "81", 30),
        measured(device, 9, "105", zone_offset_min=17 * 60),
        measured(device, 10, "40", quality=Quality.ONGOING),
        measured(device, 14, wave()),
        measured(device, 16, wave(period_ns=10**8, divisor=3, channels=3, samples=(1, 2, 3, -4, -5, -6))),
        measured(device, 17, "55"),
        measured(device, 999, Absent(200)),
    ]
