"""A new signing key: asked for by files, carried out by an agent, and whole or not at all whatever happens."""

import asyncio
import contextlib

import pytest

from edge import files, rotation
from edge.key import load_key, successor
from edge.rotation import DONE, FAILED, WAITING, answer, request, rotating, serve_request, settle
from ledger.keys import key_id
from tests.edge.conftest import make_config
from tests.edge.desk import Desk
from tests.edge.test_renewal import until, with_identity
from vitalseal.errors import UserError

UNTIL = (0, 17)


class FakeAgent:
    """Does what an agent does for a rotation, in the order that it does it."""

    def __init__(self, config):
        self.signer = load_key(config.key)
        self.stopped = False

    async def rotate(self, signer, ask):
        await ask(UNTIL)
        self.signer = signer

    def stop(self):
        self.stopped = True


@pytest.fixture
def desk(tmp_path):
    with Desk(tmp_path) as desk:
        yield desk


@pytest.fixture
def config(desk, directory):
    return with_identity(make_config(directory), desk, directory)


@pytest.fixture
def agent(config):
    return FakeAgent(config)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """A desk that gives no answer is asked again at once."""
    monkeypatch.setattr(rotation, "RETRY_S", 0.005)


def names(config):
    return sorted(path.name for path in config.key.parent.glob("edge.key*"))


async def test_request_is_carried_out_and_answered(desk, config, agent):
    """Old and new key sign, the log has it, the file is the new key's, and nothing is left of the work."""
    old = load_key(config.key).public_key
    key = request(config)
    assert answer(config, key)[0] == WAITING
    await serve_request(config, agent)
    (entry,) = desk.log
    entry.check()
    assert (entry.old_public_key, entry.until, entry.public_key) == (old, UNTIL, load_key(config.key).public_key)
    assert agent.signer.public_key == entry.public_key != old
    assert answer(config, key) == (DONE, f"key {entry.key_id.hex()}, as entry 0")
    assert names(config) == ["edge.key"]
    assert not (config.data / "rotate.request").exists()


async def test_request_found_after_a_restart_is_not_carried_out_twice(desk, config, agent):
    """The process died between the rotation and its answer: the key that was to go is gone already."""
    key = request(config)
    text = (config.data / "rotate.request").read_text()
    await serve_request(config, agent)
    (config.data / "rotate.request").write_text(text)
    await serve_request(config, agent)
    assert (answer(config, key)[0], len(desk.log)) == (DONE, 1)


@pytest.mark.parametrize("status", [400, 403, 409])
async def test_refusal_leaves_the_old_key_and_the_next_try_uses_the_same_new_one(desk, config, agent, status):
    """No matter what was asked before: the desk said no, so the old key goes on."""
    desk.refuse = (status, "the device is revoked")
    old = load_key(config.key).public_key
    key = request(config)
    await serve_request(config, agent)
    assert (answer(config, key)[0], agent.signer.public_key, load_key(config.key).public_key) == (FAILED, old, old)
    assert "the device is revoked" in answer(config, key)[1]
    assert names(config) == ["edge.key", "edge.key.next"]
    new = load_key(successor(config.key)).public_key
    desk.refuse = None
    request(config)
    await serve_request(config, agent)
    assert load_key(config.key).public_key == new


async def test_lost_answers_are_asked_for_until_there_is_one(desk, config, agent):
    """The desk acted, its answers were lost: asked again, it answers again; the log has one entry."""
    desk.lose, desk.busy = 3, 0
    request(config)
    await serve_request(config, agent)
    assert (len(desk.log), names(config)) == (1, ["edge.key"])
    assert agent.signer.public_key == desk.log[0].public_key


async def test_desk_that_is_away_is_found_out_before_anything_is_held_up(desk, config, agent):
    """The agent is not even asked to wait."""
    desk.busy = 1
    key = request(config)
    old = names(config)
    await serve_request(config, agent)
    assert (answer(config, key)[0], names(config)) == (FAILED, old)


async def test_batches_that_nobody_stores_do_not_hold_the_agent_up_for_ever(desk, config, monkeypatch):
    """An aggregator that is away, a device that is revoked: the rotation is off, and nobody was asked."""
    monkeypatch.setattr(rotation, "DELIVERED_WITHIN_S", 0.02)

    class Undelivered(FakeAgent):
        async def rotate(self, _signer, _ask):
            await asyncio.Event().wait()

    old = load_key(config.key).public_key
    key = request(config)
    await serve_request(config, Undelivered(config))
    assert (answer(config, key)[0], load_key(config.key).public_key, desk.calls) == (FAILED, old, ["/v1/log"])


class Cut(BaseException):
    """The process is gone: nobody catches this."""


def cut_after(monkeypatch, steps):
    left = [steps]

    def counted(function):
        def change(*args, **others):
            if not left[0]:
                raise Cut
            left[0] -= 1
            return function(*args, **others)

        return change

    for name in ("write_new", "replace", "move"):
        monkeypatch.setattr(files, name, counted(getattr(files, name)))


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("steps", range(10))
async def test_cut_anywhere_it_is_whole_or_not_at_all(desk, config, monkeypatch, steps, refused):
    """After a restart the agent has the key that the log says, and the request comes to its end."""
    old = load_key(config.key).public_key
    key = request(config)
    if refused:
        desk.refuse = (403, "no")
    with monkeypatch.context() as patch:
        cut_after(patch, steps)
        with contextlib.suppress(Cut):
            await serve_request(config, FakeAgent(config))
    settle(config)
    agent = FakeAgent(config)
    logged = desk.log[-1].public_key if desk.log else old
    assert agent.signer.public_key == logged
    await rotation._finish(config)
    await serve_request(config, agent)
    assert answer(config, key)[0] == (FAILED if refused else DONE)
    assert load_key(config.key).public_key == (old if refused else desk.log[-1].public_key)
    assert len(desk.log) == (0 if refused else 1)
    assert not config.key.with_name("edge.key.rotation").exists()


async def test_unknown_outcome_and_no_desk_starts_with_the_new_key(desk, config, caplog):
    """The old key might seal behind its end; the new one's batches only wait. The companion asks until it is told."""
    request(config)
    desk.lose = 1
    cut = asyncio.create_task(serve_request(config, FakeAgent(config)))
    await until(lambda: desk.log)
    cut.cancel()
    await asyncio.wait({cut})
    new = desk.log[0].public_key
    assert load_key(config.key).public_key == new
    assert config.key.with_name("edge.key.rotation").exists()
    desk.busy = 2
    settle(config)
    agent = FakeAgent(config)
    assert agent.signer.public_key == new
    task = asyncio.create_task(rotating(config)(agent))
    await until(lambda: not config.key.with_name("edge.key.rotation").exists())
    await until(lambda: not (config.data / "rotate.request").exists())
    task.cancel()
    await asyncio.wait({task})
    assert (len(desk.log), load_key(config.key).public_key) == (1, new)


async def test_agent_that_is_stopped_meanwhile_stops_with_the_new_key(desk, config):
    """It seals what is left when it stops, and the desk may know the new key: so `ask` returns, and then it ends."""
    desk.busy = 0
    key = request(config)
    agent = FakeAgent(config)
    asked = asyncio.Event()

    async def no_answer(*_):
        asked.set()
        await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rotation, "_insist", no_answer)
        task = asyncio.create_task(serve_request(config, agent))
        await asked.wait()
        task.cancel()
        await asyncio.wait({task})
    assert task.cancelled()
    assert agent.signer.public_key == load_key(config.key).public_key
    assert answer(config, key)[0] == WAITING
    settle(config)
    await rotation._finish(config)
    assert desk.log[0].public_key == agent.signer.public_key


async def test_settling_at_start_obeys_a_refusal(desk, config):
    """Asked, unknown, and then refused: the old key goes on, in the same start."""
    old = load_key(config.key).public_key
    request(config)

    def cut(*_):
        raise Cut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rotation, "_post", cut)
        with contextlib.suppress(Cut):
            await serve_request(config, FakeAgent(config))
    assert config.key.with_name("edge.key.rotation").exists()
    desk.refuse = (403, "revoked")
    settle(config)
    assert (load_key(config.key).public_key, names(config)) == (old, ["edge.key", "edge.key.next"])


async def test_damaged_record_of_a_rotation_stops_the_start(config):
    """It cannot be known which key may seal; a person looks."""
    config.key.with_name("edge.key.rotation").write_text("{")
    successor(config.key).write_bytes(config.key.read_bytes())
    with pytest.raises(UserError, match=r"edge\.key\.rotation"):
        settle(config)


async def test_request_is_seen_while_the_agent_runs(desk, config, agent, monkeypatch):
    """By a companion that looks twice a second."""
    monkeypatch.setattr(rotation, "LOOK_EVERY_S", 0.01)
    task = asyncio.create_task(rotating(config)(agent))
    key = request(config)
    await until(lambda: answer(config, key)[0] == DONE)
    task.cancel()
    await asyncio.wait({task})
    assert key_id(1, load_key(config.key).public_key) == desk.log[0].key_id
