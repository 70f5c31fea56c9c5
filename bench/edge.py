"""An edge agent with a backlog, as a process of its own, against a real broker and aggregator."""

import re
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from aggregator.enrolment import FOLDER
from aggregator.setup import initialise as initialise_aggregator
from edge.outbox_reader import OutboxReader
from edge.setup import SourceSpec, enrolment, initialise, write_enrolment
from ledger.writer.create import POLICY, REGISTRAR_KEY, load_signer
from simulators.broker import start_broker

BACKLOG = 100_000
ORIGIN = "bench.example/agent"
PATIENCE_S = 300
HOST = "127.0.0.1"


def measure_agent(scratch: Path) -> tuple[float, float]:
    """Peak resident bytes of the agent, and readings a second from its start to the last verified receipt."""
    lines = scratch / "backlog.ndjson"
    with lines.open("w", encoding="utf-8") as file:
        for second in range(BACKLOG):
            time_ns = 1_764_000_000 * 10**9 + second * 10**9
            file.write(f'{{"kind":"heart_rate","value":"{60 + second % 40}","time":{time_ns}}}\n')
    with ExitStack() as stack:
        broker = start_broker(scratch)
        stack.callback(broker.stop)
        data, settings = scratch / "aggregator", scratch / "aggregator.toml"
        initialise_aggregator(settings, data, ORIGIN, HOST, broker.port)
        config = initialise(
            scratch / "agent" / "edge.toml",
            device="bench",
            origin=ORIGIN,
            policy=data / POLICY,
            broker_host=HOST,
            broker_port=broker.port,
            sources=[SourceSpec("backlog", "lines", {"path": str(lines)})],
        )
        write_enrolment(data / FOLDER, "bench", enrolment(config, load_signer(data / REGISTRAR_KEY).key))
        _start(stack, "aggregator", settings)
        started = time.perf_counter()
        agent = _start(stack, "edge", scratch / "agent" / "edge.toml")
        _wait_for_receipts(config.data / "outbox.db")
        took = time.perf_counter() - started
        return _peak_resident(agent.pid), BACKLOG / took


def _start(stack: ExitStack, room: str, config: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "vitalseal", room, "run", "--config", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603 - ourselves
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process


def _wait_for_receipts(outbox: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if outbox.exists():
            with OutboxReader(outbox) as reader:
                if reader.counts().receipted == BACKLOG:
                    return
        time.sleep(0.2)
    raise TimeoutError(f"the backlog did not drain in {PATIENCE_S} s")


def _peak_resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024.0 if found else 0.0
