"""The compression codecs of record batches, each with a cap on what it may decompress to.

Kafka's dialects: lz4 frames with independent blocks and no content checksum (KIP-57), snappy in xerial's
blocks when writing and also raw when reading (librdkafka writes that), zstd frames, gzip members. A few
compressed bytes can stand for gigabytes, so nothing here allocates more than the caller allows.
"""

from __future__ import annotations

import struct
import zlib

import cramjam

from corgi.base.command import Buffer
from corgi.base.errors import CorgiError
from corgi.base.limits import KIB

CODECS: dict[str, int] = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
CODEC_NAMES: tuple[str, ...] = tuple(CODECS)

# Levels with most of the ratio at several hundred MB/s; Kafka's own lz4 default (9) is three times slower.
_GZIP_LEVEL = 6
_LZ4_LEVEL = 1
_ZSTD_LEVEL = 3

_XERIAL_HEADER = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)
_XERIAL_BLOCK_BYTES = 32 * KIB
_BLOCK_LENGTH = struct.Struct(">i")
_GZIP_WINDOW = 31  # zlib's largest window, with gzip's header
_GUESS_BYTES_MIN = 64 * KIB
_GUESS_GROWTH = 4

assert list(CODECS.values()) == list(range(5))


def codec_number(name: str) -> int:
    """The attribute bits of a codec's name; raises "invalid-argument" for a name that is none."""
    number = CODECS.get(name)
    if number is None:
        raise CorgiError("invalid-argument", f"compression is one of {', '.join(CODECS)}, not {name!r}")
    return number


def compress(codec: int, data: Buffer) -> bytes:
    """``data`` compressed by the codec of that number (1 to 4)."""
    if codec == 1:
        packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
        return packer.compress(data) + packer.flush()
    if codec == 2:
        return _compress_snappy(data)
    if codec == 3:
        frame = cramjam.lz4.Compressor(level=_LZ4_LEVEL, content_checksum=False, block_linked=False)
        frame.compress(bytes(data))
        return bytes(frame.finish())
    if codec == 4:
        return bytes(cramjam.zstd.compress(data, level=_ZSTD_LEVEL))
    raise CorgiError("invalid-argument", f"compression codec {codec} is not known")


def decompress(codec: int, data: Buffer, bytes_max: int) -> Buffer:
    """The bytes behind ``data``, at most ``bytes_max`` of them.

    Raises CorgiError "corrupt-batch" when they are more, or when ``data`` is not of that codec.
    """
    try:
        if codec == 1:
            return _decompress_gzip(data, bytes_max)
        if codec == 2:
            return _decompress_snappy(memoryview(data), bytes_max)
        if codec in (3, 4):
            return _decompress_frame(codec, data, bytes_max)
    except (cramjam.DecompressionError, zlib.error, struct.error) as error:
        raise CorgiError("corrupt-batch", f"{CODEC_NAMES[codec]} data is damaged: {error}") from None
    raise CorgiError("corrupt-batch", f"compression codec {codec} is not known")


def _too_large(bytes_max: int) -> CorgiError:
    return CorgiError("corrupt-batch", f"a batch decompresses to more than {bytes_max} bytes")


def _decompress_gzip(data: Buffer, bytes_max: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while data:
        member = zlib.decompressobj(_GZIP_WINDOW)
        part = member.decompress(data, bytes_max - size + 1)
        size += len(part)
        if size > bytes_max:
            raise _too_large(bytes_max)
        if not member.eof:
            raise zlib.error("the stream ends early")
        parts.append(part)
        data = member.unused_data
    return b"".join(parts)


def _compress_snappy(data: Buffer) -> bytes:
    view = memoryview(data)
    parts: list[bytes] = [_XERIAL_HEADER]
    for at in range(0, len(view), _XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(view[at : at + _XERIAL_BLOCK_BYTES]))
        parts.append(_BLOCK_LENGTH.pack(len(block)))
        parts.append(block)
    return b"".join(parts)


def _decompress_snappy(view: memoryview, bytes_max: int) -> bytes:
    if view[: len(_XERIAL_HEADER)] != _XERIAL_HEADER:
        return _decompress_snappy_block(view, bytes_max)
    parts: list[bytes] = []
    size = 0
    at = len(_XERIAL_HEADER)
    while at < len(view):
        (length,) = _BLOCK_LENGTH.unpack_from(view, at)
        at += _BLOCK_LENGTH.size
        if length < 0 or at + length > len(view):
            raise CorgiError("corrupt-batch", "a snappy block is longer than its batch")
        part = _decompress_snappy_block(view[at : at + length], bytes_max - size)
        size += len(part)
        parts.append(part)
        at += length
    return b"".join(parts)


def _decompress_snappy_block(block: memoryview, bytes_max: int) -> bytes:
    if cramjam.snappy.decompress_raw_len(block) > bytes_max:
        raise _too_large(bytes_max)
    return bytes(cramjam.snappy.decompress_raw(block))


def _decompress_frame(codec: int, data: Buffer, bytes_max: int) -> memoryview:
    """lz4 and zstd frames need not tell their size: try growing buffers up to the cap."""
    decode = cramjam.lz4.decompress_into if codec == 3 else cramjam.zstd.decompress_into
    size = min(bytes_max, max(_GUESS_BYTES_MIN, _GUESS_GROWTH * len(data)))
    while True:
        out = bytearray(size)
        try:
            return memoryview(out)[: decode(data, out)]
        except cramjam.DecompressionError:
            if size >= bytes_max:
                raise
        size = min(bytes_max, size * _GUESS_GROWTH)
