"""Numbered steps of a verification: each passed, failed or not checked, and says so.

"Not checked" can not pass for "passed": what is proven names every step, and `strict` demands all of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from ledger.errors import VerificationError
from ledger.reading import format_time


class Result(StrEnum):
    """What became of a step."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Step:
    """One numbered step of a report."""

    number: int
    title: str
    result: Result
    detail: str


class UnprovenError(VerificationError):
    """A step failed: the message names it, `steps` is the whole report, the steps after it not checked."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        unpassed = [step for step in steps if step.result is not Result.PASSED]
        failed = next((step for step in unpassed if step.result is Result.FAILED), unpassed[0])
        super().__init__(f"step {failed.number} ({failed.title}) {failed.result}: {failed.detail}")
        self.steps = steps


class Report:
    """The steps so far, in the order of `titles`."""

    def __init__(self, titles: Sequence[str]) -> None:
        self._titles = titles
        self._steps: list[Step] = []

    @contextmanager
    def step(self) -> Iterator[Callable[[str], None]]:
        """Runs one step: passed with the detail that it is given; failed, and the whole unproven, if it raises."""
        details: list[str] = []
        try:
            yield details.append
        except VerificationError as error:
            self.add(Result.FAILED, str(error))
            while len(self._steps) < len(self._titles):
                self.add(Result.NOT_CHECKED, "an earlier step failed")
            raise UnprovenError(tuple(self._steps)) from None
        self.add(Result.PASSED, "; ".join(details))

    def add(self, result: Result, detail: str) -> None:
        """The next step has `result`."""
        number = len(self._steps) + 1
        self._steps.append(Step(number, self._titles[number - 1], result, detail))

    def finish(self, *, strict: bool = False) -> tuple[Step, ...]:
        """The whole report; raises UnprovenError under `strict` if a step was not checked."""
        if strict and any(step.result is not Result.PASSED for step in self._steps):
            raise UnprovenError(tuple(self._steps))
        return tuple(self._steps)


def describe_quorum(logged_by: int | None, witnesses: tuple[str, ...]) -> str:
    """What step 3 of every verification says; `logged_by` in Unix seconds."""
    if logged_by is None:
        return "the policy asks for no witness (quorum none), so there is no logged-by time"
    return f"logged by {format_time(logged_by * 10**9)}, cosigned by {', '.join(witnesses)}"
