"""TxnOffsetCommit (28), versions 0 to 3: checkpoints of a consumer group that move when the transaction commits.

To be sent to the group's coordinator, which judges the member and its generation (since version 3; older clients do not
tell) as OffsetCommit does. The checkpoints are staged where they lie, in the transaction that is open: until it ends
nobody else moves them, and reading them with require_stable says that they may change. Without an open transaction
they are refused (48), so that one which comes late does not join the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from corgi.base.errors import BY_CODE, CorgiError
from corgi.base.ids import Offset, TopicId
from corgi.broker.assignment import Unit
from corgi.broker.classic_commits import Committer, Stake
from corgi.broker.transactions import OPEN_ONE
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import NEVER, Api, Call, bodies
from corgi.kafka.apis.offset_commit import DoneTopic, told
from corgi.kafka.codec import Body, Int16, Int32, Int64, Since
from corgi.kafka.errors import Code, group_code_of
from corgi.kafka.transactional import PATIENCE_MS, code_in_transaction
from corgi.state.cursors import METADATA_MAX
from corgi.state.transaction_rules import CHECKPOINTS_MAX
from corgi.wire.transaction_messages import Checkpoint, OpenTransaction

PATIENCE_S = 5.0  # of claiming what is to be moved
_FLEXIBLE = 3
_TOLD_FENCED = NEVER  # this API does not know PRODUCER_FENCED
_OF_GROUPS = frozenset(
    BY_CODE[code].number for code in ("consumer-fenced", "transaction-in-progress", "offset-out-of-range")
)


class Place(Body, frozen=True):
    partition: Int32 = 0
    offset: Int64 = -1
    leader_epoch: Annotated[Int32, Since(2)] = -1
    metadata: str | None = None


class Topic(Body, frozen=True):
    name: str
    partitions: tuple[Place, ...]


class Request(Body, frozen=True):
    name: str
    group: str
    producer_id: Int64
    producer_epoch: Int16
    generation: Annotated[Int32, Since(3)] = -1
    member: Annotated[str, Since(3)] = ""
    instance: Annotated[str | None, Since(3)] = None
    topics: tuple[Topic, ...] = ()


class Response(Body, frozen=True):
    throttle_ms: Int32
    topics: tuple[DoneTopic, ...]


def handle(call: Call[Request]) -> None:
    """Answered when the checkpoints are staged."""
    places = [(topic.name, place) for topic in call.request.topics for place in topic.partitions]
    if len(places) > CHECKPOINTS_MAX:
        call.close(CorgiError("invalid-argument", f"a request names at most {CHECKPOINTS_MAX} partitions"))
        return
    staging = _Staging(call)
    for name, place in places:
        staging.add(name, place)
    staging.begin()


class _Staging:
    """One request: ``codes`` by (topic, partition) as they become known."""

    def __init__(self, call: Call[Request]) -> None:
        self._call = call
        self._codes: dict[tuple[str, int], int] = {}
        self._wanted: dict[Unit, tuple[str, Place]] = {}
        said = call.request
        self._refused = call.refusal(Operation.WRITE, Kind.TRANSACTIONAL_ID, said.name) or call.refusal(
            Operation.READ, Kind.GROUP, said.group
        )

    def add(self, name: str, place: Place) -> None:
        topic = self._call.front.having(name, place.partition)
        refused = self._refused or self._call.refusal(Operation.READ, Kind.TOPIC, name)
        if refused:
            self._codes[name, place.partition] = refused
        elif topic is None:
            self._codes[name, place.partition] = Code.UNKNOWN_TOPIC_OR_PARTITION
        elif len(place.metadata or "") > METADATA_MAX:
            self._codes[name, place.partition] = Code.OFFSET_METADATA_TOO_LARGE
        elif place.offset < 0:
            self._codes[name, place.partition] = Code.INVALID_REQUEST
        else:
            self._wanted[TopicId(topic.topic), place.partition, 0] = (name, place)

    def begin(self) -> None:
        if not self._wanted:
            self._answer()
            return
        said = self._call.request
        who = Committer(said.group, said.member, said.instance or "", said.generation, in_transaction=True)
        commits = self._call.front.node.requests.classic_commits
        commits.stake(self._call.session, who, list(self._wanted), PATIENCE_S, self._staked)

    def _staked(self, stakes: Mapping[Unit, Stake | int]) -> None:
        said = self._call.request
        checkpoints = []
        for (topic, partition, slice_), (name, place) in self._wanted.items():
            stake = stakes[topic, partition, slice_]
            if isinstance(stake, int):
                self._codes[name, partition] = group_code_of(stake)
                continue
            checkpoints.append(
                Checkpoint(
                    said.group, topic, partition, slice_, stake.owner_epoch, stake.member, -1, Offset(place.offset),
                    (), place.metadata or "", reset=True, leader_epoch=max(place.leader_epoch, -1),
                )
            )  # fmt: skip
        if not checkpoints:
            self._answer()
            return
        message = OpenTransaction(
            said.name, said.producer_id, said.producer_epoch, OPEN_ONE, (), tuple(checkpoints), 0, PATIENCE_MS
        )
        self._call.front.node.requests.transactions.transactions.begin(message, self._opened)

    def _opened(self, error: int, _text: str) -> None:
        """All of the others were staged, or none."""
        code = (
            group_code_of(error)
            if error in _OF_GROUPS
            else code_in_transaction(error, self._call.version, _TOLD_FENCED)
        )
        for name, place in self._wanted.values():
            self._codes.setdefault((name, place.partition), code)
        self._answer()

    def _answer(self) -> None:
        self._call.answer(Response(0, told(self._call.request.topics, self._codes)))


API = Api(28, "TxnOffsetCommit", (0, 3), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
