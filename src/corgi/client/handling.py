"""One message in the hands of its handler: how it is called, what it may say, and what becomes of the message.

Knows nothing of the others that are handled at the same time, nor of who comes next; whoever has it handled is told
whether the message keeps its lane.

Invariant: a message is settled once: done (with its results), moved to another topic, or kept for another try.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from corgi.base.errors import CorgiError
from corgi.client.consumption import Consumption
from corgi.client.core.lanes import Lanes
from corgi.client.failing import Failures, Rejected, text_of
from corgi.client.held import Delivered, Finished, Held, Result, UnitState, check_held
from corgi.client.messages import Message
from corgi.client.results import Results, placed
from corgi.client.shell import Shell
from corgi.client.words import Duration, seconds

logger = logging.getLogger("corgi.client")
Handler = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How handlers run. Times in seconds; ``handler_timeout_s`` 0: none."""

    concurrency: int = 64
    order: str = "key"
    retry: str = "place"
    handler_timeout_s: float = 0.0


class Work(Protocol):
    """Who has messages handled."""

    @property
    def stopping(self) -> bool: ...

    def end(self, fault: BaseException) -> None:
        """It cannot go on."""
        ...

    def try_again(self, message: Delivered[Any], lanes: Lanes[Delivered[Any]] | None, pause_s: float) -> None:
        """Have the message handled again after a while; it keeps its lane."""
        ...


class _Again(Exception):
    """The handler asked for another try."""

    def __init__(self, after_s: float | None) -> None:
        super().__init__("another try was asked for")
        self.after_s = after_s


class Handling:
    """Calls the handler. It is the keeper of the messages: who is asked when a handler settles one by itself."""

    def __init__(
        self,
        shell: Shell,
        handler: Handler,
        semantics: str,
        options: RunOptions,
        failures: Failures,
        decode: Callable[[Message[bytes]], Any] | None,
        work: Work,
    ) -> None:
        self.handled = 0
        self.failed_tries = 0
        self.consumption: Consumption  # told when it is there
        self._shell = shell
        self._handler = handler
        self._options = options
        self._failures = failures
        self._decode = decode
        self._work = work
        self._awaits = inspect.iscoroutinefunction(handler)
        self._exact = semantics == "exactly_once"
        self._first = semantics == "at_most_once"  # the checkpoint comes first
        self._wants_results = self._exact and takes_two(handler)
        self._timeouts: dict[int, asyncio.Timeout] = {}

    async def handle(self, message: Delivered[Any], held: Held) -> bool:
        """Run the handler and settle the message; False if it keeps its lane for another try."""
        results = Results() if self._exact else None
        try:
            if self._decode is not None:
                message.value = self._decoded(message)
            if self._options.handler_timeout_s:
                returned = await self._in_time(message, results)
            elif self._awaits and not self._wants_results:
                returned = await self._handler(message)
            else:
                returned = await self._call(message, results)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._work.stopping or (task is not None and task.cancelling()):
                raise
            return await self._settle_failed(message, held, asyncio.CancelledError("it cancelled itself"))
        except Exception as error:  # noqa: BLE001 - whatever a handler raises
            return await self._settle_failed(message, held, error)
        if message.verdict is not None:
            verdict, message.verdict = message.verdict, None
            return await self._settle_failed(message, held, verdict)
        self.handled += 1
        if results is not None:
            try:
                results.add(returned)
                found = await placed(self._shell, results, message)
            except CorgiError as error:
                self._work.end(error)
                return False
            self._finish(message, held, found)
        elif not self._first:
            held.progress.open.pop(message.offset, None)
            self.consumption.committer.touch(held)
        return True

    # Settling, as handlers ask for it

    def ack(self, message: Delivered[Any]) -> None:
        check_held(message)

    def retry(self, message: Delivered[Any], after: Duration | None) -> None:
        check_held(message)
        message.verdict = _Again(None if after is None else seconds(after, "after"))

    def reject(self, message: Delivered[Any], reason: str) -> None:
        check_held(message)
        message.verdict = Rejected(reason or "rejected")

    def extend(self, message: Delivered[Any], by: Duration | None) -> None:
        check_held(message)
        timeout = self._timeouts.get(id(message))
        if timeout is not None:
            by_s = self._options.handler_timeout_s if by is None else seconds(by, "by")
            timeout.reschedule(self._shell.loop.time() + by_s)

    def failed(self, message: Delivered[Any], error: Exception) -> None:
        check_held(message)
        message.verdict = error

    def finished(self, held: Held) -> None:
        self.consumption.finished(held)

    @property
    def settled_before(self) -> bool:
        return self._first

    # Within

    async def _call(self, message: Delivered[Any], results: Results | None) -> object:
        returned = self._handler(message, results) if self._wants_results else self._handler(message)
        return await returned if isinstance(returned, Awaitable) else returned

    async def _in_time(self, message: Delivered[Any], results: Results | None) -> object:
        timeout = asyncio.timeout(self._options.handler_timeout_s)
        self._timeouts[id(message)] = timeout
        try:
            async with timeout:
                return await self._call(message, results)
        except TimeoutError:
            if timeout.expired():
                raise CorgiError("handler-timeout") from None
            raise
        finally:
            del self._timeouts[id(message)]

    def _decoded(self, message: Delivered[Any]) -> Any:
        if message.value is None or type(message.value) is not bytes or self._decode is None:
            return message.value
        try:
            return self._decode(message).value
        except CorgiError as error:
            raise Rejected(str(error)) from error  # it will not decode better next time

    def _finish(self, message: Delivered[Any], held: Held, results: tuple[Result, ...]) -> None:
        if held.state is UnitState.GONE or message.offset not in held.progress.open:
            return
        held.finished.append(Finished(message.offset, results))
        self.consumption.committer.touch(held, now=True)

    async def _settle_failed(self, message: Delivered[Any], held: Held, error: BaseException) -> bool:
        self.failed_tries += 1
        place = f"{message.topic}/{message.partition} at offset {message.offset}"
        if self._first:
            logger.warning("%s was not handled, and will not be again: %s", place, text_of(error))
            return True
        dead = isinstance(error, Rejected) or message.attempt >= self._failures.attempts
        pause_s = self._failures.pause_s(message.attempt)
        if isinstance(error, _Again) and error.after_s is not None:
            pause_s = error.after_s
        if dead or self._options.retry == "topic":
            try:
                found = await (
                    self._failures.bury(message, error) if dead else self._failures.again(message, error, pause_s)
                )
            except CorgiError as fault:
                if not fault.retryable:
                    self._work.end(fault)
                    return False
                logger.warning("%s cannot be moved for now: %s", place, fault)
            else:
                where = "the dead letters" if dead else "the retry topic"
                logger.warning("%s, attempt %d: %s; moved to %s", place, message.attempt, text_of(error), where)
                self._finish(message, held, (found,))
                return True
        else:
            logger.info("%s, attempt %d of %d: %s", place, message.attempt, self._failures.attempts, text_of(error))
            self._failures.retried += 1
            message.attempt += 1
        lanes = held.lanes if self._options.order == "partition" or message.key is not None else None
        lanes = None if self._options.order == "none" else lanes
        self._work.try_again(message, lanes, pause_s)
        return False


def takes_two(handler: Handler) -> bool:
    """Does the handler want ``tx`` as well?"""
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return len([one for one in parameters if one.kind in kinds and one.default is one.empty]) >= 2
