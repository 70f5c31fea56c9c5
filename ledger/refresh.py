"""Re-anchoring: an old proof under a current checkpoint, from the public log alone.

A newer checkpoint is signed by newer keys, which is what an old proof may need some day; its logged-by time is later,
so the old file is worth keeping beside the new one.
"""

from dataclasses import replace

from ledger.errors import VerificationError
from ledger.note import Note
from ledger.proof import ProofFile
from ledger.status import STATUS_FORM, parse_status_proof
from ledger.tiles import TileReader


def refresh(file: ProofFile, tree: TileReader, checkpoint: Note) -> ProofFile:
    """`file` with its inclusion proofs and checkpoint those of `tree`; whoever uses it verifies it.

    Raises:
        MalformedError: the extra is not of its form.
        VerificationError: the tree is smaller than the proof's index.
    """
    if file.index >= tree.size:
        raise VerificationError(f"index {file.index} is outside a log of size {tree.size}")
    extra = file.extra
    if file.form == STATUS_FORM:
        status = parse_status_proof(extra)
        if status.event_index >= tree.size:
            raise VerificationError(f"index {status.event_index} is outside a log of size {tree.size}")
        extra = replace(status, event_path=tuple(tree.prove_inclusion(status.event_index))).encode()
    return ProofFile(extra, file.index, tuple(tree.prove_inclusion(file.index)), checkpoint)
