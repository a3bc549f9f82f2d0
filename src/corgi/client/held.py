"""What a consumer of a group holds in its hands: messages that can be settled, and the units that they came from."""

from __future__ import annotations

import logging
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, Self, TypeVar

from corgi.base.errors import CorgiError
from corgi.base.ids import TopicId
from corgi.base.records import RecordFields
from corgi.client.core.lanes import Lanes
from corgi.client.core.progress import Progress, Range
from corgi.client.messages import Message

if TYPE_CHECKING:
    from corgi.client.core.routing import TopicRoute
    from corgi.client.two_phases import Part
    from corgi.client.words import Duration
    from corgi.wire.group_messages import CommitEntry, Unit

V = TypeVar("V")
logger = logging.getLogger("corgi.client")
Checkpoint = tuple[int, tuple[Range, ...]]


class Result(NamedTuple):
    """A record to be stored together with the checkpoint that covers its cause, and what is known of its place."""

    topic: TopicId
    partition: int
    fields: RecordFields
    group: int
    batch_bytes_max: int


def result_in(route: TopicRoute, partition: int, fields: RecordFields) -> Result:
    return Result(route.topic, partition, fields, int(route.groups[partition]), route.batch_bytes_max)


class Finished(NamedTuple):
    """A message whose results wait for the next commit."""

    offset: int
    results: tuple[Result, ...]


class Flight(NamedTuple):
    """A commit that is on its way, and is sent again as it is until its outcome is known."""

    entry: CommitEntry
    parts: tuple[Part, ...]  # the results
    two_phase: bool  # some of them lie in another Paxos group than the unit
    handed: list[Any]  # messages that may be handed over once it is stored


class UnitState(Enum):
    STARTING = "starting"  # where it begins is not known yet
    ACTIVE = "active"
    DRAINING = "draining"  # it has to go: what runs is finished, nothing begins
    GONE = "gone"


class Held:
    """A unit that this consumer holds. ``running``: messages that users have, not settled."""

    __slots__ = (
        "committed",
        "finished",
        "flight",
        "flying",
        "full",
        "handed",
        "keeper",
        "lanes",
        "metadata",
        "not_before_ms",
        "owner_epoch",
        "partition",
        "progress",
        "reset",
        "retry_at",
        "running",
        "slice",
        "state",
        "topic",
        "topic_id",
        "version",
    )

    def __init__(self, keeper: Keeper, topic: str, unit: Unit, owner_epoch: int, version: int, metadata: str) -> None:
        self.keeper = keeper
        self.topic = topic
        self.topic_id, self.partition, self.slice = unit
        self.owner_epoch = owner_epoch
        self.version = version
        self.metadata = metadata
        self.state = UnitState.STARTING
        self.progress = Progress(0)
        self.committed: Checkpoint | None = None
        self.reset = False  # the next checkpoint may go back
        self.not_before_ms = -1
        self.running = 0
        self.full = False  # nothing more of it is taken for now
        self.lanes: Lanes[Delivered[Any]] = Lanes()
        self.finished: list[Finished] = []
        self.handed: list[Any] = []
        self.flight: Flight | None = None
        self.flying = False  # its flight is in the air, or about to be
        self.retry_at = 0.0

    @property
    def unit(self) -> Unit:
        return self.topic_id, self.partition, self.slice

    def may_begin(self) -> bool:
        """May messages of it be begun?"""
        return self.state is UnitState.ACTIVE

    def begin(self, offset: int, ranges: tuple[Range, ...] = ()) -> None:
        """Consume from a checkpoint on."""
        self.progress = Progress(offset, ranges)
        self.state = UnitState.ACTIVE

    def end(self) -> None:
        """It is not ours any more; what waits for it is dropped, and who keeps a message of it does not keep the
        consumer: through messages, which it does not look into, the garbage collector would not find its way back."""
        self.state = UnitState.GONE
        self.keeper = _Nobody(self.keeper.settled_before)
        self.lanes = Lanes()
        self.finished.clear()
        self.handed.clear()
        self.progress.open.clear()


class Delivered(Message[V], Generic[V], gc=False):
    """A message of a consumer group. ``attempt``: 1 the first time.

    ``async with m:`` acknowledges it when the block ends well, and has it delivered again, later, when it raises.
    """

    attempt: int = 1
    held: Any = None  # its Held; None in no message that was delivered
    verdict: Any = None

    def ack(self) -> None:
        """It is done. Raises "not-delivered" if this consumer does not hold it (any more)."""
        self.held.keeper.ack(self)

    def retry(self, after: Duration | None = None) -> None:
        """Deliver it again after a while: by default growing from attempt to attempt. Raises "not-delivered"."""
        self.held.keeper.retry(self, after)

    def reject(self, reason: str = "") -> None:
        """It cannot be done: put it into the dead-letter topic. Raises "not-delivered"."""
        self.held.keeper.reject(self, reason)

    def extend(self, by: Duration | None = None) -> None:
        """Give its handler more time: ``by`` from now on, or handler_timeout once more."""
        self.held.keeper.extend(self, by)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            if self.verdict is None:
                self.ack()
            return False
        if isinstance(error, Exception):
            self.held.keeper.failed(self, error)
            return True
        return False


class Keeper(Protocol):
    """Who gave a message out. All raise "not-delivered" for a message that this consumer does not hold."""

    def ack(self, message: Delivered[Any]) -> None: ...

    def retry(self, message: Delivered[Any], after: Duration | None) -> None: ...

    def reject(self, message: Delivered[Any], reason: str) -> None: ...

    def extend(self, message: Delivered[Any], by: Duration | None) -> None: ...

    def failed(self, message: Delivered[Any], error: Exception) -> None: ...

    def finished(self, held: Held) -> None:
        """Its progress moved."""
        ...

    @property
    def settled_before(self) -> bool:
        """At most once: a message's checkpoint was stored before it was handed out."""
        ...


class _Nobody:
    """Keeper of the messages of a unit that is gone."""

    def __init__(self, settled_before: bool) -> None:
        self.settled_before = settled_before

    def ack(self, message: Delivered[Any]) -> None:
        if not self.settled_before:
            check_held(message)

    def retry(self, message: Delivered[Any], after: Duration | None) -> None:
        check_held(message)

    def reject(self, message: Delivered[Any], reason: str) -> None:
        check_held(message)

    def extend(self, message: Delivered[Any], by: Duration | None) -> None:
        check_held(message)

    def failed(self, message: Delivered[Any], error: Exception) -> None:
        if not self.settled_before:
            check_held(message)
        place = f"{message.topic}/{message.partition} at offset {message.offset}"
        logger.warning("%s was not handled, and is not this consumer's any more: %s", place, error)

    def finished(self, held: Held) -> None:
        """What ended is not told any more."""


def check_held(message: Delivered[Any]) -> Held:
    """The unit of a message that is open. Raises "not-delivered"."""
    held: Held | None = message.held
    if held is None or held.state is UnitState.GONE or message.offset not in held.progress.open:
        place = f"{message.topic}/{message.partition} at offset {message.offset}"
        raise CorgiError("not-delivered", f"{place} is settled already, or was taken from this consumer")
    return held
