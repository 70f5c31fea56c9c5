"""Logging: one line an event, on stderr; no health value ever stands in one.

On a terminal and under systemd a line is for people; with `VITALSEAL_LOG=json` it is one JSON object.
"""

import json
import logging
import os
import sys
import time


class _JsonFormatter(logging.Formatter):
    """Time, level, logger and message as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        return json.dumps(event)


def set_up(*, verbose: bool = False) -> None:
    """Log records of our programs go to stderr from here on; libraries only when they warn."""
    handler = logging.StreamHandler(sys.stderr)
    if os.environ.get("VITALSEAL_LOG") == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("edge", "aggregator", "ledger", "simulators", "dashboard"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)
