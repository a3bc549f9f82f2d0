"""OffsetCommit (8), versions 2 to 9: checkpoints of a group's member, or of anybody while the group is empty.

They are the checkpoints of Corgi's own consumers, with Kafka's leader epoch and text beside them. An offset beyond the
end of the partition is refused, which Kafka would take. How long they are kept (versions 2 to 4) is not for the client
to say: until the group or the topic is deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Protocol

from corgi.base.errors import CorgiError
from corgi.base.ids import TopicId
from corgi.broker.classic_commits import Committer, Entry
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int32, Int64, Since, Until
from corgi.kafka.errors import Code, group_code_of

PATIENCE_S = 5.0  # what Kafka's offsets.commit.timeout.ms is
PARTITIONS_MAX = 10_000
_FLEXIBLE = 8


class Place(Body, frozen=True):
    partition: Int32 = 0
    offset: Int64 = -1
    leader_epoch: Annotated[Int32, Since(6)] = -1
    metadata: str | None = None


class Topic(Body, frozen=True):
    name: str
    partitions: tuple[Place, ...]


class Request(Body, frozen=True):
    group: str = ""
    generation: Int32 = -1
    member: str = ""
    instance: Annotated[str | None, Since(7)] = None
    retention_ms: Annotated[Int64, Until(4)] = -1
    topics: tuple[Topic, ...] = ()


class Done(Body, frozen=True):
    partition: Int32
    error: Int16


class DoneTopic(Body, frozen=True):
    name: str
    partitions: tuple[Done, ...]


class Response(Body, frozen=True):
    throttle_ms: Annotated[Int32, Since(3)] = 0
    topics: tuple[DoneTopic, ...] = ()


class Asked(Protocol):
    """A partition of a request, in any version of it."""

    @property
    def partition(self) -> int: ...


class AskedTopic(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def partitions(self) -> Sequence[Asked]: ...


def told(topics: Iterable[AskedTopic], codes: Mapping[tuple[str, int], int]) -> tuple[DoneTopic, ...]:
    """The codes by (topic, partition), in the order in which they were asked for."""
    return tuple(
        [
            DoneTopic(
                topic.name, tuple([Done(one.partition, codes[topic.name, one.partition]) for one in topic.partitions])
            )
            for topic in topics
        ]
    )


def handle(call: Call[Request]) -> None:
    """Answered when the checkpoints are applied."""
    said = call.request
    places = [(topic.name, place) for topic in said.topics for place in topic.partitions]
    if len(places) > PARTITIONS_MAX:
        call.close(CorgiError("invalid-argument", f"a request names at most {PARTITIONS_MAX} partitions"))
        return
    no_group = call.refusal(Operation.READ, Kind.GROUP, said.group)
    codes: dict[tuple[str, int], int] = {}
    entries: list[Entry] = []
    asked: list[tuple[str, int]] = []
    for name, place in places:
        topic = call.front.having(name, place.partition)
        refused = no_group or call.refusal(Operation.READ, Kind.TOPIC, name)
        if refused or topic is None:
            codes[name, place.partition] = refused or Code.UNKNOWN_TOPIC_OR_PARTITION
            continue
        asked.append((name, place.partition))
        entries.append(
            Entry(TopicId(topic.topic), place.partition, place.offset, place.leader_epoch, place.metadata or "")
        )

    def done(errors: list[int]) -> None:
        for at, error in zip(asked, errors, strict=True):
            codes[at] = group_code_of(error)
        call.answer(Response(0, told(said.topics, codes)))

    if no_group:
        done([])
        return
    who = Committer(said.group, said.member, said.instance or "", said.generation)
    call.front.node.requests.classic_commits.commit(call.session, who, entries, PATIENCE_S, done)


API = Api(8, "OffsetCommit", (2, 9), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
