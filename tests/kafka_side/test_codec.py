"""Our declarations of Kafka's messages against Kafka's own schemas: what one writes, the other reads."""

from __future__ import annotations

import importlib
import io
import struct
import types
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka_python_codec import there_and_back
from kafka_world import KafkaNode
from kio.index import load_request_schema, load_response_schema
from kio.serial import entity_reader, entity_writer

from corgi.base.errors import CorgiError
from corgi.kafka import codec
from corgi.kafka.codec import (
    Body,
    Fixed,
    Int32,
    NullSince,
    Reader,
    Since,
    Tag,
    Uuid,
    put_uvarint,
    read_body,
    write_body,
)
from corgi.kafka.table import APIS

HOT = {"Produce", "Fetch"}  # by hand; tests/kafka_side/test_hot_apis.py
KNOWN_ERRORS = [-1, 0, 1, 3, 15, 22, 35, 79]


def cases() -> list[Any]:
    found = []
    for key, api in sorted(APIS.items()):
        if api.name in HOT:
            continue
        module = importlib.import_module(api.handle.__module__)
        for version in range(api.versions[0], api.versions[1] + 1):
            for side, load in (("Request", load_request_schema), ("Response", load_response_schema)):
                kind = getattr(module, side, None)
                if kind is not None:
                    flexible = version >= api.flexible
                    name = f"{api.name}-{side}-v{version}"
                    found.append(pytest.param(kind, load(key, version), (key, side), version, flexible, id=name))
    return found


def values(hint: Any, name: str, version: int) -> st.SearchStrategy[Any]:
    """Values of a field that both sides can express: kio has enums, durations and dates where the wire has numbers."""
    if get_origin(hint) is Annotated:
        base, *marks = get_args(hint)
        for mark in marks:
            if isinstance(mark, Fixed):
                return numbers(mark.form, name)
        if any(isinstance(mark, NullSince) and version < mark.version for mark in marks):
            (base,) = [one for one in get_args(base) if one is not type(None)]
        return values(base, name, version)
    if get_origin(hint) in (Union, types.UnionType):
        (inner,) = [one for one in get_args(hint) if one is not type(None)]
        return st.none() | values(inner, name, version)
    if get_origin(hint) is tuple:
        return st.lists(values(get_args(hint)[0], name, version), max_size=3).map(tuple)
    if hint is bool:
        return st.booleans()
    if hint is str:
        return st.text(max_size=10)
    if hint is bytes:
        return st.binary(max_size=20)
    return instances(hint, version)


def numbers(form: struct.Struct, name: str) -> st.SearchStrategy[Any]:
    if form.format == ">16s":
        return st.binary(min_size=16, max_size=16).filter(any)
    if form.format == ">d":
        return st.floats(allow_nan=False)
    if form.format == ">h" and ("error" in name or "code" in name):
        return st.sampled_from(KNOWN_ERRORS)
    least = 0 if form.format == ">q" else -1
    most = {">b": 1, ">h": 2**15 - 1, ">H": 2**16 - 1, ">i": 2**31 - 1, ">q": 2**40}[form.format]
    return st.integers(least, most)


def instances(kind: type[Body], version: int) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind, include_extras=True)
    fields = [info.name for info in msgspec.structs.fields(kind)]
    return st.builds(kind, **{name: values(hints[name], name, version) for name in fields})


def written(body: Body, version: int, flexible: bool) -> bytes:
    out = bytearray()
    write_body(body, version, out, flexible=flexible)
    return bytes(out)


@pytest.mark.parametrize(("kind", "kio", "message", "version", "flexible"), cases())
def test_kio_and_kafka_python_read_and_write_the_same_bytes(
    kind: type[Body], kio: Any, message: tuple[int, str], version: int, flexible: bool
) -> None:
    @settings(max_examples=15)
    @given(instances(kind, version))
    def agree(body: Body) -> None:
        ours = written(body, version, flexible)
        read, size = entity_reader(kio)(ours, 0)
        assert size == len(ours)
        out = io.BytesIO()
        entity_writer(kio)(out, read)
        assert out.getvalue() == ours
        assert there_and_back(*message, version, ours) == ours
        again = read_body(kind, version, Reader(memoryview(ours)), flexible=flexible)
        assert written(again, version, flexible) == ours

    agree()


class Inner(Body, frozen=True):
    number: Int32


class Example(Body, frozen=True):
    name: str
    inner: tuple[Inner, ...] = ()
    maybe: Inner | None = None
    late: Annotated[str, Since(2)] = "none"
    tagged: Annotated[Int32, Tag(3)] = 7
    uuid: Uuid = bytes(16)


def test_fields_of_other_versions_have_their_defaults() -> None:
    body = Example("a", (Inner(1),), Inner(2), "late", 9, b"u" * 16)
    old = read_body(Example, 1, Reader(memoryview(written(body, 1, flexible=False))), flexible=False)
    assert old == Example("a", (Inner(1),), Inner(2), "none", 7, b"u" * 16)
    new = read_body(Example, 2, Reader(memoryview(written(body, 2, flexible=True))), flexible=True)
    assert new == body


def test_unknown_tags_are_skipped() -> None:
    data = bytearray(written(Example("a"), 2, flexible=True))
    assert data[-1] == 0
    data[-1] = 2
    for number, value in ((3, struct.pack(">i", 5)), (99, b"whatever")):
        put_uvarint(data, number)
        put_uvarint(data, len(value))
        data += value
    assert read_body(Example, 2, Reader(memoryview(data)), flexible=True).tagged == 5


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_a_message_or_a_clear_error(data: bytes, flexible: bool) -> None:
    found = None
    try:
        read_body(Example, 2, Reader(memoryview(data)), flexible=flexible)
    except CorgiError as error:
        found = error.code
    assert found in (None, "malformed-frame")


@pytest.mark.parametrize("flexible", [False, True])
def test_a_count_beyond_the_bytes_is_refused_before_anything_is_made(flexible: bool) -> None:
    data = bytearray(b"\x02a" if flexible else b"\0\x01a")
    if flexible:
        put_uvarint(data, 2**31)
    else:
        data += struct.pack(">i", 2**31 - 1)
    with pytest.raises(CorgiError, match="shorter than what it announces"):
        read_body(Example, 2, Reader(memoryview(data + bytes(100))), flexible=flexible)


def test_a_null_where_none_may_be_is_refused() -> None:
    with pytest.raises(CorgiError, match="a null"):
        read_body(Example, 0, Reader(memoryview(struct.pack(">h", -1))), flexible=False)


class Rows(Body, frozen=True):
    rows: tuple[tuple[Int32, ...], ...]
    tagged: Annotated[tuple[Int32, ...], Tag(0)] = ()


@pytest.mark.parametrize("flexible", [False, True])
@pytest.mark.parametrize("rows", [[11], [4, 4], [0] * 11, [1] * 6])
def test_a_message_has_so_many_elements_in_all(
    monkeypatch: pytest.MonkeyPatch, flexible: bool, rows: list[int]
) -> None:
    data = written(Rows(tuple([(7,) * row for row in rows])), 0, flexible=flexible)
    for most, taken in ((len(rows) + sum(rows), True), (len(rows) + sum(rows) - 1, False)):
        monkeypatch.setattr(codec, "ELEMENTS_MAX", most)
        if taken:
            read_body(Rows, 0, Reader(memoryview(data)), flexible=flexible)
            continue
        with pytest.raises(CorgiError) as caught:
            read_body(Rows, 0, Reader(memoryview(data)), flexible=flexible)
        assert caught.value.code == "invalid-argument"


def test_tags_and_what_is_in_them_count_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "ELEMENTS_MAX", 10)
    twice = b"\1" + b"\2" + b"\0\x15\6" + bytes(20) + b"\0\x15\6" + bytes(20)
    with pytest.raises(CorgiError, match="at most 10 elements"):
        read_body(Rows, 0, Reader(memoryview(twice)), flexible=True)
    unknown = b"\1" + b"\x0b" + b"\x09\0" * 11
    with pytest.raises(CorgiError, match="at most 10 elements"):
        read_body(Rows, 0, Reader(memoryview(unknown)), flexible=True)
    with pytest.raises(CorgiError, match="at most 10 elements"):
        Reader(memoryview(unknown), 1).skip_tags()


def test_a_request_of_a_million_things_is_refused() -> None:
    client = KafkaNode().client()
    rule = b"\x02\x01\x03\x01\x01\x03\x03\0"
    client.send(30, 3, b"\xc1\x84\x3d" + rule * 1_000_000 + b"\0")
    assert client.output == b""
    assert client.failure is not None
    assert client.failure.code == "invalid-argument"
