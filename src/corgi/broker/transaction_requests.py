"""The parts of a node that serve transactions, where they meet its facts, its time and its clients' requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from corgi.base.errors import BY_NUMBER, OK
from corgi.base.ids import GroupId
from corgi.base.ports import ClientSession, Message
from corgi.broker.barriers import Barriers
from corgi.broker.bounds import timeout_s
from corgi.broker.decisions import Decisions
from corgi.broker.places import Places
from corgi.broker.prepared import Prepared
from corgi.broker.producer_ids import ProducerIds
from corgi.broker.transactions import Transactions
from corgi.wire import transaction_messages as t

if TYPE_CHECKING:
    from corgi.broker.group import Group
    from corgi.broker.node import Node

LISTED_MAX = 10_000

Handler = Callable[[ClientSession, int, Message, memoryview], None]


class TransactionRequests:
    """Decisions, transactions and prepared messages of one node."""

    def __init__(self, node: Node, places: Places, barriers: Barriers, producer_ids: ProducerIds) -> None:
        self._node = node
        self._barriers = barriers
        self.decisions = Decisions(node)
        self.transactions = Transactions(node, places, self.decisions, producer_ids)
        self.prepared = Prepared(node, places)

    def handlers(self) -> dict[type, Handler]:
        def plain(handler: Callable[..., None]) -> Handler:
            return lambda client, correlation, message, _: handler(client, correlation, message)

        return {
            t.InitTransactions: plain(self.transactions.init),
            t.OpenTransaction: plain(self.transactions.open),
            t.EndTransaction: plain(self.transactions.end),
            t.Atomic: cast("Handler", self.transactions.atomic),
            t.Prepare: cast("Handler", self.prepared.prepare),
            t.Settle: plain(self.prepared.settle),
            t.Watch: plain(self.prepared.watch),
            t.ListTransactions: plain(self._list),
        }

    def applied(self, group: Group) -> None:
        """Values were applied in ``group`` in this turn."""
        records = group.machine.transaction_records
        if records.changed:
            self.decisions.applied(group)
            self.prepared.applied(group)
            records.changed.clear()

    def client_closed(self, client: ClientSession) -> None:
        self.prepared.client_closed(client)

    def advance(self, now: float) -> None:
        self.decisions.advance(now)
        self.prepared.advance(now)

    def next_deadline(self) -> float | None:
        deadlines = [d for d in (self.decisions.next_deadline(), self.prepared.next_deadline()) if d is not None]
        return min(deadlines) if deadlines else None

    def _list(self, client: ClientSession, correlation: int, message: t.ListTransactions) -> None:
        """Raises CorgiError "overloaded"."""

        def confirmed(errors: dict[GroupId, int]) -> None:
            if errors:
                error = next(iter(errors.values()))
                client.reply(correlation, t.ListTransactionsReply(error, BY_NUMBER[error].meaning))
                return
            found = (*self.transactions.infos(), *self.prepared.infos())[:LISTED_MAX]
            client.reply(correlation, t.ListTransactionsReply(OK, "", found))

        self._barriers.confirm_all(client, timeout_s(message.timeout_ms), confirmed)
