"""Messages between nodes. Each is a msgpack array in the frame's header; values travel raw behind it.

Frame types 64-127 are the peers'. Fields are only ever added at the end, with a default.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from corgi.base.ids import Ballot, GroupId, NodeId, Slot


class PeerMessage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all peer messages."""

    TYPE: ClassVar[int] = 0


class Prepare(PeerMessage, frozen=True, array_like=True, gc=False):
    """Phase 1a for all slots from ``first`` on. ``forced``: asked by the leader itself (handover, rejoin), so not
    polite."""

    TYPE: ClassVar[int] = 64
    group: GroupId
    ballot: Ballot
    first: Slot
    forced: bool = False


class Promise(PeerMessage, frozen=True, array_like=True, gc=False):
    """Phase 1b, one chunk. ``entries`` are (slot, accepted ballot, length); their values are the payload, in order.

    Length -1: a vote whose value is damaged on the acceptor's disk; the next lower vote in the slot follows, if known.
    ``prefix`` is the acceptor's chosen prefix: "absent" means "no vote" only above it. It can tell the values of slots
    up to ``readable`` (-1: of all up to the prefix); the others of its prefix are damaged. ``lossy`` not 0: the
    acceptor may have forgotten votes, and the operator has accepted that; the number is the nonce of its Rejoin.
    """

    TYPE: ClassVar[int] = 65
    group: GroupId
    ballot: Ballot
    prefix: Slot
    entries: tuple[tuple[Slot, Ballot, int], ...]
    chunk: int = 0
    last: bool = True
    readable: Slot = Slot(-1)
    lossy: int = 0


class Refuse(PeerMessage, frozen=True, array_like=True, gc=False):
    """A Prepare or Accept in ``ballot`` came too late: ``promised`` is higher."""

    TYPE: ClassVar[int] = 66
    group: GroupId
    ballot: Ballot
    promised: Ballot
    prefix: Slot = Slot(0)


class LeaderLives(PeerMessage, frozen=True, array_like=True, gc=False):
    """Polite refusal: the leader of ``leader_ballot`` is alive here and I relay to it."""

    TYPE: ClassVar[int] = 67
    group: GroupId
    ballot: Ballot
    leader_ballot: Ballot
    prefix: Slot = Slot(0)


class Accept(PeerMessage, frozen=True, array_like=True, gc=False):
    """Phase 2a; the payload is the value. Slots up to ``commit`` are chosen, as far as accepted in this ballot."""

    TYPE: ClassVar[int] = 68
    group: GroupId
    ballot: Ballot
    slot: Slot
    commit: Slot


class Accepted(PeerMessage, frozen=True, array_like=True, gc=False):
    """Phase 2b: the vote is durable."""

    TYPE: ClassVar[int] = 69
    group: GroupId
    ballot: Ballot
    slot: Slot


class Commit(PeerMessage, frozen=True, array_like=True, gc=False):
    """A commit index without an Accept to ride on."""

    TYPE: ClassVar[int] = 70
    group: GroupId
    ballot: Ballot
    commit: Slot


class Forward(PeerMessage, frozen=True, array_like=True, gc=False):
    """Commands (payload, concatenated) that only the leader of ``ballot`` may propose. ``hops`` bounds relaying."""

    TYPE: ClassVar[int] = 71
    group: GroupId
    ballot: Ballot
    hops: int = 0


class ForwardRefused(PeerMessage, frozen=True, array_like=True, gc=False):
    """The receiver does not lead in the ballot that the forward named; it was not proposed."""

    TYPE: ClassVar[int] = 72
    group: GroupId
    ballot: Ballot
    promised: Ballot
    leader: NodeId = NodeId(0)


class Learn(PeerMessage, frozen=True, array_like=True, gc=False):
    """Ask for chosen values from ``first`` on, at most up to ``last``.

    ``lean``: the asker has hardly room, and takes a snapshot of a later slot as well. ``far``: it lags so much that a
    snapshot may be less work for both.
    """

    TYPE: ClassVar[int] = 73
    group: GroupId
    first: Slot
    last: Slot
    lean: bool = False
    far: bool = False


class Learned(PeerMessage, frozen=True, array_like=True, gc=False):
    """Chosen values of consecutive slots from ``first``; ``lengths`` cut the payload. ``prefix`` is the sender's."""

    TYPE: ClassVar[int] = 74
    group: GroupId
    first: Slot
    lengths: tuple[int, ...]
    prefix: Slot


class Handover(PeerMessage, frozen=True, array_like=True, gc=False):
    """The leader of ``ballot`` asks the receiver to take the group over; it has stopped proposing."""

    TYPE: ClassVar[int] = 75
    group: GroupId
    ballot: Ballot


class Recall(PeerMessage, frozen=True, array_like=True, gc=False):
    """After a restart: what do you remember of me? ``marks`` are (group, promised ballot, highest accepted slot).

    ``durable_to`` is the position of the last record that was found on the disk.
    """

    TYPE: ClassVar[int] = 76
    incarnation: bytes
    marks: tuple[tuple[GroupId, Ballot, Slot], ...]
    durable_to: int = 0


class Remembered(PeerMessage, frozen=True, array_like=True, gc=False):
    """``trusted``: nothing I remember is above what you told. Otherwise you must recover before you vote.

    ``another``: because I know another disk of yours. Then not ``sure``: it may be mine that is old, and I do not know
    yet; ask again. Neither trusted nor a ``reason``: my disk is in doubt, so I cannot tell. ``promised``: what I have
    promised, group by group; ballots that I prepare are among it.
    """

    TYPE: ClassVar[int] = 77
    trusted: bool
    reason: str = ""
    promised: tuple[Ballot, ...] = ()
    sure: bool = True
    another: bool = False


class Rejoin(PeerMessage, frozen=True, array_like=True, gc=False):
    """An acceptor in doubt asks for a fresh ballot above ``above`` that it takes no part in; ``nonce`` names this
    question."""

    TYPE: ClassVar[int] = 78
    group: GroupId
    nonce: int
    above: Ballot = Ballot(0)


class Rejoined(PeerMessage, frozen=True, array_like=True, gc=False):
    """``ballot`` was prepared after the Rejoin without the asker; its epoch record is in ``slot``.

    The asker may vote once it has learned everything up to ``slot``, in ballots from ``ballot`` on.
    """

    TYPE: ClassVar[int] = 79
    group: GroupId
    nonce: int
    ballot: Ballot
    slot: Slot


class ReadSlot(PeerMessage, frozen=True, array_like=True, gc=False):
    """Ask for the value of a chosen slot that is damaged on the asker's disk; ``ballot`` is that of its record, if
    known. Who only voted in the slot tells what for."""

    TYPE: ClassVar[int] = 84
    group: GroupId
    slot: Slot
    ballot: Ballot = Ballot(0)


class SlotRead(PeerMessage, frozen=True, array_like=True, gc=False):
    """The value of a slot as payload; not ``found``: the sender cannot read it either. ``ballot`` 0: it is chosen; else
    the sender has voted for it in that ballot, and does not know the slot chosen."""

    TYPE: ClassVar[int] = 85
    group: GroupId
    slot: Slot
    found: bool
    ballot: Ballot = Ballot(0)


class ReadSlots(PeerMessage, frozen=True, array_like=True, gc=False):
    """As ``ReadSlot`` of several slots; ``ballots`` are theirs."""

    TYPE: ClassVar[int] = 89
    group: GroupId
    slots: tuple[Slot, ...]
    ballots: tuple[Ballot, ...]


class SlotsRead(PeerMessage, frozen=True, array_like=True, gc=False):
    """Values of slots that are chosen; ``lengths`` cut the payload. Others that were asked for come one by one."""

    TYPE: ClassVar[int] = 90
    group: GroupId
    slots: tuple[Slot, ...]
    lengths: tuple[int, ...]


class SnapshotOffer(PeerMessage, frozen=True, array_like=True, gc=False):
    """What was asked for is no longer in the sender's log, or is very much; it has a snapshot of the group after
    ``slot``."""

    TYPE: ClassVar[int] = 86
    group: GroupId
    slot: Slot
    size: int


class AskSnapshot(PeerMessage, frozen=True, array_like=True, gc=False):
    """Ask for the bytes of a snapshot from ``offset`` on; a few questions at a time."""

    TYPE: ClassVar[int] = 87
    group: GroupId
    slot: Slot
    offset: int


class SnapshotPart(PeerMessage, frozen=True, array_like=True, gc=False):
    """Bytes of a snapshot as payload."""

    TYPE: ClassVar[int] = 88
    group: GroupId
    slot: Slot
    offset: int


class Lead(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a heartbeat tells of one group: the ballot that its sender leads or follows, its chosen prefix, and how long
    ago that ballot's leader last had a majority, as far as the sender knows (ms; -1: no live leader is seen here)."""

    group: GroupId
    ballot: Ballot
    prefix: Slot
    quorum_age_ms: int


class Heartbeat(PeerMessage, frozen=True, array_like=True, gc=False):
    """One per node pair for all groups, on its own connection. ``echo`` returns the highest number received.

    ``disk_age_ms`` is how long the sender's oldest unsynced record has waited: a leader whose disk is stuck is not
    alive.
    """

    TYPE: ClassVar[int] = 80
    number: int
    echo: int
    wall_ms: int
    disk_age_ms: int
    leads: tuple[Lead, ...]
    unfit: bool = False  # the sender may not lead: it stops, does not vote, its disk is full or its clock is off
    durable_to: int = 0  # position of its last record known durable; 0 while it may not vote
    full: bool = False  # there is no room for the next segment of its log
    barred: bool = False  # the sender may not lead, and not because of its clock
    asks: bool = False  # somebody waits for the echo: it is to come at once
    memory_unfit: bool = False  # as ``unfit``, of memory groups: also while they are in doubt
    memory_barred: bool = False  # as ``barred``, of memory groups


class PeerHello(PeerMessage, frozen=True, array_like=True, gc=False):
    """First frame of a connection between nodes, both ways. ``purpose``: "data" or "beat"."""

    TYPE: ClassVar[int] = 96
    version_min: int
    version_max: int
    cluster: bytes
    node: NodeId
    incarnation: bytes
    boot: int
    purpose: str
    groups: int
    memory_groups: int = 0


PEER_TYPES: dict[int, type[PeerMessage]] = {
    message.TYPE: message
    for message in (
        Prepare, Promise, Refuse, LeaderLives, Accept, Accepted, Commit, Forward, ForwardRefused, Learn, Learned,
        Handover, Recall, Remembered, Rejoin, Rejoined, ReadSlot, SlotRead, SnapshotOffer, AskSnapshot, SnapshotPart,
        ReadSlots, SlotsRead, Heartbeat, PeerHello,
    )
}  # fmt: skip
PEER_VERSION = 2  # 2: ReadSlots and SlotsRead; who does not know a type cuts the link
