"""The FHIR bundle: valid, equal to what was proven, and with a way from every Observation to a proof."""

import json
import re
from collections import Counter
from decimal import Decimal

import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.observation import Observation
from hypothesis import given
from hypothesis import strategies as st

from aggregator.export import fhir_provenance
from aggregator.export.fhir import _json
from aggregator.export.fhir_kinds import PANEL_LOINC, SHAPES
from aggregator.export.fhir_observation import Names, observation
from aggregator.export.proven import Proven
from aggregator.timeseries.base import StoredReading
from ledger.errors import VerificationError
from ledger.keys import ECDSA_P256, ED25519, check_signature, key_id
from ledger.kinds import BY_CODE
from ledger.proof import LEAF_FORM, parse_proof, parse_proof_file
from ledger.reading import Absent, Quality, Scalar, Waveform, format_time
from ledger.status import verify_status
from ledger.strict import decode_base64, encode_base64
from ledger.verify import verify_proof
from tests.ledger import strategies as s
from tests.ledger.strategies import examples

from .ward import LOGGED_BY, ORIGIN, START_NS, Ward, measured, wave

# What the bundle uses of each resource; every one of these elements is in R4 (4.0.1) as it is in R4B.
R4_ELEMENTS = {
    "Bundle": {"resourceType", "type", "entry"},
    "Device": {"resourceType", "id", "identifier", "type"},
    "DocumentReference": {"resourceType", "id", "status", "type", "subject", "content", "context"},
    "Observation": {
        *("resourceType", "id", "meta", "extension", "identifier", "status", "category", "code", "subject"),
        *("effectiveDateTime", "valueQuantity", "valueSampledData", "dataAbsentReason", "interpretation", "note"),
        *("device", "component"),
    },
    "Provenance": {
        *("resourceType", "id", "extension", "target", "recorded", "activity", "agent", "entity", "signature"),
    },
}

# The data types of FHIR R4: dateTime, with any number of digits below the second, and decimal.
_DATE = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]+)?"
R4_DATE_TIME = re.compile(rf"{_DATE}T{_TIME}(Z|[+-]((0[0-9]|1[0-3]):[0-5][0-9]|14:00))")
R4_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def resources(file, of=None):
    """The resources of the bundle by `fullUrl`, decimals with their digits."""
    bundle = json.loads(file.read_text(), parse_float=Decimal)
    entries = {entry["fullUrl"]: entry["resource"] for entry in bundle["entry"]}
    assert len(entries) == len(bundle["entry"])
    return {url: item for url, item in entries.items() if of in (None, item["resourceType"])}


def proofs_of(file, policy, trust):
    """By Observation: the readings that are proven by what its Provenance leads to."""
    found = resources(file)
    proven = {url: [] for url, item in found.items() if item["resourceType"] == "Observation"}
    for provenance in resources(file, "Provenance").values():
        documents = [found[entity["what"]["reference"]] for entity in provenance["entity"]]
        files = [decode_base64(item["content"][0]["attachment"]["data"], "data") for item in documents]
        statuses = [verify_status(parse_proof_file(data), policy) for data in files if parse_proof_file(data).form == 2]
        targets = {target["reference"] for target in provenance["target"]}
        for document, data in zip(documents, files, strict=True):
            for related in document.get("context", {}).get("related", ()):
                assert related["reference"] in targets
                verified = verify_proof(data, policy, trust=trust, statuses=statuses, strict=True)
                proven[related["reference"]].append(verified)
    return proven


def test_bundle_is_valid(full, export):
    """By the library's models, read from the bytes; of nothing but elements that R4 has as well."""
    file = export(full, "fhir")
    bundle = Bundle.model_validate_json(file.read_bytes())
    assert bundle.type == "collection"
    assert Counter(entry.resource.get_resource_type() for entry in bundle.entry) == {
        "Observation": 19,
        "DocumentReference": 22,
        "Device": 2,
        "Provenance": 2,
    }
    for item in [json.loads(file.read_text()), *resources(file).values()]:
        assert item.keys() <= R4_ELEMENTS[item["resourceType"]]
        assert all(element not in ("", [], {}) for element in item.values())


def test_every_observation_leads_to_proofs_that_verify_and_say_the_same(full, export):
    """Observation, Provenance, DocumentReference, .tlog-proof, all steps: the same value, time, kind and source."""
    file = export(full, "fhir")
    found, proven = resources(file), proofs_of(file, full.policy(), full.trust())
    readings = [item.reading for items in proven.values() for item in items]
    assert len(readings) == len(full.stored())
    for url, items in proven.items():
        shown = found[url]
        parts = shown.get("component", [shown])
        assert len(parts) == len(items) > 0
        for part, item in zip(parts, items, strict=True):
            reading = item.reading
            kind = BY_CODE.get(reading.kind)
            codes = [coding["code"] for coding in part["code"].get("coding", ())]
            assert set(kind.loinc if kind else ()) <= set(codes)
            assert shown["effectiveDateTime"] in times(reading)
            source = found[shown["device"]["reference"]]["identifier"][0]["value"]
            assert source == reading.source.hex()
            assert value_of(part) == value_of_reading(reading)
            if kind and "valueQuantity" in part:
                assert (part["valueQuantity"]["code"], part["valueQuantity"]["system"]) == (
                    kind.unit,
                    "http://unitsofmeasure.org",
                )


def times(reading):
    """The sensor time as it may be spelled: in UTC, or in the wearer's zone."""
    utc = format_time(reading.sensor_time_ns)
    zones = {60: "+01:00", -210: "-03:30"}
    offset = zones.get(reading.zone_offset_min)
    local = format_time(reading.sensor_time_ns + (reading.zone_offset_min or 0) * 60 * 10**9).removesuffix("Z")
    return [f"{local}{offset}"] if offset else [utc]


def value_of(part):
    if "valueQuantity" in part:
        return str(Decimal(part["valueQuantity"]["value"]))
    if "valueSampledData" in part:
        data = part["valueSampledData"]
        return [Decimal(data["origin"]["value"]) + int(tick) * Decimal(data["factor"]) for tick in data["data"].split()]
    return part["dataAbsentReason"]["coding"][0]["code"]


def value_of_reading(reading):
    if isinstance(reading.value, Absent):
        return {1: "not-a-number", 200: "unknown"}[reading.value.reason]
    if reading.quality & Quality.INVALID:
        return "error"
    if isinstance(reading.value, Scalar):
        return str(Decimal(str(reading.value)))
    wave = reading.value
    assert isinstance(wave, Waveform)
    origin, scale = (Decimal(str(Scalar(*pair))) for pair in (wave.origin, wave.scale))
    return [origin + sample * scale for sample in wave.integers()]


def by_code(file, code):
    return [
        item
        for item in resources(file, "Observation").values()
        if code in [coding["code"] for coding in item["code"].get("coding", ())]
    ]


def test_digits_stay(full, export):
    """72, 72.0 and 72.00 are three statements in the file as they are on the log."""
    file = export(full, "fhir", "--kind", "heart_rate")
    assert [str(item["valueQuantity"]["value"]) for item in by_code(file, "8867-4")] == ["72", "72.00", "72.0"]
    assert '"value":72.00,' in file.read_text()


def test_nanoseconds_and_zone_stay(full, export):
    """A time is told to its last digit, in the wearer's zone, and in Z where there is none that R4 has."""
    file = export(full, "fhir")
    assert [item["effectiveDateTime"] for item in by_code(file, "8867-4")] == [
        "2025-11-13T02:13:20Z",
        "2025-11-12T22:43:20.123456789-03:30",
        "2025-11-13T03:13:21+01:00",
    ]
    assert [item["effectiveDateTime"] for item in by_code(file, "99504-3")] == ["2025-11-13T02:13:20Z"]


def test_blood_pressure_is_one_panel(full, export):
    """Systolic, diastolic and mean of a moment are one Observation; alone, or stated twice, they stay as they are."""
    file = export(full, "fhir")
    (panel,) = by_code(file, PANEL_LOINC)
    assert panel["meta"]["profile"] == ["http://hl7.org/fhir/StructureDefinition/bp"]
    assert [
        (part["code"]["coding"][0]["code"], str(part["valueQuantity"]["value"])) for part in panel["component"]
    ] == [
        ("8480-6", "120"),
        ("8462-4", "80"),
        ("8478-0", "93.3"),
    ]
    assert "valueQuantity" not in panel
    assert [str(item["valueQuantity"]["value"]) for item in by_code(file, "8480-6")] == ["118", "121", "122"]
    assert [str(item["valueQuantity"]["value"]) for item in by_code(file, "8462-4")] == ["81"]


def test_a_panel_across_two_batches_is_a_target_of_both(full, export):
    """Each Provenance answers for the proofs of its own batch."""
    file = export(full, "fhir")
    (panel,) = (url for url, item in resources(file).items() if "component" in item)
    provenances = resources(file, "Provenance").values()
    assert [any(target["reference"] == panel for target in item["target"]) for item in provenances] == [True, True]


def test_what_the_device_said_of_its_measurement_is_told(full, export):
    """Invalid is no value; questionable is marked so; test data is labelled; preliminary is not final."""
    demo, absent, invalid, doubtful = by_code(export(full, "fhir"), "59408-5")
    assert demo["meta"]["security"][0]["code"] == "HTEST"
    assert absent["meta"].keys() == {"profile"}
    assert absent["dataAbsentReason"]["coding"][0]["code"] == "not-a-number"
    assert invalid["dataAbsentReason"]["coding"][0]["code"] == "error"
    assert "valueQuantity" not in invalid
    assert invalid["note"][1]["text"] == "Not to be used; it said: spo2 31 %"
    assert [mark["coding"][0]["code"] for mark in doubtful["interpretation"]] == ["questionable"]
    assert doubtful["note"] == [
        {"text": "The device marked this measurement: questionable, contact lost, 0x200"},
    ]
    (steps,) = by_code(export(full, "fhir"), "55423-8")
    assert (steps["status"], demo["status"]) == ("preliminary", "final")


def test_waveform_is_sampled_data(full, export):
    """Period in ms, exact where it can be; the samples as they were, dimensions interleaved."""
    file = export(full, "fhir")
    (ecg,) = by_code(file, "11524-6")
    data = ecg["valueSampledData"]
    assert (str(data["period"]), str(data["factor"]), data["dimensions"]) == ("7.8125", "0.005", 1)
    assert (str(data["origin"]["value"]), data["origin"]["code"], data["data"]) == ("-2.0", "mV", "-3 0 400")
    (motion,) = (item for item in resources(file, "Observation").values() if item["code"] == {"text": "acceleration"})
    assert str(motion["valueSampledData"]["period"]) == "33.3333333333333333"
    assert (motion["valueSampledData"]["dimensions"], motion["valueSampledData"]["data"]) == (3, "1 2 3 -4 -5 -6")


def test_provenance_says_who_and_by_when(full, device, export):
    """The device by its key, the log, the witnesses, and their time."""
    file = export(full, "fhir")
    first, _ = resources(file, "Provenance").values()
    author, log, witness = first["agent"]
    assert author["who"]["identifier"]["value"] == device.key_id.hex()
    assert resources(file)[author["who"]["reference"]]["identifier"][0]["value"] == "bedside-1"
    assert (log["who"]["display"], witness["who"]["display"]) == (f"log {ORIGIN}", "witness hospital")
    assert first["recorded"] == format_time(LOGGED_BY * 10**9)


@pytest.mark.parametrize("algorithm", [ED25519, ECDSA_P256])
def test_provenance_has_the_signature_of_the_device(ward, export, algorithm):
    """Its bytes verify by the key and over the header in the proofs of its own entities: label and header, no less."""
    device = ward.device("bedside-1", 1, algorithm=algorithm)
    ward.log((device, [measured(device, 1, "72"), measured(device, 2, "97")]), (device, [measured(device, 1, "73", 1)]))
    file = export(ward, "fhir")
    found = resources(file)
    provenances = resources(file, "Provenance").values()
    assert [len(item["target"]) for item in provenances] == [2, 1]
    for provenance in provenances:
        (signature,) = provenance["signature"]
        spelled = {ED25519: "Ed25519", ECDSA_P256: "ECDSA-P-256"}[algorithm]
        assert signature["sigFormat"] == f"application/vnd.vitalseal.header-signature;algorithm={spelled}"
        assert signature["type"][0]["code"] == "1.2.840.10065.1.12.1.14"
        assert signature["when"] == provenance["recorded"]
        assert signature["who"] == provenance["agent"][0]["who"]
        assert found[signature["who"]["reference"]]["identifier"][0]["value"] == "bedside-1"
        data = decode_base64(signature["data"], "signature")
        documents = [found[entity["what"]["reference"]] for entity in provenance["entity"]]
        files = [decode_base64(item["content"][0]["attachment"]["data"], "proof") for item in documents]
        leaves = [parse_proof(item).leaf for item in files if parse_proof_file(item).form == LEAF_FORM]
        assert len(leaves) == len(provenance["target"])
        for leaf in leaves:
            assert signature["who"]["identifier"]["value"] == key_id(algorithm, leaf.public_key).hex()
            check_signature(algorithm, leaf.public_key, data, b"vitalseal/v1/header\n" + leaf.header)
            with pytest.raises(VerificationError):
                check_signature(algorithm, leaf.public_key, data, leaf.header)


def test_provenance_says_where_on_the_log(full, export):
    """Origin, index, size and root of the checkpoint, and the witnesses' time, as the proof has them."""
    file = export(full, "fhir")
    shown = []
    for provenance in resources(file, "Provenance").values():
        (entry,) = provenance["extension"]
        assert entry["url"] == f"https://{ORIGIN}/log-entry"
        parts = {part.pop("url"): part for part in entry["extension"]}
        texts = [parts[name]["valueString"] for name in ("origin", "index", "size")]
        shown.append((*texts, parts["root"]["valueBase64Binary"], parts["loggedBy"]["valueInstant"]))
    proven = [item for items in proofs_of(file, full.policy(), full.trust()).values() for item in items]
    assert shown == sorted(
        {
            (
                *(item.checkpoint.origin, str(item.index), str(item.checkpoint.size)),
                *(encode_base64(item.checkpoint.root), format_time(item.logged_by * 10**9)),
            )
            for item in proven
        }
    )


def test_without_witnesses_there_is_no_time(tmp_path, vitalseal):
    """`recorded` and the signature's `when` say that it is unknown; the bundle stays valid."""
    ward = Ward(tmp_path / "data", witnessed=False)
    device = ward.device("bedside-1", 1)
    ward.log((device, [measured(device, 1, "72")]))
    file = tmp_path / "bundle.json"
    vitalseal("export", "--data", ward.data, "--device", "bedside-1", "--format", "fhir", "--output", file)
    Bundle.model_validate_json(file.read_bytes())
    (provenance,) = resources(file, "Provenance").values()
    assert "recorded" not in provenance
    assert provenance["_recorded"]["extension"][0]["valueCode"] == "unknown"
    assert "when" not in provenance["signature"][0]
    assert provenance["signature"][0]["_when"] == provenance["_recorded"]
    assert [part["url"] for part in provenance["extension"][0]["extension"]] == ["origin", "index", "size", "root"]


def test_subject_is_an_identifier_or_unknown(full, device, export):
    """Nobody gets a name; who exports a device says nothing of who wore it."""
    full.assign(device.source, "patient-7", START_NS)
    for whose, subject in (
        (("--patient", "patient-7"), {"type": "Patient", "identifier": {"value": "patient-7"}}),
        (
            ("--device", "bedside-1"),
            {
                "extension": [
                    {"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}
                ]
            },
        ),
    ):
        file = export(full, "fhir", whose=whose)
        found = [item["subject"] for item in resources(file).values() if "subject" in item]
        assert found == [subject] * (19 + 21)
        assert ("patient-7" in file.read_text()) == (whose[0] == "--patient")


@examples
@given(s.readings, st.sampled_from(("patient-7", "Zoë \n\t=1+1 \u202e</x>", "http://h/?a=b#c")))
def test_any_reading_is_a_valid_observation(reading, patient):
    """Whatever a device may seal: legal in R4 to the last text and number, and nothing lost on the way through JSON."""
    proven = Proven(StoredReading(4097, "bedside-1", reading.encode(), bytes(16)), reading, None, None)
    told = observation(proven, Names(ORIGIN), {"type": "Patient", "identifier": {"value": patient}})
    text = _json(told)
    assert json.loads(text, parse_float=Decimal) == told
    Observation.model_validate_json(text)
    assert R4_DATE_TIME.fullmatch(told["effectiveDateTime"])
    for number in re.findall(r'"(?:value|factor|period)":([^",}]+)', text):
        assert R4_DECIMAL.fullmatch(number)
    assert re.fullmatch(r"[A-Za-z0-9\-.]{1,64}", told["id"])
    assert "valueQuantity" in told or "valueSampledData" in told or "dataAbsentReason" in told


def test_a_form_that_the_models_refuse_is_not_written(full, tmp_path, vitalseal, monkeypatch):
    """The first resource of each form is checked, so a fault in the program is no file."""
    monkeypatch.setattr(fhir_provenance, "_ACTIVITY", ["not a text"])
    words = ("--device", "bedside-1", "--format", "fhir", "--output", tmp_path / "out")
    with pytest.raises(ValueError, match="activity"):
        vitalseal("export", "--data", full.data, *words)
    assert not (tmp_path / "out").exists()


def test_waveform_of_a_vital_sign_claims_no_profile_of_quantities(ward, device, export):
    """Any form of value may stand with any kind; the profiles of heart rate and blood pressure have quantities only."""
    ward.log((device, [measured(device, 1, wave()), measured(device, 5, wave()), measured(device, 6, "80")]))
    items = resources(export(ward, "fhir"), "Observation").values()
    profile = "http://hl7.org/fhir/StructureDefinition/vitalsigns"
    assert [item["meta"]["profile"] for item in items] == [[profile]] * 3


def test_every_kind_has_a_shape():
    """A new kind in the ledger's table asks for its line in this one."""
    assert SHAPES.keys() == BY_CODE.keys()


@pytest.mark.parametrize("code", [code for code, shape in SHAPES.items() if (shape.profile or "none") != "none"])
def test_profile_is_claimed_with_its_category_and_unit(code):
    """R4's vital-signs profiles fix category, LOINC and UCUM; these are theirs."""
    profile, kind = SHAPES[code].profile, BY_CODE[code]
    fixed = {
        "heartrate": ("8867-4", "/min"),
        "resprate": ("9279-1", "/min"),
        "oxygensat": ("2708-6", "%"),
        "bodytemp": ("8310-5", "Cel"),
        "bodyweight": ("29463-7", "kg"),
        "vitalsigns": (kind.loinc[0], "mm[Hg]"),
    }
    assert SHAPES[code].category == "vital-signs"
    assert (kind.loinc[0], kind.unit) == fixed[profile]
