"""Virtual time, clocks, links and disks of the simulator do what they say: the ground that every run stands on."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from corgi.base.command import Buffer
from corgi.base.ids import Ballot, GroupId, NodeId, Slot
from corgi.log.record import DATA_FROM, LogIdentity
from corgi.paxos.messages import Accepted, Heartbeat, PeerMessage
from corgi.sim.cluster import Cluster, ClusterOptions
from corgi.sim.disk import SECTOR, SimDisk, Write
from corgi.sim.network import NetworkOptions, SimNetwork, Trouble
from corgi.sim.world import SimClock, World

A, B = NodeId(1), NodeId(2)


def test_events_happen_in_the_order_of_their_times_and_then_of_their_making() -> None:
    world = World(1)
    seen: list[str] = []
    for name, when in (("third", 2.0), ("first", 1.0), ("second", 1.0)):
        world.at(when, seen.append, name)
    world.run(3.0)
    assert seen == ["first", "second", "third"]
    assert world.now == 3.0


def test_an_event_in_the_past_happens_at_once() -> None:
    world = World(1)
    times: list[float] = []
    world.at(1.0, lambda: world.at(0.5, lambda: times.append(world.now)))
    world.run(2.0)
    assert times == [1.0]


def test_streams_of_chance_depend_on_the_seed_and_their_name_only() -> None:
    first, again, other_name, other_seed = (
        World(1).stream("x"),
        World(1).stream("x"),
        World(1).stream("y"),
        World(2).stream("x"),
    )
    draws = [stream.random() for stream in (first, again, other_name, other_seed)]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


def test_the_trace_hash_covers_time_speaker_and_words() -> None:
    def hashed(when: float, who: str, what: object) -> str:
        world = World(1)
        world.at(when, world.note, who, what)
        world.run(5.0)
        return world.trace_hash()

    hashes = {hashed(1, "a", "b"), hashed(2, "a", "b"), hashed(1, "c", "b"), hashed(1, "a", "d"), hashed(1, "a", "b")}
    assert len(hashes) == 4


def test_a_clock_drifts_and_its_wall_time_jumps_without_the_monotonic_time() -> None:
    world = World(1)
    clock = SimClock(world, offset=100.0, rate=1.001, wall_offset_ms=5)
    world.run(10.0)
    assert clock.now() == pytest.approx(110.01)
    assert clock.true_time(clock.now()) == pytest.approx(10.0)
    before = clock.wall_ms()
    clock.jump(-20_000)
    assert clock.wall_ms() == before - 20_000
    assert clock.now() == pytest.approx(110.01)


class Listener:
    """A process as the network sees it."""

    def __init__(self, node: NodeId, world: World) -> None:
        self.id = node
        self.incarnation = bytes([node])
        self.world = world
        self.facts: list[tuple[str, tuple[Any, ...]]] = []
        self.beaten = 1  # the onlooker has seen the heartbeat

    def fact(self, name: str, *arguments: object) -> None:
        self.facts.append((name, arguments))

    def heard(self) -> list[int]:
        """Slots of the messages that arrived, in order."""
        return [arguments[1].slot for name, arguments in self.facts if name == "peer_message"]

    def told(self) -> list[str]:
        return [name for name, _ in self.facts if name != "peer_message"]


class Links:
    """Two processes and the network between them."""

    def __init__(self, options: NetworkOptions | None = None) -> None:
        self.world = World(7)
        self.sent: list[PeerMessage] = []
        self.network = SimNetwork(self.world, options or NetworkOptions(), self._watch)
        self.a, self.b = Listener(A, self.world), Listener(B, self.world)
        self.network.process_up(self.a)  # type: ignore[arg-type]
        self.network.process_up(self.b)  # type: ignore[arg-type]
        self.world.run(0.5)

    def _watch(self, process: object, peer: NodeId, message: PeerMessage, payload: Buffer) -> None:
        self.sent.append(message)

    def send(self, *slots: int) -> None:
        for slot in slots:
            message = Accepted(GroupId(0), Ballot(1), Slot(slot))
            self.network.send(self.a, B, message, b"")  # type: ignore[arg-type]

    def after(self, seconds: float) -> None:
        self.world.run(self.world.now + seconds)


def test_both_ends_are_told_of_a_connection_and_messages_keep_their_order() -> None:
    links = Links(NetworkOptions(spike_chance=0.3))
    assert links.a.told() == links.b.told() == ["peer_connected"]
    links.send(*range(200))
    links.after(1.0)
    assert links.b.heard() == list(range(200))


def test_a_dead_process_is_heard_of_behind_what_it_said() -> None:
    links = Links()
    links.send(1, 2)
    links.network.process_down(links.a)  # type: ignore[arg-type]
    links.after(0.5)
    assert [name for name, _ in links.b.facts][-3:] == ["peer_message", "peer_message", "peer_lost"]
    links.send(3)
    links.after(0.5)
    assert links.b.heard() == [1, 2]


def test_a_blocked_direction_holds_messages_back_until_it_is_open_again() -> None:
    links = Links(NetworkOptions(break_after_max=60.0))
    links.network.block(A, B)
    links.send(1, 2)
    links.after(0.05)
    assert links.b.heard() == []
    links.network.unblock(A, B)
    links.send(3)
    links.after(0.5)
    assert links.b.heard() == [1, 2, 3]


def test_a_connection_that_breaks_loses_what_was_held_and_is_made_again() -> None:
    links = Links()
    links.network.block(A, B, reset=True)
    links.send(1)
    links.after(0.5)
    assert links.b.told() == ["peer_connected", "peer_lost"]
    links.network.unblock(A, B)
    links.after(0.5)
    links.send(2)
    links.after(0.5)
    assert links.b.heard() == [2]
    assert links.b.told() == links.a.told() == ["peer_connected", "peer_lost", "peer_connected"]


def test_datagrams_are_dropped_doubled_and_overtaken() -> None:
    links = Links(NetworkOptions(datagrams=True, drop=0.2, duplicate=0.2, spike_chance=0.2))
    links.send(*range(300))
    links.after(1.0)
    heard = links.b.heard()
    assert len(set(heard)) < 300
    assert len(heard) > len(set(heard))
    assert heard != sorted(heard)


@pytest.mark.parametrize(
    ("trouble", "holds"),
    [
        (Trouble(drop=0.5), lambda heard: 50 < len(heard) < 150 and heard == sorted(set(heard))),
        (Trouble(duplicate=0.5), lambda heard: 250 < len(heard) < 350 and set(heard) == set(range(200))),
        (Trouble(overtake=0.5), lambda heard: heard != sorted(heard) and sorted(heard) == list(range(200))),
    ],
)
def test_one_direction_of_a_link_can_be_in_trouble(trouble: Trouble, holds: Callable[[list[int]], bool]) -> None:
    links = Links()
    links.network.trouble[A, B] = trouble
    links.send(*range(200))
    links.after(1.0)
    assert holds(links.b.heard())
    links.network.trouble = {(B, A): trouble}
    links.b.facts.clear()
    links.send(*range(200))
    links.after(1.0)
    assert links.b.heard() == list(range(200)), "the other direction is sound"


def test_heartbeats_have_a_way_of_their_own_that_a_block_stops() -> None:
    links = Links()
    beat = Heartbeat(1, 0, 0, 0, ())
    links.network.beat(links.a, B, beat)  # type: ignore[arg-type]
    links.after(0.1)
    assert links.b.told()[-1] == "heartbeat"
    links.network.block(A, B)
    links.network.beat(links.a, B, beat)  # type: ignore[arg-type]
    links.after(0.01)
    assert links.b.told().count("heartbeat") == 1


def disk_with(*writes: bytes) -> SimDisk:
    """Writes of one sector each, none of them synced."""
    disk = SimDisk(Random(3), LogIdentity(bytes(16), A), 64 * 1024)
    disk.prepare(1)
    for number, data in enumerate(writes):
        disk.write(1, 8192 + number * len(data), data)
    return disk


def test_what_was_synced_survives_a_power_loss() -> None:
    disk = disk_with(b"x" * SECTOR)
    disk.sync()
    disk.power_loss()
    assert disk.segments[1][8192 : 8192 + SECTOR] == b"x" * SECTOR


def test_what_was_not_synced_is_kept_lost_or_torn_at_a_sector() -> None:
    fates = set()
    length = 8 * SECTOR
    for seed in range(60):
        disk = disk_with()
        disk.chance = Random(seed)
        disk.write(1, 8192, b"x" * length)
        disk.power_loss()
        found = bytes(disk.segments[1][8192 : 8192 + length])
        sectors = {found[at : at + SECTOR] for at in range(0, length, SECTOR)}
        assert sectors <= {b"x" * SECTOR, bytes(SECTOR)}
        fates.add("kept" if found == b"x" * length else "lost" if found == bytes(length) else "torn")
    assert fates == {"kept", "lost", "torn"}


def content(disk: SimDisk, at: int, length: int = SECTOR) -> bytes:
    return bytes(disk.segments[1][at : at + length])


def after_a_failed_sync(seed: int) -> SimDisk:
    """A sector was written, and its sync failed."""
    disk = disk_with()
    disk.chance = Random(seed)
    disk.write(1, 8192, b"x" * SECTOR)
    disk.sync_failed()
    return disk


def test_what_a_failed_sync_left_can_often_be_read_and_no_later_sync_makes_it_durable() -> None:
    lost = 0
    readable = [seed for seed in range(60) if content(after_a_failed_sync(seed), 8192) == b"x" * SECTOR]
    assert 30 < len(readable) < 60, "some of it is read back as it was before"
    for seed in readable:
        disk = after_a_failed_sync(seed)
        disk.write(1, 16384, b"y" * SECTOR)
        disk.sync()
        disk.power_loss()
        assert content(disk, 16384) == b"y" * SECTOR
        lost += content(disk, 8192) != b"x" * SECTOR
    assert lost > 10


def test_what_is_written_again_behind_a_failed_sync_is_durable() -> None:
    for seed in range(60):
        disk = after_a_failed_sync(seed)
        disk.write(1, 8192, b"x" * SECTOR)
        disk.sync()
        disk.power_loss()
        assert content(disk, 8192) == b"x" * SECTOR


def test_what_is_written_again_in_part_is_durable_in_that_part() -> None:
    whole = Write(1, 100, b"abcdef")
    assert list(whole.without(Write(1, 102, b"zz"))) == [Write(1, 100, b"ab"), Write(1, 104, b"ef")]
    assert list(whole.without(Write(1, 90, b"z" * 13))) == [Write(1, 103, b"def")]
    assert list(whole.without(Write(1, 100, b"abcdef"))) == []
    assert list(whole.without(Write(2, 100, b"abcdef"))) == [whole]


def test_a_disk_knows_whether_a_power_loss_would_take_something_that_can_be_read() -> None:
    """Damage is done only where something lies behind it that stays."""
    disk = disk_with(b"x" * SECTOR)
    assert disk.undoable
    disk.sync()
    assert not disk.undoable
    assert after_a_failed_sync(3).undoable or content(after_a_failed_sync(3), 8192) != b"x" * SECTOR


def test_an_image_holds_what_a_power_loss_leaves_at_the_least() -> None:
    disk = disk_with(b"a" * SECTOR)
    disk.sync()
    disk.write(1, 8192, b"b" * SECTOR)
    image = disk.image()
    assert image[1][8192 : 8192 + SECTOR] == b"a" * SECTOR
    disk.put_back(image, {}, set())
    assert disk.segments[1][8192 : 8192 + SECTOR] == b"a" * SECTOR


@pytest.mark.parametrize("spoiled", [False, True])
def test_a_hole_that_puts_all_groups_in_doubt_is_excused_by_damage_alone(spoiled: bool) -> None:
    """A power loss makes lazy ones at most: those of a disk that was never damaged break a rule."""
    world = World(1)
    cluster = Cluster(world, ClusterOptions(nodes=1))
    node = cluster.members[0]
    cluster.start(node)
    world.run(0.5)
    disk = cluster.computers[node].disk
    cluster.kill(node)
    disk.segments[1][DATA_FROM : DATA_FROM + SECTOR] = bytes(SECTOR)
    disk.damaged = spoiled
    cluster.start(node)
    assert [violation.name for violation in cluster.ledger.violations] == ([] if spoiled else ["hole-without-damage"])
