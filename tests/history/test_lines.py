"""Histories as lines: what is written is read back, what makes no sense is refused with its number and a hint."""

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corgi.base.errors import CorgiError
from corgi.history.gaps import fault_gaps, least_rate, partition_gaps
from corgi.history.lines import KINDS, AnyLine, FaultLine, HistoryLine, SendLine, encode_line
from corgi.history.loading import read_history
from corgi.history.model import Partition
from corgi.history.verdicts import judge

HEAD = b'{"type":"history","version":1}\n'
DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "histories.md").read_text(encoding="utf-8")
EXAMPLE = re.findall(r"```jsonl\n(.*?)```", DOCUMENT, re.DOTALL)


def refusal(*lines: bytes) -> CorgiError:
    with pytest.raises(CorgiError) as caught:
        read_history(lines)
    return caught.value


def test_the_example_of_the_document_is_clean_and_looked_at_by_every_check() -> None:
    history = read_history(EXAMPLE[0].encode().splitlines(keepends=True))
    verdicts = {verdict.name: verdict.status for verdict in judge(history)}
    assert verdicts.pop("write-gap") == "idle"  # no limit was named
    assert set(verdicts.values()) == {"clean"}
    assert [round(gap.seconds * 1000) for gap in partition_gaps(history).values()] == [250, 10]
    (around,) = fault_gaps(history)
    assert (around.fault.kind, round(around.seconds, 3), around.partition) == ("kill", 0.25, Partition("orders", 0))
    assert least_rate(history) > 0


def test_the_document_describes_every_field() -> None:
    for kind in AnyLine.__args__:
        section = DOCUMENT.split(f"### `{kind.__struct_config__.tag}`", 1)[1].split("\n##", 1)[0]
        cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        described = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
        assert described == set(kind.__struct_fields__), kind


def test_every_kind_of_line_occurs_in_the_example() -> None:
    assert {re.search(r'"type": *"(\w+)"', line)[1] for line in EXAMPLE[0].splitlines()} >= set(KINDS) - {"unfinished"}


def test_what_is_written_is_read_back() -> None:
    line = SendLine("p", "t", 3, ("a", "b"), 1.5, "ok", 1.75, 7, True, 40, 1.25, "k")
    (send,) = read_history([encode_line(HistoryLine(1)), encode_line(line)]).sends
    assert (send.producer, send.partition, send.values, send.offset) == ("p", Partition("t", 3), ("a", "b"), 40)
    assert (send.due, send.invoked, send.ended, send.sequence, send.ordered) == (1.25, 1.5, 1.75, 7, True)


SEND = b'{"type":"send","process":"p","topic":"t","partition":0,"values":["v"],"invoked":2'
CALL = b'{"type":"call","process":"p","register":"r","action":"read","invoked":2,"ended":3'


@pytest.mark.parametrize(
    ("lines", "told", "hint"),
    [
        ((), "the history is empty", '"history"'),
        ((b'{"type":"healed","time":1}',), "line 1: the first line must be of type history", "version"),
        ((HEAD, HEAD), "line 2: a second line", "begin with"),
        ((b'{"type":"history","version":9}',), "line 1: version 9", "version 1"),
        ((HEAD, b"\n", b'{"type":"healed","time":1'), "line 3: not JSON", "one JSON object a line"),
        ((HEAD, b'{"type":"heald","time":1}'), "line 2: type: Invalid value 'heald'", "did you mean the type 'healed'"),
        ((HEAD, b'{"type":"healed","tim":1}'), "line 2: Object", "healed has time"),
        ((HEAD, b'{"type":"healed","time":"now"}'), "line 2: time: Expected `float`", "healed has time"),
        ((HEAD, b"[]"), "line 2: Expected `object`", "type is one of"),
        ((HEAD, b'{"type":"leader","group":-1,"node":"1","time":0}'), "group: Expected `int` >= 0", "leader has"),
        ((HEAD, SEND + b',"status":"ok"}'), "line 2: it is ok, and ended = -1 lies before invoked = 2", "one clock"),
        ((HEAD, SEND + b',"ended":3,"status":"failed","offset":4}'), "a send that is failed has no offset", "say ok"),
        ((HEAD, CALL + b',"status":"refused"}'), "line 2: a read is not refused", "swap"),
    ],
)
def test_a_line_that_makes_no_sense_is_refused(lines: tuple[bytes, ...], told: str, hint: str) -> None:
    error = refusal(*lines)
    assert error.code == "invalid-argument"
    assert told in error.message
    assert hint in error.hint


@given(st.lists(st.one_of(st.binary(max_size=200), st.sampled_from(EXAMPLE[0].encode().splitlines())), max_size=6))
def test_whatever_comes_is_understood_or_refused(lines: list[bytes]) -> None:
    with contextlib.suppress(CorgiError):
        judge(read_history([HEAD, *lines]))


def test_what_waits_from_one_fault_into_the_next_is_shared_out() -> None:
    def fault(began: float) -> bytes:
        return encode_line(FaultLine("kill", "n", began, began + 1.0))

    send = SendLine("p", "t", 0, ("a",), 11.5, "ok", 15.0)
    history = read_history([HEAD, fault(10.0), fault(12.0), encode_line(send)])
    assert [gap.seconds for gap in fault_gaps(history)] == [0.5, 3.0]


def test_a_check_can_be_left_out_and_a_strange_name_is_refused() -> None:
    history = read_history([HEAD])
    assert {verdict.status for verdict in judge(history, skip=["duplicate"])} == {"idle", "skipped"}
    with pytest.raises(CorgiError) as caught:
        judge(history, skip=["dupes"])
    assert "lost-write" in caught.value.hint
