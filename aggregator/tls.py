"""TLS to the broker: the context for one connection, from the files as they are at that moment."""

import ssl

from aggregator.config import BrokerConfig
from vitalseal.errors import UserError


class Context(ssl.SSLContext):
    """A client's context: TLS 1.2 or newer, the server's name checked.

    Attributes:
        alert: what the server said against us when it ended a connection, in OpenSSL's words; "" if it said nothing.
            In TLS 1.3 that comes with the first read, where an MQTT library knows only that the connection is gone.
    """

    alert: str = ""


def broker_context(config: BrokerConfig) -> Context | None:
    """The context for the broker of `config`, None for a broker without TLS; raises UserError."""
    if config.ca is None or config.certificate is None or config.certificate_key is None:
        return None
    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = type("_Socket", (_TellingSocket,), {"told": context})
    try:
        context.load_verify_locations(config.ca)
    except OSError as error:  # ssl.SSLError is one
        raise UserError(f"[broker] ca = {config.ca}: {reason_of(error)}") from None
    try:
        # A key with a password would ask the terminal.
        context.load_cert_chain(config.certificate, config.certificate_key, password="")
    except OSError as error:
        files = f"certificate = {config.certificate}, certificate_key = {config.certificate_key}"
        raise UserError(f"[broker] {files}: {reason_of(error)}") from None
    return context


class _TellingSocket(ssl.SSLSocket):
    told: Context

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as in ssl
        try:
            super().do_handshake(block)
        except OSError:
            self.close()  # paho leaves it to the garbage collector
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except ssl.SSLWantReadError:
            raise
        except ssl.SSLError as error:
            self.told.alert = reason_of(error)
            raise


def reason_of(error: OSError) -> str:
    """What is wrong with a file or a connection, in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not believed: {error.verify_message}"
    if not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    return (error.reason or "no certificate or key in PEM, or not of each other").lower().replace("_", " ")
