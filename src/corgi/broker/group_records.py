"""What a record in `__groups` says: a consumer group of Corgi's own kind, or one of Kafka's classic kind.

The first element tells which; fields are only ever added at the end. A record that this release does not understand is
None: the group's members join anew.
"""

from __future__ import annotations

import msgspec


class StoredMember(msgspec.Struct, frozen=True, array_like=True):
    """What of a member outlives its coordinator."""

    member: str
    instance: str
    client: str
    topics: tuple[str, ...]
    session_ms: int
    rebalance_ms: int


class StoredGroup(msgspec.Struct, frozen=True, array_like=True, tag=1, tag_field="format"):
    """Members only: who holds what is in the cursors. ``epoch`` counts the changes of the members."""

    slices: int
    epoch: int
    members: tuple[StoredMember, ...]


class StoredClassicMember(msgspec.Struct, frozen=True, array_like=True):
    """``protocols`` as the client prefers them, with what it says about itself under each. Times in milliseconds."""

    member: str
    instance: str
    client: str
    host: str
    session_ms: int
    rebalance_ms: int
    protocols: tuple[tuple[str, bytes], ...]
    assignment: bytes = b""


class StoredClassic(msgspec.Struct, frozen=True, array_like=True, tag=2, tag_field="format"):
    """``settled``: the leader has assigned; before, members wait for it. No members: the group is empty."""

    generation: int
    settled: bool
    protocol_type: str
    protocol: str
    leader: str
    members: tuple[StoredClassicMember, ...]


encode_record = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(StoredGroup | StoredClassic).decode


def decode_record(body: bytes) -> StoredGroup | StoredClassic | None:
    try:
        found: StoredGroup | StoredClassic = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found
