"""Who should hold what: units shared evenly among the members of a consumer group, moving only what must move.

Pure and deterministic: the same members, units and owners give the same answer on every node.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from corgi.base.ids import TopicId

Unit = tuple[TopicId, int, int]  # topic, partition, slice
Wishes = Mapping[str, Collection[TopicId]]  # member -> the topics that it wants


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
    for unit in free:
        taker = min(wanting[unit[0]], key=load.__getitem__)
        held[taker].setdefault(unit[0], []).append(unit)
        load[taker] += 1
    _even_out(wanting, held, load)
    return {unit: member for member, topics in held.items() for some in topics.values() for unit in some}


def _even_out(
    wanting: Mapping[TopicId, list[str]], held: dict[str, dict[TopicId, list[Unit]]], load: dict[str, int]
) -> None:
    """Let whoever holds most give to whoever of those that want it holds least, one unit after the other."""
    givers = set(load)
    while givers:
        giver = max(sorted(givers), key=load.__getitem__)
        for topic, units in held[giver].items():
            taker = min(wanting[topic], key=load.__getitem__)
            if units and load[taker] + 1 < load[giver]:
                held[taker].setdefault(topic, []).append(units.pop())
                load[taker] += 1
                load[giver] -= 1
                givers = set(load)
                break
        else:
            givers.discard(giver)
