"""The pytest plugin: a broker for a test that asks for one.

    async def test_orders(corgi_embedded):
        async with corgi_embedded.connect() as mq:
            await mq.topics.create("orders")
            ...

The broker runs in a thread of its own, so that synchronous tests and tests under any asynchronous runner can use it
alike. It is made anew for each test and keeps nothing. For Kafka's clients: ``corgi.testing.embedded.Broker``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from corgi.client.corgi import Connecting
    from corgi.client.sync import Corgi as SyncCorgi


class RunningBroker:
    """An embedded broker; ``servers`` is its address."""

    def __init__(self, servers: str) -> None:
        self.servers = servers

    def connect(self, **options: Any) -> Connecting:
        """``corgi.connect`` to it."""
        from corgi.client.corgi import connect

        return connect(self.servers, **options)

    def connect_sync(self, **options: Any) -> SyncCorgi:
        """``corgi.connect_sync`` to it."""
        from corgi.client.sync import connect

        return connect(self.servers, **options)


@pytest.fixture
def corgi_embedded() -> Iterator[RunningBroker]:
    """A single-node Corgi in this process, with a real port on the loopback."""
    from corgi.client.loop_thread import LoopThread
    from corgi.testing.embedded import Broker

    thread = LoopThread()
    broker = Broker()
    try:
        thread.call(broker.start)
        yield RunningBroker(broker.servers)
        thread.call(broker.stop)
    finally:
        thread.close()
