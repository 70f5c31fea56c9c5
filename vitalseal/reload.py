"""A configuration that is read again while its program runs: what can change does, the rest is named.

A file that is wrong changes nothing. What takes a restart stays as it was, and one line says so.
"""

import dataclasses
import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from vitalseal.errors import UserError
from vitalseal.systemd import notify, reloading

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Reload(Generic[T]):
    """What SIGHUP does.

    Args:
        path: the file.
        read: makes a configuration of it, a frozen dataclass; raises UserError.
        config: the one in force.
        live: its top-level keys that can change while the program runs.
        apply: brings a new one into force, whole or not at all; raises UserError.
    """

    def __init__(
        self, path: Path, read: Callable[[Path], T], config: T, live: frozenset[str], apply: Callable[[T], None]
    ) -> None:
        self._path = path
        self._read = read
        self._config = config
        self._live = live
        self._apply = apply
        self._one_at_a_time = threading.Lock()

    def on_hangup(self) -> None:
        """From here on SIGHUP calls this in a thread: a handler interrupts anything, also whoever is about to log."""
        signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=self, name="reload").start())

    def __call__(self) -> None:
        """The file is in force as far as it can be; raises nothing that the file can be blamed for."""
        with self._one_at_a_time:
            notify(*reloading())
            self._reload()
            notify("READY=1")

    def _reload(self) -> None:
        try:
            changed = _differing(self._config, found := self._read(self._path))
            config: Any = self._config
            if taken := sorted(changed & self._live):
                config = dataclasses.replace(config, **{name: getattr(found, name) for name in taken})
            # Also where no key changed: a file that one of them names may have.
            self._apply(config)
        except (UserError, ValueError) as error:
            logger.error("the configuration stays as it was: %s", error)  # noqa: TRY400 - the file's fault, in one line
        else:
            self._config = config
            logger.info("%s was read again; changed: %s", self._path, ", ".join(taken) or "nothing")
            if rest := sorted(changed - self._live):
                logger.warning("%s: %s changed, which takes a restart", self._path, ", ".join(rest))


def _differing(old: Any, new: Any) -> set[str]:
    names = (field.name for field in dataclasses.fields(old))
    return {name for name in names if getattr(old, name) != getattr(new, name)}
