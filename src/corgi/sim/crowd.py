"""Consumer groups and transactional clients: which of them a run has, their topics, and how they come to rest.

They are a load of their own, drawn from chance of its own: the other clients of a run draw what they always draw. When
producers have ended, every group drains what was acknowledged, and every transaction ends; then members leave, and the
cursors are read a last time.
"""

from __future__ import annotations

from collections.abc import Callable

from corgi.history.model import Partition
from corgi.sim import transactors
from corgi.sim.clients import Client
from corgi.sim.consumers import INPUT, RESULTS, SEMANTICS, Team, draw
from corgi.sim.machines import Machine
from corgi.sim.scene import Scene, Topic
from corgi.sim.transactors import FERRY, Transactor, ferry_checkpoints
from corgi.wire.group_messages import CursorInfo, Cursors, CursorsReply
from corgi.wire.messages import WireMessage
from corgi.wire.transaction_messages import ListTransactions, ListTransactionsReply

GROUPS_SHARE = 0.25  # of the seeds have consumer groups
TRANSACTIONS_SHARE = 0.2
LOOK_S = 0.3
ASK_MS = 1_500


class Inspector(Client):
    """Asks for the cursors of groups, and for what transactions are open, until it is told."""

    def __init__(self, scene: Scene, name: str) -> None:
        super().__init__(scene, name)
        self._todo: list[tuple[WireMessage, Callable[[WireMessage], None]]] = []
        self._asked = False

    def inquire(self, message: WireMessage, told: Callable[[WireMessage], None]) -> None:
        self._todo.append((message, told))
        self._next()

    def connected(self) -> None:
        self._next()

    def lost(self) -> None:
        self._asked = False

    def _next(self) -> None:
        if self._todo and not self._asked and self.session is not None:
            message, told = self._todo[0]
            self._asked = self.ask(message, b"", lambda reply, _: self._answered(told, reply))

    def _answered(self, told: Callable[[WireMessage], None], reply: WireMessage | None) -> None:
        self._asked = False
        if isinstance(reply, CursorsReply | ListTransactionsReply) and not reply.error:
            self._todo.pop(0)
            told(reply)
            self._next()
        elif reply is not None:
            self.world.after(LOOK_S, self._next)


class Crowd:
    """All groups and transactors of a run; often nobody."""

    def __init__(self, scene: Scene, *, groups: bool | None = None, transactions: bool | None = None) -> None:
        """Whether there are any; None leaves it to the seed."""
        chance = scene.world.stream("groups")
        some = chance.random() < GROUPS_SHARE
        acts = chance.random() < TRANSACTIONS_SHARE
        some = some if groups is None else groups
        acts = acts if transactions is None else transactions
        self.scene = scene
        self.world = scene.world
        self.teams: list[Team] = []
        self.transactors: list[Transactor] = []
        self.inspector = Inspector(scene, "inspector")
        self.topics: list[Topic] = []  # to be made at the beginning
        self._phase = "working"
        self._waiting = 0  # questions without an answer
        self._undone: list[str] = []
        self._ferry: tuple[CursorInfo, ...] = ()
        if some:
            work = self._topic(INPUT, chance.choice((1, 2, 3, 4)), keyed=True)
            beside = INPUT if chance.random() < 0.7 else ""  # otherwise results take two phases
            self._topic(RESULTS, work.partitions, beside=beside, sparse=True)
            for number, semantics in enumerate(chance.sample(SEMANTICS, chance.choice((1, 1, 2)))):
                self.teams.append(Team(scene, draw(chance, number, semantics)))
        if acts:
            self._topic(transactors.TOPIC, chance.choice((2, 3, 4)), sparse=True)
            plans = transactors.draw(chance, chance.choice((1, 2, 2, 3)), ferries=some and chance.random() < 0.7)
            self.transactors = [Transactor(scene, plan) for plan in plans]

    def _topic(
        self, name: str, partitions: int, *, beside: str = "", keyed: bool = False, sparse: bool = False
    ) -> Topic:
        """``sparse``: transactions end in it, and their marks take offsets."""
        topic = self.scene.topics[name] = Topic(name, partitions, colocate_with=beside, keyed=keyed)
        self.topics.append(topic)
        if sparse:
            self.scene.history.sparse |= {Partition(name, number) for number in range(partitions)}
        return topic

    def start(self, until: float) -> None:
        if self.teams or self.transactors:
            self.inspector.start()
        for team in self.teams:
            team.start(until)
        for one in self.transactors:
            one.start(until)

    def heal(self) -> None:
        for team in self.teams:
            team.heal()
        for one in self.transactors:
            one.heal()

    # ---- coming to rest

    def idle(self) -> bool:
        """Asked again and again when nothing new is produced: goes from one phase to the next."""
        if not self.teams and not self.transactors:
            return True
        if self._phase == "working":
            self._phase = "draining"
            self._look()
        elif self._phase == "draining" and not self._waiting and not self._undone:
            self._phase = "leaving"
            for team in self.teams:
                team.close()
        elif self._phase == "leaving" and not any(team.running() for team in self.teams):
            self._phase = "reading"
            self._ask_cursors()
            if any(one.plan.ferries for one in self.transactors):
                self._inquire(Cursors(FERRY, None, ASK_MS), self._ferried)
        elif self._phase == "reading" and not self._waiting:
            self._phase = "over"
        return self._phase == "over"

    def unfinished(self) -> list[str]:
        if self.idle():
            return []
        waits = [machine.name for team in self.teams for machine in team.running()]
        return [f"groups are {self._phase}: {self._undone[:10]}, running {waits}, {self._waiting} questions open"]

    def tell(self) -> None:
        """Everything is over and drained: what groups and transactors know, into the history."""
        for team in self.teams:
            team.tell()
        for one in self.transactors:
            self.scene.history.transactions.extend(act.told() for act in one.acts)
        self.scene.history.checkpoints.extend(ferry_checkpoints(self.scene, self._ferry) if self._ferry else ())

    def wind_up(self) -> None:
        machines: list[Machine] = [machine for team in self.teams for machine in team.every]
        machines += [machine for one in self.transactors for machine in one.machines]
        for machine in machines:
            machine.wind_up()

    def _look(self) -> None:
        if self._phase != "draining":
            return
        self._undone = [one.name for one in self.transactors if not one.idle()]
        self._ask_cursors()
        self._inquire(ListTransactions(ASK_MS), self._listed)
        self.world.after(LOOK_S, self._look_again)

    def _look_again(self) -> None:
        if self._waiting:
            self.world.after(LOOK_S, self._look_again)
        elif self._undone:
            self._look()

    def _ask_cursors(self) -> None:
        for team in self.teams:
            self._inquire(Cursors(team.plan.group, None, ASK_MS), lambda reply, team=team: self._placed(team, reply))  # type: ignore[misc]

    def _inquire(self, message: WireMessage, told: Callable[[WireMessage], None]) -> None:
        self._waiting += 1

        def answered(reply: WireMessage) -> None:
            self._waiting -= 1
            told(reply)

        self.inspector.inquire(message, answered)

    def _placed(self, team: Team, reply: WireMessage) -> None:
        assert isinstance(reply, CursorsReply)
        team.cursors = reply.cursors
        left = team.left()
        if left:
            self._undone.append(f"{team.plan.group} has not done {', '.join(left[:5])} ({len(left)})")

    def _ferried(self, reply: WireMessage) -> None:
        assert isinstance(reply, CursorsReply)
        self._ferry = reply.cursors

    def _listed(self, reply: WireMessage) -> None:
        assert isinstance(reply, ListTransactionsReply)
        self._undone += [f"{one.name} is {one.state}" for one in reply.transactions if one.state != "prepared"]
