"""Frames: the one framing of client and node connections. Big-endian.

    length u32 (bytes after this field) | correlation u32 | header length u32 | type u8 | flags u8 | reserved u16
    header (msgpack) | payload (raw)

``correlation`` 0 marks what is not a request or answer: pushes and messages between nodes.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import msgspec

FRAME = struct.Struct(">IIIBBH")
FRAME_BYTES = FRAME.size  # 16
LENGTH_BYTES = 4

assert FRAME_BYTES == 16

_encoder = msgspec.msgpack.Encoder()


class Frame(NamedTuple):
    """One received frame; header and payload are slices of the receive buffer."""

    type: int
    correlation: int
    header: memoryview
    payload: memoryview


def encode_frame(kind: int, message: msgspec.Struct, correlation: int, payload_bytes: int) -> bytes:
    """The prefix and header of a frame whose payload of ``payload_bytes`` bytes follows separately."""
    header = _encoder.encode(message)
    size = len(header)
    return FRAME.pack(FRAME_BYTES - LENGTH_BYTES + size + payload_bytes, correlation, size, kind, 0, 0) + header
