"""What goes into one commit of a unit: its checkpoint, and the results of messages that it covers for the first time.

A commit whose results all lie in the unit's Paxos group is one command. As soon as one of them lies elsewhere it takes
two phases. Results of a partition are put together into batches as large as their topic takes.
"""

from __future__ import annotations

from corgi.base.ids import Offset, TopicId
from corgi.base.limits import KIB
from corgi.base.records import RecordFields, encode_batch
from corgi.client.held import Finished, Flight, Held, Result
from corgi.client.two_phases import Part, Place
from corgi.wire.group_messages import CommitEntry

RESULT_BYTES = 512 * KIB  # of one commit; a single message may have more
PARTS_MAX = 256  # batches of one commit; likewise
RECORD_OVERHEAD = 64  # no record takes more besides its key, value and headers, and no batch for its header


def prepare(held: Held, group: int) -> Flight | None:
    """What is done now; None if that is stored already. ``group``: the unit's Paxos group."""
    load = _Load()
    taken = [] if held.reset else _take(held.finished, load)  # a transaction takes no checkpoint back
    for one in taken:
        held.progress.done(one.offset)
    checkpoint = held.progress.checkpoint()
    if checkpoint == held.committed and not taken and not held.reset and not held.handed:
        return None
    offset, ranges = checkpoint
    entry = CommitEntry(
        held.topic_id,
        held.partition,
        held.slice,
        held.owner_epoch,
        held.version,
        Offset(offset),
        ranges,
        held.metadata,
        held.reset,
    )
    handed, held.handed = held.handed, []
    held.reset = False
    parts = load.parts()
    return Flight(entry, parts, any(part.group != group for part in parts), handed)


class _Load:
    """Results by batch: of each partition the one that is being filled, and those that are full."""

    def __init__(self) -> None:
        self.bytes = 0
        self._filling: dict[Place, tuple[Result, list[RecordFields], int]] = {}
        self._full: list[tuple[Result, list[RecordFields]]] = []

    @property
    def count(self) -> int:
        return len(self._filling) + len(self._full)

    def add(self, result: Result) -> None:
        place = (result.topic, result.partition)
        size = size_of(result.fields)
        first, records, filled = self._filling.pop(place, (result, [], RECORD_OVERHEAD))
        if records and filled + size > result.batch_bytes_max:
            self._full.append((first, records))
            records, filled = [], RECORD_OVERHEAD
        records.append(result.fields)
        self._filling[place] = (first, records, filled + size)
        self.bytes += size

    def parts(self) -> tuple[Part, ...]:
        batches = [*self._full, *[(first, records) for first, records, _ in self._filling.values()]]
        return tuple([_part(first, records) for first, records in batches])


def _part(first: Result, records: list[RecordFields]) -> Part:
    return Part(TopicId(first.topic), first.partition, first.group, len(records), encode_batch(records))


def size_of(fields: RecordFields) -> int:
    """At most so many bytes does a record take."""
    key, value, headers, _ = fields
    return (
        len(key or b"") + len(value or b"") + RECORD_OVERHEAD + sum(len(h[0]) + len(h[1] or b"") + 10 for h in headers)
    )


def _take(finished: list[Finished], load: _Load) -> list[Finished]:
    """As many as one commit takes, out of the list and into the load."""
    count = 0
    for one in finished:
        size = sum([size_of(result.fields) for result in one.results])
        if count and (load.bytes + size > RESULT_BYTES or load.count + len(one.results) > PARTS_MAX):
            break
        for result in one.results:
            load.add(result)
        count += 1
    taken = finished[:count]
    del finished[:count]
    return taken
