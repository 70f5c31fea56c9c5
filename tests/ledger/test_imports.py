"""The verifier stands alone: importing it loads no broker, database, web or network library."""

import json
import subprocess
import sys

ALLOWED = {"cryptography", "msgpack", "ledger", "_cffi_backend"}
FORBIDDEN = {
    *("paho", "aiomqtt", "amqtt", "influxdb_client", "starlette", "fastapi", "uvicorn", "rich", "hypothesis", "pytest"),
    *("sqlite3", "_sqlite3", "asyncio", "socket", "_socket", "ssl", "http", "urllib.request", "selectors"),
    *("edge", "aggregator", "dashboard", "simulators", "vitalseal", "subprocess", "multiprocessing", "logging"),
}
PROGRAM = """
import json, sys
before = set(sys.modules)
import ledger.verify, ledger.fsck, ledger.proof, ledger.receipt
print(json.dumps([sorted(set(sys.modules) - before), [getattr(sys.modules[n], "__file__", None) or "" for n in
    sorted(set(sys.modules) - before)]]))
"""


def test_verifier_imports_only_what_it_needs():
    """In a fresh interpreter the verifier brings in cryptography, msgpack and the quiet part of the library."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    modules, files = json.loads(done.stdout)
    assert set(modules) & FORBIDDEN == set()
    outside = {name.partition(".")[0] for name, file in zip(modules, files, strict=True) if "site-packages" in file}
    assert outside <= ALLOWED
    assert "ledger.verify" in modules
    assert not [name for name in modules if name.startswith("ledger.writer")]
