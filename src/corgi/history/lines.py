"""Histories as lines of JSON: one object a line, described for writers of foreign ones in ``docs/histories.md``.

The shapes, and how one is written. ``loading`` reads them.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from corgi.history.model import NEVER, State

VERSION = 1

Name: TypeAlias = Annotated[str, Meta(max_length=1000)]
Number: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Offset: TypeAlias = Annotated[int, Meta(ge=-1, le=2**63 - 1)]
Position: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Time: TypeAlias = Annotated[float, Meta(ge=-1.0, le=1e12)]
Records: TypeAlias = tuple[tuple[Position, str], ...]


class Line(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", frozen=True, gc=False):
    """One line; ``type`` says which."""


class HistoryLine(Line, tag="history", frozen=True, gc=False):
    """The first line. ``software``: who wrote it, of what."""

    version: int
    software: str = ""
    dense: bool = True
    compacted: tuple[Name, ...] = ()


class SendLine(Line, tag="send", frozen=True, gc=False):
    process: Name
    topic: Name
    partition: Number
    values: Annotated[tuple[str, ...], Meta(min_length=1)]
    invoked: Time
    status: Literal["open", "ok", "failed", "unknown"]
    ended: Time = NEVER
    sequence: Position = 0
    ordered: bool = False
    offset: Offset = -1
    scheduled: Time = NEVER
    key: str | None = None
    tombstone: bool = False


class ReadLine(Line, tag="read", frozen=True, gc=False):
    process: Name
    topic: Name
    partition: Number
    position: Position
    records: Records
    time: Time


class EndLine(Line, tag="end", frozen=True, gc=False):
    process: Name
    topic: Name
    partition: Number
    invoked: Time
    ended: Time
    end: Position


class HandleLine(Line, tag="handle", frozen=True, gc=False):
    group: Name
    process: Name
    topic: Name
    partition: Number
    key: str
    offset: Position
    started: Time
    ended: Time = NEVER
    outcome: Literal["done", "failed", "given-up"] = "done"


class ResultLine(Line, tag="result", frozen=True, gc=False):
    group: Name
    process: Name
    topic: Name
    partition: Number
    offset: Position
    values: tuple[str, ...]
    time: Time


class CheckpointLine(Line, tag="checkpoint", frozen=True, gc=False):
    group: Name
    topic: Name
    partition: Number
    offset: Position
    ranges: tuple[tuple[Position, Position], ...] = ()
    semantics: Literal["at_least_once", "at_most_once", "exactly_once"] = "at_least_once"
    start: Position = 0


class TransactionLine(Line, tag="transaction", frozen=True, gc=False):
    process: Name
    messages: Annotated[tuple[tuple[Name, Number, str], ...], Meta(min_length=1)]
    invoked: Time
    status: Literal["open", "ok", "failed", "unknown"]
    ended: Time = NEVER
    decided: Time = NEVER


class CallLine(Line, tag="call", frozen=True, gc=False):
    process: Name
    register: Name
    action: Literal["read", "write", "swap"]
    status: Literal["open", "ok", "refused", "failed", "unknown"]
    invoked: Time
    ended: Time = NEVER
    old: State = None
    new: State = None


class DrainLine(Line, tag="drain", frozen=True, gc=False):
    replica: str
    topic: Name
    partition: Number
    records: Records


class FaultLine(Line, tag="fault", frozen=True, gc=False):
    kind: Name
    target: str
    began: Time
    ended: Time = NEVER
    detail: str = ""
    gap_max_s: Annotated[float, Meta(ge=0)] | None = None


class LeaderLine(Line, tag="leader", frozen=True, gc=False):
    group: Number
    node: str
    time: Time


class HealedLine(Line, tag="healed", frozen=True, gc=False):
    time: Time


class UnfinishedLine(Line, tag="unfinished", frozen=True, gc=False):
    detail: str


AnyLine: TypeAlias = (
    HistoryLine
    | SendLine
    | ReadLine
    | EndLine
    | HandleLine
    | ResultLine
    | CheckpointLine
    | TransactionLine
    | CallLine
    | DrainLine
    | FaultLine
    | LeaderLine
    | HealedLine
    | UnfinishedLine
)
KINDS = tuple(str(kind.__struct_config__.tag) for kind in AnyLine.__args__)
_ENCODER = msgspec.json.Encoder()


def encode_line(line: Line) -> bytes:
    """The line with its end; fields that hold their default are written too."""
    return _ENCODER.encode(line) + b"\n"
