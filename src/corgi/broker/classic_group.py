"""One consumer group as Kafka's classic protocol knows it: members join, their leader assigns, all hear of it.

A **generation** is a set of members with one protocol and one leader. Whoever joins, leaves or falls silent makes the
next: members are asked to join again (PREPARING), the answers to their joins tell the new generation (COMPLETING), its
leader sends everybody's assignment, and the group is STABLE. A member with an instance id keeps its place through a
restart (KIP-345). What members say about themselves and are assigned is theirs: bytes that are only passed on.

No I/O and no node: whoever drives it writes the record when it is ``unsaved``, tells that it is ``saved``, claims units
while it is ``settling``, calls ``expire`` at ``due_at``, and ends each turn with ``release``, which lets answers out.

Invariant: no generation is told to anybody before it is in the record, so that of one generation all members, also of
different coordinators, know the same protocol and leader. Every callback is called once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum

from corgi.base.errors import OK
from corgi.broker.classic_answers import Answers
from corgi.broker.classic_member import (
    NEVER,
    Fault,
    Join,
    Joined,
    Member,
    OnJoined,
    OnSynced,
    Sync,
    Synced,
    bytes_of,
    common,
)
from corgi.broker.group_records import StoredClassic, encode_record
from corgi.state.consumer_groups import GROUP_BYTES_MAX

MEMBERS_MAX = 1_000
RECORD_BYTES_MAX = GROUP_BYTES_MAX - 4096  # of all members together
JOINED_BYTES_MAX = RECORD_BYTES_MAX * 3 // 4  # without what they are assigned
ASSIGNMENT_BYTES = 16  # around what a member is assigned, or instead of nothing
WAIT_AGAIN_S = 1.0  # at least, for instances of which none has come back


class State(Enum):
    """The values are Kafka's words."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"


class ClassicGroup:
    """``join_delay_s``: how long the first members of an empty group wait for others. Times are monotonic seconds.

    ``floor``: generations begin above it. ``empty_assignment``: for members that the leader leaves out.
    """

    def __init__(
        self,
        stored: StoredClassic | None,
        now: float,
        *,
        join_delay_s: float,
        floor: int = 0,
        empty_assignment: Callable[[str], bytes] = lambda _: b"",
    ) -> None:
        self.state = State.EMPTY
        self.generation = stored.generation if stored else floor
        self.protocol_type = stored.protocol_type if stored else ""
        self.protocol = stored.protocol if stored else ""
        self.leader = stored.leader if stored else ""
        self.members: dict[str, Member] = {}
        self.settling = False  # assignments are in the record, and units are being claimed
        self.due_at = NEVER  # ``expire`` is called then at the latest
        self._settled = True  # the present generation has its assignments
        self._instances: dict[str, str] = {}
        self._named: dict[str, float] = {}  # ids given to clients that have not come back, and until when
        self._join_until = NEVER
        self._join_limit = NEVER  # of waiting for the first members
        self._join_delay_s = join_delay_s
        self._delaying = self._more_came = False
        self._sync_until = NEVER
        self._revision = self._saved = 0
        self._body = b""
        self._answers = Answers()
        self._empty_assignment = empty_assignment
        if stored and stored.members:
            self._restore(stored, now)

    def _restore(self, stored: StoredClassic, now: float) -> None:
        """Go on where an earlier coordinator was when it wrote the record; members get their time in full."""
        for one in stored.members:
            says = Join(
                one.member, one.instance, one.client, one.host, one.session_ms, one.rebalance_ms, stored.protocol_type,
                one.protocols,
            )  # fmt: skip
            member = self.members[one.member] = Member(one.member, says, now)
            member.assignment = one.assignment
            member.joined = True
            if one.instance:
                self._instances[one.instance] = one.member
            self._wake(member.dies_at())
        self._settled = self.settling = stored.settled
        self.state = State.STABLE if stored.settled else State.COMPLETING
        if not stored.settled:
            self._sync_until = now + self._rebalance_s()
            self._wake(self._sync_until)

    @property
    def occupied(self) -> bool:
        """Whether somebody is in it or on the way."""
        return bool(self.members or self._named)

    # -- joining --------------------------------------------------------------------------------------------------

    def join(self, request: Join, name: str, done: OnJoined, now: float) -> None:
        """``name``: for a member that has none yet; not used before."""
        fault = self._unfit(request, request.member or name)
        if fault:
            self._answers.refuse_join(done, fault, request.member)
        elif request.member:
            self._join_again(request, done, now)
        elif request.instance in self._instances:
            self._replace(request, name, done, now)
        elif len(self.members) + len(self._named) >= MEMBERS_MAX:
            self._answers.refuse_join(done, Fault.OVERLOADED, "")
        elif request.takes_ids and not request.instance:
            self._named[name] = now + request.session_ms / 1000
            self._wake(self._named[name])
            self._answers.refuse_join(done, Fault.MEMBER_ID_REQUIRED, name)
        else:
            self._add(name, request, done, now)

    def _unfit(self, request: Join, name: str) -> int:
        names = {name for name, _ in request.protocols}
        own = request.member or self._instances.get(request.instance, "")
        others = [member for member in self.members.values() if member.name != own]
        if not request.protocol_type or not names:
            return Fault.INCONSISTENT_PROTOCOL
        if others and (request.protocol_type != self.protocol_type or not names & common(others)):
            return Fault.INCONSISTENT_PROTOCOL
        size = sum(member.size for member in others) + bytes_of(name, request)
        return Fault.OVERLOADED if size > JOINED_BYTES_MAX else OK

    def _join_again(self, request: Join, done: OnJoined, now: float) -> None:
        name = request.member
        if self._named.pop(name, None) is not None:
            self._add(name, request, done, now)
            return
        fault = self._stranger(name, request.instance)
        if fault:
            self._answers.refuse_join(done, fault, name)
            return
        member = self.members[name]
        member.heard_at = now
        same = member.protocols == request.protocols
        if same and (
            self.state is State.COMPLETING or (self.state is State.STABLE and name != self.leader and member.joined)
        ):  # the answer was lost on its way, or it asks without news
            member.says(request)
            self._answers.joined(self._revision, member, done, self._joined(member))
        else:
            self._wait(member, request, done, now)

    def _add(self, name: str, request: Join, done: OnJoined, now: float) -> None:
        if not self.members:
            self.protocol_type = request.protocol_type
        member = self.members[name] = Member(name, request, now)
        if request.instance:
            self._instances[request.instance] = name
        self._more_came = True
        self._wait(member, request, done, now)

    def _wait(self, member: Member, request: Join, done: OnJoined, now: float) -> None:
        member.says(request)
        if member.join is not None:
            self._answers.refuse_join(member.join, Fault.REBALANCING, member.name)
        member.join = done
        self._wake(member.dies_at())
        if self.state is not State.PREPARING:
            self._prepare(now)
        self._complete_if_all(now)

    def _replace(self, request: Join, name: str, done: OnJoined, now: float) -> None:
        """A new process of an instance takes the place of the old one."""
        old_leader, old_name = self.leader, self._instances[request.instance]
        old = self.members.pop(old_name)
        self._cut(old, Fault.INSTANCE_FENCED)
        member = self.members[name] = Member(name, request, now)
        member.assignment, member.joined, member.synced = old.assignment, old.joined, old.synced
        self._instances[request.instance] = name
        if old_leader == old_name:
            self.leader = name
        if self.state is State.STABLE and member.joined and self._choose() == self.protocol:
            self.settling = True
            self._change()
            if request.skips:
                joined = self._joined(member)._replace(skip_assignment=name == self.leader)
            else:  # a leader would assign, and nobody would hear of it: it is told that another one leads
                joined = self._joined(member)._replace(leader=old_leader, members=())
            self._answers.joined(self._revision, member, done, joined)
            self._wake(member.dies_at())
        else:
            self._wait(member, request, done, now)

    # -- generations ----------------------------------------------------------------------------------------------

    def _prepare(self, now: float) -> None:
        """Ask everybody to join again."""
        for member in self.members.values():
            if member.sync is not None:
                member.heard_at = now
                self._answers.refuse_sync(member.sync, Fault.REBALANCING)
                member.sync = None
        self._delaying = self.state is State.EMPTY and self._join_delay_s > 0
        self.state = State.PREPARING
        self._sync_until = NEVER
        self._more_came = False
        self._join_limit = now + self._rebalance_s()
        self._join_until = min(now + self._join_delay_s, self._join_limit) if self._delaying else self._join_limit
        self._wake(self._join_until)

    def _complete_if_all(self, now: float) -> None:
        if self.state is not State.PREPARING or self._delaying or self._named:
            return
        if all(member.join is not None for member in self.members.values()):
            self._complete(now)

    def _complete(self, now: float) -> None:
        """The next generation: those who joined, and instances, which may come back."""
        for member in [one for one in self.members.values() if one.join is None and not one.instance]:
            self._forget(member)
        came = [member for member in self.members.values() if member.join is not None]
        if self.members and not came:
            self._join_until = now + max(self._rebalance_s(), WAIT_AGAIN_S)
            self._wake(self._join_until)
            return
        self.generation += 1
        self._join_until = NEVER
        self._delaying = False
        self._settled = not self.members
        self.settling = False
        if not self.members:
            self.state, self.protocol, self.leader = State.EMPTY, "", ""
            self._change()
            return
        if self.leader not in self.members or self.members[self.leader].join is None:
            self.leader = came[0].name
        self.state = State.COMPLETING
        self.protocol = self._choose()
        self._sync_until = now + self._rebalance_s()
        self._wake(self._sync_until)
        for member in self.members.values():
            member.joined, member.assignment = True, b""
            member.synced = member.join is None  # who did not come knows nothing of it
        self._change()
        for member in came:
            done, member.join = member.join, None
            assert done is not None, "it came"
            self._answers.joined(self._revision, member, done, self._joined(member))

    def _joined(self, member: Member) -> Joined:
        told = self.members.values() if member.name == self.leader else ()
        everybody = tuple([(one.name, one.instance, one.metadata(self.protocol)) for one in told if one.joined])
        return Joined(
            OK, member.name, self.generation, self.protocol_type, self.protocol, self.leader, everybody
        )  # fmt: skip

    def _choose(self) -> str:
        """Each member votes for the first that all know; of those with most votes the one that was voted for first."""
        known = common(self.members.values())
        votes: dict[str, int] = {}
        for member in self.members.values():
            vote = next(name for name, _ in member.protocols if name in known)
            votes[vote] = votes.get(vote, 0) + 1
        return max(votes, key=lambda name: votes[name])

    # -- assignments ----------------------------------------------------------------------------------------------

    def sync(self, request: Sync, done: OnSynced, now: float) -> None:
        fault = self._stranger(request.member, request.instance)
        if not fault and request.generation != self.generation:
            fault = Fault.GENERATION_OVER
        if not fault and not self._same_protocol(request):
            fault = Fault.INCONSISTENT_PROTOCOL
        if not fault and (self.state is State.PREPARING or not self.members[request.member].joined):
            fault = Fault.REBALANCING
        if fault:
            self._answers.refuse_sync(done, fault)
            return
        member = self.members[request.member]
        member.heard_at = now
        member.synced = True
        if self.state is State.STABLE:
            self._tell_assigned(member, done)
            return
        if member.sync is not None:
            self._answers.refuse_sync(member.sync, Fault.REBALANCING)
        member.sync = done
        if member.name == self.leader:
            self._assign(request.assignments, now)

    def _same_protocol(self, request: Sync) -> bool:
        return request.protocol_type in ("", self.protocol_type) and request.protocol in ("", self.protocol)

    def _assign(self, assignments: Mapping[str, bytes], now: float) -> None:
        members = [member for member in self.members.values() if member.joined]
        size = sum(one.size + ASSIGNMENT_BYTES + len(assignments.get(one.name, b"")) for one in members)
        if size > RECORD_BYTES_MAX:
            self._cut(self.members[self.leader], Fault.TOO_LARGE)
            self._prepare(now)
            return
        self.state = State.STABLE
        self._settled = self.settling = True
        for member in members:
            member.assignment = assignments.get(member.name) or self._empty_assignment(self.protocol_type)
        self._change()
        for member in members:
            sync, member.sync = member.sync, None
            if sync is not None:
                self._tell_assigned(member, sync)

    def _tell_assigned(self, member: Member, done: OnSynced) -> None:
        synced = Synced(OK, self.protocol_type, self.protocol, member.assignment)
        self._answers.synced(self._revision, member, done, synced, settling=self.settling)

    # -- staying and leaving --------------------------------------------------------------------------------------

    def heartbeat(self, name: str, instance: str, generation: int, now: float) -> int:
        """The error to answer with; 0 is none."""
        fault = self._stranger(name, instance)
        if not fault and generation != self.generation:
            fault = Fault.GENERATION_OVER
        if fault:
            return fault
        self.members[name].heard_at = now
        return Fault.REBALANCING if self.state is State.PREPARING else OK

    def leave(self, name: str, instance: str, now: float) -> int:
        """As ``heartbeat``. An instance leaves by its own id, whoever its process is, if ``name`` is empty."""
        if instance and not name:
            name = self._instances.get(instance, "")
        elif not instance and self._named.pop(name, None) is not None:
            self._complete_if_all(now)
            return OK
        fault = self._stranger(name, instance)
        if not fault:
            self._remove(self.members[name], now)
        return fault

    def may_commit(self, name: str, instance: str, generation: int, now: float, *, in_transaction: bool = False) -> int:
        """Whether a member, or (no name, generation below 0) nobody in particular, may move checkpoints."""
        if generation < 0 and not name and not instance:
            return Fault.UNKNOWN_MEMBER if self.members and not in_transaction else OK
        fault = self._stranger(name, instance)
        if not fault and generation != self.generation:
            fault = Fault.GENERATION_OVER
        if fault:
            return fault
        self.members[name].heard_at = now
        return Fault.REBALANCING if self.state is State.COMPLETING and not in_transaction else OK

    def _stranger(self, name: str, instance: str) -> int:
        if instance:
            known = self._instances.get(instance)
            if known is not None and known != name:
                return Fault.INSTANCE_FENCED
        return OK if name in self.members else Fault.UNKNOWN_MEMBER

    def _remove(self, member: Member, now: float) -> None:
        self._forget(member)
        if self.state in (State.STABLE, State.COMPLETING):
            self._prepare(now)
        self._complete_if_all(now)

    def _forget(self, member: Member) -> None:
        """It is no member any more; what it waits for is answered."""
        del self.members[member.name]
        if self._instances.get(member.instance) == member.name:
            del self._instances[member.instance]
        self._cut(member, Fault.UNKNOWN_MEMBER)

    def _cut(self, member: Member, error: int) -> None:
        """What it waits for is answered by an error."""
        join, member.join = member.join, None
        sync, member.sync = member.sync, None
        if join is not None:
            self._answers.refuse_join(join, error, member.name)
        if sync is not None:
            self._answers.refuse_sync(sync, error)

    # -- time -----------------------------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """Do what is due."""
        if now < self.due_at:
            return
        for name in [name for name, until in self._named.items() if until <= now]:
            del self._named[name]
        for member in [one for one in self.members.values() if one.dies_at() <= now]:
            if self.members.get(member.name) is member:
                self._remove(member, now)
        if now >= self._sync_until and self.state is State.COMPLETING:
            late = [one for one in self.members.values() if one.joined and not one.synced]
            self._sync_until = NEVER
            for member in late:
                if self.members.get(member.name) is member:
                    self._remove(member, now)
        if now >= self._join_until:
            if self._delaying and self._more_came and now < self._join_limit:
                self._more_came = False
                self._join_until = min(now + self._join_delay_s, self._join_limit)
            elif self._delaying:
                self._delaying = False
                self._join_until = self._join_limit
                self._complete_if_all(now)
            else:
                self._complete(now)
        else:
            self._complete_if_all(now)
        self.due_at = min(
            [self._join_until, self._sync_until, *self._named.values(), *(m.dies_at() for m in self.members.values())]
        )

    def _wake(self, when: float) -> None:
        self.due_at = min(self.due_at, when)

    def _rebalance_s(self) -> float:
        return max((member.rebalance_ms for member in self.members.values()), default=0) / 1000

    # -- the record -----------------------------------------------------------------------------------------------

    @property
    def unsaved(self) -> bool:
        """Whether the record does not tell what it has to."""
        return self._revision != self._saved

    def record(self) -> tuple[int, bytes]:
        """What to write, and which revision that is."""
        return self._revision, self._body

    def saved(self, revision: int) -> None:
        """The record of this revision is applied."""
        self._saved = max(self._saved, revision)

    def settled(self) -> None:
        """Units of the present generation were claimed, as far as that can be."""
        self.settling = False

    def fail(self, error: int) -> None:
        """Nothing goes on here: whoever waits hears of ``error``."""
        for member in self.members.values():
            self._cut(member, error)
        self._answers.fail(error)

    def release(self, now: float) -> None:
        """Let the answers out that wait for nothing any more."""
        for member in self._answers.release(self._saved, now, settling=self.settling):
            self._wake(member.dies_at())

    def _change(self) -> None:
        """The record has to tell how things are now, not what becomes of them until it is written: else somebody who
        leaves meanwhile would be missed by no later coordinator."""
        self._revision += 1
        members = tuple([member.stored() for member in self.members.values()])
        stored = StoredClassic(self.generation, self._settled, self.protocol_type, self.protocol, self.leader, members)
        self._body = encode_record(stored)
