"""Requests with one answer: sent to a fitting node, and again to another when it is lost or refused for the moment.

Only for requests that may be carried out twice; what a repetition could spoil (creating, deleting) is
judged by the caller, who is told that an earlier sending may have been carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.client.core.backoff import Backoff
from corgi.client.core.links import Answer, Chance, Clock
from corgi.client.core.options import ClientOptions
from corgi.client.core.routing import NO_NODE, Routing
from corgi.wire.messages import WireMessage

Judge = Callable[[WireMessage], CorgiError | None]  # the error inside an answer, if there is one
ANY_GROUP = 0  # what concerns no partition goes where topics are kept


class Ask:
    """One question. ``repeated``: an earlier sending was lost, so the cluster may have acted on it."""

    __slots__ = (
        "backoff",
        "deadline",
        "done",
        "group",
        "judge",
        "last_error",
        "message",
        "node",
        "payload",
        "repeated",
        "retry_at",
    )

    def __init__(
        self,
        message: WireMessage,
        group: int,
        deadline: float,
        judge: Judge,
        done: Callable[[Ask, Answer, memoryview], None],
        backoff: Backoff,
        payload: Sequence[Buffer],
    ) -> None:
        self.message = message
        self.payload = payload
        self.group = group
        self.deadline = deadline
        self.judge = judge
        self.done = done
        self.backoff = backoff
        self.node = NO_NODE  # asked last
        self.repeated = False
        self.retry_at = 0.0
        self.last_error: CorgiError | None = None


class Asks:
    """All open questions of a client."""

    def __init__(self, options: ClientOptions, routing: Routing, clock: Clock, chance: Chance) -> None:
        self._options = options
        self._routing = routing
        self._clock = clock
        self._chance = chance
        self._waiting: dict[Ask, None] = {}  # to be sent
        self._out: dict[Ask, None] = {}
        self._refusal: CorgiError | None = None  # of a client that is closed or broken

    def ask(
        self,
        message: WireMessage,
        done: Callable[[Ask, Answer, memoryview], None],
        *,
        group: int = ANY_GROUP,
        judge: Judge = lambda _: None,
        timeout_s: float = 0.0,
        payload: Sequence[Buffer] = (),
    ) -> None:
        """Send at the next flush; ``done`` is called once, with the answer or with an error that no retry helped."""
        backoff = Backoff(self._options.retry_min_s, self._options.retry_max_s, self._chance)
        deadline = self._clock.now() + (timeout_s or self._options.request_timeout_s)
        ask = Ask(message, group, deadline, judge, done, backoff, payload)
        if self._refusal is not None:
            done(ask, self._refusal.copy(), memoryview(b""))
        else:
            self._waiting[ask] = None

    def flush(self, now: float) -> None:
        """Send what is due and can be sent."""
        for ask in [ask for ask in self._waiting if ask.retry_at <= now]:
            node = self._routing.preferred(ask.group)
            if node == ask.node and ask.last_error is not None:
                node = self._routing.other_than(ask.group, (ask.node,))
            if node == NO_NODE:
                continue
            del self._waiting[ask]
            self._out[ask] = None
            ask.node = node
            self._routing.links[node].request(ask.message, ask.payload, partial(self._answered, ask))

    def advance(self, now: float) -> None:
        """Give up what is too late."""
        for ask in [ask for ask in (*self._waiting, *self._out) if ask.deadline <= now]:
            self._finish(ask, self._time_is_up(ask), memoryview(b""))

    def next_deadline(self, now: float) -> float | None:
        """What is due already waits for a link, not for the time."""
        times = [ask.retry_at for ask in self._waiting if ask.retry_at > now]
        times += [ask.deadline for ask in (*self._waiting, *self._out)]
        return min(times, default=None)

    def close(self, error: CorgiError) -> None:
        """Answer everything with ``error``, from now on at once."""
        self._refusal = error
        for ask in (*self._waiting, *self._out):
            self._finish(ask, error.copy(), memoryview(b""))

    def _answered(self, ask: Ask, answer: Answer, payload: memoryview) -> None:
        if ask not in self._out:
            return  # given up meanwhile
        error = answer if isinstance(answer, CorgiError) else ask.judge(answer)
        if error is None:
            self._finish(ask, answer, payload)
            return
        lost = error.code == "outcome-unknown"
        if not lost and not error.retryable:
            self._finish(ask, error, payload)
            return
        ask.repeated |= lost or error.code == "timeout"
        ask.last_error = error
        ask.retry_at = 0.0 if lost else self._clock.now() + ask.backoff.next()
        del self._out[ask]
        self._waiting[ask] = None

    def _finish(self, ask: Ask, answer: Answer, payload: memoryview) -> None:
        self._waiting.pop(ask, None)
        self._out.pop(ask, None)
        ask.done(ask, answer, payload)

    def _time_is_up(self, ask: Ask) -> CorgiError:
        told = ask.last_error
        if told is not None and told.code != "outcome-unknown":
            return CorgiError(told.code, f"{told.message} (and time is up)", hint=told.hint)
        if ask.node == NO_NODE or not self._routing.links:
            return CorgiError("unreachable")
        return CorgiError("timeout", f"node {ask.node} did not answer in time")
