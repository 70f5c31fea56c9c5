"""The real InfluxDB of `simulators.influx`, and what tests ask of it past the store."""

import itertools
import json
import urllib.parse
import urllib.request

from aggregator.config import InfluxConfig
from simulators import influx
from simulators.broker import HOST


class InfluxServer(influx.InfluxServer):
    """With databases of its own for each test, and read and written as somebody else would."""

    def __init__(self, directory, *settings):
        super().__init__(directory, *settings)
        self._names = itertools.count()

    def query(self, text: str, database: str = "") -> list[dict]:
        """The series that InfluxQL `text` gives, straight from influxd; raises AssertionError with what it says."""
        form = urllib.parse.urlencode({"q": text, "db": database, "epoch": "ns"}).encode()
        with urllib.request.urlopen(f"http://{HOST}:{self.backend}/query", form, timeout=30) as answer:
            results = json.load(answer)["results"]
        assert not [result["error"] for result in results if "error" in result], results
        return [series for result in results for series in result.get("series", [])]

    def write(self, lines: str, database: str) -> None:
        """Writes line protocol as somebody else would, straight to influxd."""
        url = f"http://{HOST}:{self.backend}/write?{urllib.parse.urlencode({'db': database})}"
        with urllib.request.urlopen(url, lines.encode(), timeout=30):
            pass

    def fresh_database(self) -> str:
        """The name of a database that was just made, empty, with unlimited retention."""
        name = f"test_{next(self._names)}"
        self.query(f'CREATE DATABASE "{name}"')
        return name

    def config(self, bucket: str, **options: object) -> InfluxConfig:
        """What a store of `bucket` here is opened with."""
        return InfluxConfig(url=self.url, bucket=bucket, **options)
