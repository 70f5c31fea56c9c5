"""Provenance: who sealed a batch, what the device signed, where it stands on the log, and who saw it there by when.

The signature is the device's own, made when it sealed the batch, and so not over any FHIR: over the batch's header,
whose root commits to the readings. Whoever wants to check more than that this key made it takes the proof, which has
the header. The resource says so itself, in `activity`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from aggregator.export.fhir_observation import UNKNOWN, Names, Resource, concept
from aggregator.export.proven import Proven
from ledger.checkpoint import Checkpoint
from ledger.keys import ALGORITHM_NAMES
from ledger.reading import format_time
from ledger.strict import encode_base64

_AGENT = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
_PARTICIPATION = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
# ASTM E1762: the signature of an automated source of data.
_SOURCE_SIGNATURE = {
    "system": "urn:iso-astm:E1762-95:2013",
    "code": "1.2.840.10065.1.12.1.14",
    "display": "Source Signature",
}
_HEADER_FORMAT = "application/vnd.vitalseal.header+msgpack"
_SIGNATURE_FORMAT = "application/vnd.vitalseal.header-signature"
_ACTIVITY = (
    "sealed as a batch: the device signed the batch's header, not this resource. What is signed is the label "
    "vitalseal/v1/header and the canonical header (FORMAT.md 5.4), whose root commits to the readings. The header is "
    "in each .tlog-proof among the entities; `vitalseal verify` checks all of the way from a reading to the log."
)


@dataclass(slots=True)
class Batch:
    """What is told of one batch: little, because a year has hundreds of thousands.

    `targets` are the names of its Observations in the order in which they came, each once; `proofs` the refs of its
    readings.
    """

    index: int
    device: str
    algorithm: int
    key_id: bytes
    signature: bytes
    checkpoint: Checkpoint
    logged_by: int | None
    witnesses: tuple[str, ...]
    targets: dict[str, None] = field(default_factory=dict)
    proofs: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, proven: Proven) -> Self:
        """The batch of `proven`, without any reading yet."""
        verified = proven.verified
        return cls(
            verified.index,
            proven.stored.device,
            verified.algorithm,
            verified.header.key_id,
            proven.proof.leaf.signature,
            verified.checkpoint,
            verified.logged_by,
            verified.witnesses,
        )


def provenance(batch: Batch, names: Names, status: Sequence[Resource]) -> Resource:
    """The Provenance of the batch; `status` are references to what proves that its key was good."""
    key = names.identifier("key", batch.key_id.hex())
    device = {**names.reference("device", batch.device), "identifier": key}
    agents = [
        {"type": concept(_AGENT, "author"), "who": device},
        {"type": concept(_AGENT, "custodian"), "who": {"display": f"log {batch.checkpoint.origin}"}},
        *({"type": concept(_PARTICIPATION, "WIT"), "who": {"display": f"witness {name}"}} for name in batch.witnesses),
    ]
    proofs = [*(names.reference("proof", str(ref)) for ref in batch.proofs), *status]
    algorithm = ALGORITHM_NAMES[batch.algorithm].replace(" ", "-")
    return {
        "resourceType": "Provenance",
        "id": names.id("batch", str(batch.index)),
        "extension": [_log_entry(batch, names)],
        "target": [names.reference("reading", target) for target in batch.targets],
        **_by_then("recorded", batch),
        "activity": {"text": _ACTIVITY},
        "agent": agents,
        "entity": [{"role": "source", "what": proof} for proof in proofs],
        "signature": [
            {
                "type": [_SOURCE_SIGNATURE],
                **_by_then("when", batch),
                "who": device,
                "targetFormat": _HEADER_FORMAT,
                "sigFormat": f"{_SIGNATURE_FORMAT};algorithm={algorithm}",
                "data": encode_base64(batch.signature),
            }
        ],
    }


def _by_then(element: str, batch: Batch) -> Resource:
    """The witnesses' time, by which the batch was signed and on the log; without witnesses there is none."""
    if batch.logged_by is None:
        return {f"_{element}": UNKNOWN}
    return {element: format_time(batch.logged_by * 10**9)}


def _log_entry(batch: Batch, names: Names) -> Resource:
    """Where the batch stands: entry `index` of the tree of `size` entries whose head is `root`."""
    checkpoint = batch.checkpoint
    parts: list[Resource] = [
        {"url": "origin", "valueString": checkpoint.origin},
        {"url": "index", "valueString": str(batch.index)},
        {"url": "size", "valueString": str(checkpoint.size)},
        {"url": "root", "valueBase64Binary": encode_base64(checkpoint.root)},
    ]
    if batch.logged_by is not None:
        parts.append({"url": "loggedBy", "valueInstant": format_time(batch.logged_by * 10**9)})
    return {"url": names.system("log-entry"), "extension": parts}
