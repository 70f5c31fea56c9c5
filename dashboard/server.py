"""The page's server: uvicorn in a thread of whoever has the numbers, on the loopback interface only."""

import threading
import time
from collections.abc import Callable
from typing import Self

import uvicorn

from dashboard.app import make_app
from dashboard.snapshot import Snapshot
from vitalseal.errors import UserError

HOST = "127.0.0.1"
STARTED_WITHIN_S = 10.0
# Event streams never end by themselves.
STOPPED_WITHIN_S = 1


class StatusServer:
    """Serves the page on `port` while the context is entered; `current` is called in the server's thread."""

    def __init__(self, current: Callable[[], Snapshot], port: int) -> None:
        self.url = f"http://{HOST}:{port}/"
        config = uvicorn.Config(
            make_app(current),
            host=HOST,
            port=port,
            log_level="critical",
            lifespan="off",
            timeout_graceful_shutdown=STOPPED_WITHIN_S,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="status-page", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        deadline_s = time.monotonic() + STARTED_WITHIN_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline_s:
                raise UserError(f"the status page cannot be served at {self.url}: is the port taken?")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(STARTED_WITHIN_S)

    def _run(self) -> None:
        try:
            self._server.run()
        except SystemExit:
            return  # uvicorn's way of saying that it could not bind; `__enter__` says it to the user
