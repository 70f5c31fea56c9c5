"""A new signing key: what `vitalseal edge rotate` asks for, and how it comes about without a batch lost.

    1  the new key is made, in `edge.key.next`
    2  the agent seals nothing until all that the old key sealed is stored; collecting goes on
    3  what both keys signed is written to `edge.key.rotation`, and only then the desk is asked
    4  the desk answers when the rotation is on the log; the new key's file takes the old one's place, and the chain of
       the new key begins

Up to 3 nobody but us knows of the new key: after a crash the old one goes on. From 3 on the desk may have acted, though
its answer was lost, and then the old key must never seal again. So the next start asks again (the desk answers a
repeated request as the first one) and goes over to the new key, unless the desk refuses: then the old one goes on. If
the desk cannot be asked, the agent starts with the new key all the same; its batches are taken once the desk was asked.
An agent that is stopped in between stops with the new key.

The old key's file is not kept: there is nothing left for it to sign, and nothing that it signs is taken any more.

The command talks with a running agent through two files in the data directory: `rotate.request` has the id of the key
that is to go, so that a request found after a restart is not carried out twice; `rotate.answer` says how it stands.
"""

import asyncio
import json
import logging
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from edge import files
from edge.agent import Agent
from edge.config import EdgeConfig
from edge.desk import RefusedError, desk_of, rotation_body
from edge.key import load_key, prepare_successor, promote_successor, successor
from ledger.events import ChainPlace, request_rotation
from ledger.keys import Signer, key_id
from vitalseal.errors import UserError

LOOK_EVERY_S = 0.5
# What the old key sealed is stored within this time, or the rotation is off: nothing is sealed meanwhile.
DELIVERED_WITHIN_S = 60.0
# How long a desk that gives no answer is left alone, and no longer than that however often it gave none.
RETRY_S, RETRY_CAP_S = 1.0, 60.0
WAITING, DONE, FAILED = "waiting", "done", "failed"

_log = logging.getLogger(__name__)


def request(config: EdgeConfig) -> str:
    """An agent that runs, or the next one, rotates the key; returns the id of the key that is to go."""
    key = current_key(config)
    _answer_file(config).unlink(missing_ok=True)
    files.make_directory(config.data)
    files.replace(_request_file(config), f"{key}\n".encode())
    return key


def answer(config: EdgeConfig, key: str) -> tuple[str, str]:
    """How the request for `key` stands: WAITING, DONE or FAILED, and a sentence."""
    try:
        found = json.loads(_answer_file(config).read_bytes())
    except FileNotFoundError:
        return WAITING, "asked for"
    return (found["state"], found["text"]) if found["key"] == key else (WAITING, "asked for")


def current_key(config: EdgeConfig) -> str:
    """The id of the device's key, in hex."""
    return _id(load_key(config.key))


def settle(config: EdgeConfig) -> None:
    """The key file holds the key to start with, whatever a crash cut short; raises UserError.

    Called before an agent is made: from then on it seals with the key that it was given.
    """
    waiting = successor(config.key)
    if not _pending_file(config).exists() or not waiting.exists():
        return
    body = _pending(config)
    if load_key(waiting).public_key.hex() != body["public_key"]:
        return  # the key was promoted, and another one waits
    try:
        _post(config, body)
    except RefusedError as error:
        _log.warning("the rotation that was under way is off, and the old key goes on: %s", error)
        _pending_file(config).unlink()
        return
    except UserError as error:
        _log.warning("a rotation is under way, and the desk cannot be asked yet: %s", error)
    promote_successor(config.key, keep=False)


def rotating(config: EdgeConfig) -> Callable[[Agent], Coroutine[Any, Any, None]]:
    """A companion of the agent that carries rotations out."""

    async def serve(agent: Agent) -> None:
        await _finish(config)
        while True:
            await serve_request(config, agent)
            await asyncio.sleep(LOOK_EVERY_S)

    return serve


async def serve_request(config: EdgeConfig, agent: Agent) -> None:
    """The request, if there is one, is carried out or has failed, and is answered; then its file goes."""
    path = _request_file(config)
    if not path.exists():
        return
    key = path.read_text("ascii").strip()
    if key == current_key(config):
        try:
            text = await _rotate(config, agent, key)
        except UserError as error:
            _say(config, key, FAILED, str(error))
            _log.warning("the signing key was not rotated: %s", error)
        else:
            _say(config, key, DONE, text)
    else:
        _say(config, key, DONE, f"the key is {current_key(config)} now")
    path.unlink()


async def _rotate(config: EdgeConfig, agent: Agent, key: str) -> str:
    """The new key is the device's; returns what to tell of it. Raises UserError, and the old one goes on."""
    _say(config, key, WAITING, "the desk is asked who registers keys")
    # A desk that is away is found out here, before the agent holds anything up for it.
    facts = await asyncio.to_thread(_facts, config)
    old, new = load_key(config.key), await asyncio.to_thread(prepare_successor, config.key)
    indices: list[int] = []

    async def ask(until: ChainPlace) -> None:
        waiting.reschedule(None)
        _say(config, key, WAITING, "both keys sign, and the desk is asked")
        body = rotation_body(request_rotation(old, new, facts, config.origin, until))
        # From here on the old key seals nothing unless the desk refuses; see the module.
        files.replace(_pending_file(config), json.dumps(body).encode())
        try:
            indices.append(await _insist(config, body))
        except RefusedError:
            _pending_file(config).unlink()
            raise
        except asyncio.CancelledError:
            # The agent stops, and seals what is left: with the new key, for the desk may have heard of it. The agent
            # must come to know that, so this returns; the next start asks on.
            promote_successor(config.key, keep=False)
            return
        promote_successor(config.key, keep=False)
        _pending_file(config).unlink()

    _say(config, key, WAITING, "what the old key sealed is being delivered")
    try:
        async with asyncio.timeout(DELIVERED_WITHIN_S) as waiting:
            await agent.rotate(new, ask)
    except TimeoutError:
        raise UserError(
            f"what the old key sealed was not stored within {DELIVERED_WITHIN_S:g} s; see `vitalseal edge status`"
        ) from None
    if not indices:
        raise asyncio.CancelledError  # as it was asked for, a little later
    _log.info("the signing key was rotated: key %s, as entry %d", _id(new)[:16], indices[0])
    return f"key {_id(new)}, as entry {indices[0]}"


async def _finish(config: EdgeConfig) -> None:
    """No rotation is half done any more: the desk has answered what `settle` could not ask."""
    if not _pending_file(config).exists():
        return
    try:
        index = await _insist(config, _pending(config))
    except RefusedError as error:
        _log.error("the rotation to this key was refused: %s; enrol again: `vitalseal edge enroll --again`", error)
    else:
        _log.info("the rotation that was under way is done, as entry %d", index)
    _pending_file(config).unlink()


async def _insist(config: EdgeConfig, body: dict[str, Any]) -> int:
    """The desk's answer, however long it takes; raises RefusedError."""
    tries = 0
    while True:
        try:
            return await asyncio.to_thread(_post, config, body)
        except RefusedError:
            raise
        except UserError as error:  # whatever it is, an earlier try may have reached the desk
            tries += 1
            if tries == 1:
                _log.warning("the rotation has no answer yet: %s; it is asked for again", error)
        cap = min(RETRY_CAP_S, RETRY_S * 2.0 ** min(tries, 16))
        await asyncio.sleep(random.SystemRandom().uniform(cap / 2, cap))


def _post(config: EdgeConfig, body: dict[str, Any]) -> int:
    with desk_of(config) as desk:
        return desk.rotate(body)


def _facts(config: EdgeConfig) -> bytes:
    """The registrar's key."""
    with desk_of(config) as desk:
        facts = desk.log()
    if facts.origin != config.origin:
        raise UserError(f"the desk is that of the log {facts.origin}, and this gateway seals for {config.origin}")
    return facts.registrar


def _pending(config: EdgeConfig) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads(_pending_file(config).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{_pending_file(config)}: not a rotation under way ({error})") from None
    return body


def _say(config: EdgeConfig, key: str, state: str, text: str) -> None:
    files.replace(_answer_file(config), json.dumps({"key": key, "state": state, "text": text}).encode())


def _id(signer: Signer) -> str:
    return key_id(signer.algorithm, signer.public_key).hex()


def _pending_file(config: EdgeConfig) -> Path:
    return config.key.with_name(f"{config.key.name}.rotation")


def _request_file(config: EdgeConfig) -> Path:
    return config.data / "rotate.request"


def _answer_file(config: EdgeConfig) -> Path:
    return config.data / "rotate.answer"
