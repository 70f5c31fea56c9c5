"""The only exceptions that can leave a parser or a verifier of this package.

LedgerError
  MalformedError      the bytes are not in our format; nothing was claimed, so nothing was disproved
  VerificationError   the bytes are well formed, and what they claim is not proven
"""


class LedgerError(Exception):
    """Base of the two errors below; the message is one line that says what and where."""


class MalformedError(LedgerError):
    """The input does not have the format that was asked for."""


class VerificationError(LedgerError):
    """The input is well formed, but a signature, hash, proof or quorum in it does not hold."""
