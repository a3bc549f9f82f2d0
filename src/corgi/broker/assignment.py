"""Who should hold what: units shared evenly among the members of a consumer group, moving only what must move.

Pure and deterministic: the same members, units and owners give the same answer on every node. It takes about a
microsecond per unit and per member: everybody who holds least is found in a heap.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping

from corgi.base.ids import TopicId

Unit = tuple[TopicId, int, int]  # topic, partition, slice
Wishes = Mapping[str, Collection[TopicId]]  # member -> the topics that it wants


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
    wanting: dict[TopicId, list[str]] = {}
    for member in sorted(wishes):
        for topic in wishes[member]:
            wanting.setdefault(topic, []).append(member)
    held: dict[str, dict[TopicId, list[Unit]]] = {member: {} for member in wishes}
    load = dict.fromkeys(sorted(wishes), 0)
    free: list[Unit] = []
    for unit in sorted(units):
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
    for unit in free:
        taker = takers[unit[0]].least()
        held[taker].setdefault(unit[0], []).append(unit)
        load[taker] += 1
    while _even_out(takers, held, load):
        pass
    return {unit: member for member, topics in held.items() for some in topics.values() for unit in some}


def _even_out(
    takers: Mapping[TopicId, _Takers], held: dict[str, dict[TopicId, list[Unit]]], load: dict[str, int]
) -> bool:
    """Take one after the other from whoever holds most; True if anything moved."""
    givers = [(-count, member) for member, count in load.items()]
    heapq.heapify(givers)
    moved = False
    while givers:
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
