"""Whether the broker goes by its present lists: seen by asking to be let in with a certificate that they revoke.

That a broker was told to read its files again is not that it did, and where it runs as another user somebody else tells
it. So each new list of revoked certificates names one that was made for it, and nobody has but this process. While the
broker lets that one in, its lists are older ones. The list of topics is always written first, so it was read as well.
"""

import os
import socket
import ssl
from dataclasses import dataclass
from datetime import datetime

from aggregator.config import BrokerConfig
from aggregator.tls import reason_of

NAME = "no device"  # in its certificate: with a space, so no device and no topic can have it
ANSWER_WITHIN_S = 1.0  # the desk waits meanwhile
OLD_LISTS = "it lets in a certificate that they revoke"


@dataclass(frozen=True, slots=True)
class Probe:
    """A certificate with its key, in one PEM, to be revoked at once; for this process only."""

    serial: int
    pem: bytes
    made_at: datetime


def ask(config: BrokerConfig, probe: Probe) -> str | None:
    """None if the broker of `config` refuses `probe` as revoked; else what it does."""
    context = ssl.create_default_context(cafile=config.ca)
    # Later versions let a client in before they have looked at its certificate.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    descriptor = os.memfd_create("probe")  # ssl wants a file; no disk should have this key
    try:
        os.write(descriptor, probe.pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    try:
        with (
            socket.create_connection((config.host, config.port), ANSWER_WITHIN_S) as plain,
            context.wrap_socket(plain, server_hostname=config.host),
        ):
            return OLD_LISTS
    except ssl.SSLError as error:
        if (error.reason or "").endswith("ALERT_CERTIFICATE_REVOKED"):
            return None
        return f"it cannot be asked: {reason_of(error)}"
    except OSError as error:
        return f"it cannot be asked: {reason_of(error)}"
