"""Fixtures: one log for all tests, with its database; each test has it as it was projected."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from aggregator.audit.auditor import Outcome, Public, Range, audit
from aggregator.audit.private import Private
from aggregator.timeseries.embedded import DATABASE, EmbeddedStore
from aggregator.timeseries.influx import InfluxStore
from ledger.policy import parse_policy, parse_trust
from ledger.writer.files import list_files, read_file
from tests.ledger.past import Past

from .influx_database import InfluxDatabase
from .scene import copy_until, make_log, project
from .sqlite_database import SqliteDatabase
from .tampering import Tamperer

EVERYTHING = Range()


@dataclass
class Scene:
    """A data directory, untouched but for its database, and the copy of that as it was after two batches each."""

    data: Path
    past: Past
    older: Path
    cut: int

    def audit(self, *, alone: bool = False, store: object = None, span: Range = EVERYTHING) -> Outcome:
        """What an audit says of it now."""
        public = self.data / "log"
        policy = parse_policy((self.data / "policy.txt").read_bytes())
        trust = parse_trust((self.data / "trust.txt").read_bytes())
        where = Public(lambda path: read_file(public, path), list_files(public), policy, trust)
        if store is not None:
            return self._audit(where, store, span, alone=alone)
        with EmbeddedStore(self.data, readonly=True) as embedded:
            return self._audit(where, embedded, span, alone=alone)

    def _audit(self, where: Public, store: object, span: Range, *, alone: bool) -> Outcome:
        if alone:
            return audit(where, store, None, span)
        with Private(self.data) as private:
            return audit(where, store, private, span)


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Scene:
    """Made once; nobody touches it."""
    data = tmp_path_factory.mktemp("audit") / "data"
    older = data.parent / "older.db"

    def on_half(size: int) -> None:
        with EmbeddedStore(data) as store:
            project(data, store)
        shutil.copyfile(data / DATABASE, older)
        cuts.append(size)

    cuts: list[int] = []
    past = make_log(data, on_half)
    with EmbeddedStore(data) as store:
        project(data, store)
    return Scene(data, past, older, cuts[0])


@pytest.fixture
def scene(made, tmp_path) -> Scene:
    """One for a test of its own, to do with as it likes."""
    shutil.copytree(made.data, tmp_path / "data")
    return Scene(tmp_path / "data", made.past, made.older, made.cut)


@pytest.fixture
def sqlite_tamperer(scene) -> Tamperer:
    """Somebody at the embedded store's file."""
    database = SqliteDatabase(scene.data, scene.older, scene.cut)
    with EmbeddedStore(scene.data, readonly=True) as store:
        return Tamperer(database, store, len(scene.past.entries))


@pytest.fixture
def influx_tamperer(scene, influx_server) -> Tamperer:
    """Somebody at the InfluxDB that the same log was projected into, its `database` of that name in its `server`."""
    names = [influx_server.fresh_database() for _ in range(2)]
    with InfluxStore(influx_server.config(names[0])) as store:
        project(scene.data, store)
    with InfluxStore(influx_server.config(names[1])) as older:
        copy_until(scene.cut, scene.data, older)
    database = InfluxDatabase(influx_server, names[0], names[1], scene.cut)
    with InfluxStore(influx_server.config(names[0]), readonly=True) as store:
        return Tamperer(database, store, len(scene.past.entries))


@pytest.fixture
def tamperings() -> Callable[[int], int]:
    """How many random tamperings to try, if not told otherwise."""
    told = os.environ.get("VITALSEAL_TAMPERINGS")
    return lambda usual: int(told) if told else usual
