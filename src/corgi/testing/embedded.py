"""A broker inside the process: one node with everything real (log, port on the loopback, protocol), no other process.

For tests and small jobs. One node is its own majority: what it acknowledges is on this machine's disk, nowhere else.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from corgi.base.ids import NodeId
from corgi.broker.options import NodeOptions
from corgi.client.corgi import Connecting, Corgi, connect
from corgi.runtime.drive import Driver, Notes
from corgi.runtime.folder import Folder

NODE = NodeId(1)
GROUPS = 4  # of a broker made here; one that exists keeps its own
MEMORY_GROUPS = 1
LOOPBACK = "127.0.0.1"
KAFKA = "default"  # the name of the listener for Kafka's clients


class Broker:
    """One node on the running event loop, on a free port; ``servers`` is what ``corgi.connect`` wants.

    ``folder`` None: a temporary one, removed when the broker stops. A folder is made into a node's when it is not one
    yet, and continued when it is. An asynchronous context manager, or ``start`` and ``stop``. With ``kafka`` Kafka's
    clients are served too, at another free port: ``kafka_servers`` is their ``bootstrap.servers``.
    """

    def __init__(self, folder: str | Path | None = None, *, groups: int = GROUPS, kafka: bool = False) -> None:
        self.servers = ""
        self.kafka_servers = ""
        self._kafka = kafka
        self._wanted = None if folder is None else Path(folder)
        self._groups = groups
        self._temporary: Path | None = None
        self._folder: Folder | None = None
        self._driver: Driver | None = None

    async def start(self) -> None:
        """Raises CorgiError, for instance "data-folder-in-use"."""
        if self._wanted is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="corgi-"))
        path = self._wanted or self._temporary
        assert path is not None
        try:
            self._folder = _open(path, self._groups)
            self._driver = Driver(
                _options(self._folder),
                self._folder.path,
                host=LOOPBACK,
                recovered=self._folder.mark_recovered,
                notes=Notes.of(self._folder),
                kafka_listen={KAFKA: (LOOPBACK, 0)} if self._kafka else {},
            )
            port = await self._driver.start()
        except BaseException:
            self._driver = None
            await self.stop()
            raise
        self.servers = f"{LOOPBACK}:{port}"
        if self._kafka:
            self.kafka_servers = f"{LOOPBACK}:{self._driver.kafka.ports[KAFKA]}"

    async def stop(self) -> None:
        """Close everything; safe to call twice."""
        driver, self._driver = self._driver, None
        folder, self._folder = self._folder, None
        temporary, self._temporary = self._temporary, None
        try:
            if driver is not None:
                await driver.stop()
        finally:
            if folder is not None:
                folder.close()
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


class Embedded:
    """What ``embedded`` returns: ``async with`` gives the connected client, ``mq.servers`` is the broker's address."""

    def __init__(self, broker: Broker, options: dict[str, Any]) -> None:
        self._broker = broker
        self._options = options
        self._connecting: Connecting | None = None

    async def __aenter__(self) -> Corgi:
        await self._broker.start()
        try:
            self._connecting = connect(self._broker.servers, **self._options)
            return await self._connecting.__aenter__()
        except BaseException:
            await self._broker.stop()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._connecting is not None:
                await self._connecting.__aexit__(kind, error, trace)
        finally:
            await self._broker.stop()


def embedded(folder: str | Path | None = None, **options: Any) -> Embedded:
    """A single-node broker in this process with a client: ``async with corgi.embedded() as mq``.

    ``folder`` None: temporary. Other arguments are those of ``corgi.connect``.
    """
    return Embedded(Broker(folder), options)


def _open(path: Path, groups: int) -> Folder:
    if (path / "node.json").exists():
        return Folder.open(path, NODE)
    return Folder.bootstrap(path, secrets.token_bytes(16), NODE, groups, memory_groups=MEMORY_GROUPS)


def _options(folder: Folder) -> NodeOptions:
    return NodeOptions(
        node=folder.node,
        cluster=folder.cluster,
        incarnation=folder.incarnation,
        boot=folder.boot,
        members=(folder.node,),
        groups=folder.groups,
        memory_groups=folder.memory_groups,
        recovering=folder.recovering,
        memory_lost=folder.memory_lost,
        software="corgi-embedded",
    )
