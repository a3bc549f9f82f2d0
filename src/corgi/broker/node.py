"""One node: facts come in, the groups, the log and the clients are told. Still pure: ports do all input and output.

The way of a write: ``client_request`` → requests validate → ``submit`` → at the end of the loop turn ``flush`` merges
what waits into one value per group → replica: own disk and the peers at once → ``log_synced`` and Accepted messages
count votes → ``chosen`` applies → the origin's waiter answers its client. ``runtime`` and the simulator drive the same
object; nothing here blocks or starts a task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from corgi.base import errors
from corgi.base.command import Buffer, CommandKind, encode_command, encode_value, iter_commands
from corgi.base.errors import CorgiError, check
from corgi.base.ids import Ballot, GroupId, NodeId, Slot, TopicId, make_origin
from corgi.base.limits import BUSY_HEARTBEAT_S, ECHO_APART_S, HEARTBEAT_S
from corgi.base.ports import (
    ClientSession,
    Clock,
    FaultyRecord,
    Hole,
    LogRecord,
    Message,
    Network,
    Random,
    RecordKind,
    Snapshots,
    Wal,
)  # fmt: skip
from corgi.broker.catch_up import CatchUp
from corgi.broker.detector import Detector
from corgi.broker.group import Group
from corgi.broker.identity import Identity
from corgi.broker.leadership import Leadership
from corgi.broker.options import NodeOptions
from corgi.broker.outgoing import Outgoing
from corgi.broker.peers import PeerDispatch
from corgi.broker.proposals import Proposals
from corgi.broker.repair import Repairs
from corgi.broker.replay import Replay
from corgi.broker.requests import Requests
from corgi.broker.room import Room
from corgi.broker.scrub import Scrubber
from corgi.broker.snapshots import Snapshotting
from corgi.broker.values import Values
from corgi.paxos.messages import PEER_VERSION, Heartbeat, Lead, PeerMessage
from corgi.paxos.quorum import Members
from corgi.paxos.replica import Replica
from corgi.state.machine import Machine
from corgi.state.outcomes import Outcome

EVENTS_MAX = 1000


class Node:
    """See the module. Everything runs on one thread; ``flush`` ends each batch of facts."""

    def __init__(
        self,
        options: NodeOptions,
        clock: Clock,
        random: Random,
        wal: Wal,
        network: Network,
        snapshots: Snapshots | None = None,
    ) -> None:
        check(options.node in options.members, "the node is one of the members")
        self.options = options
        self.clock = clock
        self.random = random
        self.wal = wal
        self.network = network
        self.counters: dict[str, float] = {}
        self.events: deque[tuple[float, str, int, str]] = deque(maxlen=EVENTS_MAX)
        self.stopped = False
        self.stopping = False
        self.origin = make_origin(options.node, options.boot)
        self.detector = Detector(options.node, options.members, options.suspicion_s, clock)
        self.room = Room(self)
        self.repairs = Repairs(self)
        self.values = Values(options.all_groups, wal, options.tail_bytes_max, self.repairs.want)
        self.catch_up = CatchUp(self.values, network)
        self.incarnations: dict[NodeId, bytes] = {}
        members = Members(options.members)
        self.groups: list[Group] = []
        for number in range(options.all_groups):
            group = GroupId(number)
            self.groups.append(
                Group(
                    group,
                    Replica(group, options.node, members, self),
                    Machine(group, options.all_groups),
                    Proposals(group, self.origin, self.count),
                    self.values,
                )
            )
        self.identity = Identity(self)
        self.replay = Replay(self)
        self.scrubber = Scrubber(self)
        self.dispatch = PeerDispatch(self)
        self.requests = Requests(self)
        self.outgoing = Outgoing(self)
        self.leadership = Leadership(self)
        self.snapshots = Snapshotting(self, snapshots)
        self.durable_to = self._written_to = 0  # position of the last record on a group; NODE ones tell of other logs
        self._recovering = True
        self._applied: set[int] = set()
        self._submitted = False
        self._more = False
        self._later: list[Callable[[], None]] = []
        self._wake = self._beat_at = clock.now()

    # -- recovery -------------------------------------------------------------------------------------------------

    def recover(self, record: LogRecord | Hole) -> None:
        """Take what the disk scan finds, in order, before ``start``. Raises CorgiError "log-damaged"."""
        if isinstance(record, Hole):
            self.identity.recover_hole(record)
            return
        if isinstance(record, FaultyRecord):
            self.count("damaged_records")
        if record.kind is RecordKind.NODE:
            self.identity.recover(record)
        elif record.kind is not RecordKind.CLOSE:
            self.durable_to = max(self.durable_to, record.position)
            if not 0 <= record.group < len(self.groups):
                what = f"the log tells of group {record.group}, this node has {len(self.groups)}"
                raise CorgiError("log-damaged", what)
            if record.kind is RecordKind.STORE:
                self.snapshots.stored(record)
                return
            if self.values.placed(record):
                self.snapshots.moved(record.group)
            self.groups[record.group].replica.recover(record)

    def start(self) -> None:
        """The scan is over: begin to take part."""
        self._recovering = False
        for group in self.groups:
            group.machine.take_appended()
            own = group.machine.windows.get(self.options.node)
            if own is not None and own.origin >= self.origin:
                self.outgoing.renew_origin(own.origin)
        self._applied.clear()
        self.identity.start()
        self.snapshots.start()
        self.repairs.start()
        self.replay.start()
        self._wake = self.clock.now()

    def group_states(self) -> list[LogRecord]:
        """What a new WAL segment has to know: a state record per group, and what the node knows of disks."""
        return [*(group.replica.state_record() for group in self.groups), *self.identity.records()]

    # -- facts ----------------------------------------------------------------------------------------------------

    def peer_connected(self, peer: NodeId, incarnation: bytes, version: int = PEER_VERSION) -> None:
        """The data connection to ``peer`` is up; ``version`` is what both speak."""
        self.incarnations[peer] = incarnation
        self.detector.connected(peer)
        self.identity.peer_connected(peer)
        self.repairs.peer_connected(peer, version)
        self.snapshots.installs.peer_connected(peer)
        for group in self.groups:
            group.replica.peer_connected(peer)
        self.beat_soon()

    def peer_lost(self, peer: NodeId) -> None:
        """The data connection to ``peer`` broke."""
        self.note("peer-lost", GroupId(0), f"node {peer}")
        self.detector.lost(peer)
        for group in self.groups:
            group.replica.peer_lost(peer)

    def peer_message(self, peer: NodeId, message: PeerMessage, payload: memoryview) -> None:
        """A message on the data connection. Raises CorgiError "malformed-frame" if it makes no sense: drop the link."""
        self.detector.heard(peer)
        self.dispatch.received(peer, message, payload)

    def heartbeat(self, peer: NodeId, message: Heartbeat) -> None:
        self.detector.beat(peer, message)
        self.identity.memories.beaten(peer, message.durable_to)
        if message.asks:
            self.beat_soon(ECHO_APART_S)
        for lead in message.leads:
            if 0 <= lead.group < len(self.groups):
                replica = self.groups[lead.group].replica
                replica.heard_of(peer, lead.ballot, lead.prefix, lives=self.detector.fresh(lead.quorum_age_ms))
                if lead.quorum_age_ms < 0:
                    replica.leader_denies(peer, lead.ballot)

    def log_synced(self, records: Sequence[LogRecord]) -> None:
        """These records are durable, and what was written before: their messages leave, their votes count."""
        self.durable_to = max(self.durable_to, self._written_to)
        for record in records:
            if record.kind is RecordKind.NODE:
                self.identity.durable(record)
                continue
            self.durable_to = max(self.durable_to, record.position)
            if record.kind is RecordKind.STORE:
                self.snapshots.stored(record)
                continue
            self._took_place(record)

    def log_written(self, records: Sequence[LogRecord]) -> None:
        """These lazy records are written, and not yet durable: votes in memory groups, which count."""
        for record in records:
            self._written_to = record.position
            self._took_place(record)

    def _took_place(self, record: LogRecord) -> None:
        if self.values.placed(record):
            self.snapshots.moved(record.group)
        if record.release is not None:
            peer, message = record.release
            self.network.send(peer, message)
        self.groups[record.group].replica.durable(record)

    def log_full(self, full: bool) -> None:
        """The disk has no room for the next segment (or has again)."""
        self.room.full = full
        self.room.look()
        self.beat_soon()
        self.note("disk-full" if full else "disk-has-room", GroupId(0))

    def loop_lag(self, seconds: float) -> None:
        """The driver's loop stood still that long; silence of the peers in that time proves nothing."""
        self.detector.loop_lagged(seconds)

    def client_request(self, session: ClientSession, correlation: int, message: Message, payload: memoryview) -> None:
        self.requests.received(session, correlation, message, payload)

    def client_closed(self, session: ClientSession) -> None:
        self.requests.session_closed(session)

    def client_drained(self, session: ClientSession) -> None:
        self.requests.session_drained(session)

    # -- time -----------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When ``advance`` must be called at the latest (monotonic seconds)."""
        request_deadline = self.requests.next_deadline()
        deadline = min(self._wake, self._beat_at, self.scrubber.next_at)
        return deadline if request_deadline is None else min(deadline, request_deadline)

    def advance(self) -> None:
        """Run what is due."""
        now = self.clock.now()
        self.detector.own_disk_age_s = self.wal.unsynced_age()
        if now >= self._beat_at:
            self._beat(now)
        if now >= self._wake:
            self._wake = float("inf")
            for group in self.groups:
                group.replica.tick(now)
                reason = errors.NO_QUORUM if group.replica.route() == 0 else errors.TIMEOUT
                group.proposals.expire(now, reason)
            self.identity.tick(now)
            self.repairs.tick(now)
            self.replay.tick(now)
        self.requests.advance(now)
        self.snapshots.advance(now)
        self.scrubber.advance(now)

    def beat_soon(self, apart_s: float = 0.0) -> None:
        """Let the next heartbeat leave now, or when the last one was sent so long ago."""
        self._beat_at = min(self._beat_at, max(self.detector.beat_sent_at + apart_s, self.clock.now()))
        self.wake_at(self._beat_at)

    def wake_at(self, when: float) -> None:
        if when < self._wake:
            self._wake = when

    def _beat(self, now: float) -> None:
        detector = self.detector
        leads = tuple(
            Lead(
                group.id,
                group.replica.ballot,
                group.replica.prefix if self.identity.amnesia.tells(group.id) else Slot(0),
                self._leader_age_ms(group) if group.replica.ballot else -1,
            )
            for group in self.groups
        )
        number = detector.next_beat()
        disk_age_ms = int(detector.own_disk_age_s * 1000)
        unfit, barred = not self.leadership.fit, self.leadership.barred
        wall_ms = self.clock.wall_ms()
        durable_to = self.durable_to if self.identity.voting else 0
        self.room.look()
        memory = (not self.leadership.memory_fit, self.leadership.memory_barred)
        asks = len(self.requests.hearing) > 0
        facts = (disk_age_ms, leads, unfit, durable_to, self.room.full, barred, asks, *memory)
        for peer, view in detector.peers.items():
            if view.connected:
                self.network.beat(peer, Heartbeat(number, view.number, wall_ms, *facts))
        busy = any(group.busy for group in self.groups)
        interval = min(BUSY_HEARTBEAT_S if busy else HEARTBEAT_S, self.options.suspicion_s / 5)
        self._beat_at = now + interval
        self._wake = min(self._wake, now)
        self.outgoing.retry_forwards(now)
        self.leadership.check(now)

    # -- the end of a turn ----------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Propose or forward what waits, tell what became chosen, answer and push."""
        self._submitted = False
        for group in self.groups:
            if group.proposals.queued or group.foreign:
                self.outgoing.move(group)
            if group.told_to:
                self.outgoing.tell_outcomes(group)
        if self._later:
            later, self._later = self._later, []
            for call in later:
                call()
        if self._applied:
            applied, self._applied = self._applied, set()
            for number in sorted(applied):
                self.requests.applied(self.groups[number])
        self.requests.flush()
        self._more = self.snapshots.flush()

    @property
    def unflushed(self) -> bool:
        """Whether ``flush`` itself caused work that only the next ``flush`` does: call it again in the next turn."""
        return self._submitted or self._more or bool(self._later)

    # -- what the broker's parts use ------------------------------------------------------------------------------

    def submit(
        self,
        group: GroupId,
        kind: CommandKind,
        body: Buffer,
        done: Callable[[Outcome], None],
        *,
        timeout_s: float,
        leader_ack: Callable[[], None] | None = None,
        makes_room: bool = False,
    ) -> None:
        """Have a command chosen and applied; ``done`` is called exactly once, never before this returns.

        The outcome's error is 0, what apply decided, or TIMEOUT (unknown), NO_QUORUM, OVERLOADED, DISK_FULL.
        ``leader_ack`` is called when this node leads and the command is on its own disk. ``makes_room``: it goes out
        also when the disks are full.
        """
        proposals = self.groups[group].proposals
        self._submitted = True
        error = errors.OK
        if self.room.restricted and not (makes_room and self.room.any):
            error = errors.DISK_FULL
        elif proposals.full:
            error = errors.OVERLOADED
        if error:
            self._later.append(lambda: done(Outcome(self.origin, 0, error, (), -1)))
            return
        proposals.submit(kind, body, done, self.clock.now() + timeout_s, leader_ack)

    def later(self, call: Callable[[], None]) -> None:
        """Call this at the end of the turn."""
        self._later.append(call)

    def group_of(self, topic: TopicId, partition: int) -> GroupId:
        """The group of a partition. Raises CorgiError "unknown-topic" or "unknown-partition"."""
        topics = self.groups[0].machine.topics
        assert topics is not None
        return topics.group_of(topic, partition)

    def peer_status(self) -> list[tuple[NodeId, bool, float, float]]:
        """(node, connected, silent for seconds, clock offset in ms) of every peer."""
        return self.detector.status()

    def stop(self) -> None:
        """Begin a graceful stop: lead no more; ``stopped`` turns True when everything is handed over (3 s at most)."""
        self.stopping = True
        self.leadership.stop()
        self.requests.stopping()
        self.beat_soon()

    # -- Host: what the replicas ask ------------------------------------------------------------------------------

    def now(self) -> float:
        return self.clock.now()

    def jitter(self) -> float:
        return self.random.random()

    def send(self, peer: NodeId, message: PeerMessage, payload: Buffer = b"") -> None:
        self.network.send(peer, message, payload)

    def persist(self, record: LogRecord) -> None:
        self.wal.append(record)

    def chosen(self, group: GroupId, slot: Slot, value: Buffer) -> None:
        self.values.chosen(group, slot, value)
        if self.groups[group].machine.applied + 1 == slot:
            self.apply(group, slot, value)

    def chosen_unread(self, group: GroupId, slot: Slot) -> None:
        self.values.chosen_unread(group, slot)

    def readable(self, group: GroupId) -> Slot:
        return self.values.readable(group)

    def apply(self, group: GroupId, slot: Slot, value: Buffer) -> None:
        """The next value of the group."""
        found = self.groups[group]
        machine = found.machine
        epoch = machine.epoch
        outcomes = machine.apply(slot, value)
        self.values.applied(group, slot, machine.stored, machine.take_dropped())
        if self._recovering:
            return
        own = machine.windows.get(self.options.node)
        if own is not None and own.origin > self.origin:
            self.outgoing.renew_origin(own.origin)
        self._applied.add(group)
        origin = self.origin
        settle = found.proposals.settle
        for outcome in outcomes:
            if outcome.origin == origin:
                settle(outcome)
        if machine.epoch != epoch:
            self._epoch_applied(found, value)

    def state_replaced(self, group: Group) -> None:
        """The group's state is that of a peer's snapshot."""
        self._applied.add(group.id)
        self._submitted = True
        self.later(lambda: self._leader_changed(group))

    def _epoch_applied(self, group: Group, value: Buffer) -> None:
        for command in iter_commands(value):
            if command.kind == CommandKind.EPOCH:
                _, ballot = msgspec.msgpack.decode(command.body, type=tuple[int, int])
                group.proposals.new_leader(Ballot(ballot))
        self._later.append(lambda: self._leader_changed(group))

    def _leader_changed(self, group: Group) -> None:
        self.identity.epoch_applied(group.id)
        self.requests.leader_changed(group)

    def epoch_value(self, group: GroupId, ballot: Ballot) -> bytes:
        proposals = self.groups[group].proposals
        body = msgspec.msgpack.encode((self.options.node, ballot))
        command = encode_command(CommandKind.EPOCH, self.origin, proposals.foreign_id(), proposals.settled_mark(), body)
        return encode_value(self.clock.wall_ms(), [command])

    def noop_value(self) -> bytes:
        return encode_value(self.clock.wall_ms(), [])

    def in_memory(self, group: GroupId, slot: Slot) -> Buffer | None:
        return self.values.in_memory(group, slot)

    def linked(self, peer: NodeId) -> bool:
        return self.detector.linked(peer)

    def serves(self, leader: NodeId, group: GroupId, ballot: Ballot) -> bool:
        return self.detector.linked(leader) and not self.detector.out_of_touch(leader, group, ballot)

    def leader_lives(self, group: GroupId, ballot: Ballot) -> bool:
        return ballot != 0 and self.detector.fresh(self._leader_age_ms(self.groups[group]))

    def _leader_age_ms(self, group: Group) -> int:
        replica, age_ms = group.replica, self.detector.leader_age_ms
        return age_ms(group.id, replica.ballot, self_leads=replica.tenure is not None, heard_at=replica.leader_heard_at)

    def relays(self, peer: NodeId, group: GroupId, ballot: Ballot) -> bool:
        return self.detector.relays(peer, group, ballot)

    def heard_all(self) -> bool:
        return self.detector.heard_all()

    def may_lead(self, group: GroupId) -> bool:
        return self.leadership.fit_for(group) and not self.replay.behind(group)

    def loss_accepted(self, group: GroupId, first: Slot) -> None:
        self.identity.amnesia.used(group, first)

    def may_copy(self) -> bool:
        return self.room.for_copies()

    def may_learn(self, value: Buffer) -> bool:
        return self.room.takes(value)

    def count(self, name: str, by: int = 1) -> None:
        self.counters[name] = self.counters.get(name, 0) + by

    def note(self, name: str, group: GroupId, detail: str = "") -> None:
        self.events.append((self.clock.now(), name, group, detail))
