"""A log with its authority and its desk in this process, and an aggregator's half that takes key events in."""

import hashlib
import threading
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from aggregator.authority import Authority, create_authority
from aggregator.desk import Desk
from aggregator.desk_http import Counter
from aggregator.desk_records import DeskRecords
from aggregator.device_keys import DeviceKeys
from aggregator.enrolment import Keys
from aggregator.registry import Registry
from aggregator.tokens import Token, make_secret
from aggregator.upkeep import Upkeep
from ledger.service.http import Server
from ledger.writer.create import REGISTRAR_KEY, load_log_keys, load_signer
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter

from .devices import ORIGIN
from .gateway import until


class Office:
    """Use as a context manager; `later(span)` moves its clock, `told` counts what the broker was told."""

    def __init__(self, data):
        create_authority(data, ORIGIN, (), 8883, datetime.now(UTC))
        self.data = data
        self.ahead = timedelta(0)
        self.told = 0
        self.answer = None  # what telling the broker comes to
        self.asked, self.sight = [], None  # by which probes it was asked, and what that comes to
        self.pause = threading.Lock()  # who holds it has stopped the aggregator
        self._ends = ExitStack()

    def __enter__(self):
        self.authority = Authority(self.data)
        self.records = self._ends.enter_context(closing(DeskRecords(self.data)))
        self.keys = self._ends.enter_context(closing(DeviceKeys(self.data)))
        self.upkeep = self.new_upkeep()
        registrar = load_signer(self.data / REGISTRAR_KEY).key
        self.desk = Desk(self.data, self.authority, self.records, self.keys, registrar, self.upkeep, self.now)
        self._done = threading.Event()
        self._taker = threading.Thread(target=self._take)
        self._taker.start()
        self._ends.callback(self._taker.join)
        self._ends.callback(self._done.set)
        self._ends.callback(self.desk.stop)
        return self

    def __exit__(self, *details):
        self._ends.close()

    def new_upkeep(self):
        """As after a restart of the desk."""
        return Upkeep(self.data, Authority(self.data), self.records, self.keys, self._tell, self._see, self.now)

    def now(self):
        """The office's time."""
        return datetime.now(UTC) + self.ahead

    def later(self, **span):
        """The clock is put forward."""
        self.ahead += timedelta(**span)

    def until(self, condition, what):
        """Waits until `condition()` is true of the log and the registry."""
        until(lambda: (self.keys.refresh(), condition())[1], what)

    def token(self, device, **span):
        """A token for `device`, as a line, good for a day or `span`."""
        secret = make_secret()
        self.records.add_token(device, secret, self.now() + timedelta(**(span or {"days": 1})))
        return str(Token("127.0.0.1", getattr(self, "port", 1), self.fingerprint(), device, secret))

    def fingerprint(self):
        """Of the CA."""
        certificate = x509.load_pem_x509_certificate(self.authority.ca_pem)
        return hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()

    def serve(self):
        """The counter is open until the end."""
        folder = self.data / "broker"
        registrar = load_signer(self.data / REGISTRAR_KEY).key.public_key.hex()
        about = {"origin": ORIGIN, "registrar": registrar, "policy": (self.data / "policy.txt").read_text()}
        about["broker"] = {"host": "127.0.0.1", "port": 8883}
        self.server = Server(
            Counter(self.desk, self.authority.ca_pem, about).app,
            "127.0.0.1",
            0,
            tls_cert=folder / "server.crt",
            tls_key=folder / "server.key",
            client_ca=folder / "ca.crt",
        )
        self.port = int(self.server.url.rstrip("/").rpartition(":")[2])
        ready = threading.Event()
        serving = threading.Thread(target=self.server.run_until_stopped, args=(lambda _: ready.set(),))
        serving.start()
        assert ready.wait(10)
        self._ends.callback(serving.join)
        self._ends.callback(setattr, self.server, "should_exit", True)

    def _tell(self):
        self.told += 1
        return self.answer

    def _see(self, probe):
        self.asked.append(probe)
        return self.sight

    def _take(self):
        """As the running aggregator's publisher."""
        with LocalStorage(self.data) as storage, closing(Registry(self.data)) as registry:
            writer = LogWriter(storage, load_log_keys(self.data).signers, lambda: 2**60)
            with self.pause:
                keys = Keys(self.data, writer, storage, registry)
            while not self._done.wait(0.02):
                with self.pause:
                    keys.scan()
