"""`vitalseal simulate faults`."""

import argparse
import json
import secrets
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from inspect import getdoc
from pathlib import Path

from simulators.faults.trial import Bounds, Outcome, Scenario, fields_of, room_for_data, run_scenario, summary
from vitalseal import log
from vitalseal.errors import UserError

OK, FAILED, NOTHING_RUN = 0, 1, 2
# A scenario's share where nothing is said: long enough that hundreds of readings meet the fault.
DEFAULT_SECONDS = 10.0
DEFAULT_KILLS = 200
# Killing so many takes about this long; with --seconds it ends when its share is over.
KILLING_S = 480.0


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Breaks things on purpose: real programs on this machine, killed or lied to, and the account of what came out."
    )
    parser.epilog = (
        "The last line on stdout is `faults: scenarios=N kills=N accepted=N in_log=N gaps=N unexplained=N`, of those "
        "that were run. Exit codes: 0 everything came out as it has to, 1 something did not, 2 the call is wrong or "
        "nothing could be run."
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="which to run (all; see --list)")
    parser.add_argument("--list", action="store_true", help="name the scenarios and what each tries, and end")
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="N",
        help="how long devices measure, shared by the scenarios; setting up and draining come on top "
        f"({DEFAULT_SECONDS:g} in each, and as long as the kills take)",
    )
    parser.add_argument(
        "--kills", type=int, default=DEFAULT_KILLS, metavar="N", help="programs killed in `kills` (%(default)s)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of the random choices (another each time, and told)")
    parser.add_argument("--json", action="store_true", help="one JSON object a scenario on stdout, instead of lines")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="an empty or new directory, kept (a temporary one, kept on failure)"
    )
    parser.set_defaults(run=_faults)


def _faults(args: argparse.Namespace) -> int:
    scenarios = _scenarios()
    if args.list:
        for name, scenario in scenarios.items():
            print(f"{name}\n  {_first_sentence(scenario)}")
        return OK
    _check(args, scenarios)
    log.set_up()
    # Asked to end, we end in order, as at Ctrl-C; what cannot wait for that dies with us anyway.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    data = room_for_data(args.data)
    try:
        outcomes = _run_all({name: scenarios[name] for name in args.scenarios or scenarios}, data, args)
    except KeyboardInterrupt:
        if args.data is None:
            shutil.rmtree(data)
        raise
    failed = any(outcome.unexplained for outcome in outcomes)
    if failed:
        print(f"vitalseal: faults: everything is in {data}", file=sys.stderr)
    elif args.data is None:
        shutil.rmtree(data)
    print(summary(outcomes), flush=True)
    if failed:
        return FAILED
    return NOTHING_RUN if all(outcome.not_run for outcome in outcomes) else OK


def _check(args: argparse.Namespace, scenarios: Mapping[str, Scenario]) -> None:
    if unknown := sorted(set(args.scenarios) - set(scenarios)):
        raise UserError(f"{unknown[0]}: is not a scenario; there are {', '.join(scenarios)}")
    if args.seconds is not None and not 0 < args.seconds < 1e6:
        raise UserError(f"--seconds {args.seconds:g}: is not above 0")
    if not 0 < args.kills <= 1_000_000:
        raise UserError(f"--kills {args.kills}: is not from 1 to 1000000")


def _run_all(scenarios: Mapping[str, Scenario], data: Path, args: argparse.Namespace) -> Sequence[Outcome]:
    """What came of each scenario, shown."""
    show = sys.stderr if args.json else sys.stdout
    seed = secrets.randbelow(10**9) if args.seed is None else args.seed
    print(f"seed {seed}", file=show, flush=True)
    outcomes = []
    for name, scenario in scenarios.items():
        share_s = KILLING_S if name == "kills" else DEFAULT_SECONDS
        if args.seconds is not None:
            share_s = args.seconds / len(scenarios)
        outcomes.append(_run(name, scenario, data, Bounds(share_s, args.kills, seed), as_json=args.json))
    return outcomes


def _run(name: str, scenario: Scenario, data: Path, bounds: Bounds, *, as_json: bool) -> Outcome:
    show = sys.stderr if as_json else sys.stdout
    print(f"{name}: {_first_sentence(scenario)}", file=show, flush=True)
    outcome = run_scenario(name, scenario, data, bounds, lambda text: print(f"  {text}", file=show, flush=True))
    if outcome.not_run is not None:
        print(f"  NOT RUN: {outcome.not_run}", file=show, flush=True)
    else:
        times = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in outcome.times_s.items())
        print(f"  kills {outcome.kills}; times: {times}", file=show, flush=True)
    for problem in outcome.unexplained:
        print(f"vitalseal: faults: {name}: {problem}", file=sys.stderr)
    if as_json:
        print(json.dumps(fields_of(outcome)), flush=True)
    return outcome


def _first_sentence(scenario: Scenario) -> str:
    return (getdoc(scenario) or "").partition("\n")[0]


def _scenarios() -> Mapping[str, Scenario]:
    try:
        from simulators.faults.table import SCENARIOS
    except ModuleNotFoundError as error:
        raise UserError(
            f"`vitalseal simulate faults` needs {error.name}: in vitalseal's clone, type  pip install '.[all]'"
        ) from None
    return SCENARIOS
