"""Whether everything that was sent arrived, once, unchanged and in order: compares lists, trusts nobody.

A stream is what must stay in order among itself: one partition, or one key. Each item of a stream is unique.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

Item = tuple[Hashable, Hashable]  # stream, what was sent in it


class Verdict(NamedTuple):
    """Counts of items, all of which must be 0. ``strange``: arrived and was never sent, so it is damaged or foreign."""

    lost: int
    duplicated: int
    reordered: int
    strange: int

    @property
    def clean(self) -> bool:
        return not any(self)


def audit(sent: Iterable[Item], seen: Iterable[Item], *, unacknowledged: Iterable[Item] = ()) -> Verdict:
    """Compare what was acknowledged, in the order of sending, with what a reader saw, in the order of arrival.

    ``unacknowledged``: sent, with an unknown outcome; such an item may be missing, but not twice.
    """
    ranks: dict[Hashable, dict[Hashable, int]] = defaultdict(dict)
    for stream, item in sent:
        rank = ranks[stream]
        assert item not in rank, f"{item!r} was sent twice in {stream!r}: the check needs unique items"
        rank[item] = len(rank)
    maybe = set(unacknowledged)
    arrived: dict[Hashable, list[int]] = defaultdict(list)
    once: set[Item] = set()
    duplicated = strange = 0
    for stream, item in seen:
        known = (stream, item) in maybe or item in ranks.get(stream, {})
        if not known:
            strange += 1
        elif (stream, item) in once:
            duplicated += 1
        else:
            once.add((stream, item))
            if item in ranks[stream]:
                arrived[stream].append(ranks[stream][item])
    lost = sum(len(rank) for rank in ranks.values()) - sum(map(len, arrived.values()))
    return Verdict(lost, duplicated, sum(map(_out_of_order, arrived.values())), strange)


def _out_of_order(ranks: Sequence[int]) -> int:
    """How many arrived behind one that was sent later."""
    late, highest = 0, -1
    for rank in ranks:
        if rank < highest:
            late += 1
        else:
            highest = rank
    return late
