"""A dialogue with a witness under way: questions go out on a pool's thread, what is said is heard in the caller's."""

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Generic, TypeAlias

from ledger.writer.witness_health import LATE, WitnessFault
from ledger.writer.witness_peer import Dialogue, Peer, Question, Reply, T

Send: TypeAlias = Callable[[Peer, Question], Future[Reply]]


class Talk(Generic[T]):
    """One dialogue with one peer, which is told how it went; `said` is its result once it has `answered`."""

    def __init__(self, peer: Peer, dialogue: Dialogue[T], send: Send, ends_at: float) -> None:
        """Puts the first question; `ends_at`, in `time.monotonic()`, is for the whole dialogue."""
        self.peer = peer
        self.ends_at = ends_at
        self.answered = False
        self.said: T | None = None
        self._dialogue = dialogue
        self._send = send
        self._given_up = False
        self._reply = send(peer, next(dialogue))

    @property
    def reply(self) -> Future[Reply]:
        """The reply that is awaited."""
        return self._reply

    def hear(self) -> Question | None:
        """Takes the reply, which is there, and returns the next question; None if the dialogue is over."""
        if self._given_up:
            return None
        try:
            return self._dialogue.send(self._reply.result())
        except StopIteration as end:
            self.answered, self.said = True, end.value
            self.peer.answered()
        except WitnessFault as fault:
            self.peer.failed(fault)
        return None

    def ask(self, question: Question) -> None:
        """Puts the next question."""
        self._reply = self._send(self.peer, question)

    def give_up(self) -> None:
        """The witness failed, whatever it may say yet; once."""
        if not self._given_up:
            self._given_up = True
            self.peer.failed(WitnessFault(LATE))


def hear(talks: list[Talk[T]], until: float) -> list[Talk[T]]:
    """Waits for replies up to `until`, puts the next questions, and takes the talks that are over out of `talks`."""
    wait([talk.reply for talk in talks], max(0.0, until - time.monotonic()), FIRST_COMPLETED)
    over = []
    for talk in [talk for talk in talks if talk.reply.done()]:
        talks.remove(talk)
        if (question := talk.hear()) is None:
            over.append(talk)
        else:
            talk.ask(question)
            talks.append(talk)
    return over
