"""ListTransactions (66), versions 0 and 1: the transactional ids whose records this node's Paxos groups keep (KIP-664).

Clients ask every node and put the answers together, so a node tells of the Paxos groups of which it is the coordinator
in the eyes of clients.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Annotated

from corgi.base.ids import GroupId
from corgi.broker.decisions import OPEN, Decided
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int32, Int64, Since
from corgi.kafka.errors import Code, code_of
from corgi.kafka.transactional import STATES, state_of

CONFIRM_S = 10.0
LISTED_MAX = 10_000
_FLEXIBLE = 0


class Request(Body, frozen=True):
    states: tuple[str, ...]
    producer_ids: tuple[Int64, ...]
    age_ms: Annotated[Int64, Since(1)] = -1


class State(Body, frozen=True):
    name: str
    producer_id: Int64
    state: str


class Response(Body, frozen=True):
    throttle_ms: Int32
    error: Int16
    unknown_states: tuple[str, ...] = ()
    states: tuple[State, ...] = ()


def handle(call: Call[Request]) -> None:
    """Answered behind a barrier in the Paxos groups that this node tells of."""
    front = call.front
    unknown = tuple([state for state in call.request.states if state not in STATES])

    def confirmed(errors: dict[GroupId, int]) -> None:
        if errors:
            call.answer(Response(0, code_of(next(iter(errors.values())))))
            return
        found = tuple(islice(_matching(call, groups), LISTED_MAX))
        call.answer(Response(0, Code.NONE, unknown, found))

    alive = front.alive()
    mine = front.node.options.node
    durable = front.node.groups[: front.node.options.groups]  # where the records of transactions are
    groups = {group.id: None for group in durable if front.lead(group.id, alive).leader == mine}
    front.node.requests.barriers.confirm(call.session, groups, CONFIRM_S, confirmed)


def _matching(call: Call[Request], groups: dict[GroupId, None]) -> Iterator[State]:
    request = call.request
    now_ms = call.front.node.clock.wall_ms()
    for name, found in call.front.node.requests.transactions.decisions.of_groups(groups):
        state = state_of(found)
        if request.states and state not in request.states:
            continue
        if request.producer_ids and found.producer_id not in request.producer_ids:
            continue
        if request.age_ms >= 0 and not _older(found, now_ms - request.age_ms):
            continue
        if not call.may(Operation.DESCRIBE, Kind.TRANSACTIONAL_ID, name):
            continue
        yield State(name, found.producer_id, state)


def _older(found: Decided, than_ms: int) -> bool:
    return found.state == OPEN and found.started_ms < than_ms


API = Api(66, "ListTransactions", (0, 1), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
