"""Reading a partition in which there were transactions: up to where it is decided, without what was aborted.

Control batches are left out for every reader; aborted batches, and whatever lies at or behind the last stable offset,
for those who read only what was committed. Attributes and producer are read from the batch itself, which has to be at
hand to be served; so the index needs no more than the aborted ranges.

Invariant: ``next_offset`` passes over what was left out, so a reader always gets on.
"""

from __future__ import annotations

import struct

from corgi.base.batch import ATTRIBUTE_CONTROL, ATTRIBUTE_TRANSACTIONAL, HEADER_BYTES, PREFIX_BYTES, patched_prefix
from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, Offset
from corgi.delivery.limits import JOIN_BATCH_BYTES, JOIN_PINNED_RATIO
from corgi.delivery.ports import AppliedLog
from corgi.delivery.reads import Gathered, exactly, gather, slots_after
from corgi.delivery.values import Values, Waiter

_WHO = struct.Struct(">21xh20xq10x")  # attributes, producer id
assert _WHO.size == HEADER_BYTES


def readable_end(log: AppliedLog, *, committed: bool) -> Offset:
    """Where a reader of this partition has to wait."""
    found = log.transactions
    return log.end if found is None or not committed else found.stable_end(log.end)


def gather_for_reader(
    log: AppliedLog,
    group: GroupId,
    offset: Offset,
    *,
    bytes_max: int,
    batches_max: int,
    values: Values,
    waiter: Waiter,
    urgent: bool,
    committed: bool,
    hint: int = -1,
    raw: bool = False,
) -> Gathered:
    """As ``reads.gather``, which does it for every partition without transactions. ``committed``: only what is; with
    ``raw`` only up to where that is known, and nothing is left out. ``batches_max`` counts also what is left out."""
    transactions = log.transactions
    if transactions is None:
        return gather(
            log, group, offset, bytes_max=bytes_max, batches_max=batches_max, values=values, waiter=waiter,
            urgent=urgent, hint=hint,
        )  # fmt: skip
    end = transactions.stable_end(log.end) if committed else log.end
    lengths: list[int] = []
    buffers: list[Buffer] = []
    size = 0
    i = log.find(offset)
    last = min(i + batches_max, log.count)
    run: list[Buffer] = []  # of one value
    value: Buffer | None = None
    slot = -1
    reached = Offset(-1)

    def joined() -> None:
        if run:
            run_bytes = sum(map(len, run))
            held = 0 if value is None else len(value)
            small = run_bytes < len(run) // 2 * JOIN_BATCH_BYTES or run_bytes * JOIN_PINNED_RATIO < held
            buffers.extend([b"".join(run)] if small else run)
            run.clear()

    while i < last:
        entry = log.entry(i)
        if entry.base_offset >= end or (lengths and size + entry.length > bytes_max):
            break
        if entry.slot != slot:
            joined()
            found = values.get(group, entry.slot, waiter, urgent=urgent)
            if found is None:
                if not urgent:
                    values.ahead(group, slots_after(log, i, entry.slot))
                return Gathered(lengths, buffers, size, offset, i, pending=True, reached=reached)
            if isinstance(found, CorgiError):
                return Gathered(
                    lengths, buffers, size, offset, i, error=exactly(found, log, i, entry.slot), reached=reached
                )
            value, slot = found, entry.slot
        assert value is not None
        view = memoryview(value)[entry.at : entry.at + entry.length]
        attributes, producer_id = _WHO.unpack_from(view)
        offset = Offset(max(offset, entry.base_offset + entry.records))
        i += 1
        if not raw and (
            attributes & ATTRIBUTE_CONTROL
            or (
                committed
                and attributes & ATTRIBUTE_TRANSACTIONAL
                and transactions.hides(producer_id, entry.base_offset)
            )
        ):
            continue
        run.append(patched_prefix(entry.base_offset, entry.length, entry.epoch))
        run.append(view[PREFIX_BYTES:])
        lengths.append(entry.length)
        size += entry.length
        reached = offset
    joined()
    return Gathered(lengths, buffers, size, offset, i, reached=reached)
