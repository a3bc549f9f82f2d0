"""How typed values become bytes and back. No pickle: what is read from a broker is not trusted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar, cast

import msgspec

from corgi.base.errors import CorgiError

V = TypeVar("V")
Format = Literal["json", "msgpack"]


class Codec(Generic[V]):
    """A pair of functions; ``encode`` and ``decode`` raise CorgiError "codec"."""

    __slots__ = ("_decode", "_encode", "name")

    def __init__(self, name: str, encode: Callable[[V], bytes], decode: Callable[[bytes], V]) -> None:
        self.name = name
        self._encode = encode
        self._decode = decode

    def encode(self, value: V) -> bytes:
        try:
            return self._encode(value)
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            raise CorgiError("codec", f"a value cannot be written as {self.name}: {error}") from error

    def decode(self, data: bytes) -> V:
        try:
            return self._decode(data)
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            raise CorgiError("codec", f"a value is not {self.name}: {error}") from error


def codec_for(type_: type[V], format_: Format) -> Codec[V]:
    """bytes and str as they are, everything else by msgspec: its structs, dataclasses, attrs, dict, list, numbers."""
    if type_ is bytes:
        return cast("Codec[V]", Codec[bytes]("bytes", bytes, bytes))
    if type_ is str:
        return cast("Codec[V]", Codec[str]("text", str.encode, bytes.decode))
    name = getattr(type_, "__name__", str(type_))
    try:
        if format_ == "json":
            json = msgspec.json.Decoder(type_)
            return Codec(f"{name} in JSON", msgspec.json.Encoder().encode, json.decode)
        if format_ == "msgpack":
            msgpack: Any = msgspec.msgpack.Decoder(type_)
            return Codec(f"{name} in msgpack", msgspec.msgpack.Encoder().encode, msgpack.decode)
    except TypeError as error:
        raise CorgiError("codec", f"msgspec cannot handle {name}: {error}") from error
    raise CorgiError("invalid-argument", f'format is "json" or "msgpack", not {format_!r}')
