"""Metadata: nodes, groups with their leaders, topics; and telling those who watch what changed, once per loop turn.

A topic that is asked for by name and not known here is looked for behind the log of group 0 before it is called
unknown, for it may just have been created through another node. One that is known may be deleted by now: who must not
be told of that one asks to ``confirm``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corgi.base.errors import BY_NUMBER, UNKNOWN_TOPIC
from corgi.base.ids import GroupId, NodeId, TopicId
from corgi.base.ports import ClientSession
from corgi.broker.administration import Administration
from corgi.broker.barriers import Barriers
from corgi.broker.bounds import REQUEST_PARTITIONS_MAX, check_count
from corgi.delivery.limits import CLIENT_BUFFER_HIGH
from corgi.wire.messages import (
    ErrorReply,
    GroupInfo,
    LeaderChanged,
    Metadata,
    MetadataReply,
    NodeInfo,
    TopicInfo,
    TopicsChanged,
)

if TYPE_CHECKING:
    from corgi.broker.group import Group
    from corgi.broker.node import Node

CONFIRM_S = 5.0
META_GROUP = GroupId(0)


def takeover_order(members: tuple[NodeId, ...], group: GroupId) -> tuple[NodeId, ...]:
    """The members in the order in which they lead a group: the preferred one, then around the ring."""
    first = group % len(members)
    return members[first:] + members[:first]


class _News:
    """What a watcher has yet to hear: groups whose leader changed, names of topics."""

    __slots__ = ("groups", "topics")

    def __init__(self) -> None:
        self.groups: dict[GroupId, None] = {}
        self.topics: dict[str, None] = {}


class MetadataQueries:
    """Answers Metadata and keeps the watchers."""

    __slots__ = ("_administration", "_barriers", "_leaders", "_names", "_node", "_waiting", "_watchers")

    def __init__(self, node: Node, administration: Administration, barriers: Barriers) -> None:
        self._node = node
        self._administration = administration
        self._barriers = barriers
        self._watchers: dict[ClientSession, _News] = {}
        self._waiting: dict[ClientSession, None] = {}  # watchers with news, too slow to be told
        self._leaders: dict[GroupId, None] = {}
        self._names: dict[str, None] = {}

    def received(self, client: ClientSession, correlation: int, message: Metadata) -> None:
        """Raises CorgiError "invalid-argument", "overloaded"."""
        if message.topics:
            check_count("topics", len(message.topics), REQUEST_PARTITIONS_MAX)
        if message.watch:
            self._watchers.setdefault(client, _News())
        names = message.topics
        missing = names is not None and any(self._administration.topic_info(name).error for name in names)
        if not missing and not message.confirm:
            self._answer(client, correlation, names, 0)
            return

        def confirmed(errors: dict[GroupId, int]) -> None:
            error = errors.get(META_GROUP, 0)
            if error and message.confirm:
                client.reply(correlation, ErrorReply(error, BY_NUMBER[error].meaning))
            else:
                self._answer(client, correlation, names, error)

        self._barriers.confirm(client, (META_GROUP,), CONFIRM_S, confirmed)

    def client_closed(self, client: ClientSession) -> None:
        self._watchers.pop(client, None)
        self._waiting.pop(client, None)

    def drained(self, client: ClientSession) -> None:
        """A slow watcher can be told now what it missed."""
        if client in self._waiting:
            del self._waiting[client]
            self._tell(client, self._watchers[client])

    def leader_changed(self, group: GroupId) -> None:
        self._leaders[group] = None

    def topics_changed(self, names: list[str]) -> None:
        self._names.update(dict.fromkeys(names))

    def flush(self) -> None:
        """Tell the watchers what changed in this turn."""
        if not (self._leaders or self._names):
            return
        for client, news in list(self._watchers.items()):
            news.groups.update(self._leaders)
            news.topics.update(self._names)
            self._tell(client, news)
        self._leaders.clear()
        self._names.clear()

    def group_info(self, group: Group) -> GroupInfo:
        replica = group.replica
        return GroupInfo(replica.leader, replica.ballot, takeover_order(self._node.options.members, group.id))

    def _tell(self, client: ClientSession, news: _News) -> None:
        if client.buffered() >= CLIENT_BUFFER_HIGH:
            self._waiting[client] = None
            return
        if news.groups:
            replicas = [(number, self._node.groups[number].replica) for number in news.groups]
            client.push(LeaderChanged(tuple([(number, r.leader, r.ballot) for number, r in replicas])), ())
            news.groups.clear()
        if news.topics:
            client.push(TopicsChanged(tuple(news.topics)), ())
            news.topics.clear()

    def _answer(self, client: ClientSession, correlation: int, names: tuple[str, ...] | None, error: int) -> None:
        node = self._node
        administration = self._administration
        if names is None:
            topics = administration.topic_infos()
        else:
            topics = [self._topic(name, error) for name in names]
        client.reply(
            correlation,
            MetadataReply(
                node.options.cluster.hex(),
                node.options.node,
                self._nodes(),
                tuple([self.group_info(group) for group in node.groups]),
                tuple(topics),
                node.options.memory_groups,
            ),
        )

    def _topic(self, name: str, error: int) -> TopicInfo:
        """``error``: why it could not be confirmed that an unknown topic does not exist."""
        info = self._administration.topic_info(name)
        if info.error == UNKNOWN_TOPIC and error:
            return TopicInfo(name, TopicId(0), (), {}, error, open=False)
        return info

    def _nodes(self) -> tuple[NodeInfo, ...]:
        options = self._node.options
        alive = {peer for peer, connected, _, _ in self._node.peer_status() if connected}
        alive.add(options.node)
        nodes = []
        for member in options.members:
            host, port = options.addresses.get(member, ("", 0))
            nodes.append(NodeInfo(member, host, port, member in alive, options.labels.get(member, "")))
        return tuple(nodes)
