"""Topics, asked for by clients: validated here, decided by the log of group 0, opened in every group involved.

A request becomes a DATA command in group 0: a guard on what this node believes of the topic, and a record for `__meta`.
The guard, not this node's view, decides; a view that is behind costs one more round, never a wrong answer. The caller
is answered when the partitions are as wanted in all groups, as far as this node has applied them.

Invariant: ``done`` of a request is called exactly once, at the latest shortly after its time is up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from corgi.base import errors
from corgi.base.command import CommandKind, encode_data
from corgi.base.errors import BY_NUMBER, CorgiError
from corgi.base.ids import META, SYSTEM_TOPIC_NAMES, GroupId, TopicId
from corgi.broker.openings import GroupView, Host, Openings
from corgi.state.commands import guard_topic_absent, guard_topic_at
from corgi.state.outcomes import Outcome
from corgi.state.settings import check_partition_count, check_settings, check_topic_name, in_memory
from corgi.state.topics import Topic, TopicRecord, Topics, created_id, default_anchor, encode_topic_record
from corgi.wire.messages import AlterTopic, CreateTopic, DeleteTopic, TopicInfo

Done = Callable[[int, str, TopicInfo | None], None]  # error number (0 ok), message, the topic unless it is gone

TIMEOUT_S_MAX = 600.0
ROUNDS_MAX = 8  # how often a change is tried again because the topic changed meanwhile
ANCHOR_MAX = 2**31 - 1
MEMORY_PATIENCE_S = 5.0

_META_GROUP = GroupId(0)
_STANDING = (
    "the groups of topics with durability memory do not answer, so no such topic can be made; if a majority of the "
    "nodes lost its power, start each of these once with --accept-loss memory"
)
_SYSTEM_TOPICS = {name: topic for topic, name in SYSTEM_TOPIC_NAMES.items()}


class _Request:
    """One request under way. ``attempt`` makes its command from the present view and submits it."""

    __slots__ = ("attempt", "deadline", "done", "rounds")

    def __init__(self, done: Done, deadline: float, attempt: Callable[[_Request], None]) -> None:
        self.done = done
        self.deadline = deadline
        self.attempt = attempt
        self.rounds = 0


class _Waiting:
    """A decided request whose partitions are not yet as wanted everywhere.

    ``left`` holds per group the partitions not yet seen so; ``version`` is the change that they have to know of, None
    if they are to be closed.
    """

    __slots__ = ("left", "request", "topic", "version")

    def __init__(self, request: _Request, topic: Topic, version: int | None, groups: int) -> None:
        self.request = request
        self.topic = topic
        self.version = version
        self.left = {group: list(topic.partitions_in(GroupId(group))) for group in range(groups)}

    def look(self, group: GroupView) -> bool:
        """Strike out what is as wanted in ``group``; True when nothing is left in any group."""
        left = self.left.get(group.id)
        while left:
            log = group.machine.partitions.get((self.topic.topic, left[-1]))
            if (log is None) != (self.version is None):
                return False
            if log is not None and self.version is not None and log.version <= self.version:
                return False
            left.pop()
        self.left.pop(group.id, None)
        return not self.left


class Administration:
    """Creates, changes and deletes topics. All callbacks run on the node's thread."""

    def __init__(self, node: Host, memory_groups: int = 0) -> None:
        """``memory_groups``: so many of the node's groups, the last ones."""
        self._node = node
        self._memory_groups = memory_groups
        self.when_opened: Callable[[], None] = _nothing  # partitions were opened or closed in a group
        self._openings = Openings(node)
        self._changed = self._topics.watch()
        self._waiting: dict[TopicId, list[_Waiting]] = {}
        self._infos: dict[TopicId, tuple[Topic, TopicInfo]] = {}  # of topics that are open everywhere

    # -- requests -------------------------------------------------------------------------------------------------

    def create(self, message: CreateTopic, done: Done) -> None:
        """Create a topic; answers "topic-exists", "invalid-topic-name", "invalid-argument", "unknown-topic"…

        With ``colocate_with`` partition p lies in the group of that topic's partition p; both have as many partitions.
        """
        try:
            check_topic_name(message.name)
            check_partition_count(message.partitions)
            check_settings(message.config)
            if not -1 <= message.anchor <= ANCHOR_MAX:
                raise CorgiError(
                    "invalid-argument", f"anchor is -1 (chosen) or 0 to {ANCHOR_MAX}, not {message.anchor}"
                )
            if message.colocate_with and message.anchor != -1:
                raise CorgiError("invalid-argument", "colocate_with already decides the anchor; give one of them")
        except CorgiError as error:
            done(error.kind.number, error.message, None)
            return
        self._start(done, message.timeout_ms, lambda request: self._try_create(request, message))

    def alter(self, message: AlterTopic, done: Done) -> None:
        """Change settings and add partitions; answers "unknown-topic", "invalid-argument"…"""
        self._start(done, message.timeout_ms, lambda request: self._try_alter(request, message))

    def delete(self, message: DeleteTopic, done: Done) -> None:
        """Delete a topic with all that it holds; answers "unknown-topic"…"""
        self._start(done, message.timeout_ms, lambda request: self._try_delete(request, message))

    def topic_info(self, name: str) -> TopicInfo:
        """The topic as this node knows it; ``error`` is "unknown-topic" if it does not. Also of system topics."""
        topic = self._topics.get(name)
        if topic is not None:
            return self._info(topic)
        system = _SYSTEM_TOPICS.get(name)
        if system is None:
            return TopicInfo(name, TopicId(0), (), {}, errors.UNKNOWN_TOPIC, open=False)
        groups = 1 if system == META else len(self._node.groups)
        return TopicInfo(name, system, tuple(range(groups)), {})

    def topic_infos(self) -> list[TopicInfo]:
        """All user topics, in the order of their creation."""
        return [self._info(topic) for topic in self._topics.by_name.values()]

    # -- facts ----------------------------------------------------------------------------------------------------

    def applied(self, group: GroupView) -> None:
        """Values were applied in ``group``; called once per turn for each such group."""
        if group.id == _META_GROUP and self._changed:
            changed = list(self._changed)
            self._changed.clear()
            self._openings.topics_changed(changed)
            for topic in changed:
                self._infos.pop(topic, None)
                self._check_existence(topic)
            self._openings.drive_all(self._node.clock.now())
        opened = group.machine.take_opened()
        if opened:
            self.when_opened()
            self._openings.partitions_changed(group, opened)
            for topic in opened:
                self._look(topic, group)
        self._openings.drive(group, self._node.clock.now())

    def leader_changed(self, group: GroupView) -> None:
        """Another node, or this one, leads ``group`` from now on."""
        self._openings.leader_changed(group)

    def next_deadline(self) -> float | None:
        """When ``advance`` must be called at the latest (monotonic seconds)."""
        deadline = self._openings.next_deadline()
        for waiting in self._waiting.values():
            for one in waiting:
                if deadline is None or one.request.deadline < deadline:
                    deadline = one.request.deadline
        return deadline

    def advance(self, now: float) -> None:
        """Run what is due."""
        for topic in list(self._waiting):
            for waiting in [one for one in self._waiting[topic] if now >= one.request.deadline]:
                self._finish(waiting, errors.TIMEOUT, "decided, but not yet so in all groups when the time was up")
        self._openings.drive_all(now)

    # -- one round ------------------------------------------------------------------------------------------------

    def _start(self, done: Done, timeout_ms: int, attempt: Callable[[_Request], None]) -> None:
        timeout_s = min(max(timeout_ms / 1000, 0.001), TIMEOUT_S_MAX)
        attempt(_Request(done, self._node.clock.now() + timeout_s, attempt))

    def _try_create(self, request: _Request, message: CreateTopic) -> None:
        groups, first = len(self._node.groups) - self._memory_groups, 0
        if in_memory(message.config):
            groups, first = self._memory_groups, groups
            if not groups:
                what = "this cluster has no memory groups, so no topic with durability memory"
                hint = "memory_groups is fixed when the cluster is bootstrapped"
                request.done(errors.INVALID_ARGUMENT, f"{what}; {hint}", None)
                return
        anchor = message.anchor if message.anchor >= 0 else default_anchor(message.name, groups)
        guards = [guard_topic_absent(message.name)]
        if message.colocate_with:
            beside = self._found(request, message.colocate_with)
            if beside is None:
                return
            if beside.partitions != message.partitions:
                request.done(
                    errors.INVALID_ARGUMENT,
                    f"{beside.name!r} has {beside.partitions} partitions; a topic beside it needs as many,"
                    f" not {message.partitions}",
                    None,
                )
                return
            if in_memory(beside.config) != in_memory(message.config):
                what = f"{beside.name!r} has another durability; a topic beside it needs the same"
                request.done(errors.INVALID_ARGUMENT, what, None)
                return
            anchor, groups, first = beside.anchor, beside.groups, beside.first
            guards.append(guard_topic_at(beside.name, beside.topic, beside.version))
        record = TopicRecord(0, message.partitions, anchor, groups, message.config, first)
        if first:
            self._when_memory_goes(request, lambda: self._submit(request, message.name, record, guards, None))
        else:
            self._submit(request, message.name, record, guards, None)

    def _when_memory_goes(self, request: _Request, then: Callable[[], None]) -> None:
        """Nobody can open a topic in memory groups that stand still, and other requests would wait for it."""
        left = set(range(len(self._node.groups) - self._memory_groups, len(self._node.groups)))

        def passed(group: int, outcome: Outcome) -> None:
            if outcome.error and left:
                left.clear()
                request.done(errors.RECOVERING, _STANDING, None)
            elif left:
                left.discard(group)
                if not left:
                    then()

        patience_s = min(self._left_s(request) / 2, MEMORY_PATIENCE_S)
        for group in list(left):
            self._node.submit(GroupId(group), CommandKind.BARRIER, b"", partial(passed, group), timeout_s=patience_s)

    def _try_alter(self, request: _Request, message: AlterTopic) -> None:
        topic = self._found(request, message.name)
        if topic is None:
            return
        config = dict(topic.config)
        for key, value in message.config.items():
            if value is not None:
                config[key] = value
            else:
                config.pop(key, None)
        partitions = message.partitions or topic.partitions
        try:
            check_partition_count(partitions)
            check_settings(message.config)
            if in_memory(config) != in_memory(topic.config):
                what = f"the durability of {topic.name!r} was decided when it was created"
                raise CorgiError("invalid-argument", what)
            if partitions < topic.partitions:
                raise CorgiError(
                    "invalid-argument", f"{topic.name!r} has {topic.partitions} partitions; their number never shrinks"
                )
        except CorgiError as error:
            request.done(error.kind.number, error.message, None)
            return
        record = TopicRecord(topic.topic, partitions, topic.anchor, topic.groups, config, topic.first)
        guard = guard_topic_at(topic.name, topic.topic, topic.version)
        self._submit(request, topic.name, record, [guard], None)

    def _try_delete(self, request: _Request, message: DeleteTopic) -> None:
        topic = self._found(request, message.name)
        if topic is not None:
            guard = guard_topic_at(topic.name, topic.topic, topic.version)
            self._submit(request, topic.name, None, [guard], topic)

    def _found(self, request: _Request, name: str) -> Topic | None:
        """The topic; if it is not known here, first catch up with the log once, then answer "unknown-topic"."""
        topic = self._topics.get(name)
        if topic is not None:
            return topic
        if request.rounds:
            request.done(errors.UNKNOWN_TOPIC, f"there is no topic {name!r}", None)
            return None

        def caught_up(outcome: Outcome) -> None:
            if outcome.error:
                request.done(outcome.error, BY_NUMBER[outcome.error].meaning, None)
            else:
                self._again(request)

        left_s = self._left_s(request)
        self._node.submit(_META_GROUP, CommandKind.BARRIER, b"", caught_up, timeout_s=left_s, makes_room=True)
        return None

    def _submit(
        self,
        request: _Request,
        name: str,
        record: TopicRecord | None,
        guards: list[tuple[int, bytes]],
        deleted: Topic | None,
    ) -> None:
        def decided(outcome: Outcome) -> None:
            if outcome.error == errors.UNSETTLED and request.rounds < ROUNDS_MAX:
                self._again(request)
            elif outcome.error:
                request.done(outcome.error, outcome.detail or BY_NUMBER[outcome.error].meaning, None)
            elif deleted is not None:
                self._wait(_Waiting(request, deleted, None, len(self._node.groups)))
            else:
                version = outcome.appends[0].base_offset
                topic = TopicId(record.topic) if record and record.topic else created_id(version)
                self._await_opening(request, topic, version)

        batch = encode_topic_record(name, record, self._node.clock.wall_ms())
        body = encode_data([(META, 0, batch)], guards)
        left_s = self._left_s(request)
        makes_room = deleted is not None or bool(record and record.topic)  # creating a topic does not
        self._node.submit(_META_GROUP, CommandKind.DATA, body, decided, timeout_s=left_s, makes_room=makes_room)

    def _again(self, request: _Request) -> None:
        request.rounds += 1
        if self._node.clock.now() >= request.deadline:
            request.done(errors.TIMEOUT, BY_NUMBER[errors.TIMEOUT].meaning, None)
        else:
            request.attempt(request)

    def _left_s(self, request: _Request) -> float:
        return max(request.deadline - self._node.clock.now(), 0.001)

    # -- waiting for the groups -----------------------------------------------------------------------------------

    def _await_opening(self, request: _Request, topic: TopicId, version: int) -> None:
        present = self._topics.by_id.get(topic)
        if present is None:
            request.done(errors.UNKNOWN_TOPIC, "the topic was deleted at once by somebody else", None)
        else:
            self._wait(_Waiting(request, present, version, len(self._node.groups)))

    def _wait(self, waiting: _Waiting) -> None:
        self._waiting.setdefault(waiting.topic.topic, []).append(waiting)
        for group in self._node.groups:
            if waiting.look(group):
                self._finish(waiting, errors.OK, "")
                return

    def _look(self, topic: TopicId, group: GroupView) -> None:
        for waiting in list(self._waiting.get(topic, ())):
            if waiting.look(group):
                self._finish(waiting, errors.OK, "")

    def _check_existence(self, topic: TopicId) -> None:
        if topic not in self._topics.by_id:
            for waiting in list(self._waiting.get(topic, ())):
                if waiting.version is not None:
                    self._finish(waiting, errors.UNKNOWN_TOPIC, f"{waiting.topic.name!r} was deleted meanwhile")

    def _finish(self, waiting: _Waiting, error: int, message: str) -> None:
        topic = waiting.topic.topic
        self._waiting[topic].remove(waiting)
        if not self._waiting[topic]:
            del self._waiting[topic]
        present = self._topics.by_id.get(topic)
        waiting.request.done(error, message, None if present is None else self._info(present))

    # -- what is known --------------------------------------------------------------------------------------------

    @property
    def _topics(self) -> Topics:
        topics = self._node.groups[0].machine.topics
        assert topics is not None, "group 0 holds the topics"
        return topics

    def _info(self, topic: Topic) -> TopicInfo:
        known = self._infos.get(topic.topic)
        if known is not None and known[0] is topic:
            return known[1]
        groups = tuple([topic.group_of(partition) for partition in range(topic.partitions)])
        is_open = all(
            (topic.topic, partition) in self._node.groups[group].machine.partitions
            for partition, group in enumerate(groups)
        )
        info = TopicInfo(topic.name, topic.topic, groups, topic.config, open=is_open)
        if is_open:
            self._infos[topic.topic] = (topic, info)
        return info


def _nothing() -> None:
    """Nobody wants to know."""
