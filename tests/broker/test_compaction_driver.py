"""Three nodes compact a partition: the leader reads and proposes, all apply the same, readers see what is left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from corgi.base import errors
from corgi.base.batch import parse_header
from corgi.base.command import CommandKind, encode_append, encode_command, encode_value
from corgi.base.ids import GroupId, LeaderEpoch, NodeId, Offset, Origin, Slot, TopicId
from corgi.base.records import decode_batch, encode_batch
from corgi.broker.compaction import due
from corgi.broker.node import Node
from corgi.broker.room import holds_messages, is_message
from corgi.state.commands import encode_log_start
from corgi.state.compaction import Compacted, NewestOffsets, encode_compacted
from corgi.state.fingerprint import fingerprint
from corgi.state.index import Cleaned, PartitionLog
from corgi.state.outcomes import Outcome
from corgi.wire.messages import CreateTopic, TopicReply
from memory_cluster import Cluster

TOPIC = TopicId(16)
GROUP = GroupId(0)
CONFIG = {"cleanup": "compact", "min_cleanable_dirty_ratio": "0", "delete_retention_ms": "20000"}


class Session:
    """A client that keeps what it is told."""

    closed = False

    def __init__(self) -> None:
        self.replies: list[Any] = []

    def reply(self, _correlation: int, response: Any, _payload: Any = ()) -> None:
        self.replies.append(response)

    def push(self, message: Any, payload: Any) -> None: ...

    def buffered(self) -> int:
        return 0

    def fail(self, error: Exception) -> None:
        raise AssertionError(error)


class World(Cluster):
    """``bytes_min`` small, so that everything is compacted at once."""

    def __init__(self, **options: Any) -> None:
        super().__init__(nodes=3, groups=1)
        for node in self.nodes.values():
            node.options = replace(node.options, compaction_bytes_min=1, **options)
        self.run(1.0)
        session = Session()
        self.nodes[NodeId(1)].client_request(session, 1, CreateTopic("t", 1, CONFIG, "", -1, 5000), memoryview(b""))
        self.run(0.5)
        assert isinstance(session.replies[0], TopicReply), session.replies
        assert session.replies[0].error == errors.OK

    def put(self, *pairs: tuple[bytes, bytes | None], member: int = 0) -> Outcome:
        node = self.nodes[NodeId(member)] if member else self.nodes[self.leader()]
        batch = encode_batch([(key, value, (), self.clock.wall_ms()) for key, value in pairs])
        outcomes: list[Outcome] = []
        body = encode_append(TOPIC, 0, batch)
        node.submit(GROUP, CommandKind.DATA, body, outcomes.append, timeout_s=5.0)
        self.run(0.02)
        (outcome,) = outcomes
        assert outcome.error == errors.OK
        return outcome

    def partition_log(self, member: NodeId) -> PartitionLog:
        return self.nodes[member].groups[GROUP].machine.partitions[TOPIC, 0]

    def read(self, member: NodeId) -> list[tuple[int, bytes | None, bytes | None]]:
        node, found = self.nodes[member], []
        for i in range(self.partition_log(member).count):
            entry = self.partition_log(member).entry(i)
            got: list[Any] = []
            value = node.values.read(GROUP, entry.slot, got.append)
            if value is None:
                self.settle()
                (value,) = got
            batch = bytes(memoryview(value)[entry.at : entry.at + entry.length])
            shift = entry.base_offset - parse_header(batch).base_offset
            found += [(record.offset + shift, record.key, record.value) for record in decode_batch(batch)]
        return found

    def check_equal(self) -> None:
        assert len({fingerprint(node.groups[GROUP].machine) for node in self.nodes.values()}) == 1
        assert len({node.groups[GROUP].machine.digest for node in self.nodes.values()}) == 1


def counted(node: Node, name: str) -> float:
    return node.counters.get(name, 0)


def test_what_is_superseded_goes_on_all_nodes() -> None:
    world = World()
    for number in range(30):
        world.put((b"a", b"%d" % number), (b"b%d" % (number % 3), b"%d" % number))
    world.put((b"head", b"x"))
    world.run(5.0)
    leader = world.leader()
    assert counted(world.nodes[leader], "compaction_passes_given_up") == 0
    assert counted(world.nodes[leader], "compacted_records") >= 56
    expected = [(55, b"b0", b"27"), (57, b"b1", b"28"), (58, b"a", b"29"), (59, b"b2", b"29"), (60, b"head", b"x")]
    for member in world.nodes:
        assert world.read(member) == expected
        assert world.partition_log(member).cleaned.to == 60
    world.check_equal()
    for member in world.nodes:  # what is no longer named is no longer counted
        table = world.nodes[member].groups[GROUP].slots
        named = [world.partition_log(member).entry(i).slot for i in range(world.partition_log(member).count)]
        assert all(table.count(slot) == named.count(slot) for slot in named)
        gone = {Slot(slot) for slot in range(1, world.nodes[member].groups[GROUP].machine.applied + 1)} - set(named)
        others = {entry for entry in gone if table.count(entry)}
        assert len(others) <= 3, "only those of the system's own partitions"


def test_a_deleted_key_is_forgotten_after_a_while() -> None:
    world = World()
    world.put((b"a", b"1"))
    world.put((b"a", None))
    world.put((b"head", b"x"))
    world.run(4.0)
    assert world.read(NodeId(1)) == [(1, b"a", None), (2, b"head", b"x")]
    world.run(15.0, step=0.02)
    assert len(world.read(NodeId(1))) == 2
    world.run(8.0, step=0.02)
    for member in world.nodes:
        assert world.read(member) == [(2, b"head", b"x")]
    world.check_equal()


def test_a_leader_that_dies_in_the_middle_leaves_it_to_the_next() -> None:
    world = World()
    for number in range(10):
        world.put((b"a", b"%d" % number))
    first = world.leader()
    pieces: list[Any] = []
    node = world.nodes[first]
    submit = node.submit

    def one_piece(group: GroupId, kind: CommandKind, body: bytes, *rest: Any, **named: Any) -> None:
        if kind is not CommandKind.COMPACTED:
            submit(group, kind, body, *rest, **named)
        else:
            pieces.append(body)

    node.submit = one_piece  # type: ignore[method-assign]
    world.run(3.0)
    assert pieces, "a pass has begun"
    world.kill(first)
    world.run(8.0)
    for member in world.nodes:
        assert world.read(member) == [(8, b"a", b"8"), (9, b"a", b"9")]
    world.start(first)
    world.run(2.0)
    assert world.read(first) == [(8, b"a", b"8"), (9, b"a", b"9")]
    world.check_equal()


def test_a_pass_goes_as_far_as_the_memory_for_keys_allows() -> None:
    world = World(compaction_keys_bytes_max=1000)
    for turn in range(2):
        for number in range(20):
            world.put((b"%d" % number, b"%d" % turn))
    world.put((b"head", b"x"))
    world.run(20.0, step=0.02)
    node = world.nodes[world.leader()]
    assert counted(node, "compaction_passes") > 5
    assert counted(node, "compaction_passes_given_up") == 0
    assert [offset for offset, _, _ in world.read(NodeId(1))] == list(range(20, 41))
    world.check_equal()


def test_a_log_start_in_the_middle_is_no_harm() -> None:
    world = World(compaction_bytes_per_s=2000)
    for number in range(40):
        world.put((b"%d" % (number % 7), b"x" * 100))
    for offset in (3, 9, 20):
        done: list[Outcome] = []
        node = world.nodes[world.leader()]
        body = encode_log_start([(TOPIC, 0, Offset(offset))])
        node.submit(GROUP, CommandKind.LOG_START, body, done.append, timeout_s=5.0)
        world.run(1.0)
        assert done[0].error == errors.OK
    world.run(30.0, step=0.02)
    assert [offset for offset, _, _ in world.read(NodeId(2))] == [32, 33, 34, 35, 36, 37, 38, 39]
    world.check_equal()


def log_of(config: dict[str, str], cleaned: Cleaned = Cleaned(), topic: int = 16) -> PartitionLog:  # noqa: B008
    """Ten batches of three records and 100 bytes, a second apart, the newest at 10 s."""
    log = PartitionLog(TopicId(topic), 0)
    log.config = config
    log.cleaned = cleaned
    for i in range(10):
        log.append(Slot(1 + i), 0, 100, 3, 1000 * (1 + i), LeaderEpoch(1))
    return log


@pytest.mark.parametrize(
    ("config", "cleaned", "to"),
    [
        ({}, Cleaned(), None),
        ({"cleanup": "delete"}, Cleaned(), None),
        ({"cleanup": "compact"}, Cleaned(), 27),
        ({"cleanup": "compact,delete"}, Cleaned(), 27),
        ({"cleanup": "compact"}, Cleaned(1, Offset(27)), None),
        ({"cleanup": "compact"}, Cleaned(1, Offset(12)), 27),
        ({"cleanup": "compact"}, Cleaned(1, Offset(15)), None),
        ({"cleanup": "compact", "min_cleanable_dirty_ratio": "0.4"}, Cleaned(1, Offset(15)), 27),
        ({"cleanup": "compact", "min_cleanable_dirty_ratio": "1"}, Cleaned(1, Offset(3)), None),
        ({"cleanup": "compact", "min_compaction_lag_ms": "3000"}, Cleaned(), 21),
        ({"cleanup": "compact", "min_compaction_lag_ms": "3001"}, Cleaned(), 18),
        ({"cleanup": "compact", "min_compaction_lag_ms": "10000"}, Cleaned(), None),
        ({"cleanup": "compact", "delete_retention_ms": "1000"}, Cleaned(1, Offset(27), Offset(6), 9_001), None),
        ({"cleanup": "compact", "delete_retention_ms": "1000"}, Cleaned(1, Offset(27), Offset(6), 9_000), 27),
    ],
)
def test_what_is_to_be_done(config: dict[str, str], cleaned: Cleaned, to: int | None) -> None:
    work = due(log_of(config, cleaned), 10_000, 400)
    assert (None if work is None else work.to) == to


def test_little_is_left_alone() -> None:
    assert due(log_of({"cleanup": "compact"}), 10_000, 901) is None
    assert due(log_of({"cleanup": "compact"}), 10_000, 900) == (27, 0, 900)
    assert due(log_of({"cleanup": "compact"}, topic=2), 10_000, 1) is None
    closed = log_of({"cleanup": "compact"})
    closed.close()
    assert due(closed, 10_000, 1) is None


def test_keys_are_let_go_in_pieces() -> None:
    newest = NewestOffsets()
    newest.add(encode_batch([(b"%d" % i, b"", (), 0) for i in range(1000)]), Offset(0))
    pieces = 1
    while newest.free():
        pieces += 1
    assert pieces > 100


def test_a_full_disk_takes_it_for_messages() -> None:
    """What it leaves is written before anything can be freed."""
    body = encode_compacted(Compacted(TOPIC, 0, 0, Offset(0), Offset(0), tombstones_left=False, changes=[]))
    command = encode_command(CommandKind.COMPACTED, Origin(1), 1, 0, body)
    other = encode_command(CommandKind.LOG_START, Origin(1), 1, 0, encode_log_start([(TOPIC, 0, Offset(1))]))
    assert [is_message(command), is_message(other)] == [True, False]
    assert [holds_messages(encode_value(0, [command])), holds_messages(encode_value(0, [other]))] == [True, False]
