"""Links between nodes over real loopback sockets: introduced, refused, broken, brought back."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from net_world import CLUSTER, HOST, Probe, Witness, options, until

from corgi.base.errors import CorgiError
from corgi.base.ids import Ballot, GroupId, NodeId, Slot
from corgi.base.limits import MIB, PEER_OUTPUT_MAX
from corgi.broker.options import NodeOptions
from corgi.paxos.messages import PEER_VERSION, Accept, Commit, Heartbeat, PeerHello, PeerMessage
from corgi.runtime import peers as peers_module
from corgi.runtime.handshake import BEAT, DATA, check_introduction, introduction
from corgi.runtime.net import Listener
from corgi.runtime.peers import Peers
from corgi.runtime.turn import Turn
from corgi.wire.frame import encode_frame
from corgi.wire.messages import ErrorReply
from corgi.wire.receiver import Scratch

BEATS = Heartbeat(1, 0, 0, 0, ())
COMMIT = Commit(GroupId(1), Ballot(65537), Slot(9))


def accept(slot: int) -> Accept:
    return Accept(GroupId(1), Ballot(65537), Slot(slot), Slot(0))


class Machine:
    """The sockets of one node with a witness instead of the node."""

    def __init__(self, node_options: NodeOptions) -> None:
        self.options = node_options
        self.facts = Witness()
        turn = Turn(asyncio.get_running_loop(), lambda: None)
        scratch = Scratch()
        self.peers = Peers(self.facts, turn, scratch, node_options)
        self.listener = Listener(
            self.facts, self.peers, turn, scratch, cluster=node_options.cluster, node=node_options.node
        )
        self.port = 0

    async def listen(self, port: int = 0) -> int:
        self.port = await self.listener.bind(HOST, port)
        await self.listener.listen()
        return self.port

    async def close(self) -> None:
        await self.listener.close()
        await self.peers.close()

    def kill(self) -> None:
        """As a dead process would: all sockets close at once."""
        self.listener.abort()
        self.peers.abort()

    def up(self, *others: int) -> bool:
        links = {link.peer: link for link in self.peers.statistics()}
        return all(links[NodeId(peer)].data and links[NodeId(peer)].beat for peer in others)


@asynccontextmanager
async def cluster(*all_options: NodeOptions) -> AsyncIterator[dict[int, Machine]]:
    machines = {int(each.node): Machine(each) for each in all_options}
    addresses = {NodeId(node): (HOST, await machine.listen()) for node, machine in machines.items()}
    try:
        for machine in machines.values():
            machine.peers.start(addresses)
        yield machines
    finally:
        for machine in machines.values():
            await machine.close()


async def test_every_pair_has_data_and_beat_links_and_messages_keep_their_order() -> None:
    async with cluster(options(1), options(2), options(3)) as machines:
        await until(lambda: all(m.up(*({1, 2, 3} - {n})) for n, m in machines.items()))
        assert all(
            sorted(m.facts.facts) == sorted(("connected", n) for n in {1, 2, 3} - {i}) for i, m in machines.items()
        )
        assert machines[1].facts.incarnations == {2: b"\x02" * 16, 3: b"\x03" * 16}
        value = bytes(range(256)) * 8192
        for slot in range(5):
            machines[1].peers.send(NodeId(2), accept(slot), value[: slot * 500_000])
            machines[3].peers.send(NodeId(2), COMMIT)
        machines[1].peers.beat(NodeId(3), BEATS)
        machines[3].peers.beat(NodeId(1), BEATS)
        await until(lambda: len(machines[2].facts.messages) == 10)
        await until(lambda: machines[3].facts.beats and machines[1].facts.beats)
        from_one = [m for m in machines[2].facts.messages if m[0] == 1]
        assert from_one == [(1, accept(slot), value[: slot * 500_000]) for slot in range(5)]
        assert [m for m in machines[2].facts.messages if m[0] == 3] == [(3, COMMIT, b"")] * 5
        assert machines[3].facts.beats == [(1, BEATS)]


async def test_nothing_is_kept_for_a_node_that_is_away() -> None:
    async with cluster(options(3)) as machines:
        machines[3].peers.send(NodeId(2), COMMIT)
        machines[3].peers.beat(NodeId(2), BEATS)
        (_, link) = machines[3].peers.statistics()
        assert (link.dropped, link.output_bytes, link.data) == (1, 0, False)


@pytest.mark.parametrize("victim", [1, 2])
async def test_a_dead_node_is_known_at_once_and_found_again(victim: int) -> None:
    survivor = 3 - victim
    async with cluster(options(1, (1, 2)), options(2, (1, 2))) as machines:
        await until(lambda: machines[1].up(2) and machines[2].up(1))
        lived = machines[survivor].facts
        machines[victim].kill()
        await until(lambda: lived.facts[-1] == ("lost", victim), 0)
        await machines[victim].close()
        reborn = Machine(options(victim, (1, 2), boot=2))
        machines[victim + 10] = reborn
        await reborn.listen(machines[victim].port)
        reborn.peers.start({NodeId(survivor): (HOST, machines[survivor].port)})
        await until(lambda: reborn.up(survivor) and machines[survivor].up(victim))
        assert lived.facts == [("connected", victim), ("lost", victim), ("connected", victim)]


async def test_a_broken_link_is_back_within_twenty_milliseconds() -> None:
    async with cluster(options(1, (1, 2)), options(2, (1, 2))) as machines:
        await until(lambda: machines[1].up(2) and machines[2].up(1))
        loop = asyncio.get_running_loop()
        took = []
        for _ in range(9):
            machines[2].peers._data[NodeId(1)].connection.abort()
            since = loop.time()
            await until(lambda: not machines[1].up(2), 0)
            await until(lambda: machines[1].up(2), 0)
            took.append(loop.time() - since)
            await until(lambda: machines[2].up(1), 0)
        assert min(took) < 0.020  # the others tell of the machine
        assert ("lost", 1) in machines[2].facts.facts


async def test_a_broken_heartbeat_link_is_no_lost_node() -> None:
    async with cluster(options(1, (1, 2)), options(2, (1, 2))) as machines:
        await until(lambda: machines[1].up(2) and machines[2].up(1))
        machines[1].peers._beat[NodeId(2)].connection.abort()
        await until(lambda: not machines[1].up(2) and not machines[2].up(1), 0)
        await until(lambda: machines[1].up(2) and machines[2].up(1))
        assert machines[1].facts.facts == [("connected", 2)]
        assert machines[2].facts.facts == [("connected", 1)]


async def test_a_new_connection_of_a_node_replaces_its_old_one() -> None:
    async with cluster(options(1, (1, 2)), options(2, (1, 2))) as machines:
        await until(lambda: machines[2].up(1))
        again = Machine(options(1, (1, 2), boot=2, incarnation=b"x" * 16))
        machines[11] = again
        again.peers.start({NodeId(2): (HOST, machines[2].port)})
        await until(lambda: machines[2].facts.incarnations[1] == b"x" * 16)
        assert machines[2].facts.facts[:3] == [("connected", 1), ("lost", 1), ("connected", 1)]


REFUSALS = [
    (options(2, cluster=b"y" * 16), "wrong-cluster"),
    (options(2, groups=5), "invalid-configuration"),
    (options(2, memory_groups=2), "invalid-configuration"),
    (options(2, (2, 4)), "invalid-configuration"),
    (options(3), "invalid-configuration"),  # node 3 answers where node 2 is expected
]


@pytest.mark.parametrize(("other", "code"), REFUSALS, ids=["cluster", "groups", "memory groups", "stranger", "another"])
async def test_what_does_not_belong_together_is_refused_in_words_once(
    other: NodeOptions, code: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers_module, "REFUSED_RETRY_S", 0.005)
    caplog.set_level(logging.WARNING)
    one, two = Machine(options(1, (1, 2))), Machine(other)
    try:
        port = await two.listen()
        one.peers.start({NodeId(2): (HOST, port)})
        await until(lambda: two.listener.statistics().accepted >= 8)
        assert one.facts.facts == []
        assert two.facts.facts == [] or other.node == 3  # node 3 knows node 1, which called a wrong number
        assert code in caplog.text
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == len(set(told)) <= 4
    finally:
        await one.close()
        await two.close()


def hello(**changes: object) -> PeerHello:
    said = {
        "version_min": 1, "version_max": PEER_VERSION, "cluster": CLUSTER, "node": NodeId(2), "incarnation": bytes(16),
        "boot": 1, "purpose": DATA, "groups": 4,
    }  # fmt: skip
    return PeerHello(**{**said, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version_min": PEER_VERSION + 1, "version_max": PEER_VERSION + 2}, "unsupported-version"),
        ({"version_max": 0}, "unsupported-version"),
        ({"cluster": b""}, "wrong-cluster"),
        ({"node": NodeId(1)}, "invalid-configuration"),
        ({"node": NodeId(9)}, "invalid-configuration"),
        ({"node": NodeId(-1)}, "invalid-configuration"),
        ({"groups": 8}, "invalid-configuration"),
        ({"memory_groups": 2}, "node 1 has 0 memory groups, node 2 has 2"),
        ({"purpose": "sightseeing"}, "malformed-frame"),
        ({"incarnation": b""}, "malformed-frame"),
    ],
    ids=str,
)
def test_introductions_that_are_refused(changes: dict[str, object], code: str) -> None:
    assert check_introduction(options(1), hello()) == PEER_VERSION
    with pytest.raises(CorgiError, match=code):
        check_introduction(options(1), hello(**changes))


async def test_a_node_of_an_older_release_is_spoken_to_in_its_version() -> None:
    assert check_introduction(options(1), hello(version_max=1)) == 1
    async with cluster(options(3, (2, 3))) as machines:
        probe = await dial(machines[3], encode_frame(PeerHello.TYPE, hello(version_max=1), 0, 0))
        await until(lambda: machines[3].facts.versions == {2: 1})
        probe.writer.close()


def test_a_dialler_insists_on_whom_it_called_and_why() -> None:
    assert introduction(options(2), BEAT).purpose == BEAT
    with pytest.raises(CorgiError, match="node 3 is answered by node 2"):
        check_introduction(options(1), hello(), expected=NodeId(3))
    with pytest.raises(CorgiError, match="malformed-frame"):
        check_introduction(options(1), hello(), purpose=BEAT)


async def dial(machine: Machine, *frames: bytes) -> Probe:
    probe = await Probe.connect(machine.port, hello=False)
    probe.writer.writelines(frames)
    return probe


@pytest.mark.parametrize(
    "frame",
    [
        encode_frame(68, COMMIT, 0, 0),
        encode_frame(63, COMMIT, 0, 0),
        encode_frame(PeerHello.TYPE, hello(), 0, 0),
        b"\xff" * 64,
    ],
    ids=["wrong-header", "no-peer-message", "second-hello", "garbage"],
)
async def test_a_node_that_talks_nonsense_loses_its_link(frame: bytes) -> None:
    async with cluster(options(3, (2, 3))) as machines:
        probe = await dial(machines[3], encode_frame(PeerHello.TYPE, hello(), 0, 0), frame)
        said = await probe.rest()
        assert said[12] == PeerHello.TYPE
        assert ErrorReply.TYPE in said[24:]
        probe.writer.close()
        await until(lambda: machines[3].facts.facts == [("connected", 2), ("lost", 2)])


async def test_a_message_that_the_node_rejects_costs_the_link() -> None:
    async with cluster(options(3, (2, 3))) as machines:

        def reject(peer: NodeId, message: PeerMessage, payload: memoryview) -> None:
            raise CorgiError("malformed-frame", "no such group")

        machines[3].facts.peer_message = reject  # type: ignore[method-assign]
        probe = await dial(
            machines[3], encode_frame(PeerHello.TYPE, hello(), 0, 0), encode_frame(Commit.TYPE, COMMIT, 0, 0)
        )
        assert b"no such group" in await probe.rest()
        probe.writer.close()
        await until(lambda: machines[3].facts.facts == [("connected", 2), ("lost", 2)])


async def test_a_node_that_does_not_read_loses_its_link() -> None:
    async with cluster(options(3, (2, 3))) as machines:
        probe = await dial(machines[3], encode_frame(PeerHello.TYPE, hello(), 0, 0))
        probe.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: machines[3].facts.facts)
        value = b"v" * (4 * MIB)
        most = 0
        while ("lost", 2) not in machines[3].facts.facts:
            machines[3].peers.send(NodeId(2), accept(1), value)
            most = max(most, machines[3].peers.statistics()[0].output_bytes)
            await asyncio.sleep(0)
        assert most <= PEER_OUTPUT_MAX + 3 * len(value)
        await probe.close()


async def test_beats_do_not_wait_behind_data_that_is_not_read() -> None:
    async with cluster(options(3, (2, 3))) as machines:
        data = await dial(machines[3], encode_frame(PeerHello.TYPE, hello(), 0, 0))
        data.writer.transport.pause_reading()  # type: ignore[attr-defined]
        beat = await dial(machines[3], encode_frame(PeerHello.TYPE, hello(purpose=BEAT), 0, 0))
        await until(lambda: machines[3].up(2))
        for _ in range(8):
            machines[3].peers.send(NodeId(2), accept(1), b"v" * (4 * MIB))
        machines[3].peers.beat(NodeId(2), BEATS)
        async with asyncio.timeout(5):
            said = await beat.reader.readuntil(encode_frame(Heartbeat.TYPE, BEATS, 0, 0))
        assert said
        await data.close()
        await beat.close()


async def test_silence_on_the_heartbeat_link_cuts_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "WATCH_S", 0.005)
    async with cluster(options(3, (2, 3))) as machines:
        data = await dial(machines[3], encode_frame(PeerHello.TYPE, hello(), 0, 0))
        beat = await dial(machines[3], encode_frame(PeerHello.TYPE, hello(purpose=BEAT), 0, 0))
        await until(lambda: ("lost", 2) in machines[3].facts.facts)
        assert not machines[3].peers._beat
        await data.close()
        await beat.close()


async def test_an_address_nobody_answers_is_tried_until_somebody_does() -> None:
    empty = Machine(options(2, (1, 2)))
    port = await empty.listen()
    await empty.close()
    one, two = Machine(options(1, (1, 2))), Machine(options(2, (1, 2)))
    try:
        one.peers.start({NodeId(2): (HOST, port)})
        await asyncio.sleep(0.05)
        await two.listen(port)
        await until(lambda: one.up(2))
    finally:
        await one.close()
        await two.close()


async def test_a_member_without_an_address_is_told() -> None:
    one = Machine(options(1, (1, 2)))
    with pytest.raises(CorgiError, match="address of node 2"):
        one.peers.start({})
    await one.close()
