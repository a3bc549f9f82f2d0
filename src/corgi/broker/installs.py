"""Catching up by snapshot: who asks for slots that are no longer in a peer's log gets the peer's snapshot instead.

As a story: (1) a replica asks for a slot, or for a value, that the peer has let go; (2) the peer offers its durable
snapshot; (3) the replica asks for it piece by piece, so that it sets the pace, and reads it as it comes; (4) it writes
the state down as a snapshot of its own; (5) when that is durable, state, prefix and table of slots change in one
step. It votes all the while. Values that the state names and that are not here are fetched in the background, some
at a time; a reader who wants one meanwhile has it fetched at once.

Invariant: a prefix moves to a snapshot's slot only when that snapshot is durable on this node.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import Ballot, GroupId, NodeId, Position, Slot
from corgi.base.limits import KIB, MIB
from corgi.base.ports import Snapshots
from corgi.broker.values import Faulty
from corgi.log.slots import Run
from corgi.log.snapshot import HEADER_BYTES, SLOTS, SectionReader, decode_header, decode_run
from corgi.paxos.messages import AskSnapshot, SnapshotOffer, SnapshotPart
from corgi.state.machine import Machine
from corgi.state.snapshot import Restorer

if TYPE_CHECKING:
    from corgi.broker.group import Group
    from corgi.broker.node import Node
    from corgi.broker.snapshots import Snapshotting

PART_BYTES = 256 * KIB
PARTS_MAX = 4  # on their way at once
ASK_AGAIN_S = 1.0  # after the last part that came; more if answers come twice for that
PATIENCE_MAX_S = 8.0
ASKS_MAX = 10  # without an answer; then another offer is waited for
READS_MAX = 8  # parts that are being read for peers at once
BACKFILL_VALUES = 1024  # on their way from peers
UNWRITTEN_BYTES_MAX = 8 * MIB  # of values that wait for the disk; above, it is not given more
SLOT_WORTH_BYTES = KIB  # of a snapshot: to read, send, learn and apply the value of a slot costs about as much
NO_SNAPSHOT_S = 10.0  # none is asked for, instead of values, after one could not be had

NOWHERE = Position(-1)


class _Fetch:
    """A snapshot on its way here."""

    __slots__ = (
        "ahead", "asked_at", "asked_to", "asks", "group", "offset", "patience_s", "peer", "reader", "repeats", "rest",
        "restorer", "runs", "size", "slot", "whole",
    )  # fmt: skip

    def __init__(self, peer: NodeId, group: Group, groups: int, slot: Slot, size: int) -> None:
        self.peer = peer
        self.group = group
        self.slot = slot
        self.size = size
        self.offset = 0
        self.asked_at = 0.0  # or the last part came then
        self.asked_to = 0  # the offset up to which it was asked for
        self.ahead: dict[int, bytes] = {}  # parts that came before one that may be lost
        self.asks = 0  # since a part came
        self.patience_s = ASK_AGAIN_S
        self.repeats = 0  # questions that were asked again, less those that are known to have been needless
        self.rest = b""  # what was received of a section that is not whole yet
        self.reader: SectionReader | None = None  # from behind the header on
        self.restorer = Restorer(group.id, groups)
        self.runs: list[Run] = []
        self.whole = False

    def take(self, payload: Buffer) -> bool:
        """The next bytes; True if they were the last. Raises CorgiError "snapshot-damaged" or "unsupported-version"."""
        self.offset += len(payload)
        content = memoryview(self.rest + payload) if self.rest else memoryview(bytes(payload))
        at = 0
        if self.reader is None:
            if len(content) < HEADER_BYTES:
                self.rest = bytes(content)
                return False
            if decode_header(content)[:2] != (self.group.id, self.slot):
                raise CorgiError("snapshot-damaged", "a peer sent another snapshot than it offered")
            self.reader = SectionReader()
            at = HEADER_BYTES
        while (found := self.reader.take(content, at)) is not None:
            kind, body, at = found
            if kind == SLOTS:
                self.runs.append(decode_run(body))
            else:
                self.restorer.take(kind, body)
        self.rest = bytes(content[at:])
        if self.reader.ended:
            self.restorer.finish()
            self.whole = True
        return self.whole


class Installs:
    """Serves snapshots to peers and takes them from peers, one at a time."""

    def __init__(self, node: Node, snapshots: Snapshotting, port: Snapshots | None) -> None:
        self._node = node
        self._snapshots = snapshots
        self._port = port
        for group in node.groups:
            group.replica.learner.far_slots = node.options.far_slots
        self._fetch: _Fetch | None = None
        self._offers: dict[GroupId, tuple[NodeId, SnapshotOffer]] = {}  # the last one of each other group
        self._serving: set[tuple[NodeId, GroupId, int]] = set()
        self._unasked: set[GroupId] = set()  # values are missing there that nobody was asked for yet

    # -- serving ------------------------------------------------------------------------------------------------------

    def offer(self, peer: NodeId, group: GroupId, slot: Slot, *, lean: bool = False) -> bool:
        """``peer`` wanted to know this slot, and it cannot be told; a snapshot that covers it can. ``lean``: it has no
        room for values, and a snapshot spares it those that were let go since. True if it is offered one.

        Not while any value that it covers is missing here and may come from that peer: it may have voted for it, and
        would let that go. So it is asked first for all that is missing.
        """
        name = self._snapshots.durable[group]
        values = self._node.values
        if name is None or slot > name.slot or (values.tellable(group, slot) and not lean):
            return False
        if values.counting or group in self._unasked or self._node.repairs.hopes_for(peer, group, name.slot):
            return False
        self._node.network.send(peer, SnapshotOffer(group, name.slot, self._snapshots.sizes[group]))
        return True

    def offer_if_less(self, peer: NodeId, group: GroupId, slot: Slot) -> bool:
        """``peer`` wants to know this slot and very many behind it. True if it is offered a snapshot, because that is
        less than the values."""
        name = self._snapshots.durable[group]
        spared = 0 if name is None else name.slot - slot
        if spared < self._node.options.far_slots or spared * SLOT_WORTH_BYTES < self._snapshots.sizes[group]:
            return False
        offered = self.offer(peer, group, slot, lean=True)
        self._node.count("snapshots_preferred", int(offered))
        return offered

    def on_ask(self, sender: NodeId, message: AskSnapshot, group: Group) -> None:
        name = self._snapshots.durable[group.id]
        key = (sender, group.id, message.offset)
        if name is None or self._port is None or key in self._serving or len(self._serving) >= READS_MAX:
            return
        if name.slot != message.slot:  # a newer one has taken its place: begin again with that
            self._node.network.send(sender, SnapshotOffer(group.id, name.slot, self._snapshots.sizes[group.id]))
            return
        self._serving.add(key)

        def read(found: bytes | CorgiError) -> None:
            self._serving.discard(key)
            if not isinstance(found, CorgiError):
                self._node.network.send(sender, SnapshotPart(group.id, message.slot, message.offset), found)

        self._port.read(name, message.offset, PART_BYTES, read)

    # -- taking -------------------------------------------------------------------------------------------------------

    def on_offer(self, sender: NodeId, message: SnapshotOffer, group: Group) -> None:
        """Begin to fetch, unless this node is as far, or is fetching something."""
        fetch = self._fetch
        if self._port is None or message.slot <= group.machine.applied or message.size < 0:
            return
        if fetch is not None and not (fetch.group is group and fetch.peer == sender and message.slot > fetch.slot):
            if fetch.group is not group:
                self._offers[group.id] = (sender, message)
            return
        if fetch is not None and fetch.whole:
            return  # it is being written
        self._fetch = _Fetch(sender, group, self._node.options.all_groups, message.slot, message.size)
        self._node.note("snapshot-wanted", group.id, f"slot {message.slot} of node {sender}, {message.size} bytes")
        self._ask(self._fetch)

    def peer_connected(self, peer: NodeId) -> None:
        """What was on its way from there is lost: ask for it again."""
        fetch = self._fetch
        if fetch is not None and fetch.peer == peer and not fetch.whole:
            fetch.asked_to = fetch.offset
            fetch.ahead.clear()
            fetch.asked_at = 0.0

    def on_part(self, sender: NodeId, message: SnapshotPart, payload: memoryview) -> None:
        """Raises CorgiError "snapshot-damaged": the link is cut, and another peer may do better."""
        fetch = self._fetch
        if fetch is None or (sender, message.group) != (fetch.peer, fetch.group.id) or fetch.whole:
            return
        if message.slot != fetch.slot or not fetch.offset <= message.offset < fetch.asked_to:
            if message.slot == fetch.slot and fetch.repeats:
                fetch.repeats -= 1
                fetch.patience_s = min(2 * fetch.patience_s, PATIENCE_MAX_S)
            return  # an answer to a question that was asked twice: the link is slow
        if message.offset > fetch.offset:
            if len(fetch.ahead) < PARTS_MAX and len(payload) <= PART_BYTES:
                fetch.ahead[message.offset] = bytes(payload)
            return
        part: Buffer | None = payload
        while part is not None:
            if not part:
                self._give_up(fetch)  # it ends here, and is not whole
                return
            try:
                whole = fetch.take(part)
            except CorgiError:
                self._give_up(fetch)
                raise
            self._node.count("snapshot_bytes_received", len(part))
            if whole:
                self._keep(fetch)
                return
            part = fetch.ahead.pop(fetch.offset, None)
        fetch.asks = 0
        fetch.asked_at = self._node.clock.now()
        self._ask_on(fetch)

    def tick(self, now: float) -> None:
        """Ask again, write what is whole, fetch values that are missing."""
        fetch = self._fetch
        if fetch is not None and fetch.whole:
            self._keep(fetch)
        elif fetch is not None and now >= fetch.asked_at + fetch.patience_s:
            if not self._node.linked(fetch.peer):
                self._fetch = None
            elif fetch.asks >= ASKS_MAX:
                self._give_up(fetch)
            else:
                self._ask(fetch)
        if self._fetch is None and self._offers:
            group_id, (peer, offer) = self._offers.popitem()
            if self._node.linked(peer):
                self.on_offer(peer, offer, self._node.groups[group_id])
        for group in self._node.groups:
            self._unasked.discard(group.id)
            if group.slots.missing and not self._node.room.for_copies():
                self._unasked.add(group.id)
            elif group.slots.missing:
                self._backfill(group)

    def forget(self, group: Group) -> None:
        """The group begins from nothing: what is on its way was asked for before."""
        self._offers.pop(group.id, None)
        if self._fetch is not None and self._fetch.group is group:
            self._fetch = None

    def _give_up(self, fetch: _Fetch) -> None:
        """It cannot be had. Where values can be had, they are asked for, for a while."""
        self._fetch = None
        fetch.group.replica.learner.no_snapshot_until = self._node.clock.now() + NO_SNAPSHOT_S

    def _ask(self, fetch: _Fetch) -> None:
        """For the next part, which may be lost. Not for those behind it: on a slow link all are on their way, and would
        wait behind what is asked for again."""
        fetch.asks += 1
        fetch.asked_at = self._node.clock.now()
        if fetch.offset < fetch.asked_to:
            fetch.repeats += 1
            self._node.network.send(fetch.peer, AskSnapshot(fetch.group.id, fetch.slot, fetch.offset))
        else:
            self._ask_on(fetch)

    def _ask_on(self, fetch: _Fetch) -> None:
        """Ask for as many parts as may be on their way, in order; for one at least, also where it should end."""
        until = min(fetch.size, fetch.offset + PARTS_MAX * PART_BYTES)
        while fetch.asked_to < until or fetch.asked_to == fetch.offset:
            self._node.network.send(fetch.peer, AskSnapshot(fetch.group.id, fetch.slot, fetch.asked_to))
            fetch.asked_to += PART_BYTES

    def _keep(self, fetch: _Fetch) -> None:
        """Write the state down, as soon as no other snapshot is being written."""
        group = fetch.group
        if fetch.slot <= group.machine.applied:
            self._fetch = None  # the log got there first
        elif not self._snapshots.busy:
            machine = Machine(group.id, self._node.options.all_groups)
            fetch.restorer.adopt_into(machine)
            machine.take_appended()
            runs = self._places(fetch)
            self._snapshots.keep(group, machine, runs, partial(self._install, fetch))

    def _places(self, fetch: _Fetch) -> Iterator[Run]:
        """The peer's table with this node's places: of slots that it had applied; the others are not here.

        What was learned and is not on disk yet has no place: another value, voted for before, lies where it seems to.
        """
        group, table, values = fetch.group, fetch.group.slots, self._node.values
        for run in fetch.runs:
            mine = Run(run.first, array("q", (-1,)) * len(run.positions), run.lengths[:])
            for i in range(min(len(mine.positions), group.machine.applied + 1 - run.first)):
                slot = Slot(run.first + i)
                place = table.position(slot)
                if values.space.holds(place) and not values.on_its_way(group.id, slot):
                    mine.positions[i] = place
            yield mine

    def _votes(self, fetch: _Fetch) -> dict[Slot, Faulty]:
        """Where votes lie that the snapshot overtakes."""
        group = fetch.group
        found: dict[Slot, Faulty] = {}
        for slot, vote in group.replica.acceptor.votes.items():
            position = group.slots.position(slot)
            if slot <= fetch.slot and vote.durable and vote.value is not None and position >= 0:
                found[slot] = Faulty(position, len(vote.value), vote.ballot, proven=False)
        return found

    def _install(self, fetch: _Fetch) -> None:
        """The snapshot is durable: from now on this is the group's state."""
        node, group, slot = self._node, fetch.group, fetch.slot
        self._fetch = None
        if slot <= group.machine.applied:
            return  # the log got there first, and the snapshot is as good as one of its own
        replica, votes = group.replica, self._votes(fetch)
        for run in self._places(fetch):
            group.slots.load(run)
        fetch.restorer.adopt_into(group.machine)
        index = [part for log in group.machine.partitions.values() for part in log.held()]
        node.values.begin_from(group.id, slot, index, votes, known=replica.prefix)
        lost = Ballot(0) if replica.tenure is None else replica.tenure.ballot
        replica.learner.begin_from(slot)
        node.replay.overtaken(group)
        node.outgoing.state_replaced(group)
        node.state_replaced(group)
        replica.learned(lost)
        for voted in votes:
            if voted in node.values.faulty[group.id]:
                node.repairs.want(group.id, voted)
        self._unasked.add(group.id)
        node.count("snapshot_installs")
        node.note("snapshot-installed", group.id, f"slot {slot}, {group.slots.missing} values to come")

    def _backfill(self, group: Group) -> None:
        """Have some of the missing values fetched."""
        values = self._node.values
        faulty = values.faulty[group.id]
        room = BACKFILL_VALUES - self._node.repairs.hopeful
        if room <= 0 or values.unwritten_bytes > UNWRITTEN_BYTES_MAX:
            self._unasked.add(group.id)
            return
        for slot in group.slots.without_position(2 * BACKFILL_VALUES + len(faulty)):
            if slot in faulty or values.on_its_way(group.id, slot):
                continue
            if room <= 0:
                self._unasked.add(group.id)
                return
            room -= 1
            values.absent(group.id, slot)
