"""DescribeLogDirs (35), versions 1 to 5: one folder per node, and the bytes of each partition's batches in it.

The sizes are those of the batches that the partition's index names on this node. Nothing lags behind: a node tells of
what it has applied.
"""

from __future__ import annotations

from typing import Annotated

from corgi.kafka.access import CLUSTER_NAME, Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int32, Int64, Since
from corgi.kafka.errors import Code
from corgi.state.topics import Topic as TopicState

PARTITIONS_MAX = 10_000  # in one answer that names them; all topics are told whatever their number
_FLEXIBLE = 2


class Wanted(Body, frozen=True):
    name: str
    partitions: tuple[Int32, ...]


class Request(Body, frozen=True):
    topics: tuple[Wanted, ...] | None


class Partition(Body, frozen=True):
    partition: Int32
    size_bytes: Int64
    lag: Int64 = 0
    future: bool = False


class Topic(Body, frozen=True):
    name: str
    partitions: tuple[Partition, ...]


class Folder(Body, frozen=True):
    error: Int16
    path: str
    topics: tuple[Topic, ...]
    total_bytes: Annotated[Int64, Since(4)] = -1
    usable_bytes: Annotated[Int64, Since(4)] = -1
    cordoned: Annotated[bool, Since(5)] = False


class Response(Body, frozen=True):
    throttle_ms: Int32
    error: Annotated[Int16, Since(3)] = 0
    folders: tuple[Folder, ...] = ()


def handle(call: Call[Request]) -> None:
    """Answered at once."""
    front, wanted = call.front, call.request.topics
    refused = call.refusal(Operation.DESCRIBE, Kind.CLUSTER, CLUSTER_NAME)
    if refused:
        call.answer(Response(0, refused))
        return
    if wanted is None:
        known = list(front.node.requests.places.topics.by_name.values())
        told = [_told(call, topic, range(topic.partitions)) for topic in known]
    else:
        if sum(len(topic.partitions) for topic in wanted) > PARTITIONS_MAX:
            call.answer(Response(0, Code.POLICY_VIOLATION))
            return
        found = [(front.topic(topic.name), topic.partitions) for topic in wanted]
        told = [_told(call, topic, partitions) for topic, partitions in found if topic is not None]
    folder = Folder(Code.NONE, f"corgi-{front.node.options.node}", tuple(told))
    call.answer(Response(0, Code.NONE, (folder,)))


def _told(call: Call[Request], topic: TopicState, partitions: range | tuple[int, ...]) -> Topic:
    groups = call.front.node.groups
    found = []
    for partition in partitions:
        if 0 <= partition < topic.partitions:
            log = groups[topic.group_of(partition)].machine.partitions.get((topic.topic, partition))
            if log is not None:
                found.append(Partition(partition, log.bytes))
    return Topic(topic.name, tuple(found))


API = Api(35, "DescribeLogDirs", (1, 5), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
