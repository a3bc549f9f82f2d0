"""Transactional clients of the simulator: acts of the SDK, and producers that abort, stand still, or never come back.

A transactor does one thing after another: an act (one command, or two phases), a transaction by its own hand that it
commits, aborts, or leaves to its time-out, a prepared message, or a ferry: outputs and a checkpoint in one act. Some
share a transactional name, so that each fences the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random

from corgi.base import errors
from corgi.base.errors import CorgiError
from corgi.base.ids import TopicId
from corgi.base.records import RecordFields, encode_batch, restamped
from corgi.client.atomic import Acts
from corgi.client.core.links import Answer
from corgi.client.publishing import Publisher
from corgi.client.topics import ask_for
from corgi.history.model import EXACTLY_ONCE, FAILED, NEVER, OK, OPEN, UNKNOWN, Checkpoint, Partition, Result
from corgi.history.model import Transaction as Told
from corgi.sim.consumers import INPUT
from corgi.sim.machines import Machine
from corgi.sim.scene import Scene
from corgi.sim.world import WALL_AT_ZERO_MS
from corgi.wire import transaction_messages as t
from corgi.wire.group_messages import CursorInfo, Cursors, CursorsReply
from corgi.wire.messages import Produce, ProduceReply, WireMessage

TOPIC = "acts"
FERRY = "ferry"
PATIENCE_MS = 2_500
LIFE_MS = (400, 1_200, 3_000)
BETWEEN_S = 0.3
LATE_S = 1.5  # behind the end of its life a transaction is surely over
QUORUM = 2

Place = tuple[Partition, TopicId]


@dataclass(frozen=True, slots=True)
class TransactorPlan:
    """``name``: transactional, perhaps shared; ``life_s``: the mean time until something befalls a life."""

    number: int
    name: str
    life_s: float
    ferries: bool


@dataclass(slots=True)
class Act:
    """Messages that belong together, and what is known of them."""

    process: str
    messages: tuple[tuple[Partition, bytes], ...]
    invoked: float
    decided: float = NEVER
    status: str = OPEN
    ended: float = NEVER

    def told(self) -> Told:
        """As the history has it: what nobody asked to commit is not committed, ever."""
        status = self.status
        if status == OPEN:
            status = UNKNOWN if self.decided != NEVER else FAILED
        ended = max(self.ended, self.invoked)
        return Told(self.process, self.messages, self.decided, status, self.invoked, ended)


def draw(chance: Random, count: int, *, ferries: bool) -> list[TransactorPlan]:
    """Transactors that the seed asks for."""
    shared = chance.random() < 0.4
    return [
        TransactorPlan(n, "shared" if shared else f"tx{n}", chance.choice((2.0, 5.0, 15.0)), ferries)
        for n in range(count)
    ]


class _ChangedItsMindError(Exception):
    """The block ends with an exception of the user."""


class Transactor:
    """One transactional client, through all its lives."""

    def __init__(self, scene: Scene, plan: TransactorPlan) -> None:
        self.scene = scene
        self.world = scene.world
        self.plan = plan
        self.name = f"a{plan.number}"
        self.chance = self.world.stream(f"transactor/{self.name}")
        self.machine: Machine | None = None
        self.machines: list[Machine] = []
        self.acts: list[Act] = []
        self.healed = False
        self._lives = 0
        self._made = 0
        self._current: Act | None = None

    def start(self, until: float) -> None:
        self.world.after(0.5 + self.chance.random() ** 2 * until, self.begin)

    def heal(self) -> None:
        self.healed = True
        self.begin()

    def idle(self) -> bool:
        return self.machine is None

    # ---- lives

    def begin(self) -> None:
        if self.machine is not None or not self.scene.producing:
            return
        if not self.scene.topics[TOPIC].id:
            self.world.after(0.2, self.begin)
            return
        self._lives += 1
        self.machine = Machine(self.scene, f"{self.name}.{self._lives}", self._work, self._ended)
        self.machines.append(self.machine)
        self.machine.asked = self._asked
        self.machine.saw = self._saw
        self.world.after(self.chance.expovariate(1 / self.plan.life_s), self._strike, self.machine)

    def _strike(self, machine: Machine) -> None:
        if machine is not self.machine or not machine.alive or self.healed:
            return
        fate = self.chance.random()
        if fate < 0.5:
            machine.loop.stand_still(self.chance.choice((0.3, 1.5, 5.0)))
            self.world.after(self.chance.expovariate(1 / self.plan.life_s), self._strike, machine)
        else:
            self._count("transactor_kills")
            self._current = None
            machine.kill(silently=fate < 0.75)
            self._ended(machine)

    def _ended(self, machine: Machine) -> None:
        if machine is self.machine:
            self.machine = None
            self.world.after(self.chance.choice((0.05, 0.5, 2.0)), self.begin)

    # ---- the program

    async def _work(self, machine: Machine) -> None:
        acts = Acts(machine.shell, Publisher(machine.shell))
        deeds: list[Callable[[Machine, Acts], Awaitable[None]]] = [self._act, self._act, self._by_hand, self._prepare]
        if self.plan.ferries:
            deeds += [self._ferry, self._ferry]
        while True:
            await asyncio.sleep(BETWEEN_S * (0.5 + self.chance.random()))
            if not self.scene.producing or not machine.alive:  # a task group may have swallowed the cancellation
                return
            try:
                await self.chance.choice(deeds)(machine, acts)
            except CorgiError as error:
                self.world.note(machine.name, f"met {error.code}: {error.message}")
                if error.code == "transaction-fenced":
                    self._count("producers_fenced")
                    acts = Acts(machine.shell, Publisher(machine.shell))
                elif not error.retryable and error.code not in _EXPECTED and machine.alive:
                    self.scene.violate("unjustified-refusal", f"{machine.name}: {error}")
            finally:
                if self.machine is machine:  # not while a later life is at work
                    self._current = None

    async def _act(self, machine: Machine, acts: Acts) -> None:
        """A block of the SDK: sometimes its own exception ends it, and then nothing has left."""
        act = self._new(machine, self._places())
        try:
            name = self.plan.name if self.chance.random() < 0.7 else ""
            async with acts.block(name, f"{PATIENCE_MS}ms") as block:
                for partition, value in act.messages:
                    block.publish(partition.topic, value, partition=partition.number)
                if self.chance.random() < 0.1:
                    raise _ChangedItsMindError
        except _ChangedItsMindError:
            self._settle(act, FAILED)
            return
        except CorgiError as error:
            self._failed(act, error)
            raise
        self._count("acts_in_two_phases" if block.receipt.two_phase else "acts_in_one")
        self._settle(act, OK)

    async def _ferry(self, machine: Machine, acts: Acts) -> None:
        """What is made of some offsets of a topic, and the checkpoint behind them: without any membership."""
        places = [place for place in self.scene.partitions() if place[0].topic == INPUT]
        if not places:
            return
        source, topic = self.chance.choice(places)
        asked = Cursors(FERRY, ((topic, source.number, 0),), PATIENCE_MS)
        [cursor] = (await ask_for(machine.shell, asked, CursorsReply)).cursors
        first, end = max(cursor.offset, 0), min(max(cursor.offset, 0) + 3, cursor.end)
        if first >= end:
            return
        made = [(offset, f"{FERRY}<{source}<{offset}".encode()) for offset in range(first, end)]
        for offset, value in made:
            result = Result(FERRY, machine.name, source, offset, (value,), self.world.now)
            self.scene.history.results.append(result)
        targets = [partition for partition, _ in self._places()]
        async with acts.block("", f"{PATIENCE_MS}ms") as block:
            for _, value in made:
                target = self.chance.choice(targets)
                block.publish(target.topic, value, partition=target.number)
            block.checkpoint(FERRY, source.topic, source.number, end, version=cursor.version,
                             owner_epoch=cursor.owner_epoch, member=cursor.member)  # fmt: skip
        self._count("ferries_in_two_phases" if block.receipt.two_phase else "ferries_in_one")

    async def _by_hand(self, machine: Machine, acts: Acts) -> None:
        """A transaction in single steps: committed, aborted, or left open until it is over."""
        shell, name = machine.shell, self.plan.name
        places = self._places()
        begun = await ask_for(shell, t.InitTransactions(name, PATIENCE_MS), t.InitTransactionsReply)
        who = (name, begun.producer_id, begun.producer_epoch, begun.number + 1)
        life_ms = self.chance.choice(LIFE_MS)
        act = self._new(machine, places)
        try:
            where = tuple([(topic, partition.number) for partition, topic in places])
            await ask_for(shell, t.OpenTransaction(*who, where, (), life_ms, PATIENCE_MS), t.OpenTransactionReply)
            await self._append(machine, act, places, begun)
            end = self.chance.random()
            if end < 0.3:
                await asyncio.sleep(life_ms / 1000 + LATE_S)
                self._count("transactions_left_open")
            elif end < 0.5:
                await ask_for(shell, t.EndTransaction(*who, False, PATIENCE_MS), t.EndTransactionReply)
                self._settle(act, FAILED)
                return
            await ask_for(shell, t.EndTransaction(*who, True, PATIENCE_MS), t.EndTransactionReply)
        except CorgiError as error:
            self._failed(act, error)
            raise
        self._settle(act, OK)

    async def _append(
        self, machine: Machine, act: Act, places: Sequence[Place], begun: t.InitTransactionsReply
    ) -> None:
        time_ms = WALL_AT_ZERO_MS + int(self.world.now * 1000)
        for partition, topic in places:
            records: list[RecordFields] = [
                (None, value, [], time_ms) for where, value in act.messages if where == partition
            ]
            identity = (begun.producer_id, begun.producer_epoch)
            batch = bytes(restamped(encode_batch(records), *identity, 0, transactional=True))
            message = Produce(QUORUM, PATIENCE_MS, ((topic, partition.number, len(batch)),))
            await ask_for(machine.shell, message, ProduceReply, payload=[batch])

    async def _prepare(self, machine: Machine, acts: Acts) -> None:
        """A message that is kept unseen until it is settled; nobody is asked back in time."""
        partition, topic = self._places()[0]
        act = self._new(machine, [(partition, topic)], most=1)
        batch = encode_batch([(None, act.messages[0][1], (), WALL_AT_ZERO_MS + int(self.world.now * 1000))])
        id_ = act.messages[0][1].decode()
        wanted = t.Prepare(id_, self.name, topic, partition.number, len(batch), 60_000, 1, PATIENCE_MS)
        try:
            await ask_for(machine.shell, wanted, t.PrepareReply, payload=[batch])
            commit = self.chance.random() < 0.7
            settling = t.Settle(id_, topic, partition.number, commit, PATIENCE_MS)
            await ask_for(machine.shell, settling, t.SettleReply)
        except CorgiError as error:
            self._failed(act, error)
            raise
        self._count("prepared_committed" if commit else "prepared_rolled_back")
        self._settle(act, OK if commit else FAILED)

    # ---- what is noted

    def _places(self) -> list[Place]:
        """Some partitions, often of several Paxos groups."""
        places = [place for place in self.scene.partitions() if place[0].topic == TOPIC]
        return self.chance.sample(places, min(len(places), self.chance.choice((1, 2, 2, 3))))

    def _new(self, machine: Machine, places: Sequence[Place], most: int = 2) -> Act:
        messages = []
        for partition, _ in places:
            for _ in range(self.chance.randint(1, most)):
                self._made += 1
                messages.append((partition, f"{self.name}.{self._made}".encode()))
        act = self._current = Act(machine.name, tuple(messages), self.world.now)
        self.acts.append(act)
        return act

    def _asked(self, message: WireMessage) -> None:
        """From when the commit is asked for, it may be seen."""
        act = self._current
        if act is None or act.decided != NEVER:
            return
        if isinstance(message, t.Atomic) or (isinstance(message, t.EndTransaction | t.Settle) and message.commit):
            act.decided = self.world.now

    def _settle(self, act: Act, status: str) -> None:
        act.status, act.ended = status, self.world.now
        if status == OK:
            self._count("transactions_committed")
        elif act.decided == NEVER:
            self._count("transactions_aborted")

    def _failed(self, act: Act, error: CorgiError) -> None:
        if act.decided == NEVER:
            self._settle(act, FAILED)
        elif error.code == "transaction-aborted":
            self._count("transactions_timed_out")
            self._settle(act, FAILED)
        else:
            self._settle(act, UNKNOWN)

    def _saw(self, message: WireMessage, answer: Answer) -> None:
        if getattr(answer, "error", 0) == errors.TRANSACTION_FENCED:
            self._count("zombies_refused")

    def _count(self, name: str) -> None:
        self.scene.front.cluster.count(name)


# What may befall who shares a name or a cursor with others, or was too late.
_EXPECTED = frozenset({
    "outcome-unknown", "transaction-aborted", "transaction-ended", "checkpoint-moved", "closed", "unknown-transaction",
})  # fmt: skip


def ferry_checkpoints(scene: Scene, cursors: Sequence[CursorInfo]) -> list[Checkpoint]:
    """Where the ferries are at the end."""
    topic = scene.topics[INPUT]
    return [
        Checkpoint(FERRY, Partition(INPUT, cursor.partition), max(0, cursor.offset), cursor.ranges, EXACTLY_ONCE)
        for cursor in cursors
        if cursor.topic == topic.id
    ]
