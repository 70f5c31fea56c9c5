"""The reading store that a configuration names. The library of InfluxDB is loaded only where there is one."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from aggregator.config import AggregatorConfig
from aggregator.timeseries.base import ReadingStore
from aggregator.timeseries.embedded import DATABASE, EmbeddedStore
from vitalseal.errors import UserError


def open_store(config: AggregatorConfig, *, readonly: bool = False) -> AbstractContextManager[ReadingStore]:
    """The store of `config`, to be used as a context manager; raises UserError or StoreAwayError."""
    if config.influx is None:
        return EmbeddedStore(config.data, readonly=readonly)
    from aggregator.timeseries.influx import InfluxStore

    return InfluxStore(config.influx, readonly=readonly)


def erase_unused(data: Path, store: ReadingStore, log_index: int, leaves: Sequence[int]) -> None:
    """If `data` has the file of a view from before `store` took its place, the readings are gone from it as well.

    One that cannot be read is emptied: nobody uses it, and whoever goes back to it has it made again.

    Raises:
        StoreAwayError: somebody is reading it, or the disk is full.
    """
    if isinstance(store, EmbeddedStore) or not (data / DATABASE).exists():
        return
    with EmbeddedStore(data) as unused:
        try:
            unused.erase(log_index, leaves)
        except UserError:
            unused.clear()
