"""From queued commands to values on their way: what leaves a node at the end of a turn.

There is no timer: what came in one turn, and what had to wait for a group's window, becomes the group's next value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from corgi.base.command import Buffer, encode_value
from corgi.base.limits import COMMAND_BYTES_MAX, VALUE_COMMANDS_MAX
from corgi.broker.group import Group
from corgi.broker.proposals import Pending
from corgi.paxos.leader import Tenure
from corgi.paxos.messages import Forward

if TYPE_CHECKING:
    from corgi.broker.node import Node


class Outgoing:
    """Moves commands out of one node's groups: proposes, forwards, or asks for a leader."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def move(self, group: Group) -> None:
        """The end of a turn in which the group has commands waiting."""
        tenure = group.replica.tenure
        if tenure is None:
            self._forward(group)
        elif not tenure.handing_to:
            self._propose(group, tenure)

    def _forward(self, group: Group) -> None:
        node = self._node
        replica = group.replica
        group.foreign.clear()  # only the ballot they named could propose them; their origins submit them again
        route = replica.route()
        if route == 0:
            replica.want_leader()
            return
        hops = 0 if route == replica.leader else 1
        now = node.clock.now()
        while taken := group.proposals.take(COMMAND_BYTES_MAX // 4, VALUE_COMMANDS_MAX, replica.ballot, now):
            node.count("forwarded", len(taken))
            payload = b"".join([pending.encoded for pending in taken])
            node.network.send(route, Forward(group.id, replica.ballot, hops), payload)

    def _propose(self, group: Group, tenure: Tenure) -> None:
        node = self._node
        while len(tenure.flights) < node.options.window_slots:
            commands, own = self._merge(group, tenure)
            if not commands:
                return
            acks = [pending.leader_ack for pending in own if pending.leader_ack is not None]
            value = encode_value(node.clock.wall_ms(), commands)
            slot = group.replica.propose(value, _all(acks) if acks else None)
            if len(commands) > len(own):
                group.told_to = slot  # other nodes wait for its outcome

    def _merge(self, group: Group, tenure: Tenure) -> tuple[list[Buffer], list[Pending]]:
        """The commands of one value: forwarded ones first, they have come a longer way."""
        bytes_max = self._node.options.value_bytes_max
        commands: list[Buffer] = []
        size = 0
        while group.foreign and size < bytes_max and len(commands) < VALUE_COMMANDS_MAX:
            command = group.foreign.popleft()
            commands.append(command)
            size += len(command)
        own: list[Pending] = []
        if size < bytes_max and len(commands) < VALUE_COMMANDS_MAX:
            room = VALUE_COMMANDS_MAX - len(commands)
            own = group.proposals.take(bytes_max - size, room, tenure.ballot, self._node.clock.now())
            commands.extend([pending.encoded for pending in own])
        return commands, own


def _all(calls: Sequence[Callable[[], None]]) -> Callable[[], None]:
    def call() -> None:
        for each in calls:
            each()

    return call
