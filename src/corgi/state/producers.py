"""Idempotent producers (KIP-98): the last five batches of each producer in a partition, as replicated state.

Invariant: of one (producer id, epoch, sequence) at most one batch is stored, in sequence order and without a gap; a
batch that is refused changes nothing here.
"""

from __future__ import annotations

from array import array

from corgi.base import errors
from corgi.base.ids import Offset
from corgi.base.limits import PRODUCER_WINDOW
from corgi.state.outcomes import AppendResult

SEQUENCE_MASK = 0x7FFF_FFFF  # sequence numbers wrap from 2^31 - 1 to 0

OUT_OF_ORDER = AppendResult(errors.OUT_OF_ORDER_SEQUENCE, Offset(-1))
FENCED = AppendResult(errors.PRODUCER_FENCED, Offset(-1))
UNNUMBERED = AppendResult(errors.CORRUPT_BATCH, Offset(-1))

_WINDOW_CELLS = 2 * PRODUCER_WINDOW


class Producer:
    """One producer in one partition.

    ``window`` holds (first sequence, base offset) of the last batches, oldest first. They follow each other without a
    gap, so a batch ends where the next begins, and the last one before ``next_sequence``.
    """

    __slots__ = ("epoch", "log_time_ms", "next_sequence", "window")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.next_sequence = 0
        self.log_time_ms = 0  # log time of its last batch: who is silent for long may be forgotten
        self.window: array[int] = array("q")

    def remember(self, first: int, delta: int, base_offset: Offset, log_time_ms: int) -> None:
        """A batch of sequences ``first`` to ``first + delta`` was stored at ``base_offset``."""
        window = self.window
        window.append(first)
        window.append(base_offset)
        if len(window) > _WINDOW_CELLS:
            del window[:2]
        self.next_sequence = (first + delta + 1) & SEQUENCE_MASK
        self.log_time_ms = log_time_ms

    def offset_of(self, first: int, delta: int) -> Offset | None:
        """Where exactly this batch was stored, if it is one of those remembered."""
        window = self.window
        end = self.next_sequence
        after = (first + delta + 1) & SEQUENCE_MASK
        for i in range(len(window) - 2, -2, -2):
            if window[i] == first and end == after:
                return Offset(window[i + 1])
            end = window[i]
        return None

    def copy(self) -> Producer:
        twin = Producer(self.epoch)
        twin.next_sequence = self.next_sequence
        twin.log_time_ms = self.log_time_ms
        twin.window = self.window[:]
        return twin


def judge(
    known: Producer | None, epoch: int, first: int, delta: int, *, expired: bool
) -> tuple[AppendResult | None, Producer | None]:
    """What to do with a batch of a producer: (answer, _) when it is not appended, else (None, the state to grow).

    ``expired``: the producer id lies below the mark of expired producers, so that having no state means nothing.
    """
    if epoch < 0 or first < 0:
        return UNNUMBERED, None
    if known is None:
        if first != 0 and not expired:
            return OUT_OF_ORDER, None
        return None, Producer(epoch)
    if epoch < known.epoch:
        return FENCED, None
    if epoch > known.epoch:
        if first != 0:
            return OUT_OF_ORDER, None
        return None, Producer(epoch)
    stored = known.offset_of(first, delta)
    if stored is not None:
        return AppendResult(errors.OK, stored), None
    if first != known.next_sequence:
        return OUT_OF_ORDER, None
    return None, known
