"""A FHIR R4 bundle: Observations, and a way from each to a proof that verifies.

    Provenance         one a batch: who sealed it, in which log it is, who witnessed it, and by when
      target           its Observations
      entity           DocumentReferences: the .tlog-proof file of each of its readings, as an attachment, whose
                       `context.related` is the Observation of this reading; and the status of the device's key
    Device             a gateway by its name, a sensor by its source id

Each resource is checked by the models of fhir.resources before it is written, and written by `_json`: the models' own
text has lost nanoseconds and the digits of 2.00. They are those of R4B; what is used here is the same in R4.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, BinaryIO

from fhir.resources.R4B.device import Device
from fhir.resources.R4B.documentreference import DocumentReference
from fhir.resources.R4B.observation import Observation
from fhir.resources.R4B.provenance import Provenance

from aggregator.export.evidence import Evidence, status_name
from aggregator.export.fhir_kinds import DIASTOLIC, PRESSURES, SYSTOLIC
from aggregator.export.fhir_observation import (
    ABSENT_EXTENSION,
    Names,
    Resource,
    concept,
    observation,
    observation_name,
    panel,
)
from aggregator.export.proven import Proven
from ledger.reading import format_time
from ledger.strict import encode_base64

# `Any`: the models' metaclass hides from type checkers what a pydantic class has.
_MODELS: dict[str, Any] = {
    "Device": Device,
    "DocumentReference": DocumentReference,
    "Observation": Observation,
    "Provenance": Provenance,
}
_AGENT = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
_PARTICIPATION = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
_UNKNOWN = {"extension": [{"url": ABSENT_EXTENSION, "valueCode": "unknown"}]}
_PROOF_TYPE = "text/plain; charset=utf-8"


def write_bundle(file: BinaryIO, readings: Iterable[Proven], evidence: Evidence, patient: str | None = None) -> None:
    """The bundle is in `file`. In memory are names and places of all readings, and blood pressures whole.

    `patient` is the subject's identifier; without it the subject is unknown.
    """
    bundle = _Bundle(file, evidence, patient)
    for proven in readings:
        bundle.add(proven)
    bundle.finish()


@dataclass(slots=True)
class _Batch:
    """What is told of one batch, and by what: references in the order in which they came, each once."""

    first: Proven
    targets: dict[str, None] = field(default_factory=dict)
    proofs: dict[str, None] = field(default_factory=dict)


class _Bundle:
    """A collection as it is written, entry by entry."""

    def __init__(self, file: BinaryIO, evidence: Evidence, patient: str | None) -> None:
        self._file = file
        self._evidence = evidence
        self._names = Names(evidence.origin)
        self._subject: Resource = {"type": "Patient", "identifier": {"value": patient}} if patient else _UNKNOWN
        self._devices: set[tuple[str, str]] = set()
        self._batches: dict[int, _Batch] = {}
        # Systolic, diastolic and mean are three readings of three kinds, which come one kind after the other.
        self._pressures: dict[tuple[object, ...], list[Proven]] = defaultdict(list)
        self._separator = b'{"resourceType":"Bundle","type":"collection","entry":[\n'

    def add(self, proven: Proven) -> None:
        """`proven` is in the bundle, or will be once the other parts of its blood pressure had their chance."""
        reading, device = proven.reading, proven.stored.device
        self._device("device", device, device, "gateway")
        self._device("source", f"{device}/{reading.source.hex()}", reading.source.hex(), "sensor")
        if reading.kind not in PRESSURES:
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
        statuses = {
            key: self._status(key) for key in {b.first.verified.header.key_id: None for b in self._batches.values()}
        }
        for _, batch in sorted(self._batches.items()):
            self._write(self._provenance(batch, statuses[batch.first.verified.header.key_id]))
        self._file.write(b"\n]}\n")

    def _tell(self, parts: Sequence[Proven]) -> None:
        """The Observation of `parts` and their proofs are in the bundle."""
        names = self._names
        if len(parts) == 1:
            self._write(observation(parts[0], names, self._subject))
        else:
            self._write(panel(parts, names, self._subject))
        target = names.reference("reading", observation_name(parts))
        for part in parts:
            name = str(part.stored.ref)
            self._document("proof", name, part.file_name, part.file, target)
            batch = self._batches.setdefault(part.stored.log_index, _Batch(part))
            batch.targets[target["reference"]] = None
            batch.proofs[names.reference("proof", name)["reference"]] = None

    def _status(self, key_id: bytes) -> str | None:
        """The status of the key is in the bundle, if there is one; a reference to it."""
        data, name = self._evidence.status_file(key_id), key_id.hex()
        if data is None:
            return None
        self._document("key", name, status_name(key_id), data, None)
        return str(self._names.reference("key", name)["reference"])

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

    def _provenance(self, batch: _Batch, status: str | None) -> Resource:
        verified, names = batch.first.verified, self._names
        key = names.identifier("key", verified.header.key_id.hex())
        device = names.reference("device", batch.first.stored.device)
        agents = [
            {"type": concept(_AGENT, "author"), "who": {**device, "identifier": key}},
            {"type": concept(_AGENT, "custodian"), "who": {"display": f"log {verified.checkpoint.origin}"}},
            *(
                {"type": concept(_PARTICIPATION, "WIT"), "who": {"display": f"witness {name}"}}
                for name in verified.witnesses
            ),
        ]
        proofs = [*batch.proofs, *([status] if status else [])]
        resource: Resource = {
            "resourceType": "Provenance",
            "id": names.id("batch", str(verified.index)),
            "target": [{"reference": target} for target in batch.targets],
        }
        # The witnesses' time, by which the batch was on the log; without witnesses there is none.
        if verified.logged_by is None:
            resource["_recorded"] = _UNKNOWN
        else:
            resource["recorded"] = format_time(verified.logged_by * 10**9)
        entities = [{"role": "source", "what": {"reference": proof}} for proof in proofs]
        return resource | {"agent": agents, "entity": entities}

    def _write(self, resource: Resource) -> None:
        _MODELS[resource["resourceType"]].model_validate(resource)
        entry = {"fullUrl": f"urn:uuid:{resource['id']}", "resource": resource}
        self._file.write(self._separator + _json(entry).encode())
        self._separator = b",\n"


def _json(value: Any) -> str:
    """`value` as JSON; a Decimal with exactly its digits, which the standard encoder cannot."""
    match value:
        case dict():
            return "{" + ",".join(f"{json.dumps(name)}:{_json(item)}" for name, item in value.items()) + "}"
        case list():
            return "[" + ",".join(map(_json, value)) + "]"
        case Decimal():
            return str(value)
        case _:
            return json.dumps(value, ensure_ascii=False)
