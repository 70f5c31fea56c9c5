"""What an audit is of, from the command's arguments: which log, which database, and what else is at hand."""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from aggregator.audit.auditor import Public
from aggregator.audit.private import Private
from aggregator.audit.report import Keys
from aggregator.audit.state import STATE
from aggregator.config import AggregatorConfig, InfluxConfig
from aggregator.timeseries.base import ReadingStore
from aggregator.timeseries.embedded import EmbeddedStore
from aggregator.timeseries.opening import open_store
from ledger.console import parse_file
from ledger.policy import MAX_POLICY, MAX_TRUST, parse_policy, parse_trust
from ledger.service.fetch import log_reader
from ledger.writer.create import POLICY, TRUST
from ledger.writer.reader import PUBLIC
from vitalseal import config as configuration
from vitalseal.errors import UserError

_INFLUX_OPTIONS = ("bucket", "org", "token_file", "ca")


@dataclass(frozen=True, slots=True)
class Call:
    """One call, sorted out.

    `data` is None for a database alone. The store is the one that `config` names, or the embedded one at `database`,
    its file or directory. `state` is where audits that pass are remembered, if this one is to be: `remembers`.
    """

    data: Path | None
    log: str
    config: AggregatorConfig | None
    database: Path | None
    policy: Path
    trust: Path | None
    state: Path | None
    remembers: bool

    @contextmanager
    def open(self, keys: Keys) -> Iterator[tuple[Public, ReadingStore, Private | None]]:
        """Log, database, and what else there is, all of it to be read only."""
        with ExitStack() as stack:
            fetch, paths = stack.enter_context(log_reader(self.log))
            store: ReadingStore
            if self.config is not None:
                store = stack.enter_context(open_store(self.config, readonly=True))
            else:
                store = stack.enter_context(EmbeddedStore(self.database or Path(), readonly=True))
            private = None if self.data is None else stack.enter_context(Private(self.data))
            yield Public(fetch, paths, keys.policy, keys.trust), store, private

    def keys(self) -> Keys:
        """Policy and trust; raises MalformedError."""
        policy_text = parse_file(self.policy, bytes, MAX_POLICY)
        trust_text = None if self.trust is None else parse_file(self.trust, bytes, MAX_TRUST)
        policy = parse_file(self.policy, parse_policy)
        trust = None if self.trust is None else parse_file(self.trust, parse_trust)
        return Keys(policy_text, policy, trust_text, trust)


def sort_out(args: argparse.Namespace) -> Call:
    """The call that `args` mean; raises UserError."""
    for is_so, why in _mistakes(args):
        if is_so:
            raise UserError(why)
    if args.config is not None:
        config = configuration.load(args.config, AggregatorConfig)
        return _call(args, config.data, config, None)
    if args.data is not None:
        return _call(args, args.data, _influx(args, args.data), args.database or args.data)
    return _call(args, None, _influx(args, Path()), args.database)


def _mistakes(args: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    """What can be wrong with a call, in the order in which a person would want to know."""
    for name in _INFLUX_OPTIONS:
        is_idle = getattr(args, name) is not None and args.influx_url is None
        yield is_idle, f"{_option(name)} is for a database behind --influx-url"
    for name in ("data", "influx_url", "database", "log"):
        is_double = args.config is not None and getattr(args, name) is not None
        yield is_double, f"{_option(name)}: --config says that; give one of the two"
    for name in ("data", "database"):
        path = getattr(args, name)
        yield path is not None and not path.exists(), f"{_option(name)} {path}: is not there"
    both = args.influx_url is not None and args.database is not None
    yield both, "--influx-url and --database name two databases; audit one at a time"
    yield args.data is not None and args.log is not None, "--log is for a database alone; --data has its own log"
    is_whole = args.config is not None or args.data is not None
    is_alone = not is_whole and (args.influx_url is not None or args.database is not None)
    yield not is_whole and not is_alone, "name what to audit: --data, --config, --influx-url or --database"
    lacks = is_alone and (args.log is None or args.policy is None)
    yield lacks, "a database alone is held against a public log: name that by --log and --policy"
    lacks = is_alone and args.incremental and args.state is None
    yield lacks, "--incremental of a database alone needs a place of its own: name it by --state FILE"
    for name in ("state", "html"):
        path = getattr(args, name)
        has_no_place = path is not None and not path.absolute().parent.is_dir()
        yield has_no_place, f"{_option(name)} {path}: there is no such directory to put it in"


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _call(args: argparse.Namespace, data: Path | None, config: AggregatorConfig | None, database: Path | None) -> Call:
    trust = args.trust
    if data is not None and trust is None and (data / TRUST).exists():
        trust = data / TRUST
    state = args.state
    if state is None and data is not None:
        state = data / STATE
    log = args.log if data is None else str(data / PUBLIC)
    policy = args.policy or (data or Path()) / POLICY
    remembers = args.incremental or args.state is not None
    return Call(data, log, config, database, policy, trust, state, remembers)


def _influx(args: argparse.Namespace, data: Path) -> AggregatorConfig | None:
    """A configuration with the database behind --influx-url; None without one."""
    if args.influx_url is None:
        return None
    given = {name: getattr(args, name) for name in _INFLUX_OPTIONS if getattr(args, name) is not None}
    try:
        return AggregatorConfig(data, influx=InfluxConfig(args.influx_url, **given))
    except ValueError as error:
        raise UserError(f"--influx-url: {error}") from None
