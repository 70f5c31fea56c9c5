"""A dishonest operator: the log's real keys, and two histories."""

import http.client
import json
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ledger.add_checkpoint import AddCheckpoint
from ledger.entry import commit_assignment
from ledger.fsck import CHECKPOINT_PATH
from ledger.note import Note, parse_note
from ledger.service.monitor_evidence import check_split, parse_claims
from ledger.service.monitor_state import EVIDENCE
from ledger.writer.create import POLICY, POLICY_PQ, create_log, load_log_keys, load_policy, load_witnesses
from ledger.writer.files import read_file
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter, Quorum
from ledger.writer.reader import PUBLIC
from ledger.writer.storage import Submission
from ledger.writer.witnesses import Witnesses
from simulators.broker import HOST, free_port
from simulators.faults.trial import Trial
from simulators.process import Child
from simulators.witnesses import QUORUM, WitnessProcess, lay_out_witnesses

SHARED, FIRST, SECOND = 300, 400, 450  # entries: where the histories part, and how long each is
TOLD_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True)
class _Served:
    """A history, and where it is served."""

    data: Path
    url: str
    child: Child


def split_view(trial: Trial) -> None:
    """An operator with the log's real keys shows two clients two histories that part at some size.

    One witness was away while the first history grew, and cosigns the second one in good faith; the others refuse it.
    A client whose policy wants two of three rejects the second history, and a monitor that is shown both, at two places
    or one after the other, raises the alarm and keeps evidence that convicts the log by its own signatures.
    """
    first, second = trial.directory / "first", trial.directory / "second"
    witnesses = lay_out_witnesses(trial.directory / "witnesses", [first / POLICY, first / POLICY_PQ])
    origin = f"split.vitalseal.example/{secrets.token_hex(6)}"
    named = [witness for process in witnesses for witness in load_witnesses(process.lines)]
    create_log(first, origin, witnesses=named, quorum=QUORUM)
    for witness in witnesses:
        trial.stack.callback(witness.child.stop, 10.0)
        _start(trial, witness)

    _write_history(first, 0, SHARED, "shared", trial)
    shutil.copytree(first, second)
    away = witnesses[-1]
    trial.kill(away.child)
    trial.tell(f"witness {away.name} killed; the first history grows from {SHARED} to {FIRST} entries")
    _write_history(first, SHARED, FIRST, "first", trial)
    _start(trial, away)
    unwitnessed = _forge(second)
    _ask_witnesses(trial, witnesses, second, unwitnessed)
    _show_two_places(trial, origin, _serve(trial, "first", first), _serve(trial, "second", second))
    _show_one_after_the_other(trial, first, second)


def _start(trial: Trial, witness: WitnessProcess) -> None:
    witness.child.start()
    trial.wait_for_port(urlsplit(witness.url).port or 0, witness.child)


def _write_history(data: Path, start: int, end: int, name: str, trial: Trial) -> None:
    """The log in `data` has the entries [start, end) of the history `name`, cosigned by a quorum."""
    quorum = Witnesses([load_policy(data / POLICY), load_policy(data / POLICY_PQ)])
    try:
        grown = _append(data, start, end, name, quorum)
        trial.wait(grown, 20.0, f"a quorum cosigns size {end} of the first history")
    finally:
        quorum.close()


def _append(data: Path, start: int, end: int, name: str, quorum: Quorum | None) -> Callable[[], bool]:
    """Appends and publishes once; whether the published log has `end` entries, after one more attempt."""
    entries = [Submission(commit_assignment(bytes(16), f"{name} {at}".encode()).encode()) for at in range(start, end)]
    appended = False

    def published() -> bool:
        nonlocal appended
        with LocalStorage(data) as storage:
            writer = LogWriter(storage, load_log_keys(data).signers, time.time_ns, quorum=quorum)
            if not appended:
                writer.append(entries)
                appended = True
            writer.publish()
            return writer.checkpoint.size == end

    return published


def _forge(data: Path) -> Note:
    """The second history, published with the log's own signatures and nobody asked; its checkpoint."""
    _append(data, SHARED, SECOND, "second", None)()
    return parse_note(read_file(data / PUBLIC, CHECKPOINT_PATH) or b"")


def _ask_witnesses(trial: Trial, witnesses: list[WitnessProcess], data: Path, note: Note) -> None:
    """The second history's checkpoint carries the cosignatures that could be had for it."""
    lines = b""
    answers: dict[str, list[int]] = {}
    with LocalStorage(data) as storage:
        tree = LogWriter(storage, load_log_keys(data).signers, time.time_ns).reader()
        for witness in witnesses:
            for old in (SHARED, FIRST):
                body = AddCheckpoint(old, tuple(tree.prove_consistency(old)), note).encode()
                status, answer = _post(witness.url, body)
                answers.setdefault(witness.name, []).append(status)
                if status == 200:
                    lines += answer
                    break
    *faithful, away = witnesses
    for witness in faithful:
        told = " and ".join(map(str, answers[witness.name]))
        trial.expect(answers[witness.name] == [409, 422], f"witness {witness.name} refuses the second history: {told}")
    trial.expect(answers[away.name] == [200], f"witness {away.name}, who saw nothing else, cosigns it")
    (data / PUBLIC / CHECKPOINT_PATH).write_bytes(note.encode() + lines)


def _post(url: str, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10.0)
    try:
        connection.request("POST", "/add-checkpoint", body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _serve(trial: Trial, name: str, data: Path, port: int | None = None) -> _Served:
    port = port or free_port()
    child = trial.run(f"serve-{name}", "ledger", "serve", data / PUBLIC, "--port", port)
    trial.wait_for_port(port, child)
    return _Served(data, f"http://{HOST}:{port}/", child)


def _show_two_places(trial: Trial, origin: str, first: _Served, second: _Served) -> None:
    """A client at each place, and a monitor that is shown both."""
    policy = first.data / POLICY
    honest, lied_to = (trial.call("ledger", "fsck", place.url, "--policy", policy) for place in (first, second))
    trial.expect(honest.returncode == 0, f"the client at {first.url} accepts {FIRST} entries under two of three")
    refused = lied_to.returncode == 1 and "is not reached" in lied_to.stderr
    trial.expect(refused, f"the client at {second.url} rejects the second history: {lied_to.stderr.strip()}")
    state = trial.directory / "monitor-both"
    began_s = time.monotonic()
    told = trial.call(
        *("ledger", "monitor", first.url, "--also", second.url, "--policy", policy),
        *("--state", state, "--once", "--json"),
    )
    trial.outcome.times_s["told of two places"] = time.monotonic() - began_s
    events = [json.loads(line) for line in told.stdout.splitlines()]
    alarms = [event for event in events if (event["event"], event.get("kind")) == ("begin", "split-view")]
    seen = sorted(alarm["subject"] for alarm in alarms)
    trial.expect(
        told.returncode == 1 and second.url in seen, f"the monitor of {origin} raises split-view at {', '.join(seen)}"
    )
    for alarm in alarms:
        _check_evidence(trial, first.data, state / EVIDENCE / alarm["evidence"])


def _show_one_after_the_other(trial: Trial, first: Path, second: Path) -> None:
    """A monitor that runs while the place that it watches begins to show the other history."""
    place = _serve(trial, "before", first)
    port = urlsplit(place.url).port
    state, metrics = trial.directory / "monitor-one", trial.directory / "monitor-one.prom"
    monitor = trial.run(
        "monitor-one",
        *("ledger", "monitor", place.url, "--policy", first / POLICY, "--state", state),
        *("--interval", 0.2, "--json", "--metrics", metrics),
    )
    followed = f"followed_entries {FIRST}\n"
    trial.wait(lambda: metrics.exists() and followed in metrics.read_text(), 20.0, "the monitor follows the log")
    place.child.stop(10.0)
    place = _serve(trial, "after", second, port)
    subject = f"subject: {place.url}\n"

    def evidence() -> list[Path]:
        return [path for path in (state / EVIDENCE).glob("split-view-*.txt") if subject in path.read_text()]

    took_s = trial.wait(evidence, TOLD_WITHIN_S, f"the monitor raises split-view at {place.url}")
    trial.outcome.times_s["told of one place"] = took_s
    trial.tell(f"the other history at the same place: split-view after {took_s:.1f} s")
    _check_evidence(trial, first, evidence()[0])
    monitor.stop(10.0)
    trial.expect(monitor.code() == 0, "the monitor ends well when asked to")


def _check_evidence(trial: Trial, data: Path, path: Path) -> None:
    """The file convicts the log under each of its keys alone; raises LedgerError."""
    claims = parse_claims(path.read_bytes())
    for signer in load_log_keys(data).signers:
        check_split(claims[0], claims[1], [signer.verifier])
    trial.tell(f"{path.name}: both notes verify under the log's vkeys, and exclude each other")
