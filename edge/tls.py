"""TLS as a client: contexts made from the files of the moment, and in plain words why a connection did not come about.

A context is made for each connection, so a renewed certificate is used from the next one on.

In TLS 1.3 a server judges the client's certificate after the client's handshake is over: its refusal comes with the
first read, where MQTT and HTTP libraries know only that the connection is gone. So the socket remembers the fault.
"""

import contextlib
import re
import ssl
from enum import IntEnum
from pathlib import Path
from typing import Any

from edge.clock import SystemClock
from edge.config import TlsFiles
from ledger.info import Clock
from vitalseal.errors import UserError

EXPIRED = "expired"
_NUMBERS = re.compile(r"\[Errno -?[0-9]+\] ?| ?\(_ssl\.c:[0-9]+\)")

# What an alert of the server says of our certificate, by a part of OpenSSL's name for it.
_REFUSALS = {
    "CERTIFICATE_REVOKED": "revoked",
    "CERTIFICATE_EXPIRED": EXPIRED,
    "UNKNOWN_CA": "signed by a CA that it does not know",
    "CERTIFICATE_REQUIRED": "missing",
    "CERTIFICATE_UNKNOWN": "no good",
    "BAD_CERTIFICATE": "no good",
    "ACCESS_DENIED": "not allowed in",
}


class Fault(IntEnum):
    """What a certificate can have against it that we tell apart, by OpenSSL's number for it (X509_V_ERR_...)."""

    NOT_YET_VALID = 9
    EXPIRED = 10
    HOSTNAME_MISMATCH = 62
    ADDRESS_MISMATCH = 64


class Context(ssl.SSLContext):
    """A client's context: TLS 1.2 or newer, the server's name checked.

    Attributes:
        fault: the last failure of TLS on a socket of this context; None while there was none.
    """

    fault: ssl.SSLError | None = None


def client_context(ca_pem: str, identity: TlsFiles | None = None) -> Context:
    """A context that believes the CA in `ca_pem` alone, and shows the certificate in `identity`; raises UserError."""
    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (ssl.SSLError, ValueError):
        raise UserError("tls: the CA's file holds no certificate in PEM") from None
    if identity is not None:
        _load_pair(context, identity)
    context.sslsocket_class = type("_Socket", (_TellingSocket,), {"tell": context})
    return context


def file_context(identity: TlsFiles) -> Context:
    """The context for the broker and the desk, from the files as they are now; raises UserError."""
    try:
        ca_pem = identity.ca.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"tls: {identity.ca}: {getattr(error, 'strerror', None) or error}") from None
    return client_context(ca_pem, identity)


def clock_state() -> Clock:
    """Whether this machine's clock is synchronised, as far as anybody says."""
    return SystemClock().read().clock


def plain(text: str) -> str:
    """What a library says of a failed connection, without the numbers that mean something to programmers only."""
    return _NUMBERS.sub("", text)


def successor(key: Path) -> Path:
    """Where the key stands that will take over from `key`, until it does."""
    return key.with_name(f"{key.name}.next")


def is_refusal(fault: ssl.SSLError) -> bool:
    """The other side did not believe this device's certificate."""
    ours = isinstance(fault, ssl.SSLCertVerificationError)
    return not ours and any(part in (fault.reason or str(fault)) for part in _REFUSALS)


def explain(fault: ssl.SSLError, who: str) -> str:
    """Why TLS with `who` (the broker, the desk) failed, for a person who may have to mend it."""
    if isinstance(fault, ssl.SSLCertVerificationError):
        return _explain_certificate(fault, who, clock_state())
    reason = fault.reason or str(fault)
    for part, word in _REFUSALS.items():
        if part in reason:
            # One that has run out is replaced; any other wants a new key, or nothing would change.
            again = "" if word == EXPIRED else " --again"
            return f"{who} refuses this device's certificate: {word}; `vitalseal edge enroll TOKEN{again}` gets another"
    return f"{who} and this device found no common TLS ({reason.replace('_', ' ').lower()})"


def _explain_certificate(fault: ssl.SSLCertVerificationError, who: str, clock: Clock) -> str:
    match fault.verify_code:
        case Fault.NOT_YET_VALID | Fault.EXPIRED if clock is not Clock.SYNCHRONISED:
            known = "not synchronised" if clock is Clock.UNSYNCHRONISED else "not known to be synchronised"
            return f"{who}'s certificate is not valid at this clock's time, which is {known}"
        case Fault.NOT_YET_VALID:
            return f"{who}'s certificate is not valid yet"
        case Fault.EXPIRED:
            return f"{who}'s certificate has expired; whoever runs it must renew it"
        case Fault.HOSTNAME_MISMATCH | Fault.ADDRESS_MISMATCH:
            return f"{who}'s certificate is for another name: {fault.verify_message}"
        case _:
            return f"{who}'s certificate is not signed by the CA of this device ({fault.verify_message})"


def _load_pair(context: ssl.SSLContext, identity: TlsFiles) -> None:
    """The certificate and its key: after a crash between their two renames the key is still in its successor's file."""
    try:
        context.load_cert_chain(identity.certificate, identity.key)
    except (OSError, ssl.SSLError) as error:
        with contextlib.suppress(OSError, ssl.SSLError):
            context.load_cert_chain(identity.certificate, successor(identity.key))
            return
        why = "not a certificate and its key" if isinstance(error, ssl.SSLError) else error.strerror
        raise UserError(f"tls: {identity.certificate}, {identity.key}: {why}") from None


class _TellingSocket(ssl.SSLSocket):
    """Remembers in its context what the peer, or the check of the peer, had against the connection."""

    tell: Context

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as in ssl
        try:
            super().do_handshake(block)
        except ssl.SSLError as error:
            self._told(error)
            raise

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - as in ssl
        try:
            return super().read(len, buffer)
        except ssl.SSLError as error:
            self._told(error)
            raise

    def _told(self, error: ssl.SSLError) -> None:
        passing = (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
        if not isinstance(error, passing):
            self.tell.fault = error
