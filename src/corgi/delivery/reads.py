"""Reading batches of one partition out of stored values, without copying large ones.

Whole batches only, and the batch that contains the asked offset first, even if it alone is above the limit: a reader
always gets on. The first 16 bytes are made anew, because offset and leader epoch are known only since apply.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from corgi.base.batch import PREFIX_BYTES, patched_prefix
from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, Offset, Slot
from corgi.delivery.limits import AHEAD_VALUES, JOIN_BATCH_BYTES, JOIN_PINNED_RATIO
from corgi.delivery.ports import AppliedLog
from corgi.delivery.values import Values, Waiter


class Gathered(NamedTuple):
    """``lengths`` of whole batches, whose bytes joined are ``buffers``; ``next_offset`` comes after them.

    ``next_index``: where that batch is or will be, a hint for the next time. ``pending``: more is there and waits for a
    value from the disk. ``error``: why the batch at ``next_offset`` cannot be read. ``reached``: where the last of
    these batches ends, if others were left out behind it; else -1.
    """

    lengths: list[int]
    buffers: list[Buffer]
    size: int
    next_offset: Offset
    next_index: int
    pending: bool = False
    error: CorgiError | None = None
    reached: Offset = Offset(-1)


def gather(
    log: AppliedLog,
    group: GroupId,
    offset: Offset,
    *,
    bytes_max: int,
    batches_max: int,
    values: Values,
    waiter: Waiter,
    urgent: bool,
    hint: int = -1,
) -> Gathered:
    """Batches from the one that contains ``offset`` on, up to about ``bytes_max`` bytes and ``batches_max`` batches."""
    lengths: list[int] = []
    buffers: list[Buffer] = []
    size = 0
    count = log.count
    if 0 <= hint < count and (entry := log.entry(hint)).base_offset == offset:
        i = hint
    elif (i := log.find(offset)) < count:
        entry = log.entry(i)
    else:
        return Gathered(lengths, buffers, size, offset, i)
    last = i + batches_max if i + batches_max < count else count
    while i < last:
        if lengths and size + entry.length > bytes_max:
            break
        slot = entry.slot
        value = values.get(group, slot, waiter, urgent=urgent)
        if value is None:
            if not urgent:
                values.ahead(group, slots_after(log, i, slot))
            return Gathered(lengths, buffers, size, offset, i, pending=True)
        if isinstance(value, CorgiError):
            return Gathered(lengths, buffers, size, offset, i, error=exactly(value, log, i, slot))
        view = memoryview(value)
        run_buffers, run_batches, run_bytes = len(buffers), len(lengths), size
        while True:
            at, length = entry.at, entry.length
            buffers.append(patched_prefix(entry.base_offset, length, entry.epoch))
            buffers.append(view[at + PREFIX_BYTES : at + length])
            lengths.append(length)
            size += length
            offset = Offset(entry.base_offset + entry.records)
            i += 1
            if i >= last:
                break
            entry = log.entry(i)
            if entry.slot != slot or size + entry.length > bytes_max:
                break
        run_batches, run_bytes = len(lengths) - run_batches, size - run_bytes
        if run_bytes < run_batches * JOIN_BATCH_BYTES or run_bytes * JOIN_PINNED_RATIO < len(value):
            buffers[run_buffers:] = [b"".join(buffers[run_buffers:])]
    return Gathered(lengths, buffers, size, offset, i)


def exactly(error: CorgiError, log: AppliedLog, i: int, slot: Slot) -> CorgiError:
    """Of records that are lost, which: those of this partition in the value of ``slot``, from the batch ``i`` on."""
    if error.code != "record-lost":
        return error
    entry = log.entry(i)
    first = entry.base_offset
    while i + 1 < log.count and log.entry(i + 1).slot == slot:
        i += 1
    entry = log.entry(i)
    end = entry.base_offset + entry.records
    what = f"offsets {first} to {end - 1} of partition {log.partition} are damaged on every node; go on at {end}"
    return CorgiError("record-lost", what)


def slots_after(log: AppliedLog, i: int, slot: Slot) -> Iterator[Slot]:
    """The next slots that hold batches of this partition, after the batch ``i`` in ``slot``."""
    for k in range(i + 1, min(log.count, i + 1 + AHEAD_VALUES)):
        following = log.entry(k).slot
        if following != slot:
            slot = following
            yield slot
