"""When a chaos run takes its cluster for healed, and how long it waits for that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId
from corgi.chaos import health
from corgi.client.corgi import Corgi
from corgi.wire.messages import GroupStatus, StatusReply

TWO, THREE = NodeId(2), NodeId(3)


def reply(node: int, *, voting: bool = True, **counters: float) -> StatusReply:
    group = GroupStatus(0, NodeId(1), 1, "follower", 9, 9, 0, 0, 1)
    peers = tuple((NodeId(peer), True, 0.0, 0.0) for peer in (1, 2, 3) if peer != node)
    return StatusReply("c1", NodeId(node), "corgi", 1.0, voting, peers, (group,), dict(counters))


class Told:
    """A cluster whose third node tells one thing after the other, and a clock that its questions move by a second."""

    def __init__(self, third: Iterator[StatusReply], monkeypatch: pytest.MonkeyPatch) -> None:
        self.third = third
        self.time = 100.0
        monkeypatch.setattr(health.time, "monotonic", lambda: self.time)
        monkeypatch.setattr(health, "POLL_S", 0.0)

    async def status(self) -> list[StatusReply]:
        self.time += 1.0
        return [reply(1), reply(2), next(self.third)]

    async def healed(self, timeout_s: float) -> health.Healed:
        return await health.wait_healthy(cast("Corgi", self), 3, timeout_s)


async def test_values_may_take_their_time_while_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far longer than a node has to vote; it is told when it voted and held everything, and what it got for that."""

    def third() -> Iterator[StatusReply]:
        for _ in range(3):
            yield reply(3, voting=False)
        for repaired in range(80):
            yield reply(3, values_to_come=80 - repaired, repaired_values=repaired)
        yield reply(3, snapshot_bytes_received=1, learned_bytes=20, repaired_bytes=300, values_to_come=0)

    healed = await Told(third(), monkeypatch).healed(5.0)
    assert healed.voting_s == 4
    assert healed.whole_s == 84
    assert healed.received_bytes(THREE) == 321
    assert healed.received_bytes(TWO) == 0


@pytest.mark.parametrize(
    ("stuck", "what"),
    [
        (reply(3, values_to_come=7, repaired_values=9), "node 3 misses 7 values"),
        (reply(3, values_missing=2), "node 3 misses 2 values"),
        (reply(3, voting=False), "node 3 does not vote"),
    ],
)
async def test_what_does_not_move_is_told(stuck: StatusReply, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(iter([stuck] * 100), monkeypatch)
    with pytest.raises(CorgiError, match=what):
        await told.healed(5.0)
    assert told.time < 110


async def test_values_that_come_do_not_excuse_a_node_that_does_not_vote(monkeypatch: pytest.MonkeyPatch) -> None:
    third = (reply(3, voting=False, values_to_come=100 - n, repaired_values=n) for n in range(100))
    with pytest.raises(CorgiError, match="node 3 does not vote; node 3 misses"):
        await Told(third, monkeypatch).healed(5.0)


async def test_a_node_that_answers_now_and_then_brings_no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has got before it fell silent has not come when it answers again."""
    told = Told(iter([]), monkeypatch)
    third = reply(3, values_to_come=7, repaired_values=9)

    async def status() -> list[StatusReply]:
        told.time += 1.0
        assert told.time < 200
        return [reply(1), reply(2), *([third] if told.time % 2 else [])]

    monkeypatch.setattr(told, "status", status)
    with pytest.raises(CorgiError, match="timeout"):
        await told.healed(5.0)


async def test_values_that_come_for_ever_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ones, again and again."""
    third = (reply(3, values_to_come=7, repaired_values=n) for n in range(5 * health.PATIENCE_MAX + 9))
    with pytest.raises(CorgiError, match="node 3 misses 7 values"):
        await Told(third, monkeypatch).healed(5.0)
