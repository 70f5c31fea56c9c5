"""How each kind of reading is told in FHIR R4, beside what `ledger.kinds` says of it; a test holds the two together."""

from dataclasses import dataclass

# The profile that every vital sign has to fit, whatever its form of value.
VITAL_SIGNS_PROFILE = "vitalsigns"

_VITAL_SIGNS, _ACTIVITY, _LABORATORY, _PROCEDURE = "vital-signs", "activity", "laboratory", "procedure"


@dataclass(frozen=True, slots=True)
class Shape:
    """`category` of HL7's observation-category, and the profile of R4 itself that covers the kind; None: there is none.

    A kind without a LOINC or a single MDC code has its title as the code's text, which is what R4 allows then.
    """

    category: str | None
    profile: str | None = None


SHAPES: dict[int, Shape] = {
    1: Shape(_VITAL_SIGNS, "heartrate"),
    2: Shape(_VITAL_SIGNS, "oxygensat"),
    3: Shape(_VITAL_SIGNS, "resprate"),
    4: Shape(_VITAL_SIGNS, "bodytemp"),
    # Of a pressure that stands alone; the panel has its own profile, which demands systolic and diastolic.
    5: Shape(_VITAL_SIGNS, VITAL_SIGNS_PROFILE),
    6: Shape(_VITAL_SIGNS, VITAL_SIGNS_PROFILE),
    7: Shape(_VITAL_SIGNS, VITAL_SIGNS_PROFILE),
    8: Shape(_LABORATORY),
    9: Shape(_LABORATORY),
    10: Shape(_ACTIVITY),
    11: Shape(_PROCEDURE),
    12: Shape(_PROCEDURE),
    13: Shape(_VITAL_SIGNS, "bodyweight"),
    14: Shape(_PROCEDURE),
    15: Shape(_PROCEDURE),
    16: Shape(_ACTIVITY),
    # How the device is, not the patient: no category is for that.
    17: Shape(None),
}

SYSTOLIC, DIASTOLIC, MEAN = 5, 6, 7
PRESSURES = (SYSTOLIC, DIASTOLIC, MEAN)
PANEL = Shape(_VITAL_SIGNS, "bp")
PANEL_LOINC, PANEL_MDC, PANEL_TITLE = "85354-9", 150020, "blood pressure"
