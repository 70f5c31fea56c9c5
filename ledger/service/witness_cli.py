"""`vitalseal ledger witness init | run | status | add-key`."""

import argparse
import datetime as dt
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ledger.console import OK, WRONG, fail, parse_file
from ledger.errors import MalformedError
from ledger.note import NoteSigner
from ledger.service.witness import Logs, known_logs, parse_logs
from ledger.service.witness_keys import LINES, TYPES, add_key, create_witness, load_signers
from ledger.service.witness_limits import LOG_RATE, STRANGER_RATE, Limits
from ledger.service.witness_service import Witness
from ledger.service.witness_store import WitnessReader, WitnessStore
from ledger.writer.storage import StorageError

_log = logging.getLogger(__name__)

MAX_RATE = 1_000_000  # in effect none: more than any machine signs

_INIT_NEXT = """
next: give these lines, which are in {lines}, to whoever runs the log; two keys of one
witness count once if they are nested:

  group NAME any {names}

get the log's vkey in return (its `log` line), put it into a file LOGS, and start:

  vitalseal ledger witness run --data {data} --logs LOGS"""

_RUN_EPILOG = """SIGHUP reads the lists of logs again; one that is wrong leaves the old ones in force and is named in
the log. Runs until SIGTERM or Ctrl-C. If its state cannot be written it gives no cosignature and ends."""


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the commands and their arguments."""
    parser.description = "Cosign the checkpoints of logs that only grow, for others to count (C2SP tlog-witness)."
    commands = parser.add_subparsers(metavar="init|run|status|add-key", required=True)

    init = commands.add_parser(
        "init", help="make a witness's keys and state", description="Makes a witness in DIR; overwrites nothing."
    )
    _data(init)
    init.add_argument("--name", required=True, help="name in its cosignatures, such as witness.example/w1")
    init.add_argument("--url", help="where logs will reach it, such as https://w1.example")
    init.set_defaults(run=_init)

    run = commands.add_parser("run", help="answer logs", description="Runs the witness in DIR.", epilog=_RUN_EPILOG)
    _data(run)
    run.add_argument(
        "--logs",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="logs to witness: a tlog-policy, or lines with `log VKEY` or a vkey",
    )
    run.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1; all: 0.0.0.0 or ::)")
    run.add_argument("--port", type=int, default=8081, help="port to listen on (8081); 0: any that is free")
    run.add_argument("--tls-cert", type=Path, metavar="FILE", help="PEM certificate chain; with --tls-key")
    run.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM, not encrypted")
    run.add_argument(
        "--rate", type=_rate, default=LOG_RATE, metavar="N", help="requests a second for each log (%(default)g)"
    )
    run.add_argument(
        "--stranger-rate",
        type=_rate,
        default=STRANGER_RATE,
        metavar="N",
        help="requests a second that no known log signed, all together (%(default)g)",
    )
    run.set_defaults(run=_run)

    status = commands.add_parser(
        "status", help="what was cosigned last", description="Shows what the witness in DIR cosigned last."
    )
    _data(status)
    status.add_argument("--json", action="store_true", help="one JSON object instead of lines for people")
    status.set_defaults(run=_status)

    key = commands.add_parser(
        "add-key",
        help="one key more, while the witness is stopped",
        description="Adds a key to the witness in DIR, which must not run; from its next start it signs with it, too.",
    )
    _data(key)
    key.add_argument("--type", required=True, choices=sorted(TYPES), help="kind of key")
    key.set_defaults(run=_add_key)


def _data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the witness's directory")


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MAX_RATE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and up to {MAX_RATE}")
    return value


def _init(args: argparse.Namespace) -> int:
    try:
        lines = create_witness(args.data, args.name, args.url)
    except (MalformedError, StorageError) as error:
        return fail(error, WRONG)
    print(f"{args.data}: witness {args.name}\n")
    sys.stdout.writelines(lines)
    names = " ".join(line.split(" ")[1] for line in lines)
    print(_INIT_NEXT.format(lines=args.data / LINES, names=names, data=args.data))
    return OK


def _add_key(args: argparse.Namespace) -> int:
    try:
        line = add_key(args.data, args.type)
    except (MalformedError, StorageError) as error:
        return fail(error, WRONG)
    sys.stdout.write(line)
    print(f"\nnext: start the witness, and give this line, added to {args.data / LINES}, to whoever runs the log")
    return OK


def _status(args: argparse.Namespace) -> int:
    try:
        with WitnessReader(args.data) as store:
            report = {
                "name": store.name,
                "url": store.url,
                "keys": [str(signer.verifier) for signer in load_signers(args.data, store)],
                "logs": [
                    {"origin": origin, "size": state.size, "root": state.root.hex(), "time": state.time}
                    for origin, state in store.states().items()
                ],
            }
    except StorageError as error:
        return fail(error, WRONG)
    if args.json:
        print(json.dumps(report))
        return OK
    print(f"{report['name']}: {len(report['keys'])} keys, {len(report['logs'])} logs cosigned")
    for log in report["logs"]:
        time = dt.datetime.fromtimestamp(log["time"], dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        print(f"  {log['origin']}: size {log['size']}, cosigned {time}, root {log['root']}")
    return OK


def _run(args: argparse.Namespace) -> int:
    try:
        from ledger.service.http import ServeError, serve
        from ledger.service.witness_app import beat, make_app
    except ModuleNotFoundError as error:
        return fail(
            f"`vitalseal ledger witness run` needs {error.name}: in vitalseal's clone, type  pip install '.[witness]'",
            WRONG,
        )
    args.set_up_log()
    heart = args.systemd.Heart("witness")
    beating: list[Any] = []  # asyncio itself keeps no task alive
    try:
        with WitnessStore(args.data) as store:
            signers = load_signers(args.data, store)
            limits = Limits(args.rate, args.stranger_rate)
            witness = Witness(store, signers, _read_logs(args.logs, signers), limits=limits, stop=_stop)
            reload_on_hangup(witness, args.logs, args.systemd)

            def ready(url: str) -> None:
                print(f"witness {store.name} of {len(witness.logs)} logs at {url}", flush=True)
                args.systemd.notify("READY=1", f"STATUS=witness of {len(witness.logs)} logs")
                beating.append(beat(store, lambda: heart.beat("witness"), _stop))

            app = make_app(witness)
            serve(app, args.host, args.port, tls_cert=args.tls_cert, tls_key=args.tls_key, ready=ready)
            return WRONG if store.failed else OK
    except (MalformedError, StorageError, ServeError) as error:
        return fail(error, WRONG)


def _read_logs(paths: Sequence[Path], signers: Sequence[NoteSigner]) -> Logs:
    keys = [key for path in paths for key in parse_file(path, parse_logs)]
    return known_logs(keys, [signer.verifier for signer in signers])


def reload_on_hangup(witness: Witness, paths: Sequence[Path], systemd: Any) -> None:
    """From here on SIGHUP makes `witness` know the logs in `paths` as they are then, if nothing is wrong with them."""
    one_at_a_time = threading.Lock()

    def read_again() -> None:
        with one_at_a_time:
            systemd.notify(*systemd.reloading())
            try:
                witness.logs = _read_logs(paths, witness.signers)
            except MalformedError as error:
                _log.error("the logs stay as they were: %s", error)
            else:
                _log.info("%d logs are known now", len(witness.logs))
            systemd.notify("READY=1", f"STATUS=witness of {len(witness.logs)} logs")

    # In a thread: a handler interrupts the main thread anywhere, and must not write to a stream that it may be in.
    signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=read_again).start())


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
