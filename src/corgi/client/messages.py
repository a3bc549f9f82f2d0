"""What users hold in their hands: messages, receipts, descriptions of topics. Slotted and made in C by msgspec."""

from __future__ import annotations

from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from corgi.base.records import Header
from corgi.client.words import as_datetime

V = TypeVar("V")


class Message(msgspec.Struct, Generic[V], gc=False):
    """One message. ``timestamp``: ms since 1970, as the producer set it; ``value`` None deletes a key.

    Also accepted by ``publish_many``, which takes key, value, headers and timestamp from it (-1: now).
    """

    topic: str = ""
    partition: int = -1
    offset: int = -1
    timestamp: int = -1
    key: bytes | None = None
    value: V | None = None
    headers: tuple[Header, ...] = ()

    @property
    def time(self) -> datetime:
        """``timestamp`` as an aware datetime."""
        return as_datetime(self.timestamp)

    def header(self, name: str) -> bytes | None:
        """The last header of that name, None if there is none."""
        for key, value in reversed(self.headers):
            if key == name:
                return value
        return None


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """The cluster holds a message. ``offset`` -1: not told (acks none and leader).

    ``timestamp``: the log's time when the message was decided, in ms since 1970; -1 where the offset is not told.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int

    @property
    def time(self) -> datetime:
        """``timestamp`` as an aware datetime."""
        return as_datetime(self.timestamp)


class PartitionDescription(msgspec.Struct, frozen=True):
    """``leader`` 0: unknown at the moment. ``start`` and ``end``: offsets, -1 where they were not asked for.

    ``compacted_to``: the offset below which of each key only the newest record is left, as far as the asked node has
    seen; ``dirty_ratio`` (0 to 1) is the share of bytes behind it. Both -1 where the topic is not compacted.
    """

    partition: int
    group: int
    leader: int
    replicas: tuple[int, ...]
    start: int = -1
    end: int = -1
    compacted_to: int = -1
    dirty_ratio: float = -1.0


class TopicDescription(msgspec.Struct, frozen=True):
    """A topic as the cluster knows it; ``config`` holds what differs from the defaults, as text."""

    name: str
    id: int
    partitions: tuple[PartitionDescription, ...]
    config: dict[str, str]


class NodeDescription(msgspec.Struct, frozen=True):
    """A node as the cluster knows it; ``connected``: this client has a link to it."""

    node: int
    host: str
    port: int
    label: str
    connected: bool
