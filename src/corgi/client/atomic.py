"""``mq.atomic()``: messages and checkpoints that happen together or not at all.

What is published in the block is kept until its end. Then, if everything lies in one Paxos group, it goes out as one
command; otherwise as a transaction in two phases. Messages without key and partition go where the rest is, so that one
command suffices as often as possible.

Producers are kept for reuse, and used by one block at a time: so sequence numbers tell a repetition from news. One that
does not know what became of a batch is given up (or, under a transactional name, begins with a new epoch).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec

from corgi.base.errors import CorgiError
from corgi.base.ids import Offset, TopicId
from corgi.base.limits import MIB, PARTITIONS_MAX
from corgi.base.records import RecordFields, encode_batch
from corgi.client.core.routing import TopicRoute
from corgi.client.messages import Receipt
from corgi.client.publishing import Key, Publisher, Value, as_bytes
from corgi.client.shell import Shell
from corgi.client.topics import ask_for
from corgi.client.two_phases import Identity, Part, Place, TwoPhases, own_identity
from corgi.client.words import (
    OFFSET_MAX,
    Duration,
    Headers,
    Time,
    between,
    group_name,
    header_list,
    milliseconds,
    seconds,
    topic_name,
)
from corgi.wire import transaction_messages as t

ATOMIC_BYTES_MAX = 16 * MIB  # kept by one block
LIFE_S_MAX = 900.0
NAME_MAX = 249
_CODEC = "none"


class AtomicReceipt(msgspec.Struct, frozen=True):
    """What a block did: the receipt of each message in the order of publishing. ``two_phase``: it lay in several Paxos
    groups, so it took a transaction."""

    two_phase: bool
    messages: tuple[Receipt, ...]


class _Batch:
    """What a block has for one partition."""

    def __init__(self, route: TopicRoute, partition: int) -> None:
        self.route = route
        self.partition = partition
        self.records: list[RecordFields] = []
        self.places: list[int] = []  # of the records, in the order of publishing

    @property
    def group(self) -> int:
        return int(self.route.groups[self.partition])

    def part(self) -> Part:
        """Raises "record-too-large"."""
        batch = encode_batch(self.records, codec=_CODEC)
        if len(batch) > self.route.batch_bytes_max:
            most = self.route.batch_bytes_max
            text = f"{len(batch)} bytes for one partition of {self.route.name!r}, which takes {most}"
            raise CorgiError("record-too-large", text)
        return Part(self.route.topic, self.partition, self.group, len(self.records), batch)


class _Item(msgspec.Struct, frozen=True):
    topic: str
    partition: int | None
    record: RecordFields


class Atomic:
    """One block. ``receipt`` is there when it has ended well."""

    def __init__(self, acts: Acts, name: str, timeout_s: float) -> None:
        self._acts = acts
        self._name = name
        self._timeout_s = timeout_s
        self._items: list[_Item] = []
        self._checkpoints: list[tuple[str, t.Checkpoint]] = []
        self._bytes = 0
        self._ended = False
        self._receipt: AtomicReceipt | None = None

    def publish(
        self,
        topic: str,
        value: Value,
        *,
        key: Key = None,
        headers: Headers | None = None,
        timestamp: Time | None = None,
        partition: int | None = None,
    ) -> None:
        """Publish with the block. Raises "transaction-ended" after its end, "record-too-large" for too much."""
        self._check_open()
        raw_key, raw_value = as_bytes(key, "key"), as_bytes(value, "value")
        time_ms = int(self._acts.wall() * 1000) if timestamp is None else milliseconds(timestamp)
        self._bytes += len(raw_key or b"") + len(raw_value or b"") + 64
        if self._bytes > ATOMIC_BYTES_MAX:
            raise CorgiError("record-too-large", f"one act has at most {ATOMIC_BYTES_MAX} bytes")
        if partition is not None and (type(partition) is not int or partition < 0):
            raise CorgiError("invalid-argument", f"a partition is a number from 0 on, not {partition!r}")
        fields = [] if headers is None else header_list(headers)
        record: RecordFields = (raw_key, raw_value, fields, time_ms)
        self._items.append(_Item(topic_name(topic), partition, record))

    def checkpoint(
        self,
        group: str,
        topic: str,
        partition: int,
        offset: int,
        *,
        version: int = -1,
        slice: int = 0,
        owner_epoch: int = 0,
        member: str = "",
        ranges: Sequence[tuple[int, int]] = (),
        metadata: str = "",
    ) -> None:
        """Move a consumer group's checkpoint with the block: ``offset`` is the next message to be done.

        Without membership owner epoch and member stay as they are. ``version``: that of the cursor which is replaced,
        so that nobody else moved it meanwhile; -1: whichever it has when the block ends.
        """
        self._check_open()
        group_name(group)
        between(partition, "partition", 0, PARTITIONS_MAX)
        between(offset, "offset", 0, OFFSET_MAX)
        between(version, "version", -1, OFFSET_MAX)
        said: object = ranges
        if not isinstance(said, Sequence):
            raise CorgiError("invalid-argument", f"ranges are pairs of offsets, not {ranges!r}")
        wanted = t.Checkpoint(
            group, TopicId(0), partition, slice, owner_epoch, member, version, Offset(offset), tuple(ranges), metadata
        )
        self._checkpoints.append((topic_name(topic), wanted))

    @property
    def receipt(self) -> AtomicReceipt:
        """Raises "invalid-argument" before the block has ended well."""
        if self._receipt is None:
            raise CorgiError("invalid-argument", "the receipt is there when the block has ended well")
        return self._receipt

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do it all, unless the block failed: then nothing of it ever left the client."""
        self._ended = True
        if error is None:
            self._receipt = await self._acts.carry_out(self._name, self._timeout_s, self._items, self._checkpoints)

    def _check_open(self) -> None:
        if self._ended:
            raise CorgiError("transaction-ended", "the block of this act has ended")


class Acts:
    """Carries out blocks. Producers without a name are taken from a pool; a named one serves one block at a time."""

    def __init__(self, shell: Shell, publisher: Publisher) -> None:
        self.wall = shell.wall
        self._shell = shell
        self._publisher = publisher
        self._two_phases = TwoPhases(shell)
        self._single: list[Identity] = []  # for one-command acts, not in use
        self._double: list[Identity] = []  # for two phases under names of our own, not in use
        self._named: dict[str, Identity] = {}

    def block(self, name: str, timeout: Duration) -> Atomic:
        said: object = name
        if not isinstance(said, str) or len(name) > NAME_MAX:
            raise CorgiError(
                "invalid-argument", f"a transactional name has at most {NAME_MAX} characters, not {name!r}"
            )
        timeout_s = seconds(timeout, "timeout")
        if timeout_s > LIFE_S_MAX:
            raise CorgiError("invalid-argument", f"an act takes at most {LIFE_S_MAX:.0f} s")
        return Atomic(self, name, timeout_s)

    async def carry_out(
        self, name: str, timeout_s: float, items: Sequence[_Item], checkpoints: Sequence[tuple[str, t.Checkpoint]]
    ) -> AtomicReceipt:
        """Raises CorgiError; "outcome-unknown" if it may have happened or not."""
        if not items and not checkpoints:
            return AtomicReceipt(False, ())
        moved, groups = [], set()
        for topic, one in checkpoints:
            route = await self._route(topic)
            _check_partition(route, one.partition)
            moved.append(msgspec.structs.replace(one, topic=route.topic))
            groups.add(int(route.groups[one.partition]))
        batches = await self._batches(items, groups)
        groups |= {batch.group for batch in batches}
        double = len(groups) > 1 or any(one.version < 0 for one in moved)
        pool = self._double if double else self._single
        identity = self._identity(name, pool, double=double)
        async with identity.lock:
            try:
                await self._two_phases.begin(identity)
                if double:
                    receipts = await self._in_two_phases(identity, batches, moved, timeout_s, len(items))
                else:
                    receipts = await self._at_once(identity, batches, moved, timeout_s, groups.pop(), len(items))
            except BaseException as error:
                identity.id = -1  # what became of its batches is not known: begin anew
                identity.fenced = isinstance(error, CorgiError) and error.code == "transaction-fenced"
                raise
            finally:
                if not name and identity.id >= 0:
                    pool.append(identity)
        return AtomicReceipt(double, receipts)

    # -- what goes where ----------------------------------------------------------------------------------------------

    async def _batches(self, items: Sequence[_Item], groups: set[int]) -> list[_Batch]:
        """Batches by partition. What has no place of its own follows the rest."""
        batches: dict[Place, _Batch] = {}
        free: list[tuple[int, _Item, TopicRoute]] = []

        def put(number: int, item: _Item, route: TopicRoute, partition: int) -> None:
            _check_partition(route, partition)
            if route.compacted and item.record[0] is None:
                raise route.keyless()
            batch = batches.setdefault((route.topic, partition), _Batch(route, partition))
            batch.records.append(item.record)
            batch.places.append(number)

        for number, item in enumerate(items):
            route = await self._route(item.topic)
            key = item.record[0]
            if item.partition is not None:
                put(number, item, route, item.partition)
            elif key is not None:
                put(number, item, route, route.keyed[key])
            else:
                free.append((number, item, route))
        near = groups | {batch.group for batch in batches.values()}
        for number, item, route in free:
            fitting = [p for p, group in enumerate(route.groups) if not near or int(group) in near]
            choices = fitting or range(route.partitions)
            partition = choices[int(self._shell.chance() * len(choices))]
            near.add(int(route.groups[partition]))
            put(number, item, route, partition)
        return list(batches.values())

    async def _route(self, topic: str) -> TopicRoute:
        routes = self._shell.core.routing.topics
        if topic not in routes:
            await self._publisher.topic_known(topic)
        return routes[topic]

    # -- producers ----------------------------------------------------------------------------------------------------

    def _identity(self, name: str, pool: list[Identity], *, double: bool) -> Identity:
        if name:
            return self._named.setdefault(name, Identity(name))
        if pool:
            return pool.pop()
        return own_identity(self._shell) if double else Identity()

    # -- carrying out -------------------------------------------------------------------------------------------------

    async def _at_once(
        self,
        identity: Identity,
        batches: Sequence[_Batch],
        moved: Sequence[t.Checkpoint],
        timeout_s: float,
        group: int,
        count: int,
    ) -> tuple[Receipt, ...]:
        parts = [batch.part() for batch in batches]
        encoded = [identity.stamp(part, transactional=False) for part in parts]
        message = t.Atomic(
            int(timeout_s * 1000),
            tuple((*part.place, len(body)) for part, body in zip(parts, encoded, strict=True)),
            tuple(moved),
            *((identity.id, identity.epoch) if identity.name else (-1, -1)),
        )
        reply = await ask_for(self._shell, message, t.AtomicReply, group=group, payload=encoded, timeout_s=timeout_s)
        for part in parts:
            identity.sent(part)
        return _receipts(batches, [(offset, reply.timestamp_ms) for offset in reply.offsets], count)

    async def _in_two_phases(
        self,
        identity: Identity,
        batches: Sequence[_Batch],
        moved: Sequence[t.Checkpoint],
        timeout_s: float,
        count: int,
    ) -> tuple[Receipt, ...]:
        parts = [batch.part() for batch in batches]
        stored = await self._two_phases.store(identity, parts, moved, life_s=timeout_s, timeout_s=timeout_s)
        await self._two_phases.commit(identity, timeout_s=timeout_s)
        return _receipts(batches, stored, count)


def _check_partition(route: TopicRoute, partition: int) -> None:
    if not 0 <= partition < route.partitions:
        raise CorgiError(
            "unknown-partition", f"{route.name} has partitions 0 to {route.partitions - 1}, not {partition}"
        )


def _receipts(batches: Sequence[_Batch], stored: Sequence[tuple[int, int]], count: int) -> tuple[Receipt, ...]:
    """The receipts in the order of publishing; offset -1: stored by an earlier sending."""
    found: dict[int, Receipt] = {}
    for batch, (offset, time_ms) in zip(batches, stored, strict=True):
        for index, place in enumerate(batch.places):
            at = offset + index if offset >= 0 else -1
            found[place] = Receipt(batch.route.name, batch.partition, at, time_ms)
    return tuple(found[place] for place in range(count))
