"""What a node may have forgotten of its memory groups, whose votes it answers when they are written, not yet synced.

A killed process forgets nothing: what it wrote is read back. A computer that lost its power may have. Then, and when
the log has lost lazy records, the memory groups are in doubt, they alone, and recover as a lost disk does (rule 15 of
docs/consensus.md; ``Identity`` drives both). That takes a majority which is not in doubt. Where there is none the
groups stand still, until the operator accepts the loss on every node in doubt. Then they go on so that no replica ever
has to take back what it has applied:

1. A node in doubt goes back to what it has applied, and answers Prepare, saying that it may have forgotten votes. One
   that may have forgotten promises as well asks every member for what it has promised first, and takes part above that.
2. Such promises count only if all members have promised, and then what the highest prefix and the votes among them
   tell is all that anybody knows.
3. Who holds everything up to the epoch record of that ballot is in doubt no more.

Invariant: whether a doubt is settled is told by the log behind what caused it, or by the folder for a power loss.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from corgi.base.errors import CorgiError
from corgi.base.ids import Ballot, GroupId, Slot
from corgi.base.ports import Hole
from corgi.broker.node_records import NodeRecord

if TYPE_CHECKING:
    from corgi.broker.identity import Identity
    from corgi.broker.node import Node

A_HOLE = "-"  # the name of a loss that the log tells; one of power has the name that the folder gave it


class MemoryDoubt:
    """Whether the memory groups are in doubt, and why."""

    def __init__(self, identity: Identity, node: Node) -> None:
        options = node.options
        self._identity = identity
        self._node = node
        self._groups = [GroupId(number) for number in range(options.groups, options.all_groups)]
        for group in node.groups[options.groups :]:
            group.replica.acceptor.lazy = True
        self._lost = options.memory_lost
        self._settled = False  # the log tells that the groups have recovered from that
        self._hole_behind = False  # of the log, behind the beginning of the last recovery
        self._active = False  # they recover
        self.suspects: set[GroupId] = set()  # what these hold is to be given up
        self._accepted = False  # in this life, that the loss is accepted
        self.reason = ""
        self.recovered: Callable[[], None] | None = None  # called when a recovery is complete and durable

    # -- the scan -------------------------------------------------------------------------------------------------

    def recover(self, told: NodeRecord) -> None:
        """A record on the memory groups, of the disk scan. Raises CorgiError "log-damaged"."""
        if told.cut:
            for group, slot in told.cut:
                self._cut(group, slot)
        elif told.emptied:
            for group in dict.fromkeys(group for group, _ in told.emptied):
                self.suspects.discard(group)
                self._empty_again(group, [slot for other, slot in told.emptied if other == group])
        elif told.recovering:
            self.reason = self.reason or "a recovery was interrupted"
            self._hole_behind &= told.repeated
            if told.another:
                self.suspects.update(self._groups)
        elif not self._hole_behind:
            self.reason = ""
            self.suspects.clear()
            self._settled = self._settled or told.memory == self._lost

    def recover_hole(self, hole: Hole) -> None:
        """Votes may be lost here in the log."""
        if not self._groups:
            return
        self._hole_behind = True
        where = f"segment {hole.segment:016x} at offset {hole.start}"
        if hole.lazy:
            self._node.count("lazy_holes")
            for group in self._groups:
                self._node.groups[group].replica.learner.recover_hole()
        self.reason = f"the log is damaged in {where}: {hole.what}"

    @property
    def certain(self) -> str:
        """There are memory groups, and they are not in doubt; then the name of a loss that the log tells."""
        return A_HOLE if self._groups and not self._active else ""

    @property
    def bars(self) -> bool:
        """They recover, and this node cannot lead them all: it does not even take part as one that may have forgotten
        votes."""
        return self._active and not all(self._node.groups[group].replica.acceptor.answers for group in self._groups)

    @property
    def reserved(self) -> bool:
        """There may be groups for which ``tells`` is False."""
        return self._identity.state == "asking" or bool(self.suspects)

    def tells(self, group: GroupId) -> bool:
        """What is known here of the group may be told to others: in a memory group, a disk that comes back may know
        what was given up without it."""
        fit = self._identity.state != "asking" and group not in self.suspects
        return fit or group < self._node.options.groups

    # -- recovering -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The scan is over."""
        if self._lost and not self._settled:
            self.reason = "the computer lost its power"
        elif self._lost and self.recovered is not None:
            self.recovered()
        if not self.reason:
            return
        if self._groups and self._node.options.accept_lost_memory:
            self._accept()
        self.doubt(self.reason)

    def doubt(self, reason: str) -> None:
        """They recover from now on."""
        if not self._groups or self._active:
            return
        self._active = True
        self.reason = reason
        if self._node.options.accept_lost_memory and not self._accepted:
            self._tell_accepted()
        self._node.note("memory-in-doubt", self._groups[0], reason)
        self._node.count("memory_recoveries")
        self._identity.begin(self._groups, self._begun())

    def replaced(self) -> None:
        """A peer knows another disk of this node: an operator may have had that one go on without what is known here,
        so what the memory groups hold here may never have been chosen. Nobody is told of it, and it is given up as soon
        as the others are known to do without it, not before: it may as well be the peer that is behind the times."""
        self.suspects.update(self._groups)
        if self._active:
            self._identity.begin(self._groups, self._begun())

    def give_up(self, number: GroupId) -> None:
        """The group is about to recover: if its state is not to be trusted, it begins from nothing, as on an empty
        disk."""
        if number not in self.suspects:
            return
        self.suspects.discard(number)
        node = self._node
        group = node.groups[number]
        void = tuple([(number, slot) for slot in node.snapshots.begin_from_nothing(group)])
        node.replay.overtaken(group)
        node.state_replaced(group)
        node.count("memory_emptied")
        node.note("memory-emptied", number, "a peer knows another disk of this node")
        self._identity.persist(NodeRecord(0, node.options.incarnation, memory=A_HOLE, emptied=void))

    def _begun(self, *, repeated: bool = False) -> NodeRecord:
        own, name = self._node.options.incarnation, self._lost or A_HOLE
        another = bool(self.suspects)
        return NodeRecord(0, own, recovering=True, repeated=repeated, memory=name, another=another)

    def asked(self, nonces: Mapping[GroupId, int], told: Collection[Sequence[Ballot]] = ()) -> None:
        """If the operator has accepted the loss, the groups in doubt take part from now on as those that may have
        forgotten votes.

        The disk is this node's own and new enough, so that it tells all promises; or it recovers itself, and this is
        ``told`` by every other member: what it had promised when this process asked, group by group. Then the lost disk
        may have voted in no higher ballots, nor promised any that somebody could win yet, since whoever prepares one
        promises it first; and those that begin now are above.
        """
        if not self._active or not self._node.options.accept_lost_memory:
            return
        for group in self._groups:
            replica = self._node.groups[group].replica
            if group in nonces and not replica.acceptor.lossy:
                self.give_up(group)
                replica.acceptor.lossy = nonces[group]
                replica.acceptor.floor = max((promised[group] for promised in told), default=Ballot(0))
                replica.highest_seen = max(replica.highest_seen, replica.acceptor.floor)

    def _accept(self) -> None:
        """Before anything else is done: what was not applied in the scan is given up, so that later scans can tell."""
        self._tell_accepted()
        cut = tuple([(group, self._node.groups[group].machine.applied) for group in self._groups])
        for group, slot in cut:
            self._cut(group, slot)
        own = self._node.options.incarnation
        self._identity.persist(NodeRecord(0, own, memory=self._lost or A_HOLE, cut=cut))

    def _tell_accepted(self) -> None:
        """The operator's word is told from now on."""
        self._accepted = True
        loss = f"votes of the memory groups: {self.reason} ({self._lost or A_HOLE})"
        self._node.note("loss-accepted", self._groups[0], loss)
        self._identity.remember_accepted(loss)
        self._identity.persist(NodeRecord(0, self._node.options.incarnation, accepted=loss))

    def used(self, group: GroupId, first: Slot) -> None:
        """A group goes on with what is left."""
        self._node.count("lossy_restarts")
        self._node.note("lossy-restart", group, f"from slot {first}; what was chosen there or behind may be lost")

    def finish(self) -> None:
        """No memory group recovers any more."""
        if self._active:
            self._active = False
            self._node.note("memory-recovered", self._groups[0], self.reason)
            own = self._node.options.incarnation
            self._identity.persist(NodeRecord(0, own, memory=self._lost or A_HOLE))

    def durable(self, told: NodeRecord) -> None:
        """The end of a recovery is on disk."""
        self.reason = ""
        self._lost = ""
        if self.recovered is not None:
            self.recovered()

    def records(self) -> list[NodeRecord]:
        """What the start of a segment has to tell."""
        if not self.reason or not self._groups:
            return []
        return [self._begun(repeated=True)]

    def _cut(self, number: GroupId, slot: Slot) -> None:
        """Forget what is known chosen behind ``slot``: something of it is lost."""
        node = self._node
        group, covered = node.groups[number], node.values.covered[number]
        if covered > slot:  # a snapshot was taken since; what the log told behind it until here is given up as well
            slot = covered
        elif group.machine.applied > slot:
            what = f"group {number}: what could not be read behind slot {slot} when its loss was accepted, can be now"
            raise CorgiError("log-damaged", what)
        group.replica.learner.cut(slot)
        node.values.cut(number, slot)
        if group.machine.applied > slot:
            node.snapshots.restore_again(number)

    def _empty_again(self, number: GroupId, void: Sequence[Slot]) -> None:
        """What the log told of the group until here counts no more. A snapshot counts that was taken since."""
        name = self._node.snapshots.durable[number]
        if name is None or name.slot in void:
            self._node.snapshots.begin_from_nothing(self._node.groups[number])
        else:
            group = self._node.groups[number]
            group.replica.learner.cut(name.slot)
            group.replica.acceptor.forget_votes()
            self._node.values.cut(number, name.slot)
            self._node.snapshots.restore_again(number)
