"""What became of each transaction, and carrying it out: records in `__transactions`, then markers wherever it wrote.

A transactional name has one record, in the Paxos group that its CRC chooses. Any node may write it, if it names the
version that it replaces; so decisions need no coordinator. Who decides carries out; and whoever leads the record's
group carries out what was left behind, and aborts what has been open for too long: by log time, or by the leader's own
clock since it saw it, since log time stands still behind a clock that was ahead and was set back.

    done ── open ──▶ open ──▶ commit | abort ── markers in every group ──▶ done

Invariant: a marker is proposed only behind its decision; a record is done only behind its markers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING
from zlib import crc32

import msgspec

from corgi.base.command import CommandKind, encode_data
from corgi.base.errors import OK, UNSETTLED
from corgi.base.ids import TRANSACTIONS, GroupId, TopicId
from corgi.broker.together import Together
from corgi.state.commands import guard_record_at
from corgi.state.transaction_records import TRANSACTION, StoredRecord, encode_record
from corgi.state.transaction_rules import EPOCH_MAX, encode_marker

if TYPE_CHECKING:
    from corgi.broker.group import Group
    from corgi.broker.node import Node

DONE, OPEN, COMMIT, ABORT = range(4)
STATES = ("done", "open", "committing", "aborting")
LOOK_S = 0.25  # how often a leader looks for what is late
LEFT_BEHIND_MS = 1_000  # a decision this old is carried out by the leader as well
SUBMIT_TIMEOUT_S = 5.0
IDLE_MS = 7 * 86_400_000  # names that did nothing for so long are forgotten (Kafka's transactional.id.expiration.ms)
EXPIRE_PER_LOOK = 200

Then = Callable[[int, str], None]  # error number, 0: done; what it says


class Decided(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The body of a record. ``committed`` and ``timed_out`` tell of transaction ``number`` once it is done."""

    producer_id: int
    epoch: int
    number: int
    state: int = DONE
    committed: bool = False
    timed_out: bool = False
    groups: tuple[GroupId, ...] = ()
    partitions: tuple[tuple[TopicId, int], ...] = ()
    life_ms: int = 0
    started_ms: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Decided).decode
_replace = msgspec.structs.replace


def key_of(name: str) -> bytes:
    return TRANSACTION + name.encode()


class Decisions:
    """The records of all groups as this node has applied them. ``live``: by name, those that are not done."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.live: dict[GroupId, dict[bytes, Decided]] = {group.id: {} for group in node.groups}
        self._finishing: dict[bytes, list[Then]] = {}
        self._aborting: set[bytes] = set()
        self._standing: dict[bytes, tuple[tuple[int, int, int], float]] = {}  # how a live one stands, and since when
        self._look_at = node.clock.now()
        self._idle: dict[GroupId, Iterator[tuple[bytes, StoredRecord]]] = {}

    def home(self, name: str) -> GroupId:
        """The Paxos group of a name's record."""
        return GroupId(crc32(name.encode()) % self._node.options.groups)

    def get(self, name: str) -> Decided | None:
        """The record of a name as applied here."""
        found = self._node.groups[self.home(name)].machine.transaction_records.by_key.get(key_of(name))
        return None if found is None else _decode(found.body)

    def of_groups(self, groups: Iterable[GroupId]) -> Iterator[tuple[str, Decided]]:
        """(name, record) of all that these Paxos groups keep, as applied here."""
        for group in groups:
            for key, stored in self._node.groups[group].machine.transaction_records.by_key.items():
                if key[:1] == TRANSACTION:
                    yield key[1:].decode(), _decode(stored.body)

    def write(self, name: str, before: Decided | None, after: Decided, patience_s: float, then: Then) -> None:
        """Replace what was read; "unsettled" if somebody else did before, and the view tells then what."""
        group = self.home(name)
        records = self._node.groups[group].machine.transaction_records
        found = records.by_key.get(key_of(name))
        if (None if found is None else _decode(found.body)) != before:
            self._node.later(lambda: then(UNSETTLED, "the transaction has changed meanwhile"))
            return
        self._submit(group, key_of(name), records.version(key_of(name)), _encode(after), patience_s, then)

    def finish(self, name: str, patience_s: float, then: Then) -> None:
        """Carry out what was decided; ``then`` is called when it is so everywhere, at once if nothing is to be done."""
        key = key_of(name)
        waiting = self._finishing.get(key)
        if waiting is not None:
            waiting.append(then)
            return
        found = self.get(name)
        if found is None or found.state not in (COMMIT, ABORT):
            then(OK, "")
            return
        self._finishing[key] = [then]
        commit = found.state == COMMIT

        def marked(error: int, text: str) -> None:
            if error:
                self._finished(key, error, text)
                return
            done = _replace(found, state=DONE, committed=commit, groups=(), partitions=())
            self.write(name, found, done, patience_s, written)

        def written(error: int, text: str) -> None:
            self._finished(key, OK if error == UNSETTLED else error, text)

        self.mark(found.groups, found, commit, patience_s, marked)

    def mark(self, groups: tuple[GroupId, ...], found: Decided, commit: bool, patience_s: float, then: Then) -> None:
        """Have what this producer has open in these groups ended, and what is older than it fenced."""
        marks = Together(len(groups), then)
        now_ms = self._node.clock.wall_ms()
        body = encode_marker(found.producer_id, found.epoch, found.number, now_ms, commit=commit)
        for group in groups:
            self._node.submit(group, CommandKind.MARKER, body, marks.ended, timeout_s=patience_s, makes_room=True)

    # -- what the leader of a record's group does of itself -----------------------------------------------------------

    def applied(self, group: Group) -> None:
        """Values were applied in ``group`` in this turn."""
        records = group.machine.transaction_records
        if not records.changed:
            return
        live = self.live[group.id]
        for key in records.changed:
            if key[:1] == TRANSACTION:
                found = records.by_key.get(key)
                decided = None if found is None else _decode(found.body)
                if decided is None or decided.state == DONE:
                    live.pop(key, None)
                    self._standing.pop(key, None)
                else:
                    live[key] = decided

    def next_deadline(self) -> float | None:
        return self._look_at if any(self.live.values()) else None

    def advance(self, now: float) -> None:
        """Look for what is late in the groups that this node leads."""
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        for group in self._node.groups:
            if group.replica.leading:
                now_ms = max(group.machine.log_time_ms, self._node.clock.wall_ms())
                for key, decided in list(self.live[group.id].items()):
                    self._look(group, key, decided, now_ms, self._waited_ms(key, decided, now))
                self._expire(group, now_ms)
            else:
                self._idle.pop(group.id, None)

    def _waited_ms(self, key: bytes, decided: Decided, now: float) -> float:
        """For how long this node, leading, has seen a transaction stand as it does."""
        how = (decided.epoch, decided.number, decided.state)
        seen, since = self._standing.get(key, (None, now))
        if seen != how:
            self._standing[key] = how, now
            return 0.0
        return (now - since) * 1000

    def _look(self, group: Group, key: bytes, decided: Decided, now_ms: int, waited_ms: float) -> None:
        name = key[1:].decode()
        if decided.state != OPEN:
            stored = group.machine.transaction_records.by_key[key]
            late = max(now_ms - stored.log_time_ms, waited_ms) >= LEFT_BEHIND_MS
            if late and key not in self._finishing:
                self._node.count("transactions_left_behind")
                self.finish(name, SUBMIT_TIMEOUT_S, lambda error, text: None)
        elif key not in self._aborting and max(now_ms - decided.started_ms, waited_ms) >= decided.life_ms:
            self._node.count("transactions_timed_out")
            self._aborting.add(key)

            def aborted(error: int, _text: str) -> None:
                self._aborting.discard(key)
                if not error:
                    self.finish(name, SUBMIT_TIMEOUT_S, lambda error, text: None)

            # The epoch rises, so that what the producer still sends is refused and begins no other transaction.
            epoch = min(decided.epoch + 1, EPOCH_MAX)
            over = _replace(decided, state=ABORT, epoch=epoch, timed_out=True)
            self.write(name, decided, over, SUBMIT_TIMEOUT_S, aborted)

    def _expire(self, group: Group, now_ms: int) -> None:
        """Forget names that have been idle for long, some at a time."""
        records = group.machine.transaction_records
        round_ = self._idle.get(group.id)
        if round_ is None:
            round_ = self._idle[group.id] = iter(list(records.by_key.items()))
        looked = 0
        for key, stored in islice(round_, EXPIRE_PER_LOOK):
            looked += 1
            if key[:1] == TRANSACTION and now_ms - stored.log_time_ms > IDLE_MS and key not in self.live[group.id]:
                self._submit(group.id, key, stored.version, None, SUBMIT_TIMEOUT_S, lambda error, text: None)
        if looked < EXPIRE_PER_LOOK:
            del self._idle[group.id]

    def _submit(
        self, group: GroupId, key: bytes, version: int, body: bytes | None, patience_s: float, then: Then
    ) -> None:
        batch = encode_record(key, body, self._node.clock.wall_ms())
        command = encode_data([(TRANSACTIONS, int(group), batch)], [guard_record_at(key, version)])
        self._node.submit(
            group,
            CommandKind.DATA,
            command,
            lambda outcome: then(outcome.error, outcome.detail),
            timeout_s=patience_s,
            makes_room=True,
        )

    def _finished(self, key: bytes, error: int, text: str) -> None:
        for then in self._finishing.pop(key, ()):
            then(error, text)
