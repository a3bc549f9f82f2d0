"""The ports of the core: what a node needs from the world, supplied by ``runtime`` or by the simulator.

Facts come in as method calls on the node; requests go out through these ports. No port call blocks, and none calls
back into the node before it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import ClassVar, NamedTuple, Protocol

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.ids import Ballot, GroupId, NodeId, Position, Slot


class RecordKind(IntEnum):
    """Kinds of WAL records; numbers are for ever."""

    PROMISE = 1  # group, ballot: nothing below this ballot is accepted any more
    ACCEPT = 2  # group, ballot, slot, commit, value: the vote; commit is the writer's own chosen prefix
    LEARNED = 3  # group, slot, value: chosen elsewhere, copied here; not a vote
    STATE = 4  # group, ballot, slot = chosen prefix, msgpack: acceptor state at a segment's start
    NODE = 5  # msgpack: incarnations of peers, own recovery state; group 0xFFFF
    STORE = 6  # reserved: live batches rewritten, grouped by partition
    CLOSE = 7  # an idle writer's closing batch: everything before it is synced


class LogRecord:
    """One record on its way to the disk, with the messages that may leave when it is durable.

    ``position`` is where the payload (not the record's header) begins; the log sets it when the record is placed.
    ``lazy``: it counts as soon as it is written, and is synced a little later (a vote in a memory group).
    """

    __slots__ = ("ballot", "commit", "group", "kind", "lazy", "payload", "position", "release", "slot")

    def __init__(
        self,
        kind: RecordKind,
        group: GroupId,
        ballot: Ballot,
        slot: Slot,
        commit: Slot,
        payload: Buffer = b"",
        release: tuple[NodeId, Message] | None = None,
        *,
        lazy: bool = False,
    ) -> None:
        self.kind = kind
        self.group = group
        self.ballot = ballot
        self.slot = slot
        self.commit = commit
        self.payload = payload
        self.release = release
        self.lazy = lazy
        self.position = Position(-1)

    def __repr__(self) -> str:
        return (
            f"LogRecord({self.kind.name} g{self.group} b{self.ballot >> 16}.{self.ballot & 0xFFFF}"
            f" s{self.slot} c{self.commit} {len(self.payload)}B @{self.position})"
        )


class FaultyRecord(LogRecord):
    """A record found on the disk whose header is sound and whose payload, of ``length`` bytes, is damaged.

    Never written, and never the same as absent: that it was written is known.
    """

    __slots__ = ("length",)

    def __init__(self, kind: RecordKind, group: GroupId, ballot: Ballot, slot: Slot, commit: Slot, length: int) -> None:
        super().__init__(kind, group, ballot, slot, commit)
        self.length = length

    def __repr__(self) -> str:
        return f"Faulty{super().__repr__()}"


class Hole(NamedTuple):
    """Records may have been in [``start``, ``end``) of a log segment that nobody can know any more; ``what`` says
    why. ``lazy``: they were not synced when what lies behind them was written, so they were lazy ones."""

    segment: int
    start: int
    end: int
    what: str
    lazy: bool = False


class Message(Protocol):
    """A message between nodes: a msgspec struct with a frame type of its own."""

    TYPE: ClassVar[int]


class Clock(Protocol):
    def now(self) -> float:
        """Monotonic seconds; differences only."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970, as this node believes."""
        ...


class Random(Protocol):
    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def getrandbits(self, bits: int) -> int: ...


class Wal(Protocol):
    """The node's write-ahead log. Durable records come back through ``Node.log_synced`` in the order of ``append``,
    lazy ones, once they are written, perhaps through ``Node.log_written`` instead."""

    def append(self, record: LogRecord) -> None:
        """Queue a record; written and synced with everything else that waits."""
        ...

    def read(self, position: Position, length: int, done: Callable[[bytes | CorgiError], None]) -> None:
        """Read ``length`` payload bytes at ``position`` off the loop; ``done`` is called later with them or an
        error."""
        ...

    def read_many(
        self, places: Sequence[tuple[Position, int]], done: Callable[[list[bytes | CorgiError]], None]
    ) -> None:
        """As ``read`` of all of these positions and lengths, for much less than one by one; ``done`` is called once."""
        ...

    def read_disk(self, position: Position, length: int, done: Callable[[bytes | CorgiError], None]) -> None:
        """As ``read``, of any bytes, from the disk itself where the system can tell it from its cache."""
        ...

    def repair(self, position: Position, payload: bytes, done: Callable[[CorgiError | None], None]) -> None:
        """Put the payload of a durable record back where it was, off the loop; ``done`` is called later.

        Nothing is written, and "record-damaged" is told, unless the record's header there is sound and ``payload`` has
        the length and the checksum that it names.
        """
        ...

    def unsynced_age(self) -> float:
        """Seconds that the oldest record not yet durable has waited; 0.0 if there is none."""
        ...

    @property
    def segment_bytes(self) -> int: ...

    @property
    def room(self) -> int:
        """Bytes for records in the segments that there are, besides what is appended already."""
        ...

    @property
    def segment(self) -> int:
        """The last segment of which something is durable; a record that is not placed yet will lie there or behind."""
        ...

    @property
    def synced_position(self) -> Position:
        """Everything below is durable."""
        ...

    def segments(self) -> Sequence[int]:
        """Those that are there, ascending."""
        ...

    def free(self, segments: Sequence[int]) -> None:
        """Nothing in these is wanted any more."""
        ...


class SnapshotName(NamedTuple):
    """A snapshot of a group's state after ``slot``; the rest of its log lies in segments from ``first_segment`` on."""

    group: GroupId
    slot: Slot
    first_segment: int


Stored = Callable[[CorgiError | None], None]


class Snapshots(Protocol):
    """The node's snapshots. Every ``done`` is called later, not before the call returns; one call at a time."""

    def write(self, name: SnapshotName, chunks: Sequence[Buffer], done: Stored) -> None:
        """Add bytes to an unfinished snapshot; it is begun by its first bytes."""
        ...

    def commit(self, name: SnapshotName, done: Stored) -> None:
        """Make it durable under its name; then others of its group may be deleted."""
        ...

    def discard(self, name: SnapshotName) -> None:
        """Give an unfinished snapshot up."""
        ...

    def anchor(self, name: SnapshotName, first_segment: int, done: Stored) -> None:
        """Name it anew: nothing before that segment is needed any more. Durable when done."""
        ...

    def read(self, name: SnapshotName, offset: int, length: int, done: Callable[[bytes | CorgiError], None]) -> None:
        """Bytes of a committed snapshot, fewer at its end."""
        ...


class Network(Protocol):
    """Links to the other nodes. Messages to a peer that is not connected are dropped; order per link is kept."""

    def send(self, peer: NodeId, message: Message, payload: Buffer = b"") -> None: ...

    def beat(self, peer: NodeId, message: Message) -> None:
        """Send on the heartbeat connection."""
        ...


class ClientSession(Protocol):
    """One client connection as the broker sees it. ``reply`` and ``push`` only queue; the runtime writes once per
    turn."""

    closed: bool

    def reply(self, correlation: int, response: Message, payload: Sequence[Buffer] = ()) -> None: ...

    def push(self, message: Message, payload: Sequence[Buffer]) -> None: ...

    def buffered(self) -> int:
        """Bytes queued for this client and not yet taken by the kernel."""
        ...

    def fail(self, error: CorgiError) -> None:
        """Tell the client the error and close the connection."""
        ...
