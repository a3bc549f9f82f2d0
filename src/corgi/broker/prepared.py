"""Prepared messages: kept unseen in `__transactions` of their partition's group until their producer settles them.

Committing is one command in that group: the batch is appended and the record says so. No reader ever waits for a
prepared message. Whoever is silent is asked back: every node asks those of its own clients that watch under the
producer's name. After so many rounds nobody is asked any more; the message stays listed until somebody settles it.

    prepared ── commit ──▶ settled, batch appended         settled records are remembered for a minute, so that
             ── roll back ──▶ settled                      settling may be repeated, and then forgotten

Invariant: a prepared message is appended at most once, and only by a commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from corgi.base.batch import check_batch
from corgi.base.command import CommandKind, encode_data
from corgi.base.errors import BY_CODE, BY_NUMBER, OK, UNSETTLED, CorgiError
from corgi.base.ids import TRANSACTIONS, GroupId, Offset, TopicId
from corgi.base.ports import ClientSession, Message
from corgi.base.records import encode_batch
from corgi.broker.bounds import timeout_s
from corgi.broker.places import Places, check_writable
from corgi.state.commands import guard_record_at
from corgi.state.outcomes import Outcome
from corgi.state.transaction_records import ABSENT, BODY_BYTES_MAX, PREPARED, StoredRecord, encode_record
from corgi.wire import transaction_messages as t

if TYPE_CHECKING:
    from corgi.broker.group import Group
    from corgi.broker.node import Node

LOOK_S = 0.25  # how often somebody is asked back, and what is settled is forgotten
REMEMBERED_MS = 60_000
FORGOTTEN_PER_LOOK = 500
LOOKED_PER_LOOK = 1_000  # prepared messages of one group; the others have their turn at the next look
SUBMIT_TIMEOUT_S = 5.0
NAME_BYTES = 250 * 4 + 8_192  # of a record beside its batch, at most
_UNKNOWN = BY_CODE["unknown-transaction"].number


class Kept(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The body of a record. Once settled the batch is empty and ``settled`` tells: 1 committed, 2 rolled back."""

    producer: str
    topic: TopicId
    partition: int
    batch: bytes
    check_ms: int
    check_limit: int
    since_ms: int
    settled: int = 0


COMMITTED, ROLLED_BACK = 1, 2
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Kept).decode


class Prepared:
    """The prepared messages of all groups as this node has applied them."""

    def __init__(self, node: Node, places: Places) -> None:
        self._node = node
        self._places = places
        self._waiting: dict[GroupId, dict[bytes, Kept]] = {group.id: {} for group in node.groups}
        self._settled: dict[GroupId, dict[bytes, StoredRecord]] = {group.id: {} for group in node.groups}
        self._watching: dict[str, dict[ClientSession, None]] = {}
        self._seen_at: dict[bytes, float] = {}  # since when a waiting one has been known here
        self._asked: dict[bytes, int] = {}  # rounds done
        self._rounds: dict[GroupId, Iterator[bytes]] = {}  # messages that are still to be looked at
        self._look_at = node.clock.now()

    # -- requests -----------------------------------------------------------------------------------------------------

    def prepare(self, client: ClientSession, correlation: int, message: t.Prepare, payload: memoryview) -> None:
        """Raises CorgiError when nothing of it was tried."""
        if check_batch(payload).attributes & ~7:
            raise CorgiError("invalid-argument", "a prepared batch belongs to no other transaction")
        if check_batch(payload).producer_id >= 0:
            raise CorgiError("invalid-argument", "a prepared batch names no producer: its id tells it apart")
        place = self._places.to_write(message.topic, message.partition)
        check_writable(place, payload)
        if len(payload) > BODY_BYTES_MAX - NAME_BYTES:
            raise CorgiError("record-too-large", f"a prepared batch has at most {BODY_BYTES_MAX - NAME_BYTES} bytes")
        machine = self._node.groups[place.group].machine
        now_ms = max(machine.log_time_ms, self._node.clock.wall_ms())
        kept = Kept(
            message.producer, message.topic, message.partition, bytes(payload), message.check_ms, message.check_limit,
            now_ms,
        )  # fmt: skip
        key = PREPARED + message.id.encode()

        def applied(outcome: Outcome) -> None:
            error, text = outcome.error, outcome.detail
            if error == UNSETTLED:  # it is there already: sent before, or another of this id
                found = machine.transaction_records.by_key.get(key)
                same = found is not None and msgspec.structs.replace(_decode(found.body), since_ms=now_ms) == kept
                error, text = (OK, "") if same else (_UNKNOWN, "another message was prepared under this id")
            _reply(client, correlation, t.PrepareReply(error, text or _meaning(error)))

        batch = encode_record(key, _encode(kept), self._node.clock.wall_ms())
        body = encode_data([(TRANSACTIONS, int(place.group), batch)], [guard_record_at(key, ABSENT)])
        self._node.submit(place.group, CommandKind.DATA, body, applied, timeout_s=timeout_s(message.timeout_ms))

    def settle(self, client: ClientSession, correlation: int, message: t.Settle) -> None:
        """Raises CorgiError when nothing of it was tried."""
        place = self._places.to_write(message.topic, message.partition)
        deadline = self._node.clock.now() + timeout_s(message.timeout_ms)
        current = False

        def answer(error: int, text: str = "", offset: Offset = NO_OFFSET, time_ms: int = -1) -> None:
            _reply(client, correlation, t.SettleReply(error, text or _meaning(error), offset, time_ms))

        def step() -> None:
            nonlocal current
            records = self._node.groups[place.group].machine.transaction_records
            key = PREPARED + message.id.encode()
            stored = records.by_key.get(key)
            kept = None if stored is None else _decode(stored.body)
            patience_s = max(deadline - self._node.clock.now(), 0.001)
            if kept is None and not current:
                current = True
                self._node.submit(place.group, CommandKind.BARRIER, b"", passed, timeout_s=patience_s)
            elif kept is None or (kept.topic, kept.partition) != (message.topic, message.partition):
                answer(_UNKNOWN)
            elif kept.settled:
                same = kept.settled == (COMMITTED if message.commit else ROLLED_BACK)
                code = "transaction-aborted" if message.commit else "transaction-ended"
                answer(OK if same else BY_CODE[code].number)
            else:
                now_ms = self._node.clock.wall_ms()
                how = COMMITTED if message.commit else ROLLED_BACK
                over = encode_record(key, _encode(msgspec.structs.replace(kept, batch=b"", settled=how)), now_ms)
                appends: list[tuple[TopicId, int, bytes]] = [(TRANSACTIONS, int(place.group), over)]
                if message.commit:
                    appends.insert(0, (message.topic, message.partition, kept.batch))
                body = encode_data(appends, [guard_record_at(key, records.version(key))])
                self._node.submit(place.group, CommandKind.DATA, body, applied, timeout_s=patience_s)

        def passed(outcome: Outcome) -> None:
            if outcome.error:
                answer(outcome.error, outcome.detail)
            else:
                step()

        def applied(outcome: Outcome) -> None:
            if outcome.error == UNSETTLED:  # another sending was faster: see what it did
                step()
            elif outcome.error or not message.commit:
                answer(outcome.error, outcome.detail)
            else:
                answer(OK, "", outcome.appends[0].base_offset, outcome.timestamp_ms)

        step()

    def watch(self, client: ClientSession, correlation: int, message: t.Watch) -> None:
        self.client_closed(client)
        for name in message.producers:
            self._watching.setdefault(name, {})[client] = None
        client.reply(correlation, t.WatchReply())

    def infos(self) -> Iterable[t.TransactionInfo]:
        """Every prepared message that is not settled, as applied here."""
        now_ms = self._node.clock.wall_ms()
        for waiting in self._waiting.values():
            for key, kept in waiting.items():
                where = ((kept.topic, kept.partition),)
                age_ms = self._age_ms(key, kept, now_ms)
                yield t.TransactionInfo(kept.producer, "prepared", age_ms, 0, where, id=key[1:].decode())

    # -- facts and time -----------------------------------------------------------------------------------------------

    def client_closed(self, client: ClientSession) -> None:
        for name in [name for name, clients in self._watching.items() if client in clients]:
            del self._watching[name][client]
            if not self._watching[name]:
                del self._watching[name]

    def applied(self, group: Group) -> None:
        """Values were applied in ``group`` in this turn."""
        records = group.machine.transaction_records
        waiting, settled = self._waiting[group.id], self._settled[group.id]
        for key in records.changed:
            if key[:1] != PREPARED:
                continue
            stored = records.by_key.get(key)
            kept = None if stored is None else _decode(stored.body)
            waiting.pop(key, None)
            settled.pop(key, None)
            if kept is not None and stored is not None and kept.settled:
                settled[key] = stored
            elif kept is not None:
                waiting[key] = kept
                self._seen_at.setdefault(key, self._node.clock.now())
            if key not in waiting:
                self._asked.pop(key, None)
                self._seen_at.pop(key, None)

    def next_deadline(self) -> float | None:
        asks = self._watching and any(self._waiting.values())
        return self._look_at if asks or any(self._settled.values()) else None

    def advance(self, now: float) -> None:
        """Ask back, and forget what has been settled long enough."""
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        wall_ms = self._node.clock.wall_ms()
        for group in self._node.groups:
            now_ms = max(group.machine.log_time_ms, wall_ms)
            if self._watching:
                for key, kept, age_ms in self._due(group.id, now_ms):
                    self._ask(key, kept, age_ms)
            if group.replica.leading:
                self._forget(group, now_ms)

    def _age_ms(self, key: bytes, kept: Kept, now_ms: int) -> int:
        """By log time, or by this node's own clock since it saw the message: log time stands still behind a clock that
        was ahead and was set back."""
        return max(now_ms - kept.since_ms, int((self._node.clock.now() - self._seen_at[key]) * 1000))

    def _due(self, group: GroupId, now_ms: int) -> Iterator[tuple[bytes, Kept, int]]:
        """Those of the next LOOKED_PER_LOOK messages about which somebody is to be asked, and their age."""
        keys = self._rounds.get(group)
        if keys is None:
            keys = self._rounds[group] = iter(list(self._waiting[group]))
        looked = 0
        for key in islice(keys, LOOKED_PER_LOOK):
            looked += 1
            kept = self._waiting[group].get(key)
            if kept is None or kept.producer not in self._watching:
                continue
            age_ms = self._age_ms(key, kept, now_ms)
            if _round(kept, age_ms) > self._asked.get(key, 0):
                yield key, kept, age_ms
        if looked < LOOKED_PER_LOOK:
            del self._rounds[group]

    def _ask(self, key: bytes, kept: Kept, age_ms: int) -> None:
        round_ = self._asked[key] = _round(kept, age_ms)
        clients = [client for client in self._watching[kept.producer] if not client.closed]
        if clients:
            self._node.count("prepared_checks")
            client = clients[round_ % len(clients)]
            what = t.CheckBack(kept.producer, key[1:].decode(), kept.topic, kept.partition, age_ms, round_)
            client.push(what, ())

    def _forget(self, group: Group, now_ms: int) -> None:
        settled = self._settled[group.id]
        old = [
            key
            for key, stored in islice(settled.items(), FORGOTTEN_PER_LOOK)
            if now_ms - stored.log_time_ms >= REMEMBERED_MS
        ]
        if not old:
            return
        batch = encode_batch([(key, None, (), now_ms) for key in old])
        body = encode_data([(TRANSACTIONS, int(group.id), batch)])
        self._node.submit(group.id, CommandKind.DATA, body, lambda _: None, timeout_s=SUBMIT_TIMEOUT_S, makes_room=True)


NO_OFFSET = Offset(-1)


def _round(kept: Kept, age_ms: int) -> int:
    return min(age_ms // kept.check_ms, kept.check_limit)


def _meaning(error: int) -> str:
    return BY_NUMBER[error].meaning if error else ""


def _reply(client: ClientSession, correlation: int, message: Message) -> None:
    if not client.closed:
        client.reply(correlation, message)
