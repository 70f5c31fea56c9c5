"""A stand-in for the aggregator's enrolment desk: HTTPS as the real one speaks it, every signature checked."""

import base64
import http.server
import json
import ssl
import threading

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ledger import canonical
from ledger.errors import LedgerError
from ledger.events import Enrolment, Rotation, grant
from ledger.keys import key_id
from ledger.note import NoteSigner
from tests.brokers import HOST
from tests.edge.pki import HOUR, Authority, write_identity
from tests.edge.standin import ORIGIN, POLICY_TEXT

REGISTRAR = NoteSigner("registrar.example", b"registrar".ljust(32, b"\0"))
SECRET = bytes(range(16))


class No(Exception):  # noqa: N818 - an answer, not a fault
    """Refused, with this status."""

    def __init__(self, status, why):
        super().__init__(why)
        self.status = status


class Desk:
    """Serves in a thread; `log` has the entries in order.

    `lose` is how many answers get lost after the work is done, `busy` how many requests get 503 before it;
    `validity` is what certificates get.
    """

    def __init__(self, directory, ca=None, device="dev-1"):
        self.ca = ca or Authority()
        self.device = device
        self.log = []
        self.enrolled = {}  # public key: (certificate's answer)
        self.used_by = None
        self.lose = self.busy = 0
        self.refuse = None
        self.calls = []
        self.validity = {"begins": -HOUR, "ends": HOUR}
        self.broker = (HOST, 1883)
        self.origin = ORIGIN
        server, _ = write_identity(directory / "desk", self.ca, "desk", address=HOST)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server.certificate, server.key)
        context.load_verify_locations(cadata=self.ca.pem)
        context.verify_mode = ssl.CERT_OPTIONAL
        self._server = _Server((HOST, 0), _handler(self))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_address[1]

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def token(self, device=None, fingerprint=None, host=HOST):
        fields = (1, host, self.port, fingerprint or self.ca.fingerprint, device or self.device, SECRET)
        return "vst1." + base64.urlsafe_b64encode(canonical.encode(fields)).decode().rstrip("=")

    def answer(self, method, path, body, subject):
        """The answer's object, or raises No."""
        self.calls.append(path)
        if self.busy:
            self.busy -= 1
            raise No(503, "the aggregator does not take it in")
        if self.refuse and path.startswith("/v1/") and method == "POST":
            raise No(*self.refuse)
        match method, path:
            case "GET", "/v1/log":
                broker = {"host": self.broker[0], "port": self.broker[1]}
                registrar = REGISTRAR.verifier.public_key.hex()
                return {"origin": self.origin, "registrar": registrar, "policy": POLICY_TEXT, "broker": broker}
            case "POST", "/v1/enrol":
                return self._enrol(body)
            case "POST", "/v1/renew":
                self._known(subject)
                return {"certificate": self._certificate(body["csr"])}
            case "POST", "/v1/rotate":
                self._known(subject)
                return self._rotate(body)
        raise No(404, "no such thing")

    def _enrol(self, body):
        if body["secret"] != SECRET.hex() or body["device"] != self.device:
            raise No(403, "the token is not one of ours")
        public_key = bytes.fromhex(body["public_key"])
        if self.used_by not in (None, public_key):
            raise No(409, "the token was used by another key")
        self.used_by = public_key
        parties = (self.origin, body["algorithm"], public_key, REGISTRAR.verifier.public_key)
        self._append(Enrolment(*parties, bytes.fromhex(body["signature"]), b""))
        index = self._index(public_key)
        key = key_id(body["algorithm"], public_key).hex()
        return {"certificate": self._certificate(body["csr"]), "key_id": key, "index": index}

    def _rotate(self, body):
        old = body["old_algorithm"], bytes.fromhex(body["old_public_key"]), tuple(body["until"])
        new = body["algorithm"], bytes.fromhex(body["public_key"])
        signatures = bytes.fromhex(body["device_signature"]), bytes.fromhex(body["old_signature"])
        self._append(Rotation(self.origin, *old, *new, REGISTRAR.verifier.public_key, *signatures, b""))
        return {"index": self._index(new[1])}

    def _append(self, request):
        try:
            event = grant(request, REGISTRAR.key)
        except LedgerError as error:
            raise No(400, str(error)) from None
        known = [entry for entry in self.log if entry.public_key == event.public_key]
        if not known:
            self.log.append(event)
        elif known[0].statement() != event.statement():
            raise No(409, "another event of this key is on the log")

    def _index(self, public_key):
        return [entry.public_key for entry in self.log].index(public_key)

    def _certificate(self, csr):
        request = x509.load_pem_x509_csr(csr.encode())
        assert request.is_signature_valid
        return self.ca.issue(request.public_key(), self.device, **self.validity).public_bytes(Encoding.PEM).decode()

    def _known(self, subject):
        if subject != self.device:
            raise No(403, "show the device's certificate")


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A client that refuses the certificate, or goes away, is what some tests are about."""


def _handler(desk):
    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self):
            self._answer(None)

        def do_POST(self):
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body):
            if self.path == "/v1/ca":
                desk.calls.append(self.path)
                return self._send(200, desk.ca.pem.encode())
            shown = self.connection.getpeercert() or {}
            names = [value for parts in shown.get("subject", ()) for key, value in parts if key == "commonName"]
            try:
                answer, status = desk.answer(self.command, self.path, body, next(iter(names), None)), 200
            except No as no:
                answer, status = {"error": str(no)}, no.status
            if self.command == "POST" and status == 200 and desk.lose:
                desk.lose -= 1
                self.close_connection = True
                return None
            return self._send(status, json.dumps(answer).encode())

        def _send(self, status, data):
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    return Handler
