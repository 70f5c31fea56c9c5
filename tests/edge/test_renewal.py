"""The certificate that renews itself: when, with what, and what a crash leaves."""

import asyncio
import contextlib
import dataclasses
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import files, identity, renewal
from edge.config import DeskConfig
from edge.identity import Validity
from edge.renewal import SPREAD, Schedule, _pause_s, renew, renewing
from edge.tls import file_context
from ledger.info import Clock
from tests.brokers import HOST, free_port
from tests.edge.conftest import make_config
from tests.edge.desk import Desk
from tests.edge.pki import HOUR, write_identity
from vitalseal.errors import UserError

DAY_S = 86400.0
LIFE = Validity(1000 * DAY_S, 1090 * DAY_S)
ALL_CLOCKS = list(Clock)


@pytest.fixture
def desk(tmp_path):
    with Desk(tmp_path) as desk:
        yield desk


@pytest.fixture
def config(desk, directory):
    """A gateway whose certificate is for another forty minutes of its hour."""
    return with_identity(make_config(directory), desk, directory)


def with_identity(config, desk, directory, **others):
    tls_files, _ = write_identity(directory, desk.ca, "dev-1", **others)
    paths = {"ca": tls_files.ca, "certificate": tls_files.certificate, "certificate_key": tls_files.key}
    broker = dataclasses.replace(config.broker, **paths)
    return dataclasses.replace(config, broker=broker, desk=DeskConfig(HOST, desk.port))


def test_due_at_two_thirds_of_its_life():
    """By the wall clock, where that can be right; each gateway up to a twentieth of a life earlier."""
    schedule = Schedule(LIFE, 0.0, 0.0, renewed=False)
    assert schedule.wait_s(LIFE.begins, 0.0, Clock.SYNCHRONISED) == pytest.approx(60 * DAY_S)
    assert schedule.wait_s(LIFE.begins + 60 * DAY_S, 0.0, Clock.UNKNOWN) == 0.0
    early = Schedule(LIFE, 0.0, 1.0, renewed=False)
    assert early.wait_s(LIFE.begins, 0.0, Clock.SYNCHRONISED) == pytest.approx((60 - 90 * SPREAD) * DAY_S)


@pytest.mark.parametrize("clock", [Clock.UNKNOWN, Clock.UNSYNCHRONISED])
@pytest.mark.parametrize("wall_s", [0.0, LIFE.begins - 1, LIFE.ends + 1, 2.0**40])
def test_clock_that_cannot_be_right_asks_for_nothing(clock, wall_s):
    """1970 or the far future: the time that the agent runs counts."""
    schedule = Schedule(LIFE, 100.0, 0.0, renewed=False)
    assert schedule.wait_s(wall_s, 100.0, clock) == pytest.approx(60 * DAY_S)
    assert schedule.wait_s(wall_s, 100.0 + 60 * DAY_S, clock) == 0.0


def test_certificate_that_has_ended_by_a_good_clock_is_due():
    """The desk will refuse it, and the log will say why."""
    assert Schedule(LIFE, 0.0, 0.0, renewed=False).wait_s(LIFE.ends + 1, 0.0, Clock.SYNCHRONISED) == 0.0


@given(st.lists(st.tuples(st.floats(-1e12, 1e12), st.sampled_from(ALL_CLOCKS)), min_size=1, max_size=50))
def test_no_clock_makes_it_renew_again_and_again(looks):
    """Whatever the wall clock does, a renewed certificate is left alone for a third of its life of running time."""
    schedule = Schedule(LIFE, 0.0, 0.5, renewed=True)
    for at, (wall_s, clock) in enumerate(looks):
        running_s = at * 30 * DAY_S / len(looks)
        assert schedule.wait_s(wall_s, running_s, clock) >= 30 * DAY_S - running_s > 0


def test_pauses_grow_and_fit_the_last_third():
    """Ninety days: from a minute to an hour. A minute: from half a second on."""
    assert [_pause_s(failures, 90 * DAY_S) for failures in (1, 2, 7, 99)] == [60.0, 120.0, 3600.0, 3600.0]
    assert [_pause_s(failures, 60.0) for failures in (1, 2, 9)] == [0.6, 1.2, 6.0]


def test_renewal_gets_a_fresh_key(desk, config):
    """Over mutual TLS, with the old certificate; the pair that is there afterwards is another one."""
    before = identity._read_key(config.broker.tls.key).public_key()
    renew(config)
    assert desk.calls == ["/v1/renew"]
    assert identity._read_key(config.broker.tls.key).public_key() != before
    assert (config.broker.tls.key.stat().st_mode & 0o777) == 0o600
    file_context(config.broker.tls)
    renew(config)  # the fresh pair is good for the next one


class Cut(Exception):  # noqa: N818 - stands for a power cut
    """The process is gone."""


@pytest.mark.parametrize("steps", range(4))
def test_cut_anywhere_leaves_a_pair_that_works(desk, config, monkeypatch, steps):
    """After each change to the disk the certificate has its key, and the next renewal does the rest."""
    left = [steps]

    def counted(function):
        def change(*args, **others):
            if not left[0]:
                raise Cut
            left[0] -= 1
            return function(*args, **others)

        return change

    with monkeypatch.context() as patch:
        for name in ("write_new", "replace", "move"):
            patch.setattr(files, name, counted(getattr(files, name)))
        with contextlib.suppress(Cut):
            renew(config)
    file_context(config.broker.tls)
    renew(config)
    file_context(config.broker.tls)
    assert not config.broker.tls.key.with_name("tls.key.next").exists()


def test_refused_renewal_leaves_the_old_pair(desk, config):
    """A revoked device keeps what it has, and is told."""
    before = [path.read_bytes() for path in (config.broker.tls.certificate, config.broker.tls.key)]
    desk.refuse = (403, "the device is revoked")
    with pytest.raises(UserError, match="the device is revoked"):
        renew(config)
    assert [path.read_bytes() for path in (config.broker.tls.certificate, config.broker.tls.key)] == before


async def until(condition):
    """`condition()` holds; nobody else can tell, so it is looked for."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - files change without an event
            await asyncio.sleep(0.01)


async def test_companion_renews_by_itself_when_it_is_time(desk, directory, caplog):
    """A certificate past two thirds of its life is exchanged at once; then nothing is due."""
    caplog.set_level("INFO", logger="edge")
    config = with_identity(make_config(directory), desk, directory, begins=-3 * HOUR, ends=HOUR)
    certificate = config.broker.tls.certificate
    before = certificate.read_bytes()
    task = asyncio.create_task(renewing(config, certificate)(None))
    await until(lambda: certificate.read_bytes() != before and caplog.records)
    task.cancel()
    await asyncio.wait({task})
    assert desk.calls == ["/v1/renew"]
    assert "was renewed: the new one ends on 20" in caplog.records[-1].getMessage()


async def test_companion_tries_again_and_says_so_once(desk, directory, caplog, monkeypatch):
    """The desk is busy four times: one line, then the renewal."""
    monkeypatch.setattr(renewal, "_pause_s", lambda *_: 0.01)
    caplog.set_level("INFO", logger="edge")
    desk.busy = 4
    config = with_identity(make_config(directory), desk, directory, begins=-3 * HOUR, ends=HOUR)
    task = asyncio.create_task(renewing(config, config.broker.tls.certificate)(None))
    await until(lambda: len(caplog.records) == 2)
    task.cancel()
    await asyncio.wait({task})
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "does not take it in" in caplog.records[0].getMessage()


async def test_companion_leaves_a_young_certificate_alone(desk, config):
    """Not due: nobody is asked, and cancelling it is the only end."""
    task = asyncio.create_task(renewing(config, config.broker.tls.certificate)(None))
    done, _ = await asyncio.wait({task}, timeout=0.1)
    task.cancel()
    await asyncio.wait({task})
    assert (done, desk.calls) == (set(), [])


def test_desk_that_is_away_is_one_line(desk, config):
    """Nothing is changed."""
    gone = dataclasses.replace(config, desk=DeskConfig(HOST, free_port()))
    with pytest.raises(UserError, match=f"desk {HOST}"):
        renew(gone)


def test_what_is_left_is_told_to_people():
    """As status and enroll show it."""
    now = time.time()
    assert identity.ends_in(86400.0 * 20001, 86400.0 * 19999) == "ends on 2024-10-05, in 2 days"
    assert identity.ends_in(now + 86400 + 60, now).endswith(", in 24 hours")
    assert identity.ends_in(now - 60, now).endswith(", 0 hours ago")
