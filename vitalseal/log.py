"""Logging: one line an event, on stderr; no health value ever stands in one.

On a terminal a line is for people, with its time; with `VITALSEAL_LOG=json` it is one JSON object. Where stderr is
systemd's journal, which keeps the time itself, a line begins with its priority instead: `journalctl -p warning` works.
"""

import json
import logging
import os
import sys
import time

# syslog(3)'s, as sd-daemon(3) writes them.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7


class _JsonFormatter(logging.Formatter):
    """Time, level, logger and message, and the traceback of a fault of ours, as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event)


class _JournalFormatter(logging.Formatter):
    """What `inner` makes, each line of it behind its priority."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), _DEBUG)
        return "\n".join(f"<{priority}>{line}" for line in self._inner.format(record).splitlines())


def set_up(*, verbose: bool = False) -> None:
    """Log records of our programs go to stderr from here on; libraries only when they warn."""
    handler = logging.StreamHandler(sys.stderr)
    journal = _is_journal()
    formatter: logging.Formatter
    if os.environ.get("VITALSEAL_LOG") == "json":
        formatter = _JsonFormatter()
    else:
        formatter = logging.Formatter(("" if journal else "%(asctime)s %(levelname)-7s ") + "%(name)s: %(message)s")
    handler.setFormatter(_JournalFormatter(formatter) if journal else formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("edge", "aggregator", "ledger", "simulators", "dashboard", "vitalseal"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)


def _is_journal() -> bool:
    """Whether stderr goes to the journal itself; a child that was given another stderr inherits the variable, too."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):  # closed, or none of the system's
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))
