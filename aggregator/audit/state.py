"""What an incremental audit goes on from: how far the last one that passed had come, and what of.

It is trusted as far as its owner trusts the directory that it lies in: whoever may write it can say that rows were
looked at which were not.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from aggregator.audit.auditor import Outcome
from aggregator.audit.public import PublicLog
from ledger import merkle
from ledger.errors import VerificationError
from ledger.writer.files import replace_file
from vitalseal.errors import UserError

STATE = "audit-state.json"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Passed:
    """An audit passed over the first `size` entries, with `root` (hex); `keys` is what policy and trust hash to."""

    version: int
    origin: str
    store: str
    keys: str
    size: int
    root: str

    def check(self, log: PublicLog, path: Path) -> None:
        """`log` goes on from what was audited; raises VerificationError, or UserError if it is another one."""
        if log.origin != self.origin:
            raise UserError(f"{path}: is of an audit of {self.origin}, this is {log.origin}; name another --state")
        if log.size < self.size:
            raise VerificationError(f"the log shrank from size {self.size}, which was audited, to {log.size}")
        if merkle.root_at(self.size, log.tree.hash_at).hex() != self.root:
            raise VerificationError(f"its first {self.size} entries are not those that were audited: A SPLIT VIEW")


def read_state(path: Path, store: str, keys: str) -> Passed | None:
    """The state in `path`, None if there is none yet; raises UserError if this audit cannot go on from it."""
    try:
        passed = Passed(**json.loads(path.read_bytes()))
        bytes.fromhex(passed.root)
        well_formed = passed.version == VERSION and type(passed.size) is int and passed.size >= 0
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError):
        well_formed, passed = False, None
    if not well_formed or passed is None:
        raise UserError(f"{path}: is no state of `vitalseal audit`; remove it to audit everything")
    if passed.store != store:
        raise UserError(f"{path}: is of an audit of {passed.store}, this is {store}; name another --state")
    if passed.keys != keys:
        raise UserError(f"{path}: was made under another policy or trust; remove it to audit everything")
    return passed


def forget(path: Path, store: str, keys: str) -> None:
    """After an audit of everything that did not pass, the next incremental one begins at the start.

    A state of another store, or under another policy, says nothing of this audit and stays. Raises OSError.
    """
    try:
        passed = read_state(path, store, keys)
    except UserError:
        return
    if passed is not None:
        path.unlink(missing_ok=True)


def write_state(path: Path, outcome: Outcome, keys: str) -> None:
    """The state in `path` is that of `outcome`, which passed."""
    if outcome.log is not None:
        state = Passed(VERSION, outcome.log.origin, outcome.store, keys, outcome.until, outcome.root.hex())
        replace_file(path, json.dumps(asdict(state)).encode() + b"\n")
