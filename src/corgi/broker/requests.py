"""Client requests of one node: each kind has its part, and here they meet the node's facts, time and end of turn.

A request that fails as a whole is answered with an ErrorReply and leaves the connection as it is; a fault of our own
(InvariantError) goes up and stops the node. What was applied in a turn leaves in the same turn: ``applied`` wakes those
who wait for it, ``flush`` serves them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from corgi.base.errors import CorgiError, InvariantError
from corgi.base.ports import ClientSession, Message
from corgi.broker.administration import Administration
from corgi.broker.barriers import Barriers
from corgi.broker.classic_commits import ClassicCommits
from corgi.broker.classic_groups import ClassicGroups
from corgi.broker.commits import Commits
from corgi.broker.coordinator import Coordinator
from corgi.broker.deletions import Deletions
from corgi.broker.fetch import Fetches
from corgi.broker.group_requests import GroupRequests
from corgi.broker.hearing import Hearing
from corgi.broker.metadata import MetadataQueries
from corgi.broker.offsets import OffsetQueries
from corgi.broker.places import Places
from corgi.broker.produce import Produces
from corgi.broker.producer_ids import ProducerIds
from corgi.broker.reigns import Reigns
from corgi.broker.status import status_reply
from corgi.broker.subscriptions import Subscriptions
from corgi.broker.topic_requests import TopicRequests
from corgi.broker.transaction_requests import TransactionRequests
from corgi.delivery.polls import Polls
from corgi.delivery.pushes import Pushes
from corgi.delivery.turns import Schedule
from corgi.delivery.values import Values
from corgi.wire import group_messages as g
from corgi.wire import messages as m

if TYPE_CHECKING:
    from corgi.broker.group import Group
    from corgi.broker.node import Node

Handler = Callable[[ClientSession, int, Message, memoryview], None]

NEXT_MILLISECOND_S = 0.001
COUNT_INTERVAL_S = 0.25  # how late the node's counters may tell of requests; no wake-up of its own


class Requests:
    """Everything that clients ask of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._started = node.clock.now()
        self._counted_next = self._started
        self.administration = Administration(node, node.options.memory_groups)
        self.places = Places(node)
        self.barriers = Barriers(node)
        self.hearing = Hearing(node)
        self.schedule = Schedule()
        self.values = Values(node.values.read, lambda group, slot: node.groups[group].slots.length(slot))
        self.pushes = Pushes(self.schedule, self.values, m.Deliver, m.SubscriptionEnded)
        self.polls = Polls(self.schedule, self.values)
        self.produces = Produces(node, self.places)
        self.fetches = Fetches(node, self.places, self.barriers, self.polls)
        self.subscriptions = Subscriptions(node, self.places, self.barriers, self.pushes)
        self.offsets = OffsetQueries(node, self.places, self.barriers)
        self.deletions = Deletions(node, self.places, self.barriers)
        self.metadata = MetadataQueries(node, self.administration, self.barriers)
        self.topics = TopicRequests(self.administration)
        self.commits = Commits(node, self.places)
        self.reigns = Reigns(node)
        self.coordinator = Coordinator(node, self.reigns)
        self.classic = ClassicGroups(node, self.reigns)
        self.classic_commits = ClassicCommits(node, self.places, self.barriers, self.classic)
        self.administration.when_opened = self.coordinator.topics_changed
        self.groups = GroupRequests(
            node, self.places, self.barriers, self.pushes, self.reigns, self.coordinator, self.classic
        )
        self.producer_ids = ProducerIds(node.options.node, node.options.boot)
        self.transactions = TransactionRequests(node, self.places, self.barriers, self.producer_ids)
        self._id_waiters: list[tuple[ClientSession, int]] = []
        self._counts: dict[type, int] = {}
        self._handlers = self._table()

    # -- facts --------------------------------------------------------------------------------------------------------

    def received(self, session: ClientSession, correlation: int, message: Message, payload: memoryview) -> None:
        """One request of a client. Raises InvariantError only."""
        kind = type(message)
        handler = self._handlers.get(kind)
        try:
            if handler is None:
                raise CorgiError("invalid-argument", f"a {kind.__name__} is not a request that a node answers")
            self._counts[kind] = self._counts.get(kind, 0) + 1
            handler(session, correlation, message, payload)
        except InvariantError:
            raise
        except CorgiError as error:
            self._fail(session, correlation, message, error)

    def session_closed(self, session: ClientSession) -> None:
        """The client is gone: nothing of it stays, except writes under way."""
        self.barriers.client_closed(session)
        self.hearing.client_closed(session)
        self.subscriptions.client_closed(session)
        self.polls.client_closed(session)
        self.schedule.remove(session)
        self.metadata.client_closed(session)
        self.produces.client_closed(session)
        self.reigns.client_closed(session)
        self.coordinator.client_closed(session)
        self.transactions.client_closed(session)
        self._id_waiters = [waiter for waiter in self._id_waiters if waiter[0] is not session]

    def session_drained(self, session: ClientSession) -> None:
        """The client takes bytes again."""
        self.schedule.drained(session)
        self.metadata.drained(session)

    def applied(self, group: Group) -> None:
        """Values were applied in ``group`` in this turn."""
        pushes, polls = self.pushes, self.polls
        for log in group.machine.take_appended():
            pushes.appended(log)
            polls.appended(log)
        if group.id == 0:
            names = group.machine.take_topic_changes()
            if names:
                self.places.topics_changed()
                self.metadata.topics_changed(names)
                self.coordinator.topics_changed()
        self.administration.applied(group)
        self.transactions.applied(group)

    def leader_changed(self, group: Group) -> None:
        self.metadata.leader_changed(group.id)
        self.administration.leader_changed(group)
        self.reigns.leader_changed(group.id)

    def stopping(self) -> None:
        """The node stops: subscribers and polls go elsewhere; writes under way are still answered."""
        self.subscriptions.stopping()
        self.polls.answer_all()

    # -- time ---------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """End of a turn: serve who waits, within the turn's bounds, and tell the watchers."""
        self.coordinator.flush()
        self.classic.flush()
        self.schedule.run(self._node.clock.now())
        self.values.admit()
        self.metadata.flush()

    def advance(self, now: float) -> None:
        """Run what is due."""
        self.hearing.advance(now)
        self.polls.advance(now)
        self.schedule.advance(now)
        self.administration.advance(now)
        self.transactions.advance(now)
        self.reigns.look()
        self.coordinator.advance(now)
        self.classic.advance(now)
        if now >= self._counted_next:
            self._counted_next = now + COUNT_INTERVAL_S
            self._node.counters.update(self.sums())
        if self._id_waiters:
            waiters, self._id_waiters = self._id_waiters, []
            for client, correlation in waiters:
                self._init_producer(client, correlation)

    def next_deadline(self) -> float | None:
        """When ``advance`` and ``flush`` must be called at the latest (monotonic seconds)."""
        now = self._node.clock.now()
        deadlines = [
            deadline
            for deadline in (
                self.schedule.next_deadline(now),
                self.polls.next_deadline(),
                self.hearing.next_deadline(),
                self.administration.next_deadline(),
                self.transactions.next_deadline(),
                self.coordinator.next_deadline(),
                self.classic.next_deadline(),
                now + NEXT_MILLISECOND_S if self._id_waiters else None,
            )
            if deadline is not None
        ]
        return min(deadlines) if deadlines else None

    # -- counters -----------------------------------------------------------------------------------------------------

    def counters(self) -> dict[str, float]:
        """Sums since the start and how things stand now."""
        return {**self.sums(), **self.gauges()}

    def sums(self) -> dict[str, float]:
        """What only grows; also among the node's own counters, a moment late.

        ``client_requests`` against ``delivered_batches`` tells whether consumers are pushed to or ask.
        """
        pushes = self.pushes.statistics()
        produced = self.produces.counters
        found: dict[str, float] = {
            "client_requests": sum(self._counts.values()),
            "produced_batches": produced.batches,
            "produced_bytes": produced.bytes,
            "produce_refused_batches": produced.refused,
            "produce_silent_dropped_batches": produced.silent_dropped,
            "delivered_batches": pushes.batches,
            "delivered_bytes": pushes.bytes,
            "delivered_frames": pushes.frames,
            "delivery_sessions_begun": pushes.begun,
            "delivery_to_tail": pushes.to_tail,
            "delivery_to_catching_up": pushes.to_catching_up,
            "delivery_out_of_credit": pushes.out_of_credit,
            "delivery_parkings": self.schedule.parkings,
            "cold_reads": self.values.cold_reads,
            "cold_cache_hits": self.values.cold_hits,
        }
        for kind, count in self._counts.items():
            found[f"client_requests_{kind.__name__.lower()}"] = count
        return found

    def gauges(self) -> dict[str, float]:
        """How things stand."""
        pushes = self.pushes.statistics()
        return {
            "produce_bytes_in_flight": self.produces.bytes_in_flight,
            "delivery_subscriptions": pushes.subscriptions,
            "delivery_at_tail": pushes.at_tail,
            "delivery_catching_up": pushes.subscriptions - pushes.at_tail,
            "delivery_clients_parked": self.schedule.clients_parked,
            "fetches_waiting": len(self.polls),
            "group_turn_max_s": self.coordinator.turn_max_s,
            "cold_bytes_held": self.values.bytes_held,
        }

    # -- the parts ----------------------------------------------------------------------------------------------------

    def _table(self) -> dict[type, Handler]:
        """Handlers by message; those that need no payload are wrapped."""

        def plain(handler: Callable[..., None]) -> Handler:
            return lambda client, correlation, message, _: handler(client, correlation, message)

        return {
            m.Produce: cast("Handler", self.produces.received),
            m.Fetch: plain(self.fetches.received),
            m.Subscribe: plain(self.subscriptions.subscribe),
            m.Credit: lambda client, _correlation, message, _: self.subscriptions.credit(
                client, cast("m.Credit", message)
            ),
            m.Unsubscribe: plain(self.subscriptions.unsubscribe),
            m.Metadata: plain(self.metadata.received),
            m.CreateTopic: plain(self.topics.create),
            m.AlterTopic: plain(self.topics.alter),
            m.DeleteTopic: plain(self.topics.delete),
            m.ListOffsets: plain(self.offsets.received),
            m.DeleteRecords: plain(self.deletions.received),
            m.InitProducer: lambda client, correlation, _message, _: self._init_producer(client, correlation),
            m.Status: lambda client, correlation, _message, _: self._status(client, correlation),
            g.Commit: cast("Handler", self.commits.received),
            g.GroupHeartbeat: plain(self.groups.heartbeat),
            g.Cursors: plain(self.groups.cursors),
            g.ListGroups: plain(self.groups.list_groups),
            g.DescribeGroup: plain(self.groups.describe),
            g.DeleteGroup: plain(self.groups.delete),
            g.ResetGroup: plain(self.groups.reset),
            g.Sessions: plain(self.groups.sessions),
            **self.transactions.handlers(),
            m.Ping: lambda client, correlation, _message, _: client.reply(correlation, m.Pong()),
        }

    def _init_producer(self, client: ClientSession, correlation: int) -> None:
        log_times_ms = [group.machine.log_time_ms for group in self._node.groups]
        number = self.producer_ids.next(self._node.clock.wall_ms(), log_times_ms)
        if number is None:
            self._id_waiters.append((client, correlation))
        else:
            client.reply(correlation, m.InitProducerReply(number, 0))

    def _status(self, client: ClientSession, correlation: int) -> None:
        uptime_s = self._node.clock.now() - self._started
        client.reply(correlation, status_reply(self._node, uptime_s, self.counters()))

    def _fail(self, session: ClientSession, correlation: int, message: Message, error: CorgiError) -> None:
        """Answer a request that failed as a whole; those that are never answered fail silently."""
        silent = isinstance(message, m.Credit) or (isinstance(message, m.Produce) and message.acks == 0)
        self._node.count("client_requests_failed")
        if not silent and not session.closed:
            session.reply(correlation, m.ErrorReply(error.kind.number, error.message))
