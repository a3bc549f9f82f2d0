"""Subscribe, Credit, Unsubscribe: from a client's words to delivery sessions.

Any node serves any partition that it has applied, whoever leads the group. An offset beyond the applied end is
confirmed through the log before the subscription begins, as for Fetch; credit that comes meanwhile is kept for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corgi.base.errors import BY_NUMBER, NOT_LEADER, OFFSET_OUT_OF_RANGE, OK, UNSETTLED, CorgiError
from corgi.base.ids import GroupId, Offset
from corgi.base.ports import ClientSession
from corgi.broker.barriers import Barrier, Barriers
from corgi.broker.bounds import INT64_MAX, UINT32_MAX, check_range
from corgi.broker.places import Places
from corgi.delivery.limits import CREDIT_MAX, SUBSCRIPTIONS_MAX
from corgi.delivery.pushes import Pushes
from corgi.state.index import PartitionLog
from corgi.wire.messages import Credit, Subscribe, SubscribeReply, Unsubscribe, UnsubscribeReply

if TYPE_CHECKING:
    from corgi.broker.node import Node

CONFIRM_S = 5.0
NO_OFFSET = Offset(-1)


class _Starting:
    """A subscription that waits for its group's end."""

    __slots__ = ("barrier", "correlation", "credit")

    def __init__(self, correlation: int, credit: int) -> None:
        self.correlation = correlation
        self.credit = credit
        self.barrier: Barrier | None = None


class Subscriptions:
    """Begins and ends delivery sessions for clients."""

    __slots__ = ("_barriers", "_node", "_places", "_pushes", "_starting")

    def __init__(self, node: Node, places: Places, barriers: Barriers, pushes: Pushes) -> None:
        self._node = node
        self._places = places
        self._barriers = barriers
        self._pushes = pushes
        self._starting: dict[ClientSession, dict[int, _Starting]] = {}

    def subscribe(self, client: ClientSession, correlation: int, message: Subscribe) -> None:
        """Answers with an error of the partition; raises CorgiError "invalid-argument" for one of the request."""
        number = message.subscription
        check_range("subscription", number, 0, UINT32_MAX)
        check_range("offset", message.offset, 0, INT64_MAX)
        check_range("credit", message.credit, 1, CREDIT_MAX)
        if number in self._starting.get(client, ()):
            raise CorgiError("invalid-argument", f"subscription {number} is in use on this connection")
        try:
            if self._node.stopping:
                raise CorgiError("not-leader", "the node is stopping")
            group, log = self._places.to_read(message.topic, message.partition)
        except CorgiError as error:
            client.reply(correlation, SubscribeReply(error.kind.number, NO_OFFSET, NO_OFFSET, error.message))
            return
        if message.offset < log.start:
            text = f"the partition starts at offset {log.start}"
            client.reply(correlation, SubscribeReply(OFFSET_OUT_OF_RANGE, log.end, log.start, text))
        elif message.offset <= log.end:
            self._begin(client, correlation, message, group, log, message.credit)
        else:
            self._confirm(client, correlation, message, group, log)

    def credit(self, client: ClientSession, message: Credit) -> None:
        """Never answered; a grant that makes no sense ends its subscription, more than there can be the connection."""
        if len(message.grants) > SUBSCRIPTIONS_MAX:
            client.fail(CorgiError("invalid-argument", f"a Credit has at most {SUBSCRIPTIONS_MAX} grants"))
            return
        for number, credit in message.grants:
            starting = self._starting.get(client, {}).get(number)
            if starting is not None:
                starting.credit = min(starting.credit + max(credit, 0), CREDIT_MAX)
            else:
                self._pushes.grant(client, number, credit)

    def unsubscribe(self, client: ClientSession, correlation: int, message: Unsubscribe) -> None:
        """Answered also when there was no such subscription: it may just have ended."""
        starting = self._starting.get(client, {}).get(message.subscription)
        if starting is not None and starting.barrier is not None:
            starting.barrier.cancel()
            self._started(client, message.subscription)
            text = "the subscription was ended before it began"
            client.reply(starting.correlation, SubscribeReply(UNSETTLED, NO_OFFSET, NO_OFFSET, text))
        else:
            self._pushes.unsubscribe(client, message.subscription)
        client.reply(correlation, UnsubscribeReply())

    def client_closed(self, client: ClientSession) -> None:
        self._starting.pop(client, None)
        self._pushes.client_closed(client)

    def stopping(self) -> None:
        """Send every subscriber to another node."""
        self._pushes.end_all(NOT_LEADER, "the node is stopping")

    def _confirm(
        self, client: ClientSession, correlation: int, message: Subscribe, group: GroupId, log: PartitionLog
    ) -> None:
        starting = _Starting(correlation, message.credit)

        def confirmed(errors: dict[GroupId, int]) -> None:
            self._started(client, message.subscription)
            if message.offset <= log.end:
                self._begin(client, correlation, message, group, log, starting.credit)
                return
            error = errors.get(group, OFFSET_OUT_OF_RANGE)
            text = f"the partition ends at offset {log.end}" if group not in errors else BY_NUMBER[error].meaning
            client.reply(correlation, SubscribeReply(error, log.end, log.start, text))

        starting.barrier = self._barriers.confirm(client, (group,), CONFIRM_S, confirmed)
        self._starting.setdefault(client, {})[message.subscription] = starting

    def _begin(
        self,
        client: ClientSession,
        correlation: int,
        message: Subscribe,
        group: GroupId,
        log: PartitionLog,
        credit: int,
    ) -> None:
        try:
            session = self._pushes.subscribe(
                client, message.subscription, log, group, message.offset, credit, committed=message.committed
            )
        except CorgiError as error:
            client.reply(correlation, SubscribeReply(error.kind.number, log.end, log.start, error.message))
            return
        session.consumer_group, session.member = message.group, message.member
        client.reply(correlation, SubscribeReply(OK, log.end, log.start))

    def _started(self, client: ClientSession, number: int) -> None:
        starting = self._starting.get(client)
        if starting is not None:
            starting.pop(number, None)
            if not starting:
                del self._starting[client]
