"""Consumer groups of the simulator: members run handlers through the SDK, and join, leave, stand still, or are killed.

What a handler does takes time, fails now and then, and is noted the moment it has happened. Each member that ends is
followed by another one, until nothing is asked of them any more. A handler's results depend on the message alone.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from corgi.base import errors
from corgi.base.errors import CorgiError
from corgi.base.ids import TopicId
from corgi.client.consuming import Semantics, run_handler
from corgi.client.core.links import Answer
from corgi.client.core.slices import SLICES_SHARED, slice_of
from corgi.client.messages import Message
from corgi.history.model import (
    AT_LEAST_ONCE,
    AT_MOST_ONCE,
    EXACTLY_ONCE,
    HANDLING_DONE,
    HANDLING_FAILED,
    HANDLING_GIVEN_UP,
    OK,
    Checkpoint,
    Handling,
    Partition,
    Result,
    Value,
)
from corgi.sim.machines import Machine
from corgi.sim.records import key_of
from corgi.sim.scene import Scene, Topic
from corgi.wire.group_messages import Commit, CommitReply, CursorInfo, GroupHeartbeat, GroupHeartbeatReply
from corgi.wire.messages import WireMessage
from corgi.wire.transaction_messages import EndTransaction

UNKNOWN_MEMBER = errors.BY_CODE["unknown-member"].number
CHECKPOINT_MOVED = errors.BY_CODE["checkpoint-moved"].number
INPUT, RESULTS = "work", "made"  # topics; results lie beside their input or elsewhere
LOOK_S = 0.2
ATTEMPTS = 3
POISONED = 97  # of so many values one is never handled well
SLOW = 0.01  # share of the handlers that take SLOW_S more
SLOW_S = 1.2
SEMANTICS: tuple[Semantics, ...] = (AT_LEAST_ONCE, AT_MOST_ONCE, EXACTLY_ONCE)
# How a consumer may end: another process has its instance's name, or nobody could be asked for too long.
ENDS = frozenset(
    {"consumer-fenced", "unreachable", "timeout", "closed", "unknown-topic", "not-leader", "overloaded", "disk-full"}
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a group is like. ``slices`` 1: whole partitions are shared out. Times in seconds."""

    group: str
    semantics: Semantics
    slices: int
    members: int
    concurrency: int
    session_s: float
    rebalance_s: float
    commit_s: float
    work_s: float
    fails: float
    named: bool  # members are known by a name that outlives their processes
    stalls: bool
    life_s: float

    @property
    def sharing(self) -> Literal["key", "partition"]:
        return "key" if self.slices > 1 else "partition"


def draw(chance: Random, number: int, semantics: Semantics) -> Plan:
    """A group that the seed asks for."""
    shared = chance.random() < 0.5
    # Who stood still between checkpoint and handler handles late, where at most once is promised.
    stalls = chance.random() < 0.4 and semantics != AT_MOST_ONCE
    return Plan(
        group=f"g{number}",
        semantics=semantics,
        slices=SLICES_SHARED if shared else 1,
        members=chance.choice((1, 2, 2, 3, 4)),
        concurrency=chance.choice((1, 4, 8)),
        session_s=chance.choice((1.0, 2.0, 3.5)),
        rebalance_s=chance.choice((1.0, 2.0, 4.0)),
        commit_s=chance.choice((0.005, 0.05, 0.2)),
        # A process that stood still may go on with what it had begun: its handlers take no time.
        work_s=0.0 if stalls else chance.choice((0.0, 0.002, 0.02, 0.1)),
        fails=chance.choice((0.0, 0.02, 0.1)),
        named=chance.random() < 0.25,
        stalls=stalls,
        life_s=chance.choice((2.0, 4.0, 10.0)),
    )


def results_of(plan: Plan, value: Value) -> tuple[bytes, ...]:
    """What is made of a message in exactly once: nothing, one or two records."""
    text = value if isinstance(value, bytes) else value.encode()
    return tuple([b"%s<%d<%s" % (plan.group.encode(), n, text) for n in range((1, 1, 1, 0, 2)[zlib.crc32(text) % 5])])


@dataclass(slots=True)
class Work:
    """One message in a handler."""

    process: str
    partition: Partition
    key: str
    offset: int
    started: float
    attempt: int


class Member:
    """One consumer, through all its lives."""

    def __init__(self, team: Team, number: int) -> None:
        self.team = team
        self.scene = team.scene
        self.world = team.scene.world
        self.name = f"{team.plan.group}m{number}"
        self.instance = self.name if team.plan.named else ""
        self.chance = self.world.stream(f"member/{self.name}")
        self.machine: Machine | None = None
        self.lives = 0
        self._working: dict[int, Work] = {}
        self._held: dict[tuple[int, int], tuple[Any, int]] = {}  # by partition and slice: as what, for which time
        self._counted = 0

    # ---- lives

    def begin(self) -> None:
        if self.machine is not None or not self.team.open:
            return
        if not self.scene.topics[INPUT].id:
            self.world.after(LOOK_S, self.begin)
            return
        self.lives += 1
        self.machine = Machine(self.scene, f"{self.name}.{self.lives}", self._consume, self._ended)
        self.machine.saw = self._saw
        self.team.every.append(self.machine)
        self._held.clear()
        self._befall(self.machine)

    def _befall(self, machine: Machine) -> None:
        """What will become of this life, unless all is healed by then."""
        after = self.chance.expovariate(1 / self.team.plan.life_s)
        self.world.after(after, self._strike, machine, self.chance.random())

    def _strike(self, machine: Machine, fate: float) -> None:
        if machine is not self.machine or not machine.alive or self.team.healed:
            return
        if self.team.plan.stalls and fate < 0.4:
            self._count("member_stalls")
            machine.loop.stand_still(self.chance.choice((0.3, 1.5, 4.0, 6.0)))
            self._befall(machine)
        elif fate < 0.75:
            self._count("member_kills")
            self._cut_short()
            machine.kill(silently=fate < 0.5)
            self._ended(machine)
        else:
            self._count("member_leaves")
            machine.ask_to_stop()

    def _ended(self, machine: Machine) -> None:
        if machine is self.machine:
            self.machine = None
            self.world.after(self.chance.choice((0.05, 0.5, 3.0)), self.begin)

    def _cut_short(self) -> None:
        """Handlers end with their process."""
        for work in list(self._working.values()):
            self._note(work, HANDLING_FAILED)
        self._working.clear()

    # ---- the program

    async def _consume(self, machine: Machine) -> None:
        plan = self.team.plan
        try:
            await run_handler(
                machine.shell,
                self._handle,
                INPUT,
                group=plan.group,
                concurrency=plan.concurrency,
                order="key",
                semantics=plan.semantics,
                sharing=plan.sharing,
                slices=plan.slices if plan.slices > 1 else 0,
                start="earliest",
                instance=self.instance,
                mode="cluster",
                attempts=ATTEMPTS,
                backoff="20ms",
                backoff_max="200ms",
                retry=None,
                handler_timeout=None,
                session_timeout=f"{plan.session_s}s",
                rebalance_timeout=f"{plan.rebalance_s}s",
                commit_interval=f"{plan.commit_s}s",
                prefetch_bytes=0,
                read="committed",
                stop=machine.stop,
            )
        except CorgiError as error:
            self.world.note(machine.name, f"ends: {error}")
            if machine.alive and error.code not in ENDS:
                self.scene.violate("unjustified-refusal", f"{machine.name} consuming: {error}")

    async def _handle(self, message: Any) -> Any:
        machine = self.machine
        plan = self.team.plan
        if machine is None or message.held is None or not machine.alive:
            raise RuntimeError("the process is dead")
        key = f"#{message.offset}" if message.key is None else message.key.decode()
        partition = Partition(message.topic, message.partition)
        work = Work(self._process(machine, message), partition, key, message.offset, self.world.now, message.attempt)
        self._counted += 1
        number = self._counted
        self._working[number] = work
        outcome = HANDLING_FAILED
        try:
            pause = self.chance.random() * plan.work_s if self.scene.producing else 0.0  # afterwards it has to drain
            if pause and self.chance.random() < SLOW:
                pause += SLOW_S
            if pause:
                await asyncio.sleep(pause)
            value = message.value
            poisoned = plan.semantics == AT_LEAST_ONCE and zlib.crc32(value) % POISONED == 0
            fails = plan.semantics != AT_MOST_ONCE and self.chance.random() < plan.fails
            fails = fails and (plan.semantics != EXACTLY_ONCE or message.attempt < ATTEMPTS)  # every input has results
            if poisoned or fails:
                given_up = plan.semantics == AT_LEAST_ONCE and message.attempt >= ATTEMPTS
                outcome = HANDLING_GIVEN_UP if given_up else HANDLING_FAILED
                raise ValueError("now and then")
            outcome = HANDLING_DONE
        finally:
            if self._working.pop(number, None) is not None:
                self._note(work, outcome)
        if plan.semantics != EXACTLY_ONCE:
            return None
        return self._make(machine, partition, message)

    def _make(self, machine: Machine, partition: Partition, message: Any) -> list[Message[bytes]]:
        """Results, noted before anybody else can know of them."""
        plan = self.team.plan
        values = results_of(plan, message.value)
        result = Result(plan.group, machine.name, partition, message.offset, values, self.world.now)
        self.scene.history.results.append(result)
        return [Message(RESULTS, partition.number, key=message.key, value=value) for value in values]

    def _process(self, machine: Machine, message: Any) -> str:
        """Who begins a unit again at its checkpoint does again what lies behind it: another process."""
        unit = (message.partition, message.held.slice)
        held, life = self._held.get(unit, (None, 0))
        if held is not message.held:
            life += 1
            self._held[unit] = (message.held, life)
        return f"{machine.name}/{message.held.slice}/{life}"

    def _note(self, work: Work, outcome: str) -> None:
        group = self.team.plan.group
        handling = Handling(
            group, work.process, work.partition, work.key, work.offset, work.started, self.world.now, outcome
        )
        self.scene.history.handlings.append(handling)
        if outcome == HANDLING_GIVEN_UP:
            self._count("given_up")

    # ---- what is counted

    def _count(self, name: str, by: int = 1) -> None:
        self.scene.front.cluster.count(name, by)

    def _saw(self, message: WireMessage, answer: Answer) -> None:
        if isinstance(message, GroupHeartbeat) and isinstance(answer, GroupHeartbeatReply):
            if answer.assignment is not None:
                self._count("rebalances")
                held = [(one.topic, one.partition, one.slice) for one in answer.assignment]
                self._count("units_moved", self.team.took(self.name, held))
            elif answer.error == UNKNOWN_MEMBER:
                self._count("members_unknown")
        elif isinstance(message, EndTransaction) and message.commit and not getattr(answer, "error", 1):
            self._count("exactly_once_transactions")
        elif isinstance(message, Commit) and isinstance(answer, CommitReply):
            done = sum(1 for error in answer.entries if not error)
            self._count("checkpoints", done)
            if message.results and done and not any(error for error, _, _ in answer.results):
                self._count("exactly_once_commits")
            self._count("members_fenced", sum(1 for error in answer.entries if error == errors.CONSUMER_FENCED))
            self._count("checkpoints_moved", sum(1 for error in answer.entries if error == CHECKPOINT_MOVED))


class Team:
    """A group: its members, and at the end its checkpoints. ``open``: members that end are followed by others."""

    def __init__(self, scene: Scene, plan: Plan) -> None:
        self.scene = scene
        self.plan = plan
        self.open = True
        self.healed = False
        self.every: list[Machine] = []
        self.members = [Member(self, number) for number in range(plan.members)]
        self.cursors: tuple[CursorInfo, ...] = ()
        self._owners: dict[tuple[TopicId, int, int], str] = {}

    def start(self, until: float) -> None:
        chance = self.scene.world.stream(f"team/{self.plan.group}")
        for member in self.members:
            self.scene.world.after(0.5 + chance.random() ** 2 * until, member.begin)

    def heal(self) -> None:
        """No member is killed any more, and all are there."""
        self.healed = True
        for member in self.members:
            member.begin()

    def close(self) -> None:
        """Whoever runs leaves in good order, and nobody follows."""
        self.open = False
        for machine in self.running():
            machine.ask_to_stop()

    def running(self) -> list[Machine]:
        return [machine for machine in self.every if machine.alive]

    def took(self, member: str, units: Sequence[tuple[TopicId, int, int]]) -> int:
        """How many of these units another member had before."""
        before = [self._owners.get(unit, member) for unit in units]
        self._owners.update(dict.fromkeys(units, member))
        return sum(owner != member for owner in before)

    # ---- how far it is

    def passes(self, partition: Partition, offset: int, value: Value) -> bool:
        """Whether the cursors, as they were last told, pass this message."""
        number = slice_of(key_of(value).encode(), offset, self.plan.slices)
        for cursor in self.cursors:
            if (cursor.partition, cursor.slice) == (partition.number, number) and cursor.topic == self._topic.id:
                return offset < cursor.offset or any(first <= offset < end for first, end in cursor.ranges)
        return False

    def left(self) -> list[str]:
        """Acknowledged messages that no checkpoint passes."""
        return [
            f"{send.partition}@{send.offset + index}"
            for send in self.scene.history.sends
            if send.partition.topic == INPUT and send.status == OK and send.offset >= 0
            for index, value in enumerate(send.values)
            if not self.passes(send.partition, send.offset + index, value)
        ]

    def tell(self) -> None:
        """Put the checkpoints into the history: those of slices as one for each partition, for the messages there."""
        for number in range(self._topic.open):
            partition = Partition(INPUT, number)
            replicas = self.scene.history.final.get(partition)
            if not replicas:
                continue
            stored = replicas[min(replicas, key=str)]
            passed = [offset for offset, value in stored if self.passes(partition, offset, value)]
            left = [offset for offset, value in stored if not self.passes(partition, offset, value)]
            end = stored[-1][0] + 1 if stored else 0
            offset = left[0] if left else end
            ranges = tuple([(one, one + 1) for one in passed if one > offset])
            self.scene.history.checkpoints.append(
                Checkpoint(self.plan.group, partition, offset, ranges, self.plan.semantics)
            )

    @property
    def _topic(self) -> Topic:
        return self.scene.topics[INPUT]
