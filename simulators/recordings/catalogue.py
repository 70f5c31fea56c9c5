"""What is derived, and from where: pinned archives, their members, and what each member is.

What can be measured (points, duration, gaps, start, device names) is measured by `describe`; here stands what
somebody who read the sources had to decide, with the reason.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Archive:
    """A release on PyPI, pinned by content.

    Attributes:
        package: Distribution name.
        version: Exact version.
        file: Archive file name.
        sha256: SHA-256 of the archive, hex.
        licence: SPDX identifier of the licence text that the archive carries.
        licence_member: Where in the archive that text is.
    """

    package: str
    version: str
    file: str
    sha256: str
    licence: str
    licence_member: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the raw integers of a waveform become physical values at known times.

    Attributes:
        period_ns: Sampling period; for both waveforms a whole number of ns.
        channels: Names of the interleaved channels.
        scale: Physical units per step, (mantissa, exponent) of a decimal.
        origin: Physical value of sample 0, (mantissa, exponent) of a decimal.
    """

    period_ns: int
    channels: tuple[str, ...]
    scale: tuple[int, int]
    origin: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Source:
    """One recording to derive.

    Attributes:
        name: Name of the recording and of its file.
        kind: Kind of reading.
        unit: UCUM unit of the physical value.
        archive: Where it comes from.
        member: Path in the archive.
        dropped: What the member holds and the recording does not.
        upstream: Where the package says that its authors got it; empty if it is their own.
        note: What a user of the recording has to know; empty if nothing.
        same_activity: FIT member of the same activity, whose points must agree; empty if there is none.
        sampling: Only for a waveform.
    """

    name: str
    kind: str
    unit: str
    archive: Archive
    member: str
    dropped: tuple[str, ...]
    upstream: str = ""
    note: str = ""
    same_activity: str = ""
    sampling: Sampling | None = None


SWEAT = Archive(
    package="sweat",
    version="0.25.0",
    file="sweat-0.25.0-py3-none-any.whl",
    sha256="7734eb146b6168ce1f231f1749929b77d72fdc63cc430a6fbbc284efb9c1cb1a",
    licence="MIT",
    licence_member="sweat-0.25.0.dist-info/LICENSE",
)
PYHRV = Archive(
    package="pyhrv",
    version="0.5.0",
    file="pyhrv-0.5.0-py3-none-any.whl",
    sha256="836a25483db1ab3199b9237892cdbea1f896ed3e4a0638fe2d5b9a0eca46273c",
    licence="BSD-3-Clause",
    licence_member="pyhrv-0.5.0.dist-info/licenses/LICENSE.txt",
)
AEON = Archive(
    package="aeon",
    version="1.6.0",
    file="aeon-1.6.0-py3-none-any.whl",
    sha256="d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409",
    licence="BSD-3-Clause",
    licence_member="aeon-1.6.0.dist-info/licenses/LICENSE",
)
ARCHIVES = (SWEAT, PYHRV, AEON)

SWEAT_INDEX = "sweat/examples/index.yml"
"""The package's own description of its sample activities: recording device and sensors by name."""

_SWEAT_DATA = "sweat/examples/data/"
_WEARER = "profile of the wearer (gender, height, weight)"
_SUMMARIES = "laps and summaries"

# ECG = (n / 2**10 - 1/2) * 3.3 V / 1100, so a step is 3 mV / 1024 = 0.0029296875 mV exactly; 0 is -1.5 mV.
# The file header gives the 10 bits. Supply voltage and gain are from the maker's data sheet (PLUX,
# Electrocardiography Sensor for BITalino); the maker's script beside the original of this sample
# (SampleECG.py) computes the same.
_BITALINO_ECG = Sampling(
    period_ns=1_000_000,
    channels=("ecg",),
    scale=(29_296_875, -10),
    origin=(-15, -1),
)

# Daphnet's own README gives the unit mg, and 1 g is 9.80665 m/s2 by definition. The data agree: at the hip
# the median length of the vector is 1007. At the ankle it is 1090, so the better calibrated sensor was taken.
_DAPHNET_HIP = Sampling(
    period_ns=15_625_000,
    channels=("x", "y", "z"),
    scale=(980_665, -8),
    origin=(0, 0),
)

SOURCES = (
    Source(
        name="ride_edge1000",
        kind="heart_rate",
        unit="/min",
        archive=SWEAT,
        member=_SWEAT_DATA + "4078723797.fit",
        dropped=(
            "positions and altitude",
            "serial numbers",
            _WEARER,
            "speed, cadence, power, temperature",
            _SUMMARIES,
        ),
        same_activity=_SWEAT_DATA + "4078723797.fit",
    ),
    Source(
        name="laps_forerunner935",
        kind="heart_rate",
        unit="/min",
        archive=SWEAT,
        member=_SWEAT_DATA + "activity_4801048867.tcx",
        dropped=("positions and altitude", "serial number", "speed", _SUMMARIES),
        note="The export states the point at each lap boundary twice; the watch's own FIT file has it once.",
        same_activity=_SWEAT_DATA + "4801048867.fit",
    ),
    Source(
        name="run_polar_m400",
        kind="heart_rate",
        unit="/min",
        archive=SWEAT,
        member=_SWEAT_DATA + "3173437224.tcx",
        dropped=(
            "positions and altitude",
            "distance and cadence",
            "sensor state, present throughout",
            _SUMMARIES,
        ),
        note=(
            "Implausible jumps in the first eleven minutes, as from 150/min to 49/min at 566 s, although the "
            "sensor state says present. After the gap the clock goes on between whole seconds."
        ),
    ),
    Source(
        name="indoor_forerunner935",
        kind="heart_rate",
        unit="/min",
        archive=SWEAT,
        member=_SWEAT_DATA + "6449921903_ACTIVITY.fit",
        dropped=("serial numbers", _WEARER, "distance, cadence, power, temperature", _SUMMARIES),
        note="Short, with two pauses.",
        same_activity=_SWEAT_DATA + "6449921903_ACTIVITY.fit",
    ),
    Source(
        name="multisport_forerunner935",
        kind="heart_rate",
        unit="/min",
        archive=SWEAT,
        member=_SWEAT_DATA + "6471559601_ACTIVITY.fit",
        dropped=("altitude", "serial numbers", _WEARER, "speed, cadence, temperature", _SUMMARIES),
        note="One minute; the heart rates go down to 46/min.",
        same_activity=_SWEAT_DATA + "6471559601_ACTIVITY.fit",
    ),
    Source(
        name="nn_nsrdb",
        kind="rr_interval",
        unit="ms",
        archive=PYHRV,
        member="pyhrv/files/SampleNNISeriesLong.npy",
        dropped=(),
        upstream="MIT-BIH Normal Sinus Rhythm Database, PhysioNet; the package does not say which record",
        note=(
            "Intervals between normal beats from a database, not as a wearable reports them; multiples of "
            "1/128 s rounded to whole ms, but for six values of 1022. The source has no times: an offset is "
            "the sum of the intervals after the first."
        ),
    ),
    Source(
        name="ecg_bitalino",
        kind="ecg",
        unit="mV",
        archive=PYHRV,
        member="pyhrv/files/SampleECG.txt",
        dropped=("Bluetooth address and device path", "digital inputs and outputs"),
        upstream="BITalino (r)evolution sample data by PLUX",
        note=(
            "The start is local time in an unknown zone. The sequence column counts 0 to 15, so that a loss "
            "of an exact multiple of 16 samples would not show."
        ),
        sampling=_BITALINO_ECG,
    ),
    Source(
        name="walk_daphnet",
        kind="acceleration",
        unit="m/s2",
        archive=AEON,
        member="aeon/datasets/data/Daphnet_S06R02E0/S06R02E0.csv",
        dropped=("ankle and thigh sensors", "anomaly label, 0 throughout"),
        upstream="Daphnet Freezing of Gait (Roggen, Plotnik, Hausdorff 2013, doi:10.24432/C56K78), S06R02",
        note=(
            "Sensor at the hip of a person with Parkinson's disease, during walking tasks; x is horizontal "
            "forward, y vertical, z horizontal lateral. The source has no date."
        ),
        sampling=_DAPHNET_HIP,
    ),
)
