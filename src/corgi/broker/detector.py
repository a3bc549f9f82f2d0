"""What this node knows of the other nodes' liveness, from heartbeats and broken links.

It suspects, it decides nothing: a wrong suspicion costs a round, never a message. A peer's disk is suspected only while
this node's own disk moves, and silence only after this node's own loop was punctual (``loop_lagged``).
"""

from __future__ import annotations

from collections import deque

from corgi.base.ids import Ballot, GroupId, NodeId, ballot_node
from corgi.base.limits import CLOCK_SKEW_MS_MAX, HEARTBEAT_S
from corgi.base.ports import Clock
from corgi.paxos.messages import Heartbeat, Lead

NEVER = float("-inf")
GAP_DECAY = 0.98  # per heartbeat: half forgotten after 35 of them, about a second
GAPS_FORGIVEN = 3.0
PATIENCE_MAX = 2.5  # times the suspicion time


class PeerView:
    """One peer as seen from here. Times are this node's monotonic seconds."""

    __slots__ = (
        "acknowledged_at", "barred", "beat_at", "beaten", "clock_offset_ms", "connected", "connected_at", "disk_age_ms",
        "echoed",
        "full", "gap_s", "heard_at", "leads", "memory_barred", "memory_unfit", "number", "unfit",
    )  # fmt: skip

    def __init__(self) -> None:
        self.connected = False
        self.connected_at = NEVER
        self.heard_at = NEVER
        self.beat_at = NEVER
        self.beaten = False  # a heartbeat came since the connection came up
        self.number = 0  # highest heartbeat number received, echoed back
        self.echoed = 0  # highest number of our heartbeats that the peer has echoed
        self.acknowledged_at = NEVER  # when the newest of our heartbeats that the peer echoed was sent
        self.clock_offset_ms = 0
        self.disk_age_ms = 0
        self.gap_s = 0.0  # the longest recent pause between its heartbeats, decaying
        self.leads: dict[GroupId, Lead] = {}
        self.unfit = self.barred = self.memory_unfit = self.memory_barred = False
        self.full = False


class Detector:
    """Liveness of all peers of ``me``."""

    def __init__(self, me: NodeId, members: tuple[NodeId, ...], suspicion_s: float, clock: Clock) -> None:
        self.me = me
        self.clock = clock
        self.suspicion_s = suspicion_s
        self.peers: dict[NodeId, PeerView] = {node: PeerView() for node in members if node != me}
        self.majority = len(members) // 2 + 1
        self.own_disk_age_s = 0.0
        self._number = 0
        self._sent: deque[tuple[int, float]] = deque(maxlen=512)

    def status(self) -> list[tuple[NodeId, bool, float, float]]:
        """As ``Node.peer_status``."""
        now = self.clock.now()
        return [
            (peer, view.connected, min(now - view.heard_at, 1e9), float(view.clock_offset_ms))
            for peer, view in self.peers.items()
        ]

    def connected(self, peer: NodeId) -> None:
        view = self.peers[peer]
        view.connected = True
        view.beaten = False
        view.number = 0  # a peer that has restarted counts anew: an echo of its last life would prove what is not true
        view.heard_at = view.connected_at = self.clock.now()

    def lost(self, peer: NodeId) -> None:
        view = self.peers[peer]
        view.connected = False
        view.leads = {}

    def heard(self, peer: NodeId) -> None:
        self.peers[peer].heard_at = self.clock.now()

    def beat(self, peer: NodeId, message: Heartbeat) -> None:
        """Take a heartbeat; an old one that was overtaken is ignored."""
        view = self.peers[peer]
        now = self.clock.now()
        view.heard_at = now
        if message.number <= view.number and view.beaten:
            return
        view.number = message.number
        view.echoed = max(view.echoed, message.echo)
        gap = now - view.beat_at if view.beaten else 0.0
        view.gap_s = max(gap, view.gap_s * GAP_DECAY)
        view.beat_at = now
        view.beaten = True
        view.disk_age_ms = message.disk_age_ms
        view.unfit = message.unfit
        view.full = message.full
        view.barred = message.barred
        view.memory_unfit = message.memory_unfit
        view.memory_barred = message.barred or message.memory_barred
        view.clock_offset_ms = message.wall_ms - self.clock.wall_ms()
        view.leads = {lead.group: lead for lead in message.leads}
        for number, sent_at in reversed(self._sent):
            if number <= message.echo:
                view.acknowledged_at = max(view.acknowledged_at, sent_at)
                break

    def acknowledged(self, peer: NodeId) -> None:
        """The peer answered something that was asked just now."""
        self.peers[peer].acknowledged_at = self.clock.now()

    @property
    def beats(self) -> int:
        """How many heartbeats this node has sent: the number of the newest."""
        return self._number

    @property
    def beat_sent_at(self) -> float:
        """When the newest heartbeat was sent."""
        return self._sent[-1][1] if self._sent else NEVER

    def next_beat(self) -> int:
        """The number of the heartbeat that is sent now to all peers."""
        self._number += 1
        self._sent.append((self._number, self.clock.now()))
        return self._number

    def loop_lagged(self, seconds: float) -> None:
        """This node's own loop stood still: what it did not hear meanwhile proves nothing."""
        for view in self.peers.values():
            view.heard_at += seconds
            view.beat_at += seconds
            view.acknowledged_at += seconds

    def linked(self, peer: NodeId) -> bool:
        """Connected, heard within the suspicion time, and its disk moves as far as one can tell."""
        view = self.peers.get(peer)
        if view is None or not view.connected:
            return False
        if self.clock.now() - view.heard_at > self._patience_s(view):
            return False
        return not self._disk_stuck(view.disk_age_ms)

    def _patience_s(self, view: PeerView) -> float:
        """Silence that makes suspicious: a peer that lately paused (a busy machine) gets more time, within bounds."""
        return min(max(self.suspicion_s, GAPS_FORGIVEN * view.gap_s), PATIENCE_MAX * self.suspicion_s)

    def _disk_stuck(self, age_ms: int) -> bool:
        age_s = age_ms / 1000
        return age_s > self.suspicion_s and self.own_disk_age_s < age_s / 2

    def quorum_age_s(self) -> float:
        """How long ago a majority, this node included, was last in touch."""
        needed = self.majority - 1
        if needed == 0:
            return 0.0
        latest = sorted((view.acknowledged_at for view in self.peers.values()), reverse=True)
        return self.clock.now() - latest[needed - 1]

    def leader_age_ms(self, group: GroupId, ballot: Ballot, *, self_leads: bool, heard_at: float = float("inf")) -> int:
        """How long ago the leader of ``ballot`` had a quorum, as far as this node knows; -1: not alive from here.

        ``heard_at`` is when it first spoke as such on its present link: heartbeats since then that tell of a lower
        ballot are those of a node that has restarted and does not lead any more.
        """
        leader = ballot_node(ballot)
        if leader == self.me:
            return int(min(self.quorum_age_s(), 1e6) * 1000) if self_leads else -1
        view = self.peers.get(leader)
        if view is None or not view.beaten or not self.linked(leader):
            return -1
        lead = view.leads.get(group)
        since_beat = self.clock.now() - view.beat_at
        if lead is None or lead.ballot < ballot:
            return 0 if view.beat_at < heard_at + 2 * HEARTBEAT_S else -1  # it won after its last heartbeat
        if lead.ballot > ballot or lead.quorum_age_ms < 0:
            return -1
        age_ms = lead.quorum_age_ms + int(since_beat * 1000)
        return age_ms if self.fresh(age_ms) else -1

    def fresh(self, age_ms: int) -> bool:
        """Whether a leader that had its last majority so long ago counts as alive; -1 is no leader."""
        return 0 <= age_ms < 2000 * self.suspicion_s

    def out_of_touch(self, leader: NodeId, group: GroupId, ballot: Ballot) -> bool:
        """The leader of ``ballot`` itself tells that it has had no majority for too long to count as alive."""
        view = self.peers.get(leader)
        lead = view.leads.get(group) if view is not None and view.beaten else None
        return (
            lead is not None
            and lead.ballot == ballot
            and lead.quorum_age_ms >= 0
            and not self.fresh(lead.quorum_age_ms)
        )

    def relays(self, peer: NodeId, group: GroupId, ballot: Ballot) -> bool:
        if not self.linked(peer):
            return False
        lead = self.peers[peer].leads.get(group)
        return lead is not None and lead.ballot == ballot and self.fresh(lead.quorum_age_ms)

    def heirs(self, *, memory: bool = False) -> list[NodeId]:
        """Peers that the leadership of a group, or of a memory group, can be handed to."""
        able = [peer for peer, view in self.peers.items() if not (view.memory_unfit if memory else view.unfit)]
        return [peer for peer in able if self.linked(peer)]

    def heard_all(self) -> bool:
        return all(view.beaten for view in self.peers.values() if view.connected)

    def clock_trusted(self, *, memory: bool = False) -> bool:
        """This node's clock is within 5 s of the median of all that it sees, its own included, or nearer to it than
        that of any other that may lead. ``memory``: that may lead memory groups.

        So of any set of nodes that see each other somebody is trusted, however far their clocks are apart.
        """
        seen = [view for view in self.peers.values() if view.connected and view.beaten]
        offsets = sorted((0, *(view.clock_offset_ms for view in seen)))
        median = offsets[len(offsets) // 2]
        others = [
            abs(view.clock_offset_ms - median) for view in seen if not (view.memory_barred if memory else view.barred)
        ]
        return abs(median) <= max(CLOCK_SKEW_MS_MAX, min(others, default=abs(median)))
