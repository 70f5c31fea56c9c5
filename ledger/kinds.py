"""The one table of what can be measured; docs, dashboards and exports derive their names and codes from it.

Codes are part of the format (FORMAT.md section 4) and never reused. LOINC and IEEE 11073 (MDC) codes and UCUM
units are those of the standards. `plausible` bounds a physiologically possible value in the kind's unit; a
value outside is kept and flagged questionable by sources, never altered.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One row: `code` is the number in a reading, `unit` the UCUM unit of its value."""

    code: int
    name: str
    title: str
    unit: str
    loinc: tuple[str, ...]
    mdc: tuple[int, ...]
    plausible: tuple[float, float]
    waveform: bool = False


KINDS: tuple[Kind, ...] = (
    Kind(1, "heart_rate", "heart rate", "/min", ("8867-4",), (147842, 149530), (20, 300)),
    Kind(2, "spo2", "oxygen saturation", "%", ("2708-6", "59408-5"), (150456,), (50, 100)),
    Kind(3, "respiratory_rate", "respiratory rate", "/min", ("9279-1",), (151562,), (2, 80)),
    Kind(4, "body_temperature", "body temperature", "Cel", ("8310-5",), (150364,), (25, 45)),
    Kind(5, "systolic_pressure", "systolic blood pressure", "mm[Hg]", ("8480-6",), (150021,), (40, 300)),
    Kind(6, "diastolic_pressure", "diastolic blood pressure", "mm[Hg]", ("8462-4",), (150022,), (20, 200)),
    Kind(7, "mean_pressure", "mean blood pressure", "mm[Hg]", ("8478-0",), (150023,), (25, 250)),
    Kind(8, "glucose_capillary", "glucose, capillary", "mg/dL", ("41653-7",), (160184,), (10, 1000)),
    Kind(9, "glucose_cgm", "glucose, continuous", "mg/dL", ("99504-3",), (160212,), (10, 1000)),
    Kind(10, "steps", "steps", "{steps}", ("55423-8",), (), (0, 200_000)),
    Kind(11, "rr_interval", "RR interval", "ms", ("8637-1",), (), (150, 4000)),
    Kind(12, "hrv_sdnn", "heart rate variability (SDNN)", "ms", ("80404-7",), (), (0, 500)),
    Kind(13, "weight", "body weight", "kg", ("29463-7",), (188736,), (0.2, 700)),
    Kind(14, "ecg", "electrocardiogram", "mV", ("11524-6",), (131329,), (-20, 20), waveform=True),
    Kind(15, "ppg", "photoplethysmogram", "1", (), (150452,), (-1e9, 1e9), waveform=True),
    Kind(16, "acceleration", "acceleration", "m/s2", (), (), (-320, 320), waveform=True),
    Kind(17, "battery", "battery level", "%", (), (), (0, 100)),
)

BY_CODE = {kind.code: kind for kind in KINDS}
BY_NAME = {kind.name: kind for kind in KINDS}


def kind_name(code: int) -> str:
    """The kind's name, or `kind <code>` for one that this version does not know."""
    kind = BY_CODE.get(code)
    return kind.name if kind else f"kind {code}"


def kind_unit(code: int) -> str:
    """The kind's UCUM unit, or nothing for one that this version does not know."""
    kind = BY_CODE.get(code)
    return kind.unit if kind else ""
