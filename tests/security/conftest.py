"""The scene that all attacks here are made on."""

import pytest

from .scene import Scene, Talk


@pytest.fixture(scope="session")
def scene(tmp_path_factory):
    """One aggregator, desk and broker for all of this folder."""
    with Scene(tmp_path_factory.mktemp("scene")) as scene:
        yield scene


@pytest.fixture(scope="session")
def bystander(scene):
    """A device that minds its own business all the while."""
    with Talk(scene, scene.enrolled("honest")) as talk:
        yield talk


@pytest.fixture
def honest(scene, bystander):
    """The same, to which whatever happens does nothing: its next batch is taken and receipted, as all before it."""
    bystander.go_on()
    yield bystander
    bystander.go_on()
    bystander.all_receipted()
    assert bystander.rejects() == []
    assert scene.batches_of(bystander.device) == list(range(bystander.device.seq))


@pytest.fixture
def culprit(scene):
    """A gateway that is signed in and has bad intentions, not connected yet."""
    return scene.enrolled("evil")


@pytest.fixture
def evil(scene, culprit):
    """The same, connected."""
    with Talk(scene, culprit) as talk:
        yield talk
