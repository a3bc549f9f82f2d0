"""Requests of transactions: from a client's words to decisions, openings and one-command acts.

Each request may be repeated. It reads the record as applied here, writes what follows from it, and looks again if
somebody else wrote first; what looks like a client's mistake is judged only after a barrier, for this node may be
behind. Producers are told apart by epoch, transactions of one producer by number.

Kafka's protocol has no numbers. Its requests mean the transaction that is open, or the next one, or the one that ended
last; which that is stands in the record, so any node can tell: what is written names the record that it replaces, and
what is answered from the record alone is answered only behind a barrier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from corgi.base.batch import check_batch
from corgi.base.command import CommandKind, encode_data
from corgi.base.errors import BY_NUMBER, OK, TIMEOUT, TRANSACTION_ENDED, UNSETTLED, CorgiError
from corgi.base.ids import CHECKPOINTS, GroupId, TopicId
from corgi.base.limits import COMMAND_BYTES_MAX
from corgi.base.ports import ClientSession, Message
from corgi.broker.bounds import timeout_s
from corgi.broker.decisions import ABORT, COMMIT, DONE, OPEN, STATES, Decided, Decisions
from corgi.broker.places import Places, check_writable
from corgi.broker.producer_ids import ProducerIds
from corgi.broker.together import Together
from corgi.state.commands import CursorGuard, guard_cursor_at, guard_producer_at
from corgi.state.cursors import CheckpointRecord, CursorKey, encode_checkpoint
from corgi.state.outcomes import Outcome
from corgi.state.transaction_rules import EPOCH_MAX, StagedCheckpoint, encode_transaction_open
from corgi.wire import transaction_messages as t

if TYPE_CHECKING:
    from corgi.broker.node import Node

ATTEMPTS_MAX = 50  # of one request against others that write the same record
LIFE_MS = 60_000  # of a transaction whose producer did not tell
OPEN_OR_NEXT = -1  # as the number of a transaction: the open one, or the next
OPEN_ONE = -2  # … the open one
IN_MEMORY = "a transaction cannot touch topics with durability memory: a loss of power could take a part of it"
LAST_ONE = -3  # … the open one, or the one that ended last
_replace = msgspec.structs.replace

Answer = Callable[[int, str], None]
Became = Callable[[int, str, Decided | None], None]


class _Call:
    """One request: ``step`` is run until it answers."""

    def __init__(self, node: Node, timeout_ms: int, step: Callable[[_Call], None], answer: Answer) -> None:
        self._node = node
        self._step = step
        self._answer = answer
        self._deadline = node.clock.now() + timeout_s(timeout_ms)
        self._attempts = 0
        self.current = False  # a barrier was passed since the request came

    @property
    def patience_s(self) -> float:
        return max(self._deadline - self._node.clock.now(), 0.001)

    def run(self) -> None:
        self._attempts += 1
        if self._node.clock.now() >= self._deadline:
            self._answer(TIMEOUT, "")
        elif self._attempts > ATTEMPTS_MAX:
            self._answer(UNSETTLED, "others write the same transaction all the time")
        else:
            try:
                self._step(self)
            except CorgiError as error:
                self._answer(error.kind.number, error.message)

    def written(self, error: int, text: str) -> None:
        """A record was written, or carried out, and the next step sees it; or somebody else wrote first."""
        if error and error != UNSETTLED:
            self._answer(error, text)
        else:
            self.run()

    def refuse(self, group: GroupId, error: CorgiError) -> None:
        """What this node knows speaks against it; is it so?"""
        self.confirm(group, error.kind.number, error.message)

    def confirm(self, group: GroupId, error: int = OK, text: str = "") -> None:
        """Answer this, if what this node knows is current; otherwise look again behind a barrier."""
        if self.current:
            self._answer(error, text)
        else:
            self.look_again(group)

    def look_again(self, group: GroupId) -> None:
        """Run the step once more when this node knows all that was written before now."""

        def passed(outcome: Outcome) -> None:
            self.current = True
            if outcome.error:
                self._answer(outcome.error, outcome.detail)
            else:
                self.run()

        self._node.submit(group, CommandKind.BARRIER, b"", passed, timeout_s=self.patience_s)

    def answer(self, error: int = OK, text: str = "") -> None:
        self._answer(error, text)


class Transactions:
    """Everything but prepared messages."""

    def __init__(self, node: Node, places: Places, decisions: Decisions, producer_ids: ProducerIds) -> None:
        self._node = node
        self._places = places
        self._decisions = decisions
        self._producer_ids = producer_ids

    # -- init ---------------------------------------------------------------------------------------------------------

    def init(self, client: ClientSession, correlation: int, message: t.InitTransactions) -> None:
        def answer(error: int, text: str, found: Decided | None) -> None:
            if found is None:
                _reply(client, correlation, t.InitTransactionsReply(error, text))
            else:
                reply = t.InitTransactionsReply(OK, "", found.producer_id, found.epoch, found.number)
                _reply(client, correlation, reply)

        self.become(message.name, message.timeout_ms, answer)

    def become(
        self, name: str, timeout_ms: int, answer: Became, *, life_ms: int = 0, mine: tuple[int, int] | None = None
    ) -> None:
        """Begin as the producer ``name``. ``life_ms``: of its transactions that do not tell theirs; ``mine``: the
        producer id and epoch that go on, unless somebody else has begun meanwhile ("transaction-fenced")."""
        became: list[Decided] = []

        def answered(error: int, text: str) -> None:
            found = became[-1] if became and not error else None
            answer(error, text or _meaning(error), found)

        def step(call: _Call) -> None:
            nonlocal mine
            found = self._decisions.get(name)
            if mine is not None and not _goes_on(found, mine):
                call.refuse(self._decisions.home(name), CorgiError("transaction-fenced", f"others began as {name!r}"))
            elif found is not None and found.state == OPEN:
                aborted = _replace(found, state=ABORT, epoch=min(found.epoch + 1, EPOCH_MAX))

                def written(error: int, text: str) -> None:
                    nonlocal mine
                    if mine is not None and not error:
                        mine = aborted.producer_id, aborted.epoch
                    call.written(error, text)

                self._decisions.write(name, found, aborted, call.patience_s, written)
            elif found is not None and found.state != DONE:
                self._decisions.finish(name, call.patience_s, call.written)
            else:
                self._become(name, found, call, became, life_ms)

        _Call(self._node, timeout_ms, step, answered).run()

    def _become(self, name: str, found: Decided | None, call: _Call, became: list[Decided], life_ms: int) -> None:
        """Write the next epoch, or the first of a new producer id, and fence the last one wherever transactions are."""
        everywhere = tuple(group.id for group in self._node.groups[: self._node.options.groups])
        fences: list[Decided] = []
        if found is None or found.epoch >= EPOCH_MAX - 1:
            mine = Decided(self._new_id(), 0, 0 if found is None else found.number, life_ms=life_ms)
            fences += [] if found is None else [_replace(found, epoch=EPOCH_MAX)]
        else:
            mine = _replace(found, epoch=found.epoch + 1, timed_out=False, life_ms=life_ms)
            fences += [mine]

        def written(error: int, text: str) -> None:
            if error:
                call.written(error, text)
                return
            became.append(mine)
            if fences:
                self._decisions.mark(everywhere, fences[0], commit=False, patience_s=call.patience_s, then=call.answer)
            else:
                call.answer()

        self._decisions.write(name, found, mine, call.patience_s, written)

    def _new_id(self) -> int:
        log_times_ms = [group.machine.log_time_ms for group in self._node.groups]
        number = self._producer_ids.next(self._node.clock.wall_ms(), log_times_ms)
        if number is None:
            raise CorgiError("overloaded", "more producers begin in this millisecond than have ids")
        return number

    # -- open ---------------------------------------------------------------------------------------------------------

    def open(self, client: ClientSession, correlation: int, message: t.OpenTransaction) -> None:
        def answer(error: int, text: str) -> None:
            _reply(client, correlation, t.OpenTransactionReply(error, text))

        self.begin(message, answer)

    def begin(self, message: t.OpenTransaction, answer: Answer) -> None:
        """Open a transaction, or add to it. ``number`` may be OPEN_OR_NEXT or OPEN_ONE; ``life_ms`` 0: as told when
        the producer began."""
        opened = 0  # the number under which the record was written

        def step(call: _Call) -> None:
            nonlocal opened
            if opened:
                self._open_in_groups(_replace(message, number=opened), call, in_groups)
                return
            groups = {self._places.to_write(topic, partition).group for topic, partition in _touched(message)}
            if any(group >= self._node.options.groups for group in groups):
                raise CorgiError("invalid-argument", IN_MEMORY)
            found = self._known(message, call)
            if found is None:
                return
            number = _number_of(found, message)
            after = self._opened(found, number, message, call)
            if after is None:
                return
            after = _joined(after, groups, message.partitions)
            opened = number
            if after == found:
                call.run()
                return

            def written(error: int, text: str) -> None:
                nonlocal opened
                opened = 0 if error else opened
                call.written(error, text)

            self._decisions.write(message.name, found, after, call.patience_s, written)

        def in_groups(call: _Call, error: int, text: str) -> None:
            nonlocal opened
            if error == TRANSACTION_ENDED and message.number < 0 and not call.current:
                opened = 0  # it was another one that is open
                call.look_again(self._decisions.home(message.name))
            else:
                call.answer(error, text)

        _Call(self._node, message.timeout_ms, step, lambda error, text: answer(error, text or _meaning(error))).run()

    def _opened(self, found: Decided, number: int, message: t.OpenTransaction, call: _Call) -> Decided | None:
        """The record with the transaction open; None if ``call`` looks again."""
        if found.number == number and found.state != OPEN:
            code = "transaction-aborted" if found.timed_out else "transaction-ended"
            error = CorgiError(code, f"transaction {number} of {message.name!r} has ended")
            if message.number >= 0:
                raise error
            call.refuse(self._decisions.home(message.name), error)
            return None
        if found.number == number:
            return found
        if found.state == OPEN:
            raise CorgiError("transaction-in-progress", f"transaction {found.number} has not ended")
        if found.state != DONE:
            self._decisions.finish(message.name, call.patience_s, call.written)
            return None
        home = self._node.groups[self._decisions.home(message.name)].machine
        now_ms = max(home.log_time_ms, self._node.clock.wall_ms())
        life_ms = message.life_ms or found.life_ms or LIFE_MS
        return Decided(found.producer_id, found.epoch, number, OPEN, life_ms=life_ms, started_ms=now_ms)

    def _open_in_groups(self, message: t.OpenTransaction, call: _Call, done: Callable[[_Call, int, str], None]) -> None:
        """The record names the groups: now they may know of it."""
        partitions: dict[GroupId, list[tuple[TopicId, int]]] = {}
        checkpoints: dict[GroupId, list[StagedCheckpoint]] = {}
        for topic, partition in message.partitions:
            partitions.setdefault(self._places.to_write(topic, partition).group, []).append((topic, partition))
        for one in message.checkpoints:
            group = self._places.to_write(one.topic, one.partition).group
            checkpoints.setdefault(group, []).append(StagedCheckpoint(*msgspec.structs.astuple(one)))
        groups = partitions.keys() | checkpoints.keys()
        openings = Together(len(groups), lambda error, text: done(call, error, text))
        for group in sorted(groups):
            body = encode_transaction_open(
                message.producer_id,
                message.producer_epoch,
                message.number,
                partitions.get(group, []),
                checkpoints.get(group, []),
            )
            self._node.submit(group, CommandKind.TRANSACTION_OPEN, body, openings.ended, timeout_s=call.patience_s)

    # -- end ----------------------------------------------------------------------------------------------------------

    def end(self, client: ClientSession, correlation: int, message: t.EndTransaction) -> None:
        def answer(error: int, text: str) -> None:
            _reply(client, correlation, t.EndTransactionReply(error, text))

        self.decide(message, answer)

    def decide(self, message: t.EndTransaction, answer: Answer) -> None:
        """Commit or abort. ``number`` may be LAST_ONE."""

        def step(call: _Call) -> None:
            found = self._known(message, call)
            if found is None:
                return
            number = _number_of(found, message)
            if message.number < 0 and found.state == DONE and not call.current:
                call.look_again(self._decisions.home(message.name))
            elif found.number < number:  # nothing was ever opened in it, or this node has yet to hear of that
                if found.state == DONE:
                    call.confirm(self._decisions.home(message.name))
                else:
                    raise CorgiError("transaction-in-progress", f"transaction {found.number} has not ended")
            elif found.state == OPEN:
                decided = _replace(found, state=COMMIT if message.commit else ABORT)
                self._decisions.write(message.name, found, decided, call.patience_s, call.written)
            elif (found.committed if found.state == DONE else found.state == COMMIT) != message.commit:
                code = "transaction-aborted" if message.commit else "transaction-ended"
                raise CorgiError(code, f"transaction {number} ended otherwise")
            elif found.state == DONE:
                call.answer()
            else:
                self._decisions.finish(message.name, call.patience_s, call.written)

        _Call(self._node, message.timeout_ms, step, lambda error, text: answer(error, text or _meaning(error))).run()

    def _known(self, message: t.OpenTransaction | t.EndTransaction, call: _Call) -> Decided | None:
        """The record, if this producer and this number may go on with it; None if ``call`` looks again.

        Raises CorgiError "transaction-fenced", "transaction-aborted", "transaction-ended".
        """
        name = message.name
        home = self._decisions.home(name)
        found = self._decisions.get(name)
        if found is None:
            call.refuse(home, CorgiError("unknown-transaction", f"nobody has begun as {name!r}"))
            return None
        number = _number_of(found, message)
        theirs, ours = (found.producer_id, found.epoch), (message.producer_id, message.producer_epoch)
        if theirs != ours:
            late = found.timed_out and found.number == number and theirs == (ours[0], ours[1] + 1)
            if late and message.number >= 0:  # without a number it could not be told from a later one
                text = f"transaction {number} of {name!r} was open for too long"
                call.refuse(home, CorgiError("transaction-aborted", text))  # somebody may have begun since
                return None
            text = f"a newer producer has begun as {name!r}"
            if theirs > ours:
                raise CorgiError("transaction-fenced", text)
            call.refuse(home, CorgiError("transaction-fenced", text))
            return None
        if number < found.number:
            raise CorgiError("transaction-ended", f"transaction {number} of {name!r} has ended")
        if number > found.number + 1:
            text = f"the next transaction of {name!r} is {found.number + 1}, not {number}"
            call.refuse(home, CorgiError("invalid-argument", text))
            return None
        return found

    # -- one command --------------------------------------------------------------------------------------------------

    def atomic(self, client: ClientSession, correlation: int, message: t.Atomic, payload: memoryview) -> None:
        """Raises CorgiError when nothing of it was tried."""
        patience_s = timeout_s(message.timeout_ms)
        groups: dict[GroupId, None] = {}
        appends: list[tuple[TopicId, int, memoryview | bytes]] = []
        at = 0
        for topic, partition, length in message.batches:
            batch = payload[at : at + length]
            at += length
            if check_batch(batch).attributes & ~7:
                raise CorgiError("invalid-argument", "what one command does needs no transaction")
            place = self._places.to_write(topic, partition)
            check_writable(place, batch)
            groups[place.group] = None
            appends.append((topic, partition, batch))
        guards = []
        if message.producer_id >= 0:
            guards.append(guard_producer_at(message.producer_id, max(message.producer_epoch, 0)))
        for one in message.checkpoints:
            group = self._places.to_write(one.topic, one.partition).group
            groups[group] = None
            guards.append(_cursor_guard(one))
            appends.append((CHECKPOINTS, int(group), self._checkpoint(one)))
        if len(groups) != 1:
            raise CorgiError("invalid-argument", "it does not lie in one Paxos group: it needs a transaction")
        # Without a guard a command of one batch would be told apart from its neighbours' no more than any other.
        body = encode_data(appends, guards or [guard_producer_at(0, 0)])
        if len(body) > COMMAND_BYTES_MAX:
            text = f"{len(body)} bytes in one act, {COMMAND_BYTES_MAX} are the most"
            raise CorgiError("record-too-large", text)
        count = len(message.batches)

        def applied(outcome: Outcome) -> None:
            if outcome.error:
                reply = t.AtomicReply(outcome.error, outcome.detail or _meaning(outcome.error))
            else:
                offsets = tuple(result.base_offset for result in outcome.appends[:count])
                reply = t.AtomicReply(OK, "", offsets, outcome.timestamp_ms)
            _reply(client, correlation, reply)

        self._node.submit(next(iter(groups)), CommandKind.DATA, body, applied, timeout_s=patience_s)

    def _checkpoint(self, one: t.Checkpoint) -> bytes:
        if one.version < 0:
            raise CorgiError("invalid-argument", "a checkpoint beside results names the version that it replaces")
        key = CursorKey(one.group, one.topic, one.partition, one.slice)
        record = CheckpointRecord(
            one.owner_epoch, one.member, one.offset, one.ranges, one.metadata, one.reset, one.leader_epoch
        )
        return encode_checkpoint(key, record, self._node.clock.wall_ms())

    # -- what is open -------------------------------------------------------------------------------------------------

    def infos(self) -> Iterable[t.TransactionInfo]:
        """Every transaction that is not done, as applied here."""
        now_ms = self._node.clock.wall_ms()
        for live in self._decisions.live.values():
            for key, found in sorted(live.items()):
                yield t.TransactionInfo(
                    key[1:].decode(),
                    STATES[found.state],
                    max(0, now_ms - found.started_ms),
                    found.life_ms,
                    found.partitions,
                    found.producer_id,
                    found.epoch,
                    found.number,
                )


def _touched(message: t.OpenTransaction) -> list[tuple[TopicId, int]]:
    return [*message.partitions, *((one.topic, one.partition) for one in message.checkpoints)]


def _number_of(found: Decided, message: t.OpenTransaction | t.EndTransaction) -> int:
    """Which transaction is meant, as far as the record tells."""
    if message.number >= 0:
        return message.number
    return found.number + (message.number == OPEN_OR_NEXT and found.state != OPEN)


def _goes_on(found: Decided | None, mine: tuple[int, int]) -> bool:
    """Whether nobody has begun since this producer did. An epoch that rose because it was late is still its own."""
    if found is None:
        return False
    return mine == (found.producer_id, found.epoch) or (
        found.timed_out and mine == (found.producer_id, found.epoch - 1)
    )


def _joined(found: Decided, groups: set[GroupId], partitions: Iterable[tuple[TopicId, int]]) -> Decided:
    """The record with more groups and partitions."""
    return _replace(
        found,
        groups=tuple(dict.fromkeys((*found.groups, *sorted(groups)))),
        partitions=tuple(dict.fromkeys((*found.partitions, *partitions))),
    )


def _cursor_guard(one: t.Checkpoint) -> tuple[int, bytes]:
    return guard_cursor_at(
        CursorGuard(
            one.group, one.topic, one.partition, one.slice, one.owner_epoch, one.member,
            max(one.version, 0), one.offset, one.ranges,
        )
    )  # fmt: skip


def _meaning(error: int) -> str:
    return BY_NUMBER[error].meaning if error else ""


def _reply(client: ClientSession, correlation: int, message: Message) -> None:
    if not client.closed:
        client.reply(correlation, message)
