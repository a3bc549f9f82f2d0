"""Two nodes and their groups' logs without consensus: a test decides what is chosen when, and who applies it when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from corgi.base import errors
from corgi.base.command import Buffer, CommandKind, encode_command, encode_value
from corgi.base.ids import FIRST_USER_TOPIC, GroupId, NodeId, Slot, make_origin
from corgi.broker.administration import Administration
from corgi.state.machine import Machine, Outcome
from corgi.wire.messages import AlterTopic, CreateTopic, DeleteTopic, TopicInfo

GROUPS = 4


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def wall_ms(self) -> int:
        return int(self.seconds * 1000)


class Leading:
    def __init__(self) -> None:
        self.leading = False


class Group:
    def __init__(self, group: int) -> None:
        self.id = GroupId(group)
        self.machine = Machine(self.id, GROUPS)
        self.replica = Leading()


class Submitted:
    """A command on its way."""

    def __init__(
        self, node: Node, group: int, kind: int, counter: int, body: bytes, done: Any, deadline: float
    ) -> None:
        self.node, self.group, self.kind, self.counter = node, group, CommandKind(kind), counter
        self.encoded = encode_command(kind, node.origin, counter, 0, body)
        self.done: Callable[[Outcome], None] | None = done
        self.deadline = deadline

    def finish(self, outcome: Outcome) -> None:
        done, self.done = self.done, None
        assert done is not None, "answered twice"
        done(outcome)

    def fail(self, error: int) -> None:
        self.finish(Outcome(self.node.origin, self.counter, error, (), -1))


class Node:
    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.clock = world.clock
        self.origin = make_origin(NodeId(number), 1)
        self.groups = [Group(group) for group in range(GROUPS)]
        self.counter = 0
        self.waiting: dict[tuple[int, int], Submitted] = {}
        self.frozen: set[int] = set()  # groups that it does not apply
        self.administration = Administration(self)

    def submit(
        self,
        group: GroupId,
        kind: CommandKind,
        body: Buffer,
        done: Callable[[Outcome], None],
        *,
        timeout_s: float,
        makes_room: bool = False,
    ) -> None:
        self.counter += 1
        deadline = self.clock.now() + timeout_s
        submitted = Submitted(self, group, kind, self.counter, bytes(body), done, deadline)
        self.waiting[group, self.counter] = submitted
        self.world.submitted.append(submitted)
        self.world.history.append(submitted)

    def apply(self, group: int) -> bool:
        """Apply what is chosen; a turn of the loop. True if there was anything."""
        here, log = self.groups[group], self.world.logs[group]
        if group in self.frozen or here.machine.applied == len(log):
            return False
        while here.machine.applied < len(log):
            slot = Slot(here.machine.applied + 1)
            for outcome in here.machine.apply(slot, log[slot - 1]):
                submitted = self.waiting.pop((group, outcome.counter), None) if outcome.origin == self.origin else None
                if submitted is not None and submitted.done is not None:
                    submitted.finish(outcome)
        self.administration.applied(here)
        return True


class World:
    """``leaders[g]`` is the node (0 or 1) that leads group g; ``held`` groups decide nothing."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.logs: list[list[bytes]] = [[] for _ in range(GROUPS)]
        self.submitted: list[Submitted] = []
        self.history: list[Submitted] = []
        self.held: set[int] = set()
        self.nodes = [Node(self, 1), Node(self, 2)]
        for group in range(GROUPS):
            self.lead(group, group % 2)

    def lead(self, group: int, leader: int) -> None:
        for number, node in enumerate(self.nodes):
            node.groups[group].replica.leading = number == leader
            node.administration.leader_changed(node.groups[group])

    def decide(self) -> bool:
        """Choose what was submitted to groups that are not held, one value per group."""
        ready = [submitted for submitted in self.submitted if submitted.group not in self.held]
        self.submitted = [submitted for submitted in self.submitted if submitted.group in self.held]
        for group in sorted({submitted.group for submitted in ready}):
            commands = [submitted.encoded for submitted in ready if submitted.group == group]
            self.logs[group].append(encode_value(self.clock.wall_ms(), commands))
        return bool(ready)

    def turn(self) -> bool:
        moved = self.decide()
        for node in self.nodes:
            for group in range(GROUPS):
                moved |= node.apply(group)
        return moved

    def due(self) -> bool:
        """Let time pass up to the next deadline, if there is one."""
        deadlines = [node.administration.next_deadline() for node in self.nodes]
        deadlines += [submitted.deadline for submitted in self.submitted]
        times = [deadline for deadline in deadlines if deadline is not None]
        if not times:
            return False
        self.clock.seconds = max(self.clock.seconds, min(times))
        self.tick()
        return True

    def tick(self) -> None:
        for submitted in [one for one in self.submitted if one.deadline <= self.clock.seconds]:
            self.submitted.remove(submitted)
            submitted.node.waiting.pop((submitted.group, submitted.counter))
            submitted.fail(errors.TIMEOUT)
        for node in self.nodes:
            node.administration.advance(self.clock.seconds)

    def settle(self, seconds: float = 1.0) -> None:
        """Let that much time pass."""
        end = self.clock.seconds + seconds
        for _ in range(10_000):
            while self.turn():
                pass
            deadlines = [node.administration.next_deadline() for node in self.nodes]
            times = [deadline for deadline in deadlines if deadline is not None and deadline <= end]
            self.clock.seconds = max(self.clock.seconds, min(times)) if times else end
            self.tick()
            if not times:
                return
        raise AssertionError("it never comes to rest")

    def sent(self, *kinds: CommandKind) -> list[Submitted]:
        return [submitted for submitted in self.history if submitted.kind in kinds]

    def check_partitions(self) -> None:
        """Every group holds exactly the partitions that the topics have there, with their settings."""
        for node in self.nodes:
            topics = node.groups[0].machine.topics
            assert topics is not None
            for group in node.groups:
                wanted = {
                    (topic.topic, partition): topic.config
                    for topic in topics.by_id.values()
                    for partition in topic.partitions_in(group.id)
                }
                held = {
                    key: log.config for key, log in group.machine.partitions.items() if log.topic >= FIRST_USER_TOPIC
                }
                assert held == wanted


class Answers:
    """What became of a request; complains when it is answered twice."""

    def __init__(self) -> None:
        self.answer: tuple[int, str, TopicInfo | None] | None = None

    def __call__(self, error: int, message: str, topic: TopicInfo | None) -> None:
        assert self.answer is None, "answered twice"
        self.answer = (error, message, topic)

    @property
    def error(self) -> int:
        assert self.answer is not None, "not answered yet"
        return self.answer[0]

    @property
    def message(self) -> str:
        assert self.answer is not None, "not answered yet"
        return self.answer[1]

    @property
    def topic(self) -> TopicInfo:
        assert self.answer is not None, "not answered yet"
        assert self.answer[2] is not None
        return self.answer[2]


def ask(node: Node, message: CreateTopic | AlterTopic | DeleteTopic) -> Answers:
    answers = Answers()
    if isinstance(message, CreateTopic):
        node.administration.create(message, answers)
    elif isinstance(message, AlterTopic):
        node.administration.alter(message, answers)
    else:
        node.administration.delete(message, answers)
    return answers
