"""Mutants of consumer groups and transactions: each lets go of one rule of ADR 8 or 9. ``mutants`` has the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from corgi.base.command import Data
from corgi.base.ids import GroupId, Offset, TopicId
from corgi.broker.assignment import Unit
from corgi.broker.consumer_group import ConsumerGroup, Member
from corgi.broker.decisions import Decided, Decisions
from corgi.broker.transactions import Transactions as Deciders
from corgi.client.core.progress import Progress, Range
from corgi.sim.mutant import Mutant
from corgi.sim.run import Options
from corgi.state import rules
from corgi.state.commands import CursorGuard, GuardKind
from corgi.state.cursors import Cursor, CursorKey, Cursors
from corgi.state.group_state import GroupState
from corgi.state.index import PartitionLog
from corgi.state.partition_transactions import PartitionTransactions
from corgi.state.transactions import Transactions


def checkpoint_before_processing() -> tuple[object, str, Callable[..., Any]]:
    def hasty(self: Progress) -> tuple[int, tuple[Range, ...]]:
        return self.position, ()

    return Progress, "checkpoint", hasty


def checkpoint_of_anybody() -> tuple[object, str, Callable[..., Any]]:
    move = Cursors.move

    def unfenced(self: Cursors, key: CursorKey, owner: tuple[int, str], *args: Any, **options: Any) -> Cursor:
        cursor = self.get(key)
        return move(self, key, (cursor.owner_epoch, cursor.member), *args, **{**options, "reset": True})

    return Cursors, "move", unfenced


def results_of_anybody() -> tuple[object, str, Callable[..., Any]]:
    def unfenced(self: Cursors, guard: CursorGuard) -> bool:
        cursor = self.get(CursorKey(guard.group, TopicId(guard.topic), guard.partition, guard.slice))
        done = guard.version + 1 == cursor.version and (guard.offset, guard.ranges) == (cursor.offset, cursor.ranges)
        return not done

    return Cursors, "judge", unfenced


def results_whatever_the_guard_says() -> tuple[object, str, Callable[..., Any]]:
    check = rules._check_guards

    def torn(state: GroupState, data: Data) -> Any:
        verdict = check(state, data)
        cursors = any(guard.kind == GuardKind.CURSOR_AT for guard in data.guards)
        if cursors and (verdict is None or verdict[0]):
            return 0, ""
        return verdict

    return rules, "_check_guards", torn


def checkpoint_whatever_it_says() -> tuple[object, str, Callable[..., Any]]:
    """So that results are not taken back with it."""
    move = Cursors.move

    def quiet(self: Cursors, key: CursorKey, *args: Any, **options: Any) -> Cursor:
        try:
            return move(self, key, *args, **options)
        except Exception:  # noqa: BLE001 - a mutant
            return self.get(key)

    return Cursors, "move", quiet


def commit_on_one_participant() -> tuple[object, str, Callable[..., Any]]:
    mark = Decisions.mark

    def torn(
        self: Decisions, groups: tuple[GroupId, ...], found: Decided, commit: bool, patience_s: float, then: Any
    ) -> None:
        if not commit or len(groups) < 2:
            mark(self, groups, found, commit, patience_s, then)
            return
        mark(self, groups[:1], found, True, patience_s, lambda *_: None)
        mark(self, groups[1:], found, False, patience_s, then)

    return Decisions, "mark", torn


def read_past_the_last_stable_offset() -> tuple[object, str, Callable[..., Any]]:
    def unstable(self: PartitionTransactions, end: Offset) -> Offset:
        return end

    return PartitionTransactions, "stable_end", unstable


def decide_for_zombies() -> tuple[object, str, Callable[..., Any]]:
    known = Deciders._known

    def unfenced(self: Deciders, message: Any, call: Any) -> Any:
        found = self._decisions.get(message.name)
        if found is not None:
            message = msgspec.structs.replace(message, producer_epoch=found.epoch)
        return known(self, message, call)

    return Deciders, "_known", unfenced


def open_for_zombies() -> tuple[object, str, Callable[..., Any]]:
    check_open = Transactions.check_open

    def unfenced(self: Transactions, producer_id: int, epoch: int, number: int, parts: int) -> None:
        fence = self.fences.get(producer_id)
        check_open(self, producer_id, epoch if fence is None else max(epoch, fence.epoch), number, parts)

    return Transactions, "check_open", unfenced


def append_for_zombies() -> tuple[object, str, Callable[..., Any]]:
    admits = Transactions.admits

    def unfenced(self: Transactions, producer_id: int, epoch: int, log: PartitionLog) -> str:
        fence = self.fences.get(producer_id)
        return admits(self, producer_id, epoch if fence is None else fence.epoch, log)

    return Transactions, "admits", unfenced


def do_not_wait_for_the_owner() -> tuple[object, str, Callable[..., Any]]:
    def gone(self: ConsumerGroup, holder: Member, unit: Unit) -> bool:
        return True

    return ConsumerGroup, "_let_go", gone


GROUPS = Options(groups=True, transactions=False, faults=("isolate", "split", "client-cut"))
TRANSACTIONS = Options(groups=False, transactions=True, faults=("isolate", "client-cut"))

GROUP_MUTANTS: dict[str, Mutant] = {
    "checkpoint-before-processing": Mutant(
        "a checkpoint covers what is done only",
        (checkpoint_before_processing,),
        ("unhandled", "exactly-once"),
        rate=0.2,
        options=GROUPS,
    ),
    "no-owner-fence": Mutant(
        "a checkpoint is its owner's, and names what it replaces",
        (checkpoint_of_anybody, results_of_anybody),
        ("exactly-once", "duplicate", "handled-twice", "unhandled"),
        rate=0.08,
        options=GROUPS,
    ),
    "results-without-checkpoint": Mutant(
        "results happen with their checkpoint, or not at all",
        (results_whatever_the_guard_says, checkpoint_whatever_it_says),
        ("exactly-once", "duplicate", "handled-twice"),
        rate=0.12,
        options=GROUPS,
    ),
    "commit-on-one-participant": Mutant(
        "a transaction is committed everywhere or nowhere",
        (commit_on_one_participant,),
        ("torn-transaction", "exactly-once", "lost-write"),
        rate=1.0,
        options=TRANSACTIONS,
    ),
    "read-past-stable": Mutant(
        "readers of committed data stop before what is open",
        (read_past_the_last_stable_offset,),
        ("precommitted-read", "aborted-read", "lost-write"),
        rate=0.97,
        options=TRANSACTIONS,
    ),
    "no-producer-fence": Mutant(
        "who began last under a transactional name fences all before",
        (decide_for_zombies, open_for_zombies, append_for_zombies),
        ("unjustified-refusal", "precommitted-read", "aborted-read", "torn-transaction"),
        rate=0.23,
        options=TRANSACTIONS,
    ),
    "hand-out-too-early": Mutant(
        "a unit is given away when its owner has let go",
        (do_not_wait_for_the_owner,),
        ("key-order",),
        rate=0.05,
        options=GROUPS,
    ),
}
