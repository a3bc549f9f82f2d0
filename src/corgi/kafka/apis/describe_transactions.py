"""DescribeTransactions (65), version 0: the record of each transactional id, confirmed through the log (KIP-664)."""

from __future__ import annotations

from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId
from corgi.broker.decisions import OPEN, Decided
from corgi.kafka.access import Kind, Operation
from corgi.kafka.api import Api, Call, bodies
from corgi.kafka.codec import Body, Int16, Int32, Int64
from corgi.kafka.errors import Code, code_of
from corgi.kafka.transactional import Places, by_topic, state_of

CONFIRM_S = 10.0
NAMES_MAX = 1_000
_FLEXIBLE = 0


class Request(Body, frozen=True):
    names: tuple[str, ...]


class State(Body, frozen=True):
    error: Int16
    name: str
    state: str = ""
    timeout_ms: Int32 = 0
    started_ms: Int64 = -1
    producer_id: Int64 = -1
    producer_epoch: Int16 = -1
    topics: tuple[Places, ...] = ()


class Response(Body, frozen=True):
    throttle_ms: Int32
    states: tuple[State, ...]


def handle(call: Call[Request]) -> None:
    """Answered behind a barrier in the Paxos groups of the records."""
    names = call.request.names
    if len(names) > NAMES_MAX:
        call.close(CorgiError("invalid-argument", f"a request names at most {NAMES_MAX} transactional ids"))
        return
    decisions = call.front.node.requests.transactions.decisions

    def confirmed(errors: dict[GroupId, int]) -> None:
        states = []
        for name in names:
            error = errors.get(decisions.home(name), 0)
            states.append(State(code_of(error), name) if error else _tell(call, name, decisions.get(name)))
        call.answer(Response(0, tuple(states)))

    groups = {decisions.home(name): None for name in names}
    call.front.node.requests.barriers.confirm(call.session, groups, CONFIRM_S, confirmed)


def _tell(call: Call[Request], name: str, found: Decided | None) -> State:
    refused = call.refusal(Operation.DESCRIBE, Kind.TRANSACTIONAL_ID, name)
    if refused:
        return State(refused, name)
    if found is None:
        return State(Code.TRANSACTIONAL_ID_NOT_FOUND, name)
    started_ms = found.started_ms if found.state == OPEN else -1
    return State(
        Code.NONE,
        name,
        state_of(found),
        found.life_ms,
        started_ms,
        found.producer_id,
        found.epoch,
        tuple(
            [
                topic
                for topic in by_topic(call.front, found.partitions)
                if call.may(Operation.DESCRIBE, Kind.TOPIC, topic.name)
            ]
        ),
    )


API = Api(65, "DescribeTransactions", (0, 0), _FLEXIBLE, bodies(Request, _FLEXIBLE), handle)
