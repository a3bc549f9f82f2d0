"""Commands on their way into one group: queued here, proposed or forwarded, settled by apply.

Rules (docs/consensus.md): a forward names its ballot; only the origin submits a command again, after it has applied the
first slot of a newer leader without having seen the command, or to the same leader when a forward may have been lost;
the state machine drops the second copy by the command's id. Success is told after apply here.

How order survives a takeover, as a story: (1) batches 0-9 and 10-19 of a producer go out in two commands; (2) the
leader
dies, the first became a no-op, the second was chosen; (3) at apply the second is a gap: refused, no state left; (4)
this
node has the first still unsettled, so it keeps the refused part; (5) when the new leader's epoch record is applied,
both
are submitted again in their old order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from corgi.base import errors
from corgi.base.batch import HEADER_BYTES, parse_header
from corgi.base.command import (
    Buffer,
    CommandKind,
    encode_command,
    encode_data,
    is_atomic,
    iter_data,
)
from corgi.base.ids import Ballot, GroupId, Origin
from corgi.base.limits import FORWARD_RETRY_S, PENDING_BYTES_MAX
from corgi.state.outcomes import AppendResult, Outcome

GAP_RETRIES_MAX = 20

Done = Callable[[Outcome], None]


class Pending:
    """One command without an outcome. ``ballot`` is the leader's it was given to; 0 while it is queued."""

    __slots__ = (
        "attempts", "ballot", "counter", "deadline", "done", "encoded", "given_at", "kind", "leader_ack", "order",
        "partial", "settled", "turn",
    )  # fmt: skip

    def __init__(
        self,
        kind: CommandKind,
        counter: int,
        encoded: bytes,
        done: Done,
        deadline: float,
        leader_ack: Callable[[], None] | None,
    ) -> None:
        self.kind = kind
        self.counter = counter
        self.order = counter  # the place in line; a command submitted anew keeps it
        self.encoded = encoded
        self.done = done
        self.deadline = deadline
        self.leader_ack = leader_ack
        self.ballot = Ballot(0)
        self.given_at = 0.0
        self.turn = 0  # counts what was given to leaders: who was given last goes behind
        self.attempts = 0
        self.settled = False
        self.partial: tuple[Outcome, tuple[int, ...]] | None = None  # first outcome, and which appends are tried again


class Proposals:
    """The unsettled commands of this node in one group, in order."""

    def __init__(self, group: GroupId, origin: Origin, count: Callable[[str, int], None]) -> None:
        self.group = group
        self.origin = origin
        self.bytes_held = 0
        self._count = count
        self._counter = 0
        self._settled = 1  # every counter below it has its outcome
        self._unsettled: dict[int, Pending] = {}  # by counter, ascending
        self._queue: deque[Pending] = deque()
        self._soonest = float("inf")
        self._turn = 0

    def __len__(self) -> int:
        return len(self._unsettled)

    @property
    def queued(self) -> bool:
        return bool(self._queue)

    @property
    def full(self) -> bool:
        return self.bytes_held >= PENDING_BYTES_MAX

    def submit(
        self, kind: CommandKind, body: Buffer, done: Done, deadline: float, leader_ack: Callable[[], None] | None = None
    ) -> None:
        """Queue a command; ``done`` is called exactly once."""
        self._add(Pending(kind, self._next(), b"", done, deadline, leader_ack), body)

    def foreign_id(self) -> int:
        """A command id for what the node proposes on its own behalf, outside this queue; nobody waits for it."""
        return self._next()

    def settled_mark(self) -> int:
        """Every counter below this one has its outcome or was given up."""
        unsettled, settled = self._unsettled, self._settled
        while settled < self._counter and settled not in unsettled:
            settled += 1
        self._settled = settled
        return settled

    def _next(self) -> int:
        self._counter += 1
        return self._counter

    def _add(self, pending: Pending, body: Buffer) -> None:
        counter = pending.counter
        pending.encoded = encode_command(pending.kind, self.origin, counter, self.settled_mark(), body)
        self._unsettled[counter] = pending
        self._queue.append(pending)
        self.bytes_held += len(pending.encoded)
        if pending.deadline < self._soonest:
            self._soonest = pending.deadline

    def renew(self, origin: Origin) -> list[Pending]:
        """Count on under another origin; returns what was under way under the old one: its outcome stays unknown."""
        self.origin = origin
        given_up = list(self._unsettled.values())
        for pending in given_up:
            self._drop(pending)
        return given_up

    def take(self, bytes_max: int, commands_max: int, ballot: Ballot, now: float) -> list[Pending]:
        """The next commands for the leader of ``ballot``: at least one if any is queued."""
        taken: list[Pending] = []
        size = 0
        queue = self._queue
        while queue and len(taken) < commands_max:
            pending = queue[0]
            if pending.settled:
                queue.popleft()
                continue
            size += len(pending.encoded)
            if taken and size > bytes_max:
                break
            queue.popleft()
            pending.ballot = ballot
            pending.given_at = now
            self._turn += 1
            pending.turn = self._turn
            taken.append(pending)
        return taken

    def settle(self, outcome: Outcome) -> None:
        """A command of this node was applied here."""
        pending = self._unsettled.get(outcome.counter)
        if pending is None:
            return
        gaps = self._own_gaps(pending, outcome) if outcome.appends and not is_atomic(pending.encoded) else ()
        if gaps and pending.attempts < GAP_RETRIES_MAX:
            self._keep_gaps(pending, outcome, gaps)
            return
        self._drop(pending)
        pending.done(_merged(pending, outcome))

    def _drop(self, pending: Pending) -> None:
        del self._unsettled[pending.counter]
        pending.settled = True
        self.bytes_held -= len(pending.encoded)

    def _own_gaps(self, pending: Pending, outcome: Outcome) -> tuple[int, ...]:
        """Appends refused as a gap whose missing predecessor is a command of this node that is still unsettled."""
        refused = [i for i, result in enumerate(outcome.appends) if result.error == errors.OUT_OF_ORDER_SEQUENCE]
        if not refused:
            return ()
        mine = _producers(pending.encoded)
        earlier: set[tuple[int, int, int]] = set()
        for other in self._earlier(pending):
            earlier.update(_producers(other.encoded))
        return tuple(i for i in refused if mine[i] in earlier)

    def _earlier(self, pending: Pending) -> Iterator[Pending]:
        """The unsettled commands with data that were submitted before this one."""
        for other in self._unsettled.values():
            if other.order < pending.order and other.kind is CommandKind.DATA:
                yield other

    def _keep_gaps(self, pending: Pending, outcome: Outcome, gaps: Sequence[int]) -> None:
        """Keep the refused appends in doubt, under a new id, in the old place: they go out with their predecessor."""
        self._count("own_gaps", 1)
        appends = list(iter_data(pending.encoded))
        body = encode_data([appends[i] for i in gaps])
        self._drop(pending)
        again = Pending(pending.kind, self._next(), b"", pending.done, pending.deadline, None)
        self._add(again, body)
        again.order = pending.order
        again.attempts = pending.attempts + 1
        if all(other.ballot == 0 or other.turn > pending.turn for other in self._earlier(pending)):
            # Those before it have gone out again meanwhile, or are about to: it may follow.
            self._queue = deque(sorted(self._queue, key=lambda queued: queued.order))
        else:
            self._queue.remove(again)
            again.ballot = pending.ballot
            again.given_at = pending.given_at
        again.partial = (_merged(pending, outcome), tuple(gaps) if pending.partial is None else _compose(pending, gaps))

    def new_leader(self, ballot: Ballot) -> None:
        """The epoch record of ``ballot`` was applied: what was given to an older leader and not seen goes out again."""
        self._again([p for p in self._unsettled.values() if 0 < p.ballot < ballot])

    def retry_forwards(self, ballot: Ballot, now: float) -> bool:
        """Forwards to the leader of ``ballot`` without outcome for too long go out again; True if there are any."""
        if not ballot:
            return False  # what was given to nobody is queued
        if not any(p.ballot == ballot and now - p.given_at > FORWARD_RETRY_S for p in self._unsettled.values()):
            return False
        self._again([p for p in self._unsettled.values() if p.ballot == ballot])
        return True

    def _again(self, doubtful: list[Pending]) -> None:
        if not doubtful:
            return
        self._count("resubmitted", len(doubtful))
        for pending in doubtful:
            pending.ballot = Ballot(0)
        self._queue = deque(sorted((*doubtful, *(p for p in self._queue if not p.settled)), key=lambda p: p.order))

    def refuse(self, which: Callable[[Buffer], bool], reason: int) -> list[tuple[Pending, Outcome]]:
        """Give up those that wait here for a leader and that ``which`` names; what their callers must be told."""
        refused = [pending for pending in self._queue if not pending.settled and which(pending.encoded)]
        told: list[tuple[Pending, Outcome]] = []
        for pending in refused:
            self._drop(pending)
            error = reason if not pending.given_at and pending.partial is None else errors.TIMEOUT
            told.append((pending, Outcome(self.origin, pending.counter, error, (), -1)))
        self._queue = deque(pending for pending in self._queue if not pending.settled)
        return told

    def expire(self, now: float, reason: int) -> None:
        """Answer what is past its deadline: the outcome is unknown, and the command is never submitted again."""
        if now < self._soonest:
            return
        late = [p for p in self._unsettled.values() if p.deadline <= now]
        for pending in late:
            self._drop(pending)
        self._soonest = min((p.deadline for p in self._unsettled.values()), default=float("inf"))
        for pending in late:
            error = reason if pending.ballot == 0 and pending.partial is None else errors.TIMEOUT
            pending.done(Outcome(self.origin, pending.counter, error, (), -1))


def _producers(encoded: bytes) -> list[tuple[int, int, int]]:
    """(topic, partition, producer id) of each append of an encoded DATA command."""
    found = []
    for topic, partition, batch in iter_data(encoded):
        producer = parse_header(batch).producer_id if len(batch) >= HEADER_BYTES else -1
        found.append((int(topic), partition, producer))
    return found


def _compose(pending: Pending, gaps: Sequence[int]) -> tuple[int, ...]:
    """Places in the first command of appends that are tried yet another time."""
    assert pending.partial is not None
    places = pending.partial[1]
    return tuple(places[i] for i in gaps)


def _merged(pending: Pending, outcome: Outcome) -> Outcome:
    """The outcome of the whole command, when only some of its appends were tried again."""
    if pending.partial is None:
        return outcome
    first, places = pending.partial
    appends: list[AppendResult] = list(first.appends)
    for place, result in zip(places, outcome.appends, strict=False):
        appends[place] = result
    stored = any(result.error == errors.OK for result in appends)
    error = errors.OK if stored else outcome.error
    return Outcome(first.origin, first.counter, error, tuple(appends), outcome.timestamp_ms, outcome.detail)
