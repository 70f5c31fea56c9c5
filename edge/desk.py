"""The aggregator's enrolment desk, as a gateway talks to it: HTTPS, small JSON, every wait bounded.

Nothing is tried again here: the caller knows what a second try may cost. An answer is one of three kinds: what was
asked for; a refusal, which stays one however often it is asked; or nothing that settles the matter (`DeskError`), and
then the desk may have done what it was asked, and may do it yet.
"""

import json
import ssl
import time
import warnings
from dataclasses import dataclass
from typing import Any, Self

from edge import tls
from edge.config import EdgeConfig
from ledger.events import Enrolment, Rotation
from vitalseal.errors import UserError

CONNECT_S = 10.0
# The desk answers an enrolment when it is on the log, or gives up after 15 s.
ANSWER_S = 30.0
MAX_ANSWER = 512 * 1024  # a policy may have 256 KB, and JSON escapes some of it
# A repeated call would be answered the same way.
_REFUSALS = {400, 403, 404, 409, 410, 413}
_CHUNK = 64 * 1024


class DeskError(UserError):
    """The desk is not there, or cannot answer now; the message says why."""


class RefusedError(DeskError):
    """The desk says no."""


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What `/v1/log` says: the log's origin, the registrar's Ed25519 key, the policy's text, and the broker's place."""

    origin: str
    registrar: bytes
    policy: str
    broker_host: str
    broker_port: int


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The TLS certificate (PEM), the id of the key that is enrolled now, and the index of its entry on the log."""

    certificate: str
    key_id: bytes
    index: int


class Desk:
    """One desk; a context manager. All methods raise DeskError."""

    def __init__(self, host: str, port: int, context: tls.Context) -> None:
        from urllib3 import HTTPSConnectionPool, Timeout

        self._where = f"desk {host}:{port}"
        self._context = context
        self._pool = HTTPSConnectionPool(
            host, port, timeout=Timeout(connect=CONNECT_S, read=ANSWER_S), retries=False, ssl_context=context
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def log(self) -> LogFacts:
        """The facts about the log."""
        answer = self._ask("GET", "/v1/log")
        try:
            broker = answer["broker"]
            facts = answer["origin"], bytes.fromhex(answer["registrar"]), answer["policy"]
            found = LogFacts(*facts, broker["host"], broker["port"])
        except (KeyError, TypeError, ValueError):
            raise self._unclear() from None
        if not all(isinstance(text, str) for text in (found.origin, found.policy, found.broker_host)):
            raise self._unclear()
        if type(found.broker_port) is not int:
            raise self._unclear()
        return found

    def enrol(self, secret: bytes, device: str, enrolment: Enrolment, csr: str) -> Enrolled:
        """The key that signed `enrolment` is enrolled for `device`, as an entry on the log."""
        body = {
            "secret": secret.hex(),
            "device": device,
            "algorithm": enrolment.algorithm,
            "public_key": enrolment.public_key.hex(),
            "signature": enrolment.device_signature.hex(),
            "csr": csr,
        }
        answer = self._ask("POST", "/v1/enrol", body)
        try:
            enrolled = Enrolled(str(answer["certificate"]), bytes.fromhex(answer["key_id"]), int(answer["index"]))
        except (KeyError, TypeError, ValueError):
            raise self._unclear() from None
        if enrolled.key_id != enrolment.key_id:
            raise DeskError(f"{self._where}: it speaks of another key than the one that was sent")
        return enrolled

    def renew(self, csr: str) -> str:
        """A fresh TLS certificate (PEM) for the device whose present one the connection shows."""
        return self._text(self._ask("POST", "/v1/renew", {"csr": csr}), "certificate")

    def rotate(self, body: dict[str, Any]) -> int:
        """The rotation in `body` (see `rotation_body`) is on the log, at this index."""
        index = self._ask("POST", "/v1/rotate", body).get("index")
        if type(index) is not int:
            raise self._unclear()
        return index

    def _text(self, answer: dict[str, Any], key: str) -> str:
        text = answer.get(key)
        if not isinstance(text, str):
            raise self._unclear()
        return text

    def _unclear(self) -> DeskError:
        return DeskError(f"{self._where}: its answer is not one of this version's; is it a desk at all?")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The JSON object that the desk answers."""
        status, data = self._exchange(method, path, None if body is None else json.dumps(body).encode())
        try:
            answer = json.loads(data)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._unclear()
        if status == 200:
            return answer
        said = _one_line(str(answer.get("error", f"status {status}")))
        raise (RefusedError if status in _REFUSALS else DeskError)(f"{self._where}: {said}")

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """Status and body of the answer."""
        from urllib3.exceptions import HTTPError

        until = time.monotonic() + CONNECT_S + ANSWER_S
        headers = {"User-Agent": "vitalseal", "Accept-Encoding": "identity"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            response = self._pool.urlopen(
                method, path, body, headers, redirect=False, preload_content=False, decode_content=False
            )
            try:
                data = bytearray()
                # A server that sends a byte now and then outlasts every single wait, so the sum is bounded, too.
                while chunk := response.read1(_CHUNK):
                    data += chunk
                    if len(data) > MAX_ANSWER:
                        raise self._unclear()
                    if time.monotonic() > until:
                        raise DeskError(f"{self._where}: its answer does not end")
                return response.status, bytes(data)
            finally:
                response.close()
        except (HTTPError, OSError) as error:
            if self._context.fault is not None:
                why = tls.explain(self._context.fault, "the desk")
            elif "EOF occurred" in str(error):
                why = "it hung up in the middle of the handshake; is it a desk at all?"
            else:
                why = _one_line(tls.plain(str(error).rpartition(": ")[2]) or type(error).__name__)
            raise DeskError(f"{self._where}: {why}") from None


def desk_of(config: EdgeConfig) -> Desk:
    """The gateway's desk, which is shown the certificate of the moment; raises UserError."""
    if config.desk is None or config.broker.tls is None:
        raise UserError("the configuration names no [desk]; `vitalseal edge enroll` writes it")
    return Desk(config.desk.host, config.desk.port, tls.file_context(config.broker.tls))


def rotation_body(rotation: Rotation) -> dict[str, Any]:
    """What the desk is sent of a rotation, which both of the device's keys signed."""
    return {
        "old_algorithm": rotation.old_algorithm,
        "old_public_key": rotation.old_public_key.hex(),
        "until": list(rotation.until),
        "algorithm": rotation.algorithm,
        "public_key": rotation.public_key.hex(),
        "old_signature": rotation.old_signature.hex(),
        "device_signature": rotation.device_signature.hex(),
    }


def fetch_ca(host: str, port: int) -> str:
    """What the desk says its CA is (PEM). Nothing about it is verified: the caller compares the fingerprint."""
    from urllib3.exceptions import InsecureRequestWarning

    context = tls.Context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with warnings.catch_warnings(), Desk(host, port, context) as desk:
        warnings.simplefilter("ignore", InsecureRequestWarning)
        status, data = desk._exchange("GET", "/v1/ca", None)  # noqa: SLF001 - the one answer that is not JSON
        if status != 200 or not data.isascii():
            raise desk._unclear()  # noqa: SLF001
        return data.decode("ascii")


def _one_line(text: str) -> str:
    """A stranger's words as any terminal can show them."""
    return "".join(char if char.isprintable() else "?" for char in text)[:300]
