"""Observations: what a proven reading is in FHIR R4.

What the device said of its own measurement is told as HL7's guides for personal health and point-of-care devices tell
it: a value that is marked invalid is no value (`dataAbsentReason` error, the number only in the note), a questionable
one is interpreted so, test and demo data carry the security label HTEST. Decimals keep their digits: 2, 2.0 and 2.00
are different statements in FHIR too.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from typing import Any, TypeAlias

from aggregator.export.fhir_kinds import PANEL, PANEL_LOINC, PANEL_MDC, PANEL_TITLE, SHAPES, VITAL_SIGNS_PROFILE, Shape
from aggregator.export.proven import Proven
from ledger.kinds import BY_CODE, kind_name, kind_unit
from ledger.reading import Absence, Absent, Quality, Reading, Scalar, Waveform, format_time

Resource: TypeAlias = dict[str, Any]

_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
ABSENT_REASON = f"{_TERMINOLOGY}/data-absent-reason"
UNKNOWN = {"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]}
_GATEWAY_EXTENSION = "http://hl7.org/fhir/StructureDefinition/observation-gatewayDevice"
_STATUS_CODES = "http://hl7.org/fhir/uv/pocd/CodeSystem/measurement-status"
_LOINC, _UCUM, _MDC = "http://loinc.org", "http://unitsofmeasure.org", "urn:iso:std:iso:11073:10101"

# R4 has no zone beyond this, where a reading may.
_MAX_FHIR_ZONE = 14 * 60
# Digits of a period that has no end as a decimal number of milliseconds, such as that of 30 Hz.
_PERIOD_DIGITS = 18

_ABSENCES = {
    Absence.NOT_A_NUMBER: "not-a-number",
    Absence.NOT_AT_THIS_RESOLUTION: "error",
    Absence.POSITIVE_INFINITY: "positive-infinity",
    Absence.NEGATIVE_INFINITY: "negative-infinity",
    Absence.RESERVED: "error",
    Absence.NOT_MEASURED: "not-performed",
}
_INTERPRETATIONS = {
    Quality.QUESTIONABLE: "questionable",
    Quality.CALIBRATION: "calibration-ongoing",
    Quality.ONGOING: "msmt-ongoing",
    # There is no code for a sensor that lost contact; the note says it.
    Quality.CONTACT_LOST: "questionable",
    Quality.EARLY_INDICATION: "early-indication",
}


@dataclass(frozen=True, slots=True)
class Names:
    """Ids and identifier systems of one log: the same reading has the same in every export."""

    origin: str

    def id(self, what: str, name: str) -> str:
        """The id of the `what` called `name`: a name-based UUID."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.system(what)}/{name}"))

    def reference(self, what: str, name: str) -> Resource:
        """A reference to it within the bundle."""
        return {"reference": f"urn:uuid:{self.id(what, name)}"}

    def identifier(self, what: str, name: str) -> Resource:
        """`name` in the namespace of the log's `what`s."""
        return {"system": self.system(what), "value": name}

    def system(self, what: str) -> str:
        """The namespace: a name that begins with the log's origin, and no address."""
        return f"https://{self.origin}/{what}"


def observation(proven: Proven, names: Names, subject: Resource) -> Resource:
    """The Observation of one reading."""
    reading = proven.reading
    shape = SHAPES.get(reading.kind, Shape(None))
    if shape.profile is not None and isinstance(reading.value, Waveform):
        # The profile of a kind allows nothing but a quantity.
        shape = replace(shape, profile=VITAL_SIGNS_PROFILE)
    return _observation([proven], shape, _code(reading.kind), names, subject) | _value(reading)


def panel(parts: Sequence[Proven], names: Names, subject: Resource) -> Resource:
    """The one Observation of a blood pressure: systolic, diastolic and perhaps mean of one moment."""
    code = {"coding": [_coding(_LOINC, PANEL_LOINC), _coding(_MDC, str(PANEL_MDC))], "text": PANEL_TITLE}
    components = [{"code": _code(part.reading.kind), **_value(part.reading)} for part in parts]
    return _observation(parts, PANEL, code, names, subject) | {"component": components}


def observation_name(parts: Iterable[Proven]) -> str:
    """What `Names` calls the Observation of these readings."""
    return "+".join(str(part.stored.ref) for part in parts)


def concept(system: str, code: str) -> Resource:
    """A CodeableConcept of one code."""
    return {"coding": [_coding(system, code)]}


def _observation(parts: Sequence[Proven], shape: Shape, code: Resource, names: Names, subject: Resource) -> Resource:
    """What an Observation is apart from its value; all of `parts` have one device, source, time and quality."""
    reading, device = parts[0].reading, parts[0].stored.device
    quality = reading.quality
    meta: Resource = {}
    if shape.profile is not None:
        meta["profile"] = [f"http://hl7.org/fhir/StructureDefinition/{shape.profile}"]
    if quality & (Quality.TEST_DATA | Quality.DEMO_DATA):
        meta["security"] = [{**_coding(f"{_TERMINOLOGY}/v3-ActReason", "HTEST"), "display": "test health data"}]
    marks = dict.fromkeys(code for bit, code in _INTERPRETATIONS.items() if bit & quality)
    preliminary = quality & (Quality.ONGOING | Quality.EARLY_INDICATION)
    resource: Resource = {
        "resourceType": "Observation",
        "id": names.id("reading", observation_name(parts)),
        "meta": meta,
        "extension": [{"url": _GATEWAY_EXTENSION, "valueReference": names.reference("device", device)}],
        "identifier": [names.identifier("reading", str(part.stored.ref)) for part in parts],
        "status": "preliminary" if preliminary else "final",
        "category": [concept(f"{_TERMINOLOGY}/observation-category", shape.category)] if shape.category else [],
        "code": code,
        "subject": subject,
        "effectiveDateTime": _date_time(reading),
        "interpretation": [concept(_STATUS_CODES, mark) for mark in marks],
        "note": [{"text": text} for text in _notes(parts)],
        "device": names.reference("source", f"{device}/{reading.source.hex()}"),
    }
    # FHIR has no empty elements.
    return {name: element for name, element in resource.items() if element}


def _value(reading: Reading) -> Resource:
    """The element that holds the value, or why there is none."""
    value = reading.value
    if isinstance(value, Absent):
        known = value.reason in set(Absence)
        return {"dataAbsentReason": concept(ABSENT_REASON, _ABSENCES[Absence(value.reason)] if known else "unknown")}
    if reading.quality & Quality.INVALID:
        return {"dataAbsentReason": concept(ABSENT_REASON, "error")}
    if isinstance(value, Scalar):
        return {"valueQuantity": _quantity(_decimal(value.mantissa, value.exponent), reading.kind)}
    return {"valueSampledData": _sampled(value, reading.kind)}


def _sampled(wave: Waveform, kind: int) -> Resource:
    with localcontext(prec=_PERIOD_DIGITS):
        period_ms = Decimal(wave.period_ns) / wave.period_divisor / 10**6
    return {
        "origin": _quantity(_decimal(*wave.origin), kind),
        "period": period_ms,
        "factor": _decimal(*wave.scale),
        "dimensions": wave.channels,
        "data": " ".join(map(str, wave.integers())),
    }


def _quantity(value: Decimal, kind: int) -> Resource:
    unit = kind_unit(kind)
    return {"value": value, "unit": unit, "system": _UCUM, "code": unit} if unit else {"value": value}


def _decimal(mantissa: int, exponent: int) -> Decimal:
    """Exactly mantissa x 10^exponent, with its digits."""
    return Decimal((int(mantissa < 0), tuple(map(int, str(abs(mantissa)))), exponent))


def _code(code: int) -> Resource:
    """LOINC, and MDC where the kind has one code: of two, only the sensor knows which it measured by."""
    kind = BY_CODE.get(code)
    if kind is None:
        return {"text": kind_name(code)}
    codings = [_coding(_LOINC, loinc) for loinc in kind.loinc]
    if len(kind.mdc) == 1:
        codings.append(_coding(_MDC, str(kind.mdc[0])))
    return {"coding": codings, "text": kind.title} if codings else {"text": kind.title}


def _coding(system: str, code: str) -> Resource:
    return {"system": system, "code": code}


def _date_time(reading: Reading) -> str:
    """The sensor time to the last digit, in the wearer's zone; in Z where that is unknown, or none that R4 has."""
    zone = reading.zone_offset_min
    if zone is None or abs(zone) > _MAX_FHIR_ZONE:
        return format_time(reading.sensor_time_ns)
    local = format_time(reading.sensor_time_ns + zone * 60 * 10**9).removesuffix("Z")
    hours, minutes = divmod(abs(zone), 60)
    return f"{local}{'-' if zone < 0 else '+'}{hours:02}:{minutes:02}"


def _notes(parts: Sequence[Proven]) -> Iterable[str]:
    """What the codes cannot say, in words."""
    quality = parts[0].reading.quality
    if quality:
        known = [bit.name.lower().replace("_", " ") for bit in Quality if bit & quality if bit.name]
        rest = quality & ~int(sum(Quality))
        yield "The device marked this measurement: " + ", ".join([*known, *([f"0x{rest:x}"] if rest else [])])
    for part in parts:
        reading = part.reading
        if quality & Quality.INVALID and isinstance(reading.value, Scalar):
            yield f"Not to be used; it said: {kind_name(reading.kind)} {reading.value} {kind_unit(reading.kind)}"
