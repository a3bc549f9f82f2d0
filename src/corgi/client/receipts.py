"""What ``publish_nowait`` and ``publish_many`` return: outcomes that are computed when they are asked for.

A record costs no future and no task: its receipt follows from its batch's outcome and its place in the batch.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from itertools import chain
from typing import Any, overload

import msgspec

from corgi.base.errors import CorgiError
from corgi.client.core.batch import Outcome
from corgi.client.messages import Receipt


def receipt_of(outcome: Outcome, index: int) -> Receipt:
    """The receipt of a record whose outcome is known; raises its error."""
    if outcome.error is not None:
        raise outcome.error
    offset = outcome.base_offset
    return Receipt(outcome.topic, outcome.partition, offset + index if offset >= 0 else offset, outcome.timestamp_ms)


async def wait_for(outcome: Outcome) -> None:
    """Wait until the outcome is known. Cancelling the waiter takes nothing back."""
    if not outcome.done:
        await _future_of(outcome)


def _future_of(outcome: Outcome) -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done() -> None:
        if not future.done():
            future.set_result(None)

    outcome.when_done(done)
    return future


class PendingReceipt(msgspec.Struct, frozen=True, eq=False, gc=False):  # made in C: one is made for each message
    """A message on its way: ``await`` it for its Receipt, as often as wanted; raises CorgiError."""

    _outcome: Outcome
    _index: int

    def __await__(self) -> Generator[Any, None, Receipt]:
        if not self._outcome.done:
            yield from _future_of(self._outcome)
        return receipt_of(self._outcome, self._index)

    @property
    def done(self) -> bool:
        """Is the outcome known?"""
        return self._outcome.done

    def result(self) -> Receipt:
        """The receipt if ``done``; raises the error of a failed one, and "invalid-argument" if it is not done."""
        if not self._outcome.done:
            raise CorgiError("invalid-argument", "the outcome is not known yet: await the receipt")
        return receipt_of(self._outcome, self._index)

    def __repr__(self) -> str:
        state = "pending" if not self._outcome.done else repr(self._outcome.error or self.result())
        return f"<PendingReceipt {self._outcome.topic}/{self._outcome.partition} {state}>"


class Outcomes(Sequence["Receipt | CorgiError"]):
    """The outcome of each item of ``publish_many``, in the order of the items: a Receipt or the CorgiError."""

    __slots__ = ("_count", "_outcomes", "_places", "_starts")

    def __init__(self) -> None:
        # Runs of items that lie together in one batch: number of the run's first item, its batch, its place in there.
        self._starts: list[int] = []
        self._outcomes: list[Outcome] = []
        self._places: list[int] = []
        self._count = 0

    @overload
    def __getitem__(self, index: int) -> Receipt | CorgiError: ...
    @overload
    def __getitem__(self, index: slice) -> list[Receipt | CorgiError]: ...
    def __getitem__(self, index: int | slice) -> Receipt | CorgiError | list[Receipt | CorgiError]:
        if isinstance(index, slice):
            return [self._item(item) for item in range(*index.indices(self._count))]
        if index < 0:
            index += self._count
        if not 0 <= index < self._count:
            raise IndexError("no such item")
        return self._item(index)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Receipt | CorgiError]:
        for outcome, place, count in self._runs():
            for index in range(place, place + count):
                yield _known(outcome, index)

    @property
    def errors(self) -> dict[int, CorgiError]:
        """Number of the item -> why it failed."""
        return {
            start + item: outcome.error
            for start, (outcome, _, count) in zip(self._starts, self._runs(), strict=True)
            if outcome.error is not None
            for item in range(count)
        }

    def raise_first(self) -> None:
        """Raise the error of the first item that failed, if one did."""
        for outcome in self._outcomes:
            if outcome.error is not None:
                raise outcome.error

    def add(self, outcome: Outcome, place: int, count: int) -> None:
        """For the publisher: the next items are the records of ``outcome`` from ``place`` on."""
        if not self._outcomes or self._outcomes[-1] is not outcome or not self._continues(place):
            self._starts.append(self._count)
            self._outcomes.append(outcome)
            self._places.append(place)
        self._count += count

    def add_each(self, outcomes: list[Outcome], places: list[int]) -> None:
        """For the publisher: the next items, one by one."""
        self._starts.extend(range(self._count, self._count + len(outcomes)))
        self._outcomes.extend(outcomes)
        self._places.extend(places)
        self._count += len(outcomes)

    async def settle(self) -> None:
        """For the publisher: wait until every outcome is known."""
        for outcome in self._outcomes:
            if not outcome.done:
                await _future_of(outcome)

    def _continues(self, place: int) -> bool:
        return self._places[-1] + self._count - self._starts[-1] == place

    def _runs(self) -> Iterator[tuple[Outcome, int, int]]:
        """Outcome, place and number of items of each run."""
        ends = chain(self._starts[1:], (self._count,))
        for start, end, outcome, place in zip(self._starts, ends, self._outcomes, self._places, strict=True):
            yield outcome, place, end - start

    def _item(self, index: int) -> Receipt | CorgiError:
        run = bisect_right(self._starts, index) - 1
        return _known(self._outcomes[run], self._places[run] + index - self._starts[run])


def _known(outcome: Outcome, index: int) -> Receipt | CorgiError:
    return outcome.error or receipt_of(outcome, index)
