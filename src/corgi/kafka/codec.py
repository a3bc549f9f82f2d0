"""Kafka's message bodies to and from typed structs, in every version, from one declaration each.

A message is a frozen struct whose annotations tell the wire types and the versions of its fields:

    class Topic(Body, frozen=True):
        name: str
        topic_id: Annotated[Uuid, Since(10)] = NO_UUID
        partitions: tuple[Partition, ...] = ()

``str`` and ``bytes`` are int16 and int32 counted, or compact in flexible versions; ``| None`` makes them and arrays
nullable. Absent fields have their defaults when read and are left out when written. Tagged fields (KIP-482) are written
when they differ from their default; unknown tags are skipped. Counts are checked against the bytes that are left before
anything is allocated for them, nesting is that of the declarations, and one message has ELEMENTS_MAX elements and tags
at most in all, so reading and what is made of it are bounded.

Source of the formats: the protocol guide and KIP-482, 893.
"""

from __future__ import annotations

import struct
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from corgi.base.errors import CorgiError

UVARINT_BYTES_MAX = 5
STRING_BYTES_MAX = 32_767
ELEMENTS_MAX = 100_000  # 32 MiB could be millions, and hold up the node for seconds


class Body(msgspec.Struct, frozen=True):
    """Base of all message bodies and of the structs in them."""


@dataclass(frozen=True, slots=True)
class Since:
    """The first version that has the field."""

    version: int


@dataclass(frozen=True, slots=True)
class Until:
    """The last version that has the field."""

    version: int


@dataclass(frozen=True, slots=True)
class NullSince:
    """The first version in which the field, declared with ``| None``, may be null."""

    version: int


@dataclass(frozen=True, slots=True)
class Tag:
    """The field is a tagged one of flexible versions."""

    number: int


@dataclass(frozen=True, slots=True)
class Fixed:
    """A wire type of fixed size."""

    form: struct.Struct


Int8 = Annotated[int, Fixed(struct.Struct(">b"))]
Int16 = Annotated[int, Fixed(struct.Struct(">h"))]
UInt16 = Annotated[int, Fixed(struct.Struct(">H"))]
Int32 = Annotated[int, Fixed(struct.Struct(">i"))]
Int64 = Annotated[int, Fixed(struct.Struct(">q"))]
Float64 = Annotated[float, Fixed(struct.Struct(">d"))]
Uuid = Annotated[bytes, Fixed(struct.Struct(">16s"))]
NO_UUID = bytes(16)

_BOOL = struct.Struct(">?")
_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")
B = TypeVar("B", bound=Body)


class Reader:
    """A position in a request, and how many more elements it may have. Everything raises CorgiError "malformed-frame"
    at the end of the bytes."""

    __slots__ = ("at", "end", "left", "view")

    def __init__(self, view: memoryview, at: int = 0) -> None:
        self.view = view
        self.at = at
        self.end = len(view)
        self.left = ELEMENTS_MAX

    def fixed(self, form: struct.Struct) -> Any:
        """One value of a fixed size."""
        at = self.at
        self.at = at + form.size
        if self.at > self.end:
            raise short()
        return form.unpack_from(self.view, at)[0]

    def take(self, count: int) -> memoryview:
        """The next ``count`` bytes, not copied."""
        at = self.at
        if count < 0 or at + count > self.end:
            raise short()
        self.at = at + count
        return self.view[at : at + count]

    def uvarint(self) -> int:
        """An unsigned varint of at most 32 bits."""
        value = shift = 0
        view, at = self.view, self.at
        for _ in range(UVARINT_BYTES_MAX):
            if at >= self.end:
                raise short()
            byte = view[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                self.at = at
                if value > 0xFFFF_FFFF:
                    break
                return value
            shift += 7
        raise CorgiError("malformed-frame", "a varint has more than 32 bits")

    def length(self, *, compact: bool, short_form: bool) -> int:
        """The count before a string, bytes or an array; -1 for null."""
        if compact:
            return self.uvarint() - 1
        length: int = self.fixed(_INT16 if short_form else _INT32)
        if length < -1:
            raise CorgiError("malformed-frame", f"a length of {length}")
        return length

    def count(self, *, compact: bool, bytes_each: int) -> int:
        """How many elements an array has, each of at least ``bytes_each`` bytes; 0 for null."""
        count = max(0, self.length(compact=compact, short_form=False))
        self.expect(count, bytes_each)
        return count

    def expect(self, count: int, bytes_each: int) -> None:
        """So many elements or tags follow. Raises CorgiError also "invalid-argument", if they are too many."""
        if count * bytes_each > self.end - self.at:
            raise short()
        self.left -= count
        if self.left < 0:
            raise CorgiError("invalid-argument", f"a request has at most {ELEMENTS_MAX} elements in all")

    def text(self, *, compact: bool) -> str:
        """A string, "" for null, also if it is not UTF-8: then it names nothing that exists."""
        return str(self.take(max(0, self.length(compact=compact, short_form=True))), "utf-8", "replace")

    def skip_tags(self) -> None:
        """A section of tagged fields of which none is known."""
        count = self.uvarint()
        self.expect(count, 1)
        for _ in range(count):
            self.uvarint()
            self.take(self.uvarint())


def short() -> CorgiError:
    """The bytes end before the message does."""
    return CorgiError("malformed-frame", "a request is shorter than what it announces")


def put_uvarint(out: bytearray, value: int) -> None:
    """Append an unsigned varint."""
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def put_count(out: bytearray, count: int, *, compact: bool) -> None:
    """Append the count of an array or bytes; -1: null."""
    if compact:
        put_uvarint(out, count + 1)
    else:
        out += _INT32.pack(count)


def put_text(out: bytearray, text: str | None, *, compact: bool) -> None:
    """Append a nullable string."""
    data = b"" if text is None else text.encode()[:STRING_BYTES_MAX]
    size = -1 if text is None else len(data)
    if compact:
        put_uvarint(out, size + 1)
    else:
        out += _INT16.pack(size)
    out += data


_Read = Callable[[Reader], Any]
_Write = Callable[[bytearray, Any], None]


class _Type:
    """How one wire type is read and written, and the fewest bytes that it takes."""

    __slots__ = ("bytes_min", "read", "write")

    def __init__(self, read: _Read, write: _Write, bytes_min: int) -> None:
        self.read = read
        self.write = write
        self.bytes_min = bytes_min


class _Field:
    """A field in one version: ``present`` or only in the struct; tagged ones have a number."""

    __slots__ = ("default", "name", "present", "tag", "type")

    def __init__(self, name: str, kind: _Type | None, default: object, tag: int | None) -> None:
        self.name = name
        self.type = kind
        self.present = kind is not None
        self.default = default
        self.tag = tag


def read_body(kind: type[B], version: int, reader: Reader, *, flexible: bool) -> B:
    """The body at the reader's position. Raises CorgiError "malformed-frame"."""
    body: B = _struct_type(kind, version, flexible).read(reader)
    return body


def write_body(body: Body, version: int, out: bytearray, *, flexible: bool) -> None:
    """Append a body."""
    _struct_type(type(body), version, flexible).write(out, body)


@lru_cache(maxsize=4096)
def _struct_type(kind: type[Body], version: int, flexible: bool) -> _Type:
    hints = get_type_hints(kind, include_extras=True)
    fields = [_field(info, hints[info.name], version, flexible) for info in msgspec.structs.fields(kind)]
    ordered = [field for field in fields if field.present and field.tag is None]
    tagged = {field.tag: field for field in fields if field.present and field.tag is not None}
    place = {field.name: i for i, field in enumerate(fields)}
    defaults = [field.default for field in fields]
    reads = [(place[field.name], field.type.read) for field in ordered if field.type is not None]
    writes = [(field.name, field.type.write) for field in ordered if field.type is not None]

    def read(reader: Reader) -> Body:
        values = defaults[:]
        for i, read_field in reads:
            values[i] = read_field(reader)
        if flexible:
            if tagged:
                _read_tags(reader, tagged, values, place)
            else:
                reader.skip_tags()
        return kind(*values)

    def write(out: bytearray, body: Body) -> None:
        for name, write_field in writes:
            write_field(out, getattr(body, name))
        if flexible:
            if tagged:
                _write_tags(out, tagged, body)
            else:
                out.append(0)

    bytes_min = sum(field.type.bytes_min for field in ordered if field.type is not None) + flexible
    return _Type(read, write, bytes_min)


def _read_tags(reader: Reader, tagged: dict[int, _Field], values: list[object], place: dict[str, int]) -> None:
    count = reader.uvarint()
    reader.expect(count, 1)
    for _ in range(count):
        number = reader.uvarint()
        inner = Reader(reader.take(reader.uvarint()))
        inner.left = reader.left
        field = tagged.get(number)
        if field is not None and field.type is not None:
            values[place[field.name]] = field.type.read(inner)
        reader.left = inner.left


def _write_tags(out: bytearray, tagged: dict[int, _Field], body: Body) -> None:
    told = [(number, field) for number, field in sorted(tagged.items()) if getattr(body, field.name) != field.default]
    put_uvarint(out, len(told))
    for number, field in told:
        assert field.type is not None
        inner = bytearray()
        field.type.write(inner, getattr(body, field.name))
        put_uvarint(out, number)
        put_uvarint(out, len(inner))
        out += inner


def _field(info: msgspec.structs.FieldInfo, hint: Any, version: int, flexible: bool) -> _Field:
    tag, since, until = None, 0, 1 << 15
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    for mark in marks:
        if isinstance(mark, Since):
            since = mark.version
        elif isinstance(mark, Until):
            until = mark.version
        elif isinstance(mark, Tag):
            tag = mark.number
    default = info.default
    if default is msgspec.NODEFAULT and info.default_factory is not msgspec.NODEFAULT:
        default = info.default_factory()
    present = since <= version <= until and (tag is None or flexible)
    return _Field(info.name, _type_of(hint, version, flexible) if present else None, default, tag)


def _type_of(hint: Any, version: int, flexible: bool, *, may_be_null: bool = True) -> _Type:
    if get_origin(hint) is Annotated:
        base, *marks = get_args(hint)
        for mark in marks:
            if isinstance(mark, Fixed):
                return _fixed_type(mark.form)
        may_be_null = all(version >= mark.version for mark in marks if isinstance(mark, NullSince))
        return _type_of(base, version, flexible, may_be_null=may_be_null)
    nullable = False
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = [one for one in get_args(hint) if one is not type(None)]
        nullable = may_be_null
    if get_origin(hint) is tuple:
        return _array_type(_type_of(get_args(hint)[0], version, flexible), flexible, nullable)
    if hint is bool:
        return _fixed_type(_BOOL)
    if hint is str:
        return _string_type(flexible, nullable)
    if hint is bytes:
        return _bytes_type(flexible, nullable)
    return (
        _nullable_struct(_struct_type(hint, version, flexible)) if nullable else _struct_type(hint, version, flexible)
    )


def _fixed_type(form: struct.Struct) -> _Type:
    def write(out: bytearray, value: object) -> None:
        out += form.pack(value)

    return _Type(lambda reader: reader.fixed(form), write, form.size)


def _nullable_struct(inner: _Type) -> _Type:
    def read(reader: Reader) -> Body | None:
        return None if reader.take(1)[0] == 0xFF else inner.read(reader)

    def write(out: bytearray, value: Body | None) -> None:
        out.append(0xFF if value is None else 1)
        if value is not None:
            inner.write(out, value)

    return _Type(read, write, 1)


def _check_null(nullable: bool) -> None:
    if not nullable:
        raise CorgiError("malformed-frame", "a null stands where none may be")


def _string_type(compact: bool, nullable: bool) -> _Type:
    def read(reader: Reader) -> str | None:
        length = reader.length(compact=compact, short_form=True)
        if length < 0:
            _check_null(nullable)
            return None
        if length > STRING_BYTES_MAX:
            raise CorgiError("malformed-frame", f"a string of {length} bytes")
        try:
            return str(reader.take(length), "utf-8")
        except UnicodeDecodeError:
            raise CorgiError("malformed-frame", "a string is not UTF-8") from None

    def write(out: bytearray, value: str | None) -> None:
        put_text(out, value, compact=compact)

    return _Type(read, write, 1 if compact else 2)


def _bytes_type(compact: bool, nullable: bool) -> _Type:
    def read(reader: Reader) -> bytes | None:
        length = reader.length(compact=compact, short_form=False)
        if length < 0:
            _check_null(nullable)
            return None
        return bytes(reader.take(length))

    def write(out: bytearray, value: bytes | None) -> None:
        put_count(out, -1 if value is None else len(value), compact=compact)
        if value is not None:
            out += value

    return _Type(read, write, 1 if compact else 4)


def _array_type(inner: _Type, compact: bool, nullable: bool) -> _Type:
    read_one, write_one, bytes_each = inner.read, inner.write, max(1, inner.bytes_min)

    def read(reader: Reader) -> tuple[Any, ...] | None:
        count = reader.length(compact=compact, short_form=False)
        if count < 0:
            _check_null(nullable)
            return None
        reader.expect(count, bytes_each)
        return tuple([read_one(reader) for _ in range(count)])

    def write(out: bytearray, value: tuple[Any, ...] | None) -> None:
        put_count(out, -1 if value is None else len(value), compact=compact)
        for one in value or ():
            write_one(out, one)

    return _Type(read, write, 1 if compact else 4)
