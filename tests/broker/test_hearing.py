"""Questions that wait for a sign of life of other nodes: who answers them, and when."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from corgi.base.ids import NodeId
from corgi.base.limits import ECHO_APART_S, HEARTBEAT_S, SUSPICION_S
from corgi.broker.detector import Detector
from corgi.broker.hearing import LOOK_S, WAIT_S, Hearing
from corgi.paxos.messages import Heartbeat
from memory_cluster import Cluster

ME, OTHER, THIRD = NodeId(1), NodeId(2), NodeId(3)


@dataclass
class World:
    """A node with a clock, a detector and nothing else."""

    time: float = 100.0
    answered: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = self
        self.detector = Detector(ME, (ME, OTHER, THIRD), SUSPICION_S, self)
        self.hearing = Hearing(self)  # type: ignore[arg-type]
        for peer in (OTHER, THIRD):
            self.detector.connected(peer)

    def now(self) -> float:
        return self.time

    def wall_ms(self) -> int:
        return 0

    def beat_soon(self, apart_s: float) -> None:
        """The tests send heartbeats themselves."""

    def ask(self, *nodes: NodeId, client: str = "client") -> None:
        self.hearing.wait(client, nodes, lambda: self.answered.append(client))  # type: ignore[arg-type]

    def echo(self, peer: NodeId, number: int) -> None:
        view = self.detector.peers[peer]
        self.detector.beat(peer, Heartbeat(view.number + 1, number, 0, 0, ()))

    def look(self) -> list[str]:
        self.time += LOOK_S
        self.hearing.advance(self.time)
        found, self.answered = self.answered, []
        return found


@pytest.fixture
def world() -> World:
    return World()


def test_an_echo_of_a_later_heartbeat_is_a_proof_and_one_of_an_earlier_is_none(world: World) -> None:
    before = world.detector.next_beat()
    world.ask(OTHER)
    world.echo(OTHER, before)
    assert world.look() == []
    world.echo(OTHER, world.detector.next_beat())
    assert world.look() == ["client"]
    assert len(world.hearing) == 0
    assert world.hearing.next_deadline() is None


def test_a_loop_that_stood_still_proves_nothing(world: World) -> None:
    world.ask(OTHER)
    world.detector.loop_lagged(0.1)
    assert world.look() == []


def test_all_that_are_named_have_to_live_or_to_be_gone(world: World) -> None:
    world.ask(OTHER, THIRD)
    world.echo(OTHER, world.detector.next_beat())
    assert world.look() == []
    world.detector.lost(THIRD)
    assert world.look() == ["client"]


def test_who_names_nobody_else_is_answered_at_once(world: World) -> None:
    world.ask(ME)
    assert world.answered == ["client"]
    world.detector.lost(OTHER)
    world.ask(OTHER, client="another")
    assert world.answered == ["client", "another"], "of one that is gone nothing is waited for"


def test_silence_ends_by_suspicion_and_the_wait_in_any_case(world: World) -> None:
    world.ask(OTHER)
    for _ in range(round(SUSPICION_S / LOOK_S) + 2):
        found = world.look()
        if found:
            break
    assert found == ["client"]
    assert world.time < 100.0 + WAIT_S
    world.detector.heard(OTHER)
    world.ask(OTHER)
    began = world.time
    while not world.look():
        world.detector.heard(OTHER)
        assert world.time < began + 2 * WAIT_S
    assert world.time >= began + WAIT_S


def test_nothing_stays_of_a_client_that_is_gone(world: World) -> None:
    world.ask(OTHER)
    world.ask(OTHER, client="another")
    world.hearing.client_closed("client")  # type: ignore[arg-type]
    world.echo(OTHER, world.detector.next_beat())
    assert world.look() == ["another"]


def hear(cluster: Cluster, node: NodeId, *asking: NodeId) -> float:
    """How long the last of those that ask for a node waits, in seconds."""
    told: list[NodeId] = []
    began = cluster.clock.time
    for one in asking:
        cluster.nodes[one].requests.hearing.wait(cluster, {node}, lambda one=one: told.append(one))  # type: ignore[arg-type, misc]
    while len(told) < len(asking):
        cluster.run(0.001, step=0.001)
    return cluster.clock.time - began


def test_an_echo_comes_sooner_than_heartbeats_do() -> None:
    cluster = Cluster()
    cluster.run(1.0)
    waits_s = []
    for _ in range(20):
        cluster.run(HEARTBEAT_S * 0.7, step=0.001)
        waits_s.append(hear(cluster, THIRD, ME))
    assert max(waits_s) < HEARTBEAT_S / 2


def test_nodes_that_wait_for_one_that_hangs_do_not_drive_each_other() -> None:
    cluster = Cluster()
    cluster.run(1.0)
    cluster.cut |= {(THIRD, ME), (THIRD, OTHER)}  # its connections stay
    cluster.log.clear()
    waited_s = hear(cluster, THIRD, ME, OTHER)
    beats = [message for sender, to, message in cluster.log if (sender, to, type(message)) == (ME, OTHER, Heartbeat)]
    assert waited_s > SUSPICION_S / 2
    assert len(beats) <= waited_s / ECHO_APART_S + 1


def test_an_echo_of_an_earlier_life_is_no_proof() -> None:
    """A node that restarts counts its heartbeats from one; its peers have seen higher numbers."""
    cluster = Cluster(groups=1)
    cluster.run(2.0)
    cluster.kill(ME)
    cluster.filter = lambda sender, to, _: sender != ME  # what it sends is on its way for a while
    node = cluster.start(ME)
    cluster.run(0.02)
    answered: list[str] = []
    node.requests.hearing.wait(cluster, (OTHER,), lambda: answered.append("early"))  # type: ignore[arg-type]
    cluster.run(0.02)
    assert not answered
    cluster.filter = lambda *_: True
    cluster.run(0.05)
    assert answered
