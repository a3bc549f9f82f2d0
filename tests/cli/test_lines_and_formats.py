"""Keys of lines, and messages as text."""

import gzip
import json
from pathlib import Path
from typing import NamedTuple

import pytest

from corgi.base.errors import CorgiError
from corgi.base.limits import BATCH_BYTES_MAX
from corgi.cli.formats import PLACES, as_json, compile_format, harmless, iso
from corgi.cli.lines import CHUNK_BYTES, Record, key_reader, read_chunks


class Message(NamedTuple):
    """A message to show."""

    topic: str = "flights"
    partition: int = 3
    offset: int = 41
    timestamp: int = 1357017300000
    key: bytes | None = b"N14228"
    value: bytes | None = b"EWR,IAH"
    headers: tuple[tuple[str, bytes | None], ...] = (("a", b"1"), ("b", None))


def records(text: bytes, **how: str) -> list[Record]:
    key_of = key_reader(**how)
    return [record for line in text.splitlines() if (record := key_of(line)) is not None]


def lines(path: Path) -> list[bytes]:
    return [line for chunk in read_chunks(str(path)) for line in chunk]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, [(None, b"id,plane"), (None, b"1,N1"), (None, b"2,N2")]),
        ({"key": "x"}, [(b"x", b"id,plane"), (b"x", b"1,N1"), (b"x", b"2,N2")]),
        ({"column": "plane"}, [(b"N1", b"1,N1"), (b"N2", b"2,N2")]),
        ({"column": "2"}, [(b"plane", b"id,plane"), (b"N1", b"1,N1"), (b"N2", b"2,N2")]),
        ({"separator": ","}, [(b"id", b"plane"), (b"1", b"N1"), (b"2", b"N2")]),
    ],
)
def test_the_key_of_a_line(how: dict[str, str], expected: list[Record]) -> None:
    assert records(b"id,plane\n1,N1\n2,N2", **how) == expected


def test_a_quoted_column_may_hold_the_separator() -> None:
    assert records(b'name,id\n"a, b",7', column="name") == [(b"a, b", b'"a, b",7')]


def test_bytes_that_are_no_text_stay_as_they_are() -> None:
    assert records(b"k\n\xff\xfe,1", column="1") == [(b"k", b"k"), (b"\xff\xfe", b"\xff\xfe,1")]


@pytest.mark.parametrize(
    ("text", "how", "words"),
    [
        (b"a,b\n1", {"column": "b"}, "line 2 has 1 columns"),
        (b"a,b\n1,2", {"column": "c"}, "not in the first line"),
        (b"a,b", {"column": "0"}, "counts from 1"),
        (b"a,b", {"column": "9223372036854775808"}, "line 1 has 2 columns"),
        (b"a:b\nc", {"separator": ":"}, "line 2 has no separator"),
        (b"a", {"separator": ""}, "must not be empty"),
        (b"a", {"column": "a", "separator": "::"}, "one character"),
        (b"a", {"key": "k", "separator": ":"}, "excludes"),
    ],
)
def test_a_line_without_its_key_is_named(text: bytes, how: dict[str, str], words: str) -> None:
    with pytest.raises(CorgiError, match=words) as caught:
        records(text, **how)
    assert caught.value.code == "invalid-argument"


def test_files_are_read_plain_and_compressed(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.csv", tmp_path / "a.csv.gz"
    plain.write_bytes(b"one\r\n\ntwo")
    packed.write_bytes(gzip.compress(b"one\r\n\ntwo"))
    assert lines(plain) == lines(packed) == [b"one", b"two"]


def test_a_line_over_many_chunks_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"a" * 200_000 + b"\n" + b"b" * 70_000)
    assert lines(path) == [b"a" * 200_000, b"b" * 70_000]


def test_a_line_without_an_end_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "endless"
    with path.open("wb") as file:
        file.truncate(BATCH_BYTES_MAX + 2 * CHUNK_BYTES)
    with pytest.raises(CorgiError) as caught:
        lines(path)
    assert caught.value.code == "record-too-large"


@pytest.mark.parametrize("content", [None, gzip.compress(b"x" * 1000)[:20]], ids=["absent", "cut short"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "lost.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CorgiError, match=r"lost\.csv"):
        lines(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("%t/%p/%o %k %v", b"flights/3/41 N14228 EWR,IAH"),
        ("%s%%", b"7%"),
        (r"%k\t%v\n\\", b"N14228\tEWR,IAH\n\\"),
        ("%T", b"2013-01-01T05:15:00.000Z"),
        ("%M %h", b"1357017300000 a=1,b="),
        ("", b""),
        (r"\q", rb"\q"),
    ],
)
def test_a_format_shows_a_message(text: str, expected: bytes) -> None:
    assert compile_format(text)(Message()) == expected


@pytest.mark.parametrize("text", ["%x", "%", "100% %v"])
def test_an_unknown_place_is_refused_and_all_are_listed(text: str) -> None:
    with pytest.raises(CorgiError) as caught:
        compile_format(text)
    assert all(f"%{letter} " in caught.value.hint for letter in PLACES)


def test_absent_keys_and_values_are_empty() -> None:
    assert compile_format("[%k|%v|%s]")(Message(key=None, value=None)) == b"[||0]"


def test_json_keeps_every_byte() -> None:
    told = json.loads(as_json(Message(key=b"\xff", value=None, headers=(("h", b"\x80"),))))
    assert told == {
        "topic": "flights", "partition": 3, "offset": 41, "timestamp_ms": 1357017300000,
        "key_base64": "/w==", "value": None, "headers": [{"name": "h", "value_base64": "gA=="}],
    }  # fmt: skip


@pytest.mark.parametrize("timestamp", [-1, 0, 2**31, 2**63])
def test_every_time_can_be_shown(timestamp: int) -> None:
    assert iso(timestamp)


def test_a_terminal_is_not_rewritten() -> None:
    assert harmless(b"a\x1b[2Jb\tc\xff") == rb"a\x1b[2Jb" + b"\t" + rb"c\xff"
