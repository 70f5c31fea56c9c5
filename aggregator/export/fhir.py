"""A FHIR R4 bundle: Observations, and a way from each to a proof that verifies.

    Provenance         one a batch: who sealed it, his signature, where it is on the log, who witnessed it, by when
      target           its Observations
      entity           DocumentReferences: the .tlog-proof file of each of its readings, as an attachment, whose
                       `context.related` is the Observation of this reading; and the status of the device's key
    Device             a gateway by its name, a sensor by its source id

Each form of resource (`_form`) is checked by the models of fhir.resources before the first of it is written; that the
texts and numbers in it are valid too is shown by tests, with any reading there can be. They are written by `_json`: the
models' own text has lost nanoseconds and the digits of 2.00. The models are those of R4B; what is used here is the same
in R4.
"""

import json
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from decimal import Decimal
from typing import Any, BinaryIO

from fhir.resources.R4B.device import Device
from fhir.resources.R4B.documentreference import DocumentReference
from fhir.resources.R4B.observation import Observation
from fhir.resources.R4B.provenance import Provenance

from aggregator.export.evidence import Evidence, status_name
from aggregator.export.fhir_kinds import DIASTOLIC, PRESSURES, SYSTOLIC
from aggregator.export.fhir_observation import (
    UNKNOWN,
    Names,
    Resource,
    observation,
    observation_name,
    panel,
)
from aggregator.export.fhir_provenance import Batch, provenance
from aggregator.export.proven import Proven
from ledger.reading import Waveform
from ledger.strict import encode_base64

# `Any`: the models' metaclass hides from type checkers what a pydantic class has.
_MODELS: dict[str, Any] = {
    "Device": Device,
    "DocumentReference": DocumentReference,
    "Observation": Observation,
    "Provenance": Provenance,
}
_PROOF_TYPE = "text/plain; charset=utf-8"


def write_bundle(file: BinaryIO, readings: Iterable[Proven], evidence: Evidence, patient: str | None = None) -> None:
    """The bundle is in `file`. In memory are names and places of all readings, and blood pressures whole.

    `patient` is the subject's identifier; without it the subject is unknown.
    """
    bundle = _Bundle(file, evidence, patient)
    for proven in readings:
        bundle.add(proven)
    bundle.finish()


class _Bundle:
    """A collection as it is written, entry by entry."""

    def __init__(self, file: BinaryIO, evidence: Evidence, patient: str | None) -> None:
        self._file = file
        self._evidence = evidence
        self._names = Names(evidence.origin)
        self._subject: Resource = {"type": "Patient", "identifier": {"value": patient}} if patient else UNKNOWN
        self._devices: set[tuple[str, str]] = set()
        self._checked: set[Hashable] = set()
        self._batches: dict[int, Batch] = {}
        # Systolic, diastolic and mean are three readings of three kinds, which come one kind after the other.
        self._pressures: dict[tuple[object, ...], list[Proven]] = defaultdict(list)
        self._separator = b'{"resourceType":"Bundle","type":"collection","entry":[\n'

    def add(self, proven: Proven) -> None:
        """`proven` is in the bundle, or will be once the other parts of its blood pressure had their chance."""
        reading, device = proven.reading, proven.stored.device
        self._device("device", device, device, "gateway")
        self._device("source", f"{device}/{reading.source.hex()}", reading.source.hex(), "sensor")
        if reading.kind not in PRESSURES or isinstance(reading.value, Waveform):
            self._tell([proven])
            return
        moment = (device, reading.source, reading.sensor_time_ns, reading.ordinal)
        self._pressures[*moment, reading.zone_offset_min, int(reading.quality)].append(proven)

    def finish(self) -> None:
        """The bundle is whole."""
        for parts in self._pressures.values():
            kinds = sorted(part.reading.kind for part in parts)
            # The same pressure stated twice at one moment: which belongs to which is not ours to say.
            if len(set(kinds)) == len(kinds) and {SYSTOLIC, DIASTOLIC} <= set(kinds):
                self._tell(sorted(parts, key=lambda part: part.reading.kind))
                continue
            for part in parts:
                self._tell([part])
        keys = dict.fromkeys(batch.key_id for batch in self._batches.values())
        statuses = {key: self._status(key) for key in keys}
        for _, batch in sorted(self._batches.items()):
            self._write(provenance(batch, self._names, statuses[batch.key_id]))
        self._file.write(b"\n]}\n")

    def _tell(self, parts: Sequence[Proven]) -> None:
        """The Observation of `parts` and their proofs are in the bundle."""
        names = self._names
        if len(parts) == 1:
            self._write(observation(parts[0], names, self._subject))
        else:
            self._write(panel(parts, names, self._subject))
        told = observation_name(parts)
        target = names.reference("reading", told)
        for part in parts:
            index, ref = part.stored.log_index, part.stored.ref
            self._document("proof", str(ref), part.file_name, part.file, target)
            if index not in self._batches:
                self._batches[index] = Batch.of(part)
            self._batches[index].targets[told] = None
            self._batches[index].proofs.append(ref)

    def _status(self, key_id: bytes) -> list[Resource]:
        """The status of the key is in the bundle, if there is one; references to it."""
        data, name = self._evidence.status_file(key_id), key_id.hex()
        if data is None:
            return []
        self._document("key", name, status_name(key_id), data, None)
        return [self._names.reference("key", name)]

    def _device(self, what: str, name: str, shown: str, title: str) -> None:
        if (what, name) in self._devices:
            return
        self._devices.add((what, name))
        self._write(
            {
                "resourceType": "Device",
                "id": self._names.id(what, name),
                "identifier": [self._names.identifier(what, shown)],
                "type": {"text": title},
            }
        )

    def _document(self, what: str, name: str, title: str, data: bytes, target: Resource | None) -> None:
        of = "a reading" if target else "a device key's status"
        resource: Resource = {
            "resourceType": "DocumentReference",
            "id": self._names.id(what, name),
            "status": "current",
            "type": {"text": f"proof of {of} (c2sp.org/tlog-proof@v1)"},
            "content": [
                {"attachment": {"contentType": _PROOF_TYPE, "data": encode_base64(data), "title": title}},
            ],
        }
        if target:
            resource |= {"subject": self._subject, "context": {"related": [target]}}
        self._write(resource)

    def _write(self, resource: Resource) -> None:
        form = _form(resource)
        if form not in self._checked:
            _MODELS[resource["resourceType"]].model_validate(resource)
            self._checked.add(form)
        entry = {"fullUrl": f"urn:uuid:{resource['id']}", "resource": resource}
        self._file.write(self._separator + _json(entry).encode())
        self._separator = b",\n"


def _form(value: Any) -> Hashable:
    """Which elements `value` has, of which types: what makes it valid, apart from texts and numbers."""
    match value:
        case dict():
            return tuple([(name, _form(item)) for name, item in value.items()])
        case list():
            return tuple(dict.fromkeys(map(_form, value)))
        case _:
            return type(value).__name__


_encode = json.JSONEncoder(ensure_ascii=False).encode


def _json(value: Any) -> str:
    """`value` as JSON; a Decimal with exactly its digits, which the standard encoder cannot."""
    match value:
        case Decimal():
            return str(value)
        case dict():
            return "{" + ",".join([f'"{name}":{_json(item)}' for name, item in value.items()]) + "}"
        case list():
            return "[" + ",".join(map(_json, value)) + "]"
        case _:
            return _encode(value)
