"""One answer to a request that asks for several things: it leaves when each has its result, in the order asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId
from corgi.base.ports import Message
from corgi.kafka.api import AnyCall, error_of
from corgi.kafka.errors import Code, code_of
from corgi.wire.messages import TopicReply

META = GroupId(0)
CONFIRM_S = 10.0
TIMEOUT_MS_MAX = 600_000
THINGS_MAX = 1_000  # in one request of an administrator

R = TypeVar("R")


class Several(Generic[R]):
    """Results by index; ``done`` is called once with all of them. Begin with ``started`` after asking for each."""

    __slots__ = ("_done", "_results", "_waiting")

    def __init__(self, count: int, done: Callable[[tuple[R, ...]], None]) -> None:
        self._results: list[R | None] = [None] * count
        self._waiting = count + 1
        self._done = done

    def set(self, i: int, result: R) -> None:
        assert self._results[i] is None, "one result each"
        self._results[i] = result
        self._ended()

    def started(self) -> None:
        """All have been asked for."""
        self._ended()

    def _ended(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._done(tuple([result for result in self._results if result is not None]))


def timeout_of(timeout_ms: int) -> int:
    """What Kafka's clients say in the range of Corgi's requests."""
    return min(max(timeout_ms, 1), TIMEOUT_MS_MAX)


def with_topics(call: AnyCall, then: Callable[[int], None]) -> None:
    """Call ``then`` when this node knows all topics made before the request; with an error number of Corgi's if it
    cannot know. Answers nothing itself."""

    def confirmed(errors: dict[GroupId, int]) -> None:
        then(errors.get(META, 0))

    call.front.node.requests.barriers.confirm(call.session, (META,), CONFIRM_S, confirmed)


def failure_of(reply: Message) -> tuple[Code, str]:
    """What went wrong with a change of a topic, in Kafka's words; (NONE, "") if nothing did."""
    if isinstance(reply, TopicReply):
        return code_of(reply.error), reply.message
    error = error_of(reply)
    if error is None:
        return Code.UNKNOWN_SERVER_ERROR, "the node gave another answer"
    return code_of(error.kind.number), error.message


def too_many(count: int) -> CorgiError | None:
    """Why a request is refused that asks for too much at once."""
    if count <= THINGS_MAX:
        return None
    return CorgiError("invalid-argument", f"a request names at most {THINGS_MAX} of them, this one {count}")


def repeated(names: Sequence[object]) -> set[object]:
    """Those that are there more than once."""
    seen: set[object] = set()
    return {name for name in names if name in seen or seen.add(name)}  # type: ignore[func-returns-value]
