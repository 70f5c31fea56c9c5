"""Brokers and a time-series database for every room's tests."""

import pytest
from hypothesis import settings

from tests.brokers import Amqtt, Mosquitto
from tests.influx_server import InfluxServer

# A loaded machine is slow, not wrong; pytest-timeout finds what hangs.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.fixture
def mosquitto(tmp_path_factory):
    """A running Mosquitto."""
    broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"))
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def amqtt(tmp_path_factory):
    """A running amqtt."""
    broker = Amqtt(tmp_path_factory.mktemp("amqtt"))
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture(params=["mosquitto", "amqtt"])
def broker(request):
    """Each broker in turn, running; `down()` and `up()` take it away and bring it back."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def influx_server(tmp_path_factory):
    """A running InfluxDB, for all tests of this process; each makes its own database (`fresh_database`)."""
    with InfluxServer(tmp_path_factory.mktemp("influx")) as server:
        yield server


@pytest.fixture
def own_influx_server(tmp_path_factory):
    """A running InfluxDB for one test, which may stop, kill or pause it."""
    with InfluxServer(tmp_path_factory.mktemp("influx")) as server:
        yield server
