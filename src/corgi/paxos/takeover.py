"""When a replica tries to lead: its place in the line of succession, jitter, and a back-off that grows in duels."""

from __future__ import annotations

from corgi.base.ids import GroupId, NodeId
from corgi.base.limits import RANK_DELAY_S
from corgi.paxos.host import Host
from corgi.paxos.leader import Candidate
from corgi.paxos.quorum import Members

BACKOFF_FIRST_S = 0.010
BACKOFF_MAX_S = 0.500


class Takeover:
    """The plan of one replica. ``at`` is when it will try (monotonic seconds), None without a plan."""

    __slots__ = ("_backoff", "_group", "_host", "_me", "_members", "_not_before", "at", "forced")

    def __init__(self, group: GroupId, me: NodeId, members: Members, host: Host) -> None:
        self._group = group
        self._me = me
        self._members = members
        self._host = host
        self._backoff = BACKOFF_FIRST_S
        self._not_before = 0.0
        self.at: float | None = None
        self.forced = False

    def plan(self, delay: float, *, forced: bool = False) -> bool:
        """Try after ``delay`` seconds, or sooner if that was planned; True: now."""
        if delay > 0:
            delay += self._host.jitter() * RANK_DELAY_S
        now = self._host.now()
        when = max(now + delay, self._not_before)
        if self.at is None or when < self.at:
            self.at = when
            self.forced = self.forced or forced
        if when <= now:
            return True
        self._host.wake_at(when)
        return False

    def take(self) -> bool:
        """The time has come: end the plan and tell whether it is forced (not polite)."""
        forced = self.forced
        self.drop()
        return forced

    def drop(self) -> None:
        """Somebody leads."""
        self.at = None
        self.forced = False

    def won(self) -> None:
        self._backoff = BACKOFF_FIRST_S

    def back_off(self) -> None:
        """Duelling proposers part by growing random delays (rule 7)."""
        self._backoff = min(self._backoff * 2, BACKOFF_MAX_S)
        self._not_before = self._host.now() + self._backoff * (0.5 + self._host.jitter())

    def overtaken(self, candidate: Candidate | None) -> None:
        """A higher ballot is being prepared. Whoever was about to lead lets it: two who each believe that it is their
        turn, and that every promise comes too late, would never end."""
        if candidate is not None:
            self.back_off()

    def rank(self, leader: NodeId) -> int:
        """How many linked members stand before this node in the line after ``leader`` (0: none was known)."""
        after = leader or self._members.before(self._members.preferred(self._group))
        rank = 0
        for node in self._members.succession(after):
            if node == self._me:
                return rank
            if self._host.linked(node):
                rank += 1
        return rank

    def quorum_in_reach(self, *, everybody: bool = False) -> bool:
        """Enough members are linked for a promise quorum, or everybody is; else a Prepare would only disturb."""
        mask = self._members.bit[self._me]
        for peer in self._members.others(self._me):
            if self._host.linked(peer):
                mask |= self._members.bit[peer]
        return mask.bit_count() == len(self._members.nodes) if everybody else self._members.has_majority(mask)
