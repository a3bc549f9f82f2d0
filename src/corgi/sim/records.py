"""The records that simulated producers make: each has an identity of its own, some a key, some of these no value."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from corgi.base.records import Header
from corgi.history.model import Partition, Send, Value
from corgi.sim.clients import ID
from corgi.sim.scene import Scene

KEYS = 12
TOMBSTONES = 0.2  # share of the records with a key
PADDING = "padding"


class Made(NamedTuple):
    """One record, with ``padding`` bytes more. ``deletes``: it has no value, and a header tells it from all others."""

    identity: bytes
    key: str = ""
    deletes: bool = False
    padding: int = 0

    def fields(self) -> tuple[bytes | None, bytes | None, list[Header]]:
        """Key, value and headers."""
        key = self.key.encode() if self.key else None
        headers: list[Header] = [(PADDING, bytes(self.padding))] if self.padding else []
        return (key, None, [(ID, self.identity), *headers]) if self.deletes else (key, self.identity, headers)


def key_of(identity: Value) -> str:
    """The key of a record in a topic whose records have keys for their order."""
    text = identity if isinstance(identity, bytes) else identity.encode()
    return f"k{zlib.crc32(text) % KEYS}"


def make(scene: Scene, partition: Partition, identity: bytes, chance: Random) -> Made:
    """A record for that partition: if it is compacted, or shared by key, with one."""
    if scene.keyed(partition):
        return Made(identity, key_of(identity), padding=scene.padding)
    if not scene.compacted(partition):
        return Made(identity, padding=scene.padding)
    return Made(identity, f"k{chance.randrange(KEYS)}", chance.random() < TOMBSTONES, scene.padding)


def note_keys(send: Send, made: Sequence[Made]) -> None:
    """Tell in the history which keys the values of a send have, and which of them delete theirs."""
    send.keys = tuple([one.key for one in made])
    send.tombstones = frozenset([one.identity for one in made if one.deletes])
