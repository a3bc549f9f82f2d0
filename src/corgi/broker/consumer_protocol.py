"""What consumers of Kafka's classic groups say to each other, as far as a broker has a use for it: topics wanted and
partitions assigned (protocol type "consumer"). To the protocol itself these are just bytes.

    subscription  version i16 | topics: count i32, strings | user data | ...
    assignment    version i16 | topics: count i32, (string, partitions: count i32, i32 ...) | user data | ...

A string is length i16 and UTF-8. What does not decode is nothing: whoever wrote it means something else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

TYPE = "consumer"
_I16, _I32 = struct.Struct(">h"), struct.Struct(">i")
EMPTY_ASSIGNMENT = _I16.pack(0) + _I32.pack(0) + _I32.pack(-1)  # some clients do not take nothing for an assignment


def empty_assignment(protocol_type: str) -> bytes:
    """For a member that its leader left out."""
    return EMPTY_ASSIGNMENT if protocol_type == TYPE else b""


def topics_wanted(subscription: bytes) -> tuple[str, ...]:
    try:
        count, at = _array(subscription, 2)
        topics = []
        for _ in range(count):
            topic, at = _string(subscription, at)
            topics.append(topic)
    except (struct.error, ValueError):
        return ()
    return tuple(topics)


def partitions_assigned(assignment: bytes) -> tuple[tuple[str, int], ...]:
    """(topic, partition), in order."""
    found = []
    try:
        count, at = _array(assignment, 2)
        for _ in range(count):
            topic, at = _string(assignment, at)
            partitions, at = _array(assignment, at)
            if at + 4 * partitions > len(assignment):
                return ()
            found += [(topic, number) for (number,) in _I32.iter_unpack(assignment[at : at + 4 * partitions])]
            at += 4 * partitions
    except (struct.error, ValueError):
        return ()
    return tuple(found)


def encode_subscription(topics: Iterable[str]) -> bytes:
    names = [_text(topic) for topic in topics]
    return b"".join((_I16.pack(0), _I32.pack(len(names)), *names, _I32.pack(-1)))


def encode_assignment(partitions: Iterable[tuple[str, int]]) -> bytes:
    by_topic: dict[str, list[int]] = {}
    for topic, number in partitions:
        by_topic.setdefault(topic, []).append(number)
    parts = [_I16.pack(0), _I32.pack(len(by_topic))]
    for topic, numbers in by_topic.items():
        parts += [_text(topic), _numbers(numbers)]
    return b"".join((*parts, _I32.pack(-1)))


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _I16.pack(len(encoded)) + encoded


def _numbers(numbers: Sequence[int]) -> bytes:
    return struct.pack(f">i{len(numbers)}i", len(numbers), *numbers)


def _array(data: bytes, at: int) -> tuple[int, int]:
    """Its count, never more than there are bytes for, and where it begins. Raises ValueError, struct.error."""
    (count,) = _I32.unpack_from(data, at)
    if count > len(data) - at:
        raise ValueError("a count beyond the bytes")
    return max(count, 0), at + 4


def _string(data: bytes, at: int) -> tuple[str, int]:
    (length,) = _I16.unpack_from(data, at)
    end = at + 2 + length
    if length < 0 or end > len(data):
        raise ValueError("a string beyond the bytes")
    return data[at + 2 : end].decode(), end
