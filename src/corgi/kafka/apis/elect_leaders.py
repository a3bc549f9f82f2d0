"""ElectLeaders (43), versions 0 to 2: never needed (84). Any node takes over by itself, and leaders go home by
themselves; null partitions, which are all, have no results then, as in Kafka."""

from __future__ import annotations

from typing import Annotated

from corgi.kafka.access import CLUSTER_NAME, Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int8, Int16, Int32, Since
from corgi.kafka.errors import Code

_FLEXIBLE = 2


class Topic(Body, frozen=True):
    name: str
    partitions: tuple[Int32, ...]


class Request(Body, frozen=True):
    election: Annotated[Int8, Since(1)] = 0
    topics: tuple[Topic, ...] | None = None
    timeout_ms: Int32 = 0


class Result(Body, frozen=True):
    partition: Int32
    error: Int16
    message: str | None


class Results(Body, frozen=True):
    name: str
    partitions: tuple[Result, ...]


class Response(Body, frozen=True):
    throttle_ms: Int32
    error: Annotated[Int16, Since(1)] = 0
    topics: tuple[Results, ...] = ()


def handle(call: Call[Request]) -> None:
    """Answered at once."""
    refused = call.refusal(Operation.ALTER, Kind.CLUSTER, CLUSTER_NAME)
    results = []
    for topic in call.request.topics or ():
        told = []
        for partition in topic.partitions:
            if refused:
                told.append(Result(partition, refused, "you may not alter the cluster"))
            elif call.front.having(topic.name, partition) is None:
                told.append(Result(partition, Code.UNKNOWN_TOPIC_OR_PARTITION, "there is no such partition"))
            else:
                told.append(Result(partition, Code.ELECTION_NOT_NEEDED, "leaders are found without being asked to"))
        results.append(Results(topic.name, tuple(told)))
    call.answer(Response(0, refused, tuple(results)))


API = Api(43, "ElectLeaders", (0, 2), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
