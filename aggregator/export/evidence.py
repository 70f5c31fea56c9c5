"""What readings are verified by, and what goes with them: policy, registrars, and the status of each key."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from aggregator.holders import Holders
from ledger.console import parse_file
from ledger.errors import LedgerError, MalformedError
from ledger.note import VerifierKey
from ledger.policy import Policy, parse_policy, parse_trust
from ledger.status import KeyStatus, verify_status
from ledger.writer.create import POLICY, POLICY_PQ, TRUST
from ledger.writer.prove import Prover
from ledger.writer.reader import LocalReader


class Evidence:
    """Policy and registrars from files, statuses from the log in `data`; `warn` is told what a reader should know."""

    def __init__(
        self, data: Path, log: LocalReader, policy: Path | None, trust: Path | None, warn: Callable[[str], None]
    ) -> None:
        """Raises MalformedError: a file cannot be read, or is not what it should be."""
        own = parse_file(data / POLICY, parse_policy)
        if not own.logs:
            raise MalformedError(f"{data / POLICY}: names no log")
        self.origin = own.logs[0][0].name
        self.policy_file, self.policy = parse_file(policy or data / POLICY, _kept_policy)
        self.trust_file, self.trust = parse_file(trust or data / TRUST, _kept_trust)
        self.policy_pq_file = (data / POLICY_PQ).read_bytes() if (data / POLICY_PQ).exists() else None
        self._warn = warn
        self._prover = Prover(log, self.origin)
        self._holders = Holders(data, log)
        self._holders.look_again(self.origin)
        self._statuses: dict[bytes, tuple[bytes, KeyStatus] | None] = {}

    @property
    def policy_hash(self) -> str:
        """SHA-256 of the policy file, in hex."""
        return hashlib.sha256(self.policy_file).hexdigest()

    def statuses(self, key_id: bytes) -> tuple[KeyStatus, ...]:
        """The proven status of the key, if there is one."""
        found = self._status(key_id)
        return (found[1],) if found else ()

    def status_file(self, key_id: bytes) -> bytes | None:
        """The proof file of the key's status, if there is one."""
        found = self._status(key_id)
        return found[0] if found else None

    def device(self, key_id: bytes, index: int) -> str:
        """The device that holds the key of entry `index`."""
        return self._holders.of(key_id, index)[0]

    def _status(self, key_id: bytes) -> tuple[bytes, KeyStatus] | None:
        # Once for each key: all readings of an export are then judged by the same key state.
        if key_id not in self._statuses:
            try:
                file = self._prover.status(key_id)
                self._statuses[key_id] = file.encode(), verify_status(file, self.policy)
            except LedgerError as error:
                self._warn(f"no status of key {key_id.hex()[:16]}, so step 7 is not checked: {error}")
                self._statuses[key_id] = None
        return self._statuses[key_id]


def status_name(key_id: bytes) -> str:
    """The file name under which `vitalseal verify` looks for the key's status."""
    return f"key-{key_id.hex()[:16]}.tlog-proof"


def _kept_policy(data: bytes) -> tuple[bytes, Policy]:
    return data, parse_policy(data)


def _kept_trust(data: bytes) -> tuple[bytes, tuple[VerifierKey, ...]]:
    return data, parse_trust(data)
