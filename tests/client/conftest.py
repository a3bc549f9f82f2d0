"""One embedded broker for the tests of a module; each test takes a topic of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from corgi.client.loop_thread import LoopThread
from corgi.testing.embedded import Broker


@pytest.fixture(scope="module")
def servers() -> Iterator[str]:
    """The address of a broker that lives as long as the module's tests."""
    thread = LoopThread()
    broker = Broker()
    try:
        thread.call(broker.start)
        yield broker.servers
        thread.call(broker.stop)
    finally:
        thread.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A topic's name that no other test uses."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name)
