"""From lines of JSON to a history.

A line that cannot be understood is refused with its number, and with a hint that says what was expected; nothing is
guessed. Reads whatever gives lines of bytes; where they lie is the caller's business.
"""

from __future__ import annotations

import difflib
import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import msgspec

from corgi.base.errors import CorgiError
from corgi.history.lines import (
    KINDS,
    VERSION,
    AnyLine,
    CallLine,
    CheckpointLine,
    DrainLine,
    EndLine,
    FaultLine,
    HandleLine,
    HealedLine,
    HistoryLine,
    LeaderLine,
    ReadLine,
    ResultLine,
    SendLine,
    TransactionLine,
    UnfinishedLine,
)
from corgi.history.model import (
    FAILED,
    OK,
    OPEN,
    REFUSED,
    UNKNOWN,
    Bound,
    Call,
    Checkpoint,
    Fault,
    Handling,
    History,
    Leadership,
    Partition,
    Read,
    Result,
    Send,
    Transaction,
)

LINE_BYTES_MAX = 64 << 20  # a drain may be one line; more is no line of a history
SHOWN_BYTES = 120  # of a line that is refused
_DECODER: msgspec.json.Decoder[AnyLine] = msgspec.json.Decoder(AnyLine)


def read_history(lines: Iterable[bytes], progress: Callable[[int], None] = lambda _: None) -> History:
    """The history that the lines tell. ``progress`` is told the count of lines now and then.

    Raises CorgiError "invalid-argument" for the first line that makes no sense.
    """
    history = History()
    loader = _Loader(history)
    number = 0
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            line = _decode(text)
            loader.take(line, first=not loader.begun)
        except CorgiError as error:
            raise CorgiError("invalid-argument", f"line {number}: {error.message}", hint=error.hint) from None
        if not number % 100_000:
            progress(number)
    if not loader.begun:
        raise CorgiError("invalid-argument", "the history is empty", hint='its first line is {"type":"history",…}')
    return history


@contextmanager
def without_collector() -> Iterator[None]:
    """While a history is read and judged: nothing of it is garbage, and to look for some among millions of objects,
    over and over, takes longer than all checks."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Loader:
    """Takes in one line after the other; names that repeat are kept once."""

    def __init__(self, history: History) -> None:
        self.begun = False
        self._history = history
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._names: dict[str, str] = {}
        self._compacted: frozenset[str] = frozenset()
        self._drained: dict[tuple[Partition, str], list[tuple[int, str]]] = {}

    def take(self, line: AnyLine, *, first: bool) -> None:
        if isinstance(line, HistoryLine) != first:
            what = "the first line must be of type history" if first else "a second line of type history"
            raise _refused(what, 'begin with {"type":"history","version":1}')
        self.begun = True
        match line:
            case SendLine():
                self._history.sends.append(self._send(line))
            case ReadLine():
                partition, process = self._partition(line.topic, line.partition), self._name(line.process)
                self._history.reads.append(Read(process, partition, line.position, line.records, line.time))
            case CallLine():
                self._history.calls.append(_call(line))
            case DrainLine():
                self._drain(line)
            case HandleLine():
                self._history.handlings.append(self._handling(line))
            case _:
                self._rarer(line)

    def _rarer(self, line: AnyLine) -> None:
        history = self._history
        match line:
            case HistoryLine():
                if line.version != VERSION:
                    raise _refused(f"version {line.version} is not known", f"this release reads version {VERSION}")
                history.dense = line.dense
                self._compacted = frozenset(line.compacted)
            case ResultLine():
                partition, process = self._partition(line.topic, line.partition), self._name(line.process)
                group = self._name(line.group)
                history.results.append(Result(group, process, partition, line.offset, line.values, line.time))
            case CheckpointLine():
                partition, group = self._partition(line.topic, line.partition), self._name(line.group)
                history.checkpoints.append(
                    Checkpoint(group, partition, line.offset, line.ranges, line.semantics, line.start)
                )
            case TransactionLine():
                history.transactions.append(self._transaction(line))
            case EndLine():
                partition = self._partition(line.topic, line.partition)
                history.bounds.append(Bound(self._name(line.process), partition, line.invoked, line.ended, line.end))
            case FaultLine():
                fault = Fault(line.kind, line.target, line.began, line.ended, line.detail, line.gap_max_s)
                history.faults.append(fault)
            case LeaderLine():
                history.leaderships.append(Leadership(line.group, line.node, line.time))
            case HealedLine():
                history.healed = max(history.healed, line.time)
            case UnfinishedLine():
                history.unfinished.append(line.detail)

    def _send(self, line: SendLine) -> Send:
        _check_times(line.status, line.invoked, line.ended)
        if line.offset >= 0 and line.status != OK:
            raise _refused(f"a send that is {line.status} has no offset", "leave offset out, or say ok")
        return Send(
            self._name(line.process),
            self._partition(line.topic, line.partition),
            line.sequence,
            line.values,
            line.invoked,
            line.ordered,
            line.ended,
            line.status,
            line.offset,
            line.scheduled,
            () if line.key is None else (line.key,) * len(line.values),
            frozenset(line.values) if line.tombstone else frozenset(),
        )

    def _transaction(self, line: TransactionLine) -> Transaction:
        _check_times(line.status, line.invoked, line.ended)
        messages = tuple((self._partition(topic, number), value) for topic, number, value in line.messages)
        process = self._name(line.process)
        return Transaction(process, messages, line.decided, line.status, line.invoked, line.ended)

    def _handling(self, line: HandleLine) -> Handling:
        partition, process = self._partition(line.topic, line.partition), self._name(line.process)
        group = self._name(line.group)
        return Handling(group, process, partition, line.key, line.offset, line.started, line.ended, line.outcome)

    def _drain(self, line: DrainLine) -> None:
        """A long drain may come in parts."""
        partition = self._partition(line.topic, line.partition)
        records = self._drained.setdefault((partition, line.replica), [])
        records.extend(line.records)
        self._history.final.setdefault(partition, {})[line.replica] = records

    def _partition(self, topic: str, number: int) -> Partition:
        known = self._partitions.get((topic, number))
        if known is None:
            known = self._partitions[topic, number] = Partition(topic, number)
            if topic in self._compacted:
                self._history.compacted.add(known)
        return known

    def _name(self, name: str) -> str:
        return self._names.setdefault(name, name)


def _call(line: CallLine) -> Call:
    _check_times(line.status, line.invoked, line.ended)
    if line.status == REFUSED and line.action != "swap":
        raise _refused(f"a {line.action} is not refused", "only a swap that found another state is; else say failed")
    return Call(line.process, line.register, line.action, line.old, line.new, line.status, line.invoked, line.ended)


def _check_times(status: str, invoked: float, ended: float) -> None:
    assert status in (OPEN, OK, FAILED, UNKNOWN, REFUSED)
    if status != OPEN and ended < invoked:
        what = f"it is {status}, and ended = {ended:g} lies before invoked = {invoked:g}"
        raise _refused(what, 'times are seconds on one clock; what has no outcome yet has the status "open"')


def _decode(text: bytes) -> AnyLine:
    if len(text) > LINE_BYTES_MAX:
        raise _refused(f"it has more than {LINE_BYTES_MAX} bytes", "a drain may be told in several lines")
    try:
        return _DECODER.decode(text)
    except msgspec.ValidationError as error:
        why, _, where = str(error).partition(" - at `$")
        what = f"{where.strip('.`')}: {why}" if where.strip(".`") else why
        raise _refused(f"{what} in {_shown(text)}", _hint(text)) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _refused(f"not JSON: {_shown(text)}", "one JSON object a line, in UTF-8") from None


def _hint(text: bytes) -> str:
    """What the line should have been."""
    try:
        told = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return "one JSON object a line"
    kind = told.get("type") if isinstance(told, dict) else None
    for known in AnyLine.__args__:
        config = known.__struct_config__
        if config.tag == kind:
            fields = msgspec.structs.fields(known)
            return f"{kind} has " + ", ".join(f.name if f.required else f"[{f.name}]" for f in fields)
    near = difflib.get_close_matches(str(kind), KINDS, n=1)
    return f"did you mean the type {near[0]!r}?" if near else "type is one of " + ", ".join(KINDS)


def _shown(text: bytes) -> str:
    short = text.strip()[:SHOWN_BYTES].decode("utf-8", "backslashreplace")
    return short + ("…" if len(text.strip()) > SHOWN_BYTES else "")


def _refused(message: str, hint: str) -> CorgiError:
    return CorgiError("invalid-argument", message, hint=hint)
