"""Who should hold what: units shared evenly among the members of a consumer group, moving only what must move.

Pure and deterministic: the same members, units and owners give the same answer on every node. It takes a microsecond
or two per unit and per member, as who holds least is found in a heap, and can be done in steps of bounded length.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Generator, Iterable, Mapping

from corgi.base.ids import TopicId

Unit = tuple[TopicId, int, int]  # topic, partition, slice
Wishes = Mapping[str, Collection[TopicId]]  # member -> the topics that it wants
STEP = 250  # units or members that are dealt with in a step


class _Takers:
    """Members that want the same topics; who of them has least is on top of a heap whose entries may be out of date."""

    __slots__ = ("_heap", "_load")

    def __init__(self, members: Iterable[str], load: Mapping[str, int]) -> None:
        self._load = load
        self._heap = [(load[member], member) for member in members]
        heapq.heapify(self._heap)

    def least(self) -> str:
        heap, load = self._heap, self._load
        while True:
            count, member = heap[0]
            if load[member] == count:
                return member
            heapq.heapreplace(heap, (load[member], member))

    def less(self, member: str) -> None:
        """The member has less than before."""
        heapq.heappush(self._heap, (self._load[member], member))


def assign(wishes: Wishes, units: Iterable[Unit], owners: Mapping[Unit, str]) -> dict[Unit, str]:
    """The member that should hold each unit; units that nobody wants are left out.

    Whoever holds a unit keeps it unless another member that wants its topic would be at least two units better off.
    So with equal wishes members differ by at most one unit, and a member that joins n others takes about 1 / (n + 1)
    of each one's.
    """
    steps = assigning(wishes, units, owners)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: dict[Unit, str] = end.value
            return found


def assigning(
    wishes: Wishes, units: Iterable[Unit], owners: Mapping[Unit, str]
) -> Generator[None, None, dict[Unit, str]]:
    """``assign`` in steps; the arguments must not change meanwhile."""
    wanting = yield from _wanting(wishes)
    held: dict[str, dict[TopicId, list[Unit]]] = {member: {} for member in wishes}
    load = dict.fromkeys(sorted(wishes), 0)
    free: list[Unit] = []
    for work, unit in enumerate(sorted(units), start=1):
        if not work % STEP:
            yield
        topic = unit[0]
        if topic not in wanting:
            continue
        owner = owners.get(unit)
        if owner is None or owner not in wishes or topic not in wishes[owner]:
            free.append(unit)
            continue
        held[owner].setdefault(topic, []).append(unit)
        load[owner] += 1
    alike: dict[tuple[str, ...], _Takers] = {}
    takers: dict[TopicId, _Takers] = {}
    for topic, members in wanting.items():
        names = tuple(members)
        if names not in alike:
            alike[names] = _Takers(names, load)
        takers[topic] = alike[names]
    for work, unit in enumerate(free, start=1):
        if not work % STEP:
            yield
        taker = takers[unit[0]].least()
        held[taker].setdefault(unit[0], []).append(unit)
        load[taker] += 1
    while (yield from _even_out(takers, held, load)):
        pass
    return {unit: member for member, topics in held.items() for some in topics.values() for unit in some}


def _wanting(wishes: Wishes) -> Generator[None, None, dict[TopicId, list[str]]]:
    """The members that want each topic."""
    wanting: dict[TopicId, list[str]] = {}
    work = 0
    for member in sorted(wishes):
        for topic in wishes[member]:
            wanting.setdefault(topic, []).append(member)
            work += 1
            if not work % STEP:
                yield
    return wanting


def _even_out(
    takers: Mapping[TopicId, _Takers], held: dict[str, dict[TopicId, list[Unit]]], load: dict[str, int]
) -> Generator[None, None, bool]:
    """Take one after the other from whoever holds most; True if anything moved."""
    givers = [(-count, member) for member, count in load.items()]
    heapq.heapify(givers)
    moved = False
    work = 0
    while givers:
        work += 1
        if not work % STEP:
            yield
        count, giver = heapq.heappop(givers)
        if -count != load[giver]:
            heapq.heappush(givers, (-load[giver], giver))
            continue
        for topic, units in held[giver].items():
            if not units:
                continue
            taker = takers[topic].least()
            if load[taker] + 1 >= load[giver]:
                continue
            held[taker].setdefault(topic, []).append(units.pop())
            load[taker] += 1
            load[giver] -= 1
            for mine in held[giver]:
                takers[mine].less(giver)
            heapq.heappush(givers, (-load[giver], giver))
            moved = True
            break
    return moved
