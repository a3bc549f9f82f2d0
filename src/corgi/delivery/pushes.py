"""All delivery sessions of a node: who subscribes to what, and what happens to them when the world moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, Offset, TopicId
from corgi.base.ports import ClientSession, Message
from corgi.delivery.committed import readable_end
from corgi.delivery.limits import CREDIT_MAX, SUBSCRIPTIONS_MAX
from corgi.delivery.ports import AppliedLog
from corgi.delivery.session import DeliveryCounters, DeliverySession, Surroundings
from corgi.delivery.turns import Schedule
from corgi.delivery.values import Values


class PushStatistics(NamedTuple):
    """A snapshot: sessions open now, how many of them at the tail, and sums over all that ever were."""

    subscriptions: int
    begun: int
    at_tail: int
    frames: int
    batches: int
    bytes: int
    to_tail: int
    to_catching_up: int
    out_of_credit: int


class Pushes:
    """Sessions by client and by partition; each is in both tables or in none."""

    __slots__ = ("_around", "_by_client", "_by_partition", "_make_ended", "_schedule")

    def __init__(
        self,
        schedule: Schedule,
        values: Values,
        make_deliver: Callable[[int, Offset, tuple[int, ...], Offset], Message],
        make_ended: Callable[[int, int, str], Message],
    ) -> None:
        self._schedule = schedule
        self._make_ended = make_ended
        self._around = Surroundings(values, DeliveryCounters(), make_deliver, schedule.wake, self.end)
        self._by_client: dict[ClientSession, dict[int, DeliverySession]] = {}
        self._by_partition: dict[tuple[TopicId, int], dict[DeliverySession, None]] = {}

    def subscribe(
        self,
        client: ClientSession,
        subscription: int,
        log: AppliedLog,
        group: GroupId,
        offset: Offset,
        credit: int,
        *,
        committed: bool = True,
    ) -> DeliverySession:
        """Start pushing from ``offset``, at the end of this turn. Raises "invalid-argument" for a number in use."""
        sessions = self._by_client.setdefault(client, {})
        if subscription in sessions:
            raise CorgiError("invalid-argument", f"subscription {subscription} is in use on this connection")
        if len(sessions) >= SUBSCRIPTIONS_MAX:
            raise CorgiError("overloaded", f"a connection has at most {SUBSCRIPTIONS_MAX} subscriptions")
        self._around.counters.begun += 1
        session = DeliverySession(client, subscription, log, group, offset, credit, self._around, committed=committed)
        sessions[subscription] = session
        self._by_partition.setdefault((log.topic, log.partition), {})[session] = None
        self._schedule.wake(session)
        return session

    def grant(self, client: ClientSession, subscription: int, credit: int) -> None:
        """More credit. Of a subscription that is not there any more it means nothing; too much ends it."""
        session = self._by_client.get(client, {}).get(subscription)
        if session is None:
            return
        if credit <= 0 or not session.grant(credit):
            error = CorgiError("invalid-argument", f"credit is 1 to {CREDIT_MAX} in sum, {credit} were granted")
            self.end(session, error.kind.number, error.message)
        elif session.offset < readable_end(session.log, committed=session.committed):
            self._schedule.wake(session)

    def unsubscribe(self, client: ClientSession, subscription: int) -> bool:
        """False if there was no such subscription."""
        session = self._by_client.get(client, {}).get(subscription)
        if session is None:
            return False
        self._remove(session)
        return True

    def appended(self, log: AppliedLog) -> None:
        """The log moved, or was closed: its subscribers are served, or told, in this turn."""
        sessions = self._by_partition.get((log.topic, log.partition))
        if sessions is not None:
            wake = self._schedule.wake
            for session in sessions:
                if not session.queued:
                    wake(session)

    def end_all(self, number: int, message: str) -> None:
        """End every subscription: the node stops."""
        for session in list(self.sessions()):
            self.end(session, number, message)

    def end(self, session: DeliverySession, number: int, message: str) -> None:
        """Tell the subscriber that nothing more comes, and why."""
        if not session.ended:
            self._remove(session)
            session.client.push(self._make_ended(session.subscription, number, message), ())

    def client_closed(self, client: ClientSession) -> None:
        for session in list(self._by_client.get(client, {}).values()):
            self._remove(session)

    def sessions(self) -> Iterator[DeliverySession]:
        for sessions in self._by_client.values():
            yield from sessions.values()

    def statistics(self) -> PushStatistics:
        counters = self._around.counters
        sessions = list(self.sessions())
        return PushStatistics(
            len(sessions),
            counters.begun,
            sum(session.tail for session in sessions),
            counters.frames,
            counters.batches,
            counters.bytes,
            counters.to_tail,
            counters.to_catching_up,
            counters.out_of_credit,
        )

    def _remove(self, session: DeliverySession) -> None:
        session.ended = True
        self._around.values.forget(session)
        by_client = self._by_client[session.client]
        del by_client[session.subscription]
        if not by_client:
            del self._by_client[session.client]
        key = (session.log.topic, session.log.partition)
        by_partition = self._by_partition[key]
        del by_partition[session]
        if not by_partition:
            del self._by_partition[key]
