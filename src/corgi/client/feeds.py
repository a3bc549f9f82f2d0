"""From the batches of a partition to the messages of those of its units that a consumer holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from corgi.base.compiled_codec import DecodedRecord
from corgi.base.errors import CorgiError
from corgi.base.records import iter_batch
from corgi.client.core.slices import KeyedSlices
from corgi.client.core.subscriber import Start, Subscription
from corgi.client.held import Delivered, Held, UnitState
from corgi.client.shell import Shell


class Feed:
    """One partition. ``units``: by slice, those held of it."""

    def __init__(self, shell: Shell, topic: str, partition: int, slices: int) -> None:
        self.key = (topic, partition)
        self.units: dict[int, Held] = {}
        self.stream: Subscription | None = None
        self._shell = shell
        self._slices = slices
        self._keyed = KeyedSlices(slices)
        self._rest: deque[DecodedRecord] = deque()  # decoded, and no room for it yet
        self._next = 0  # behind the batch that was taken last

    @property
    def position(self) -> int:
        """The next offset that will be looked at; units that have to go, or begin further on, stand elsewhere."""
        if self._rest:
            return self._rest[0].offset
        return -1 if self.stream is None else self._next

    @property
    def error(self) -> CorgiError | None:
        return None if self.stream is None else self.stream.error

    def open(
        self,
        start: Start,
        notify: Callable[[], None],
        prefetch_bytes: int,
        labels: tuple[str, str],
        *,
        committed: bool = True,
    ) -> None:
        """Stream from there on, and no longer from where it did."""
        self.close()
        self._next = start.number if start.kind == "offset" else 0
        self.stream = self._shell.core.consumer.subscribe(
            self.key[0],
            notify,
            start=start,
            partitions=(self.key[1],),
            prefetch_bytes=max(1024, prefetch_bytes),
            labels=labels,
            committed=committed,
        )

    def close(self) -> None:
        self._rest.clear()
        if self.stream is not None:
            self._shell.core.consumer.unsubscribe(self.stream)
            self.stream = None

    def take(self, open_max: int) -> list[Delivered[Any]]:
        """The messages of the next batch that are wanted, perhaps none. ``open_max`` bounds what one unit has open,
        0: it does not. Raises "corrupt-batch"."""
        if open_max:
            return self._take_some(open_max)
        while self.stream is not None and (delivery := self.stream.take()) is not None:
            self._next = delivery.next_offset
            messages = self._messages(list(iter_batch(delivery.batch, checked=True)), delivery.next_offset)
            if messages:
                return messages
        return []

    def _take_some(self, open_max: int) -> list[Delivered[Any]]:
        while self.stream is not None:
            room = min([open_max - len(held.progress.open) for held in self.units.values()], default=0)
            if room <= 0:
                break
            if not self._rest:
                delivery = self.stream.take()
                if delivery is None:
                    break
                self._rest.extend(
                    [one for one in iter_batch(delivery.batch, checked=True) if one.offset >= delivery.wanted]
                )
                self._next = delivery.next_offset
            records = [self._rest.popleft() for _ in range(min(room, len(self._rest)))]
            position = self.position
            messages = self._messages(records, position)
            if messages:  # otherwise all of them are others'
                return messages
        return []

    def _messages(self, records: list[DecodedRecord], position: int) -> list[Delivered[Any]]:
        if self._slices == 1:
            held = self.units.get(0)
            return [] if held is None else self._of_unit(held, records, position)
        by_slice: dict[int, list[DecodedRecord]] = {number: [] for number in self.units}
        keyed, slices = self._keyed, self._slices
        for record in records:
            key = record.key
            number = record.offset % slices if key is None else keyed[key]
            if number in by_slice:
                by_slice[number].append(record)
        messages: list[Delivered[Any]] = []
        for number, some in by_slice.items():
            messages += self._of_unit(self.units[number], some, position)
        return messages

    def _of_unit(self, held: Held, records: list[DecodedRecord], position: int) -> list[Delivered[Any]]:
        progress = held.progress
        if held.state is not UnitState.ACTIVE or position <= progress.position:
            return []
        if records and records[0].offset < progress.position:
            at = progress.position
            records = [record for record in records if record.offset >= at]
        if held.not_before_ms >= 0:
            first = next((i for i, one in enumerate(records) if one.timestamp >= held.not_before_ms), len(records))
            records = records[first:]
            if records:
                held.not_before_ms = -1
        offsets = [record.offset for record in records]
        wanted = progress.hand_out(offsets, position)
        if len(wanted) < len(offsets):
            chosen = set(wanted)
            records = [record for record in records if record.offset in chosen]
        topic, partition = self.key
        return [
            Delivered(
                topic,
                partition,
                record.offset,
                record.timestamp,
                record.key,
                record.value,
                tuple(record.headers) if record.headers else (),
                1,
                held,
            )
            for record in records
        ]
