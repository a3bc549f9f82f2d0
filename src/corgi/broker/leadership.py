"""Who of the living should lead: gives groups away when this node should not, and home when another is preferred.

It knows heartbeats and replicas and decides nothing that safety depends on: a handover is asked for, the heir still has
to win its ballot. Invariants: a group goes home only to a node that has been in touch with this one for HOME_AFTER_S
without a break, wants to lead, answers, and is hardly behind; at most one group leaves in HOME_PAUSE_S; a group whose
handover did not help stays for HOME_RETRY_S. So a node that comes and goes is never given anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corgi.base.ids import GroupId, NodeId

if TYPE_CHECKING:
    from corgi.broker.group import Group
    from corgi.broker.node import Node

SKEW_PATIENCE_S = 1.0
STOP_PATIENCE_S = 3.0
HOME_AFTER_S = 5.0
HOME_PAUSE_S = 0.1
HOME_RETRY_S = 30.0
HOME_LAG_SLOTS = 256  # beats tell prefixes that are a few milliseconds old


class Leadership:
    """Looks at every heartbeat at what this node leads."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._skewed_since: float | None = None
        self._stop_until = 0.0
        self._home_at = 0.0
        self._home_again: dict[GroupId, float] = {}

    @property
    def barred(self) -> bool:
        """Something else than its clock forbids this node to lead. One whose disk is full leads only when too few
        others could."""
        node = self._node
        has_room = not node.room.full or (node.room.restricted and node.room.any)
        return node.stopping or not has_room or not node.identity.voting

    @property
    def fit(self) -> bool:
        """This node may lead groups of which it lacks nothing."""
        return not self.barred and self._node.detector.clock_trusted()

    @property
    def memory_barred(self) -> bool:
        """As ``barred``, of memory groups: also while they are in doubt."""
        return self.barred or self._node.identity.amnesia.bars

    @property
    def memory_fit(self) -> bool:
        """As ``fit``, of memory groups: also if those whose clocks are better may lead none."""
        return not self.memory_barred and self._node.detector.clock_trusted(memory=True)

    def fit_for(self, group: GroupId) -> bool:
        """As ``fit`` or ``memory_fit``; whether this one group is in doubt its replica knows."""
        return not self.barred and self._node.detector.clock_trusted(memory=self._is_memory(group))

    def _is_memory(self, group: GroupId) -> bool:
        return group >= self._node.options.groups

    def stop(self) -> None:
        """From now on lead nothing; give up waiting for heirs after STOP_PATIENCE_S."""
        self._stop_until = self._node.clock.now() + STOP_PATIENCE_S

    def check(self, now: float) -> None:
        """A leader with a wrong clock, a full disk, or one that stops gives its groups away, else those it keeps for
        another go home."""
        node = self._node
        if node.detector.clock_trusted():
            self._skewed_since = None
        elif self._skewed_since is None:
            self._skewed_since = now
        skewed = self._skewed_since is not None and now - self._skewed_since > SKEW_PATIENCE_S
        if node.stopping or node.room.full or skewed:
            self._give_away(now, to_full=node.stopping or skewed)
        elif now >= self._home_at:
            self._go_home(now)

    def _give_away(self, now: float, *, to_full: bool) -> None:
        """``to_full``: rather to a node whose disk is full as well than to nobody."""
        node = self._node
        led = [group for group in node.groups if group.replica.tenure is not None]
        if not (node.stopping or node.room.full):  # only its clock is wrong
            led = [group for group in led if not self.fit_for(group.id)]
        heirs = {memory: self._heirs(memory=memory, to_full=to_full) for memory in (False, True)}
        going = False
        for group in led:
            able = heirs[self._is_memory(group.id)]
            if able:
                group.replica.handover(able[group.id % len(able)])
                going = True
        if node.stopping:
            idle = not any(len(group.proposals) for group in node.groups)
            node.stopped = (idle and not going) or now > self._stop_until

    def _heirs(self, *, memory: bool, to_full: bool) -> list[NodeId]:
        """Who may be given groups, or memory groups."""
        detector = self._node.detector
        heirs = detector.heirs(memory=memory)
        return [heir for heir in heirs if not detector.peers[heir].full] or (heirs if to_full else [])

    def _go_home(self, now: float) -> None:
        """Hand over the first group that another node should lead and can."""
        for group in self._node.groups:
            replica = group.replica
            home = replica.members.preferred(group.id)
            if home == self._node.options.node or not (replica.leading and replica.proposing):
                continue
            if now >= self._home_again.get(group.id, 0.0) and self._ready(home, group, now):
                self._home_at = now + HOME_PAUSE_S
                self._home_again[group.id] = now + HOME_RETRY_S
                self._node.count("sent_home")
                replica.handover(home)
                return

    def _ready(self, home: NodeId, group: Group, now: float) -> bool:
        detector = self._node.detector
        view = detector.peers[home]
        lead = view.leads.get(group.id)
        return (
            detector.linked(home)
            and not (view.memory_unfit if self._is_memory(group.id) else view.unfit)
            and not view.full
            and now - view.connected_at >= HOME_AFTER_S
            and now - view.acknowledged_at < detector.suspicion_s
            and lead is not None
            and lead.prefix + HOME_LAG_SLOTS >= group.replica.prefix
        )
