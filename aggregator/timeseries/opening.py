"""The reading store that a configuration names. The library of InfluxDB is loaded only where there is one."""

from contextlib import AbstractContextManager

from aggregator.config import AggregatorConfig
from aggregator.timeseries.base import ReadingStore
from aggregator.timeseries.embedded import EmbeddedStore


def open_store(config: AggregatorConfig, *, readonly: bool = False) -> AbstractContextManager[ReadingStore]:
    """The store of `config`, to be used as a context manager; raises UserError or StoreAwayError."""
    if config.influx is None:
        return EmbeddedStore(config.data, readonly=readonly)
    from aggregator.timeseries.influx import InfluxStore

    return InfluxStore(config.influx, readonly=readonly)
