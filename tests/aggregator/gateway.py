"""A gateway's half of the talk with the desk, by hand, and its MQTT connection."""

import hashlib
import json
import ssl
import time
import warnings

import paho.mqtt.client as paho
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion

from aggregator.certificates import key_pem, make_key
from ledger import canonical
from ledger.events import request_enrolment, request_rotation
from ledger.strict import decode_base64

from .devices import Device

PATIENCE_S = 20


def until(condition, what="the condition"):
    """Waits until `condition()` is true, and returns what it gave."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.02)
    return value


def parse_token(token):
    """Host, port, fingerprint, device and secret in a token."""
    text = token.removeprefix("vst1.").replace("-", "+").replace("_", "/")
    version, *fields = canonical.decode(decode_base64(text + "=" * (-len(text) % 4), "token"), "token")
    assert version == 1
    return fields


def csr(key, name="anything"):
    """A certificate request by `key`, in PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


class Gateway:
    """A gateway whose files are in `directory`; `number` makes its signing key."""

    def __init__(self, directory, token, number, algorithm=1):
        self.host, self.port, fingerprint, self.name, self.secret = parse_token(token)
        self.device = Device(self.name, number, algorithm=algorithm)
        self.directory = directory / f"{self.name}-{number}"
        self.directory.mkdir(exist_ok=True)
        self.base = f"https://{self.host}:{self.port}"
        with urllib3.PoolManager(cert_reqs="CERT_NONE") as unverified, warnings.catch_warnings():
            warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
            self.ca = unverified.request("GET", f"{self.base}/v1/ca").data
        der = x509.load_pem_x509_certificate(self.ca).public_bytes(Encoding.DER)
        assert hashlib.sha256(der).digest() == fingerprint
        self._write("ca.crt", self.ca)
        self.key = make_key()
        self._write("tls.key", key_pem(self.key))
        self.log = self.ask("GET", "/v1/log")[1]

    def _write(self, name, data):
        (self.directory / name).write_bytes(data)

    def context(self, *, certificate=True):
        """Believes the CA, shows the certificate if there is one."""
        context = ssl.create_default_context(cafile=self.directory / "ca.crt")
        if certificate and (self.directory / "tls.crt").exists():
            context.load_cert_chain(self.directory / "tls.crt", self.directory / "tls.key")
        return context

    def ask(self, method, path, body=None, *, certificate=True, raw=None):
        """Status and JSON of the answer."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        with urllib3.PoolManager(ssl_context=self.context(certificate=certificate), retries=False) as pool:
            answer = pool.request(method, f"{self.base}{path}", body=data)
            return answer.status, answer.json()

    def enrol_body(self, **changed):
        """What is asked of `/v1/enrol`."""
        registrar = bytes.fromhex(self.log["registrar"])
        asked = request_enrolment(self.device.signer, registrar, self.log["origin"])
        body = {
            "secret": self.secret.hex(),
            "device": self.name,
            "algorithm": asked.algorithm,
            "public_key": asked.public_key.hex(),
            "signature": asked.device_signature.hex(),
            "csr": csr(self.key),
        }
        return body | changed

    def enrol(self):
        """Enrols; the answer, whose certificate is kept."""
        status, answer = self.ask("POST", "/v1/enrol", self.enrol_body(), certificate=False)
        assert status == 200, answer
        self._write("tls.crt", answer["certificate"].encode())
        return answer

    def renew(self):
        """Asks for another certificate; status and answer."""
        status, answer = self.ask("POST", "/v1/renew", {"csr": csr(self.key)})
        if status == 200:
            self._write("tls.crt", answer["certificate"].encode())
        return status, answer

    def rotate_body(self, new, place):
        """What is asked of `/v1/rotate`, to go over to the key of the device `new` from `place` on."""
        registrar = bytes.fromhex(self.log["registrar"])
        asked = request_rotation(self.device.signer, new.signer, registrar, self.log["origin"], place)
        return {
            "old_algorithm": asked.old_algorithm,
            "old_public_key": asked.old_public_key.hex(),
            "until": list(place),
            "algorithm": asked.algorithm,
            "public_key": asked.public_key.hex(),
            "old_signature": asked.old_signature.hex(),
            "device_signature": asked.device_signature.hex(),
        }


class Client:
    """An MQTT connection over TLS, of which everything is noted; use as a context manager."""

    def __init__(self, port, context, *, client_id="any", version=5, will=None):
        self.said, self.messages, self._acknowledged = [], [], {}
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=paho.MQTTv5 if version == 5 else paho.MQTTv311,
            reconnect_on_failure=False,
        )
        self._client.tls_set_context(context)
        self._client.on_connect = lambda *a: self.said.append(str(a[3]))
        self._client.on_disconnect = lambda *_: self.said.append("gone")
        self._client.on_message = lambda _c, _u, m: self.messages.append((m.topic, bytes(m.payload)))
        self._client.on_publish = lambda _c, _u, mid, reason, _p: self._acknowledged.update({mid: str(reason)})
        self._client.on_subscribe = lambda *_: self.said.append("subscribed")
        if will:
            self._client.will_set(*will)
        self._port = port

    def __enter__(self):
        try:
            self._client.connect("127.0.0.1", self._port, 30)
        except OSError:
            self.said.append("gone")
            return self
        self._client.loop_start()
        until(lambda: self.said, "an answer to the connection")
        return self

    def __exit__(self, *_):
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def connected(self):
        return self._client.is_connected()

    def cut(self):
        """The connection breaks, as by a power cut."""
        self._client.socket().close()

    def subscribe(self, *topics):
        before = self.said.count("subscribed")
        self._client.subscribe([(topic, 1) for topic in topics])
        until(lambda: self.said.count("subscribed") > before, "the subscription")

    def send(self, topic, payload):
        """Publishes it; its number, under which the broker's word on it will come."""
        return self._client.publish(topic, payload, qos=1).mid

    def publish(self, topic, payload):
        """The broker's word on it."""
        mid = self.send(topic, payload)
        return until(lambda: self._acknowledged.get(mid), f"an acknowledgement on {topic}")
