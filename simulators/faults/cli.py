"""`vitalseal simulate faults`."""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from inspect import getdoc
from pathlib import Path

from simulators.faults.trial import Outcome, Scenario, fields_of, room_for_data, run_scenario, summary
from vitalseal import log
from vitalseal.errors import UserError

OK, FAILED = 0, 1
DEFAULT_SECONDS = 5.0


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Breaks things on purpose: real programs on this machine, killed or lied to, and the account of what came out."
    )
    parser.epilog = (
        "The last line on stdout is `faults: scenarios=N kills=N accepted=N in_log=N gaps=N unexplained=N`. Exit "
        "codes: 0 everything came out as it has to, 1 something did not, 2 the call is wrong."
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="which to run (all; see --list)")
    parser.add_argument("--list", action="store_true", help="name the scenarios and what each tries, and end")
    parser.add_argument(
        "--seconds",
        type=float,
        default=DEFAULT_SECONDS,
        metavar="N",
        help="how long devices measure before and in a fault, at the least (%(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a scenario on stdout, instead of lines")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="an empty or new directory, kept (a temporary one, kept on failure)"
    )
    parser.set_defaults(run=_faults)


def _faults(args: argparse.Namespace) -> int:
    scenarios = _scenarios()
    if args.list:
        for name, scenario in scenarios.items():
            print(f"{name}\n  {(getdoc(scenario) or '').partition(chr(10))[0]}")
        return OK
    if unknown := sorted(set(args.scenarios) - set(scenarios)):
        raise UserError(f"{unknown[0]}: is not a scenario; there are {', '.join(scenarios)}")
    if not 0 < args.seconds < 1e6:
        raise UserError(f"--seconds {args.seconds:g}: is not above 0")
    log.set_up()
    data = room_for_data(args.data)
    outcomes = [_run(name, scenarios[name], data, args) for name in dict.fromkeys(args.scenarios or scenarios)]
    failed = any(outcome.unexplained for outcome in outcomes)
    if failed:
        print(f"vitalseal: faults: everything is in {data}", file=sys.stderr)
    elif args.data is None:
        shutil.rmtree(data)
    print(summary(outcomes), flush=True)
    return FAILED if failed else OK


def _run(name: str, scenario: Scenario, data: Path, args: argparse.Namespace) -> Outcome:
    """What came of one scenario, shown."""
    show = sys.stderr if args.json else sys.stdout
    print(f"{name}: {(getdoc(scenario) or '').partition(chr(10))[0]}", file=show, flush=True)
    outcome = run_scenario(name, scenario, data, args.seconds, lambda text: print(f"  {text}", file=show, flush=True))
    times = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in outcome.times_s.items())
    print(f"  kills {outcome.kills}; times: {times}", file=show, flush=True)
    for problem in outcome.unexplained:
        print(f"vitalseal: faults: {name}: {problem}", file=sys.stderr)
    if args.json:
        print(json.dumps(fields_of(outcome)), flush=True)
    return outcome


def _scenarios() -> Mapping[str, Scenario]:
    try:
        from simulators.faults.table import SCENARIOS
    except ModuleNotFoundError as error:
        raise UserError(
            f"`vitalseal simulate faults` needs {error.name}: install it with  pip install 'vitalseal[all]'"
        ) from None
    return SCENARIOS
