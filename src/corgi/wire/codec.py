"""Message headers to and from bytes, for any family of messages: one compiled decoder per frame type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import msgspec

from corgi.base.errors import CorgiError
from corgi.wire.frame import Frame

M = TypeVar("M", bound=msgspec.Struct)


class Codec(Generic[M]):
    """Decodes the headers of the frame types it was given. Counts in a header are checked against its length by msgspec
    before anything is allocated."""

    __slots__ = ("_decoders",)

    def __init__(self, types: Mapping[int, type[M]]) -> None:
        self._decoders = {number: msgspec.msgpack.Decoder(message) for number, message in types.items()}

    def decode(self, frame: Frame) -> M:
        """The message of a frame.

        Raises CorgiError "unsupported-version" for a type that is not known, "malformed-frame" for a header that is not
        this message.
        """
        decoder = self._decoders.get(frame.type)
        if decoder is None:
            raise CorgiError("unsupported-version", f"frame type {frame.type} is not known here")
        try:
            return decoder.decode(frame.header)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:  # ValueError: text that is not UTF-8
            raise CorgiError("malformed-frame", f"frame type {frame.type}: {error}") from None
