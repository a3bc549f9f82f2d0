"""From queued commands to values on their way: what leaves a node at the end of a turn.

There is no timer: what came in one turn, and what had to wait for a group's window, becomes the group's next value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from corgi.base.command import Buffer, encode_value
from corgi.base.errors import DISK_FULL, TIMEOUT
from corgi.base.ids import Ballot, Origin, Slot, make_origin, next_boot, origin_boot
from corgi.base.limits import COMMAND_BYTES_MAX, VALUE_COMMANDS_MAX
from corgi.broker.group import Group
from corgi.broker.proposals import Pending
from corgi.broker.room import is_message
from corgi.paxos.leader import Tenure
from corgi.paxos.messages import Forward
from corgi.state.outcomes import Outcome

if TYPE_CHECKING:
    from corgi.broker.node import Node


class Outgoing:
    """Moves commands out of one node's groups: proposes, forwards, or asks for a leader."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def move(self, group: Group) -> None:
        """The end of a turn in which the group has commands waiting."""
        tenure = group.replica.tenure
        room = self._node.room
        if room.restricted or (tenure is not None and not room.for_messages):
            self._refuse_messages(group)
        if tenure is None:
            self._forward(group)
        elif not tenure.handing_to:
            self._propose(group, tenure)

    def _refuse_messages(self, group: Group) -> None:
        """Too few disks have room: what would fill them goes no further. Origins elsewhere learn it by heartbeats."""
        if group.foreign:
            group.foreign = deque(command for command in group.foreign if not is_message(command))
        for pending, outcome in group.proposals.refuse(is_message, DISK_FULL):
            self._node.later(partial(pending.done, outcome))

    def tell_outcomes(self, group: Group) -> None:
        """Other nodes wait for commands in the slots up to ``told_to``: tell them at once what is chosen. Otherwise the
        commit index rides on the next Accept or heartbeat, which spares every node a wake-up per round."""
        replica = group.replica
        if replica.tenure is None or replica.prefix >= group.told_to:
            group.told_to = Slot(0)
        replica.send_commit()

    def retry_forwards(self, now: float) -> None:
        for group in self._node.groups:
            if len(group.proposals) and group.replica.tenure is None:
                group.proposals.retry_forwards(group.replica.ballot, now)

    def renew_origin(self, seen: Origin) -> None:
        """The log knows commands of an earlier life of this node with as high a boot: the disk was replaced, and the
        clock went back since.

        Commands of a lower boot are refused for good, epoch records among them; so this node goes on above it, by
        chance: (1) a first life ends, (2) a second one, on another disk, goes on above it, (3) a third one, on yet
        another disk, does so too before it has read of the second, and (4) takes the same number and is answered with
        the outcomes of the second one's commands.
        """
        node = self._node
        node.origin = make_origin(node.options.node, next_boot(origin_boot(seen), 0, node.random))
        node.count("origins_renewed")
        for group in node.groups:
            for pending in group.proposals.renew(node.origin):
                outcome = Outcome(node.origin, pending.counter, TIMEOUT, (), -1)
                node.later(partial(pending.done, outcome))

    def state_replaced(self, group: Group) -> None:
        """A group has the state of a peer's snapshot: own commands may be among what it has applied."""
        window = group.machine.windows.get(self._node.options.node)
        if window is not None and window.origin > self._node.origin:
            self.renew_origin(window.origin)
        elif window is not None and window.origin == self._node.origin:
            for outcome in list(window.outcomes.values()):
                group.proposals.settle(outcome)
        group.proposals.new_leader(Ballot(group.machine.leader_ballot))

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
