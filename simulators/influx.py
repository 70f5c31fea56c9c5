"""A real InfluxDB on the loopback interface: Debian's influxd 1.6 behind an nginx that gives it the v2 write API.

    /api/v2/write?bucket=B&...    ->  /write?db=B&precision=n        what InfluxDB 1.8 and later do by themselves
    everything else               ->  as it came

For tests and benchmarks: no password, and its data goes with its directory.
"""

import grp
import http.client
import os
import pwd
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Self

from simulators.broker import HOST, free_port
from vitalseal.errors import UserError

READY_WITHIN_S = 30.0
STOP_WITHIN_S = 30.0  # it finishes what it writes

_INFLUXD = """
reporting-disabled = true
bind-address = "{host}:{rpc}"
[meta]
  dir = "{directory}/meta"
[data]
  dir = "{directory}/data"
  wal-dir = "{directory}/wal"
  query-log-enabled = false
  {settings}
[monitor]
  store-enabled = false
[http]
  bind-address = "{host}:{backend}"
  suppress-write-log = true
  log-enabled = false
"""
_NGINX = """
daemon off;
user {user} {group};
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_max_body_size 8m;
    client_body_buffer_size 8m;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream influxd {{ server {host}:{backend} max_fails=0; keepalive 16; }}
    server {{
        listen {host}:{port};
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_read_timeout 600s;
        location = /api/v2/write {{
            set $args "db=$arg_bucket&precision=n";
            rewrite ^ /write break;
            proxy_pass http://influxd;
        }}
        location / {{ proxy_pass http://influxd; }}
    }}
}}
"""


class InfluxServer:
    """The server and its nginx; a context manager that has both running, and neither afterwards.

    `start()`, `stop()` (in good order), `kill()` (as in a power cut), `pause()` and `resume()` are about influxd; nginx
    stays, and answers 502 where influxd is gone. The ports and the data stay, so it can go away and come back.
    """

    def __init__(self, directory: Path, *settings: str) -> None:
        """Its data, configuration and logs are in `directory`, which exists.

        `settings` are further lines of influxd's section [data].
        """
        self.port, self.backend = free_port(), free_port()
        self.directory = directory
        self._influxd: subprocess.Popen[bytes] | None = None
        self._nginx: subprocess.Popen[bytes] | None = None
        values = {
            "host": HOST,
            "port": self.port,
            "backend": self.backend,
            "rpc": free_port(),
            "user": pwd.getpwuid(os.getuid()).pw_name,
            "group": grp.getgrgid(os.getgid()).gr_name,
            "directory": directory,
            "settings": "\n  ".join(settings),
        }
        for name, text in (("influxd.conf", _INFLUXD), ("nginx.conf", _NGINX)):
            (directory / name).write_text(text.format(**values), encoding="utf-8")

    def __enter__(self) -> Self:
        try:
            self._nginx = self._run(
                "nginx", "-p", str(self.directory), "-e", str(self.directory / "nginx.log"), "-c", "nginx.conf"
            )
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        if self._nginx is not None:
            self._nginx.terminate()
            self._nginx.wait(STOP_WITHIN_S)
            self._nginx = None

    @property
    def url(self) -> str:
        """Where it answers, by nginx."""
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id; raises UserError while it does not run."""
        return self._running().pid

    def start(self) -> None:
        """The server runs and answers through nginx; raises UserError."""
        self._influxd = self._run("influxd", "-config", str(self.directory / "influxd.conf"))
        deadline_s = time.monotonic() + READY_WITHIN_S
        while not self._answers():
            if self._influxd.poll() is not None or time.monotonic() > deadline_s:
                raise UserError(f"influxd did not start (see {self.directory / 'influxd.log'})")
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """The server, if it runs, has ended by signal `number`."""
        if self._influxd is not None:
            self._influxd.send_signal(number)
            self._influxd.send_signal(signal.SIGCONT)
            self._influxd.wait(STOP_WITHIN_S)
            self._influxd = None

    def kill(self) -> None:
        """The server is gone, as in a power cut."""
        self.stop(signal.SIGKILL)

    def restart(self) -> None:
        """The server went away in good order, and is back."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """The server takes connections and answers nothing."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """The server goes on."""
        self._running().send_signal(signal.SIGCONT)

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._influxd is None:
            raise UserError("influxd does not run")
        return self._influxd

    def _run(self, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
        found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin:/usr/bin")
        if found is None:
            raise UserError(f"{program} is missing: run  apt-get install influxdb nginx-light  (`make test` does)")
        with (self.directory / f"{program}.log").open("ab") as log:
            return subprocess.Popen([found, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/ping", timeout=5) as answer:  # noqa: S310 - our own address
                return bool(answer.status == 204)
        except (OSError, http.client.HTTPException):
            return False
