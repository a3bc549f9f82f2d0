"""IPv4 packets as far as a network has to know them: where they go, which TCP connection they belong to, and resets.

Pure: bytes in, bytes out. What is no IPv4 packet, or cut short, belongs nowhere.
"""

from __future__ import annotations

import socket
import struct

SYN, RST, ACK = 0x02, 0x04, 0x10
FIN = 0x01
_TCP = 6
_IP = struct.Struct("!BBHHHBBH4s4s")
_SEGMENT = struct.Struct("!HHIIBBHHH")
_PSEUDO = struct.Struct("!4s4sBBH")
_FRAGMENT = 0x1FFF


def address(text: str) -> bytes:
    """As it is in a packet."""
    return socket.inet_aton(text)


def destination(packet: bytes) -> bytes:
    """Empty for what goes nowhere."""
    if len(packet) < _IP.size or packet[0] >> 4 != 4:
        return b""
    return packet[16:20]


def segment_at(packet: bytes) -> int:
    """Where the header of a TCP segment begins; 0 for everything else. ``packet`` has a destination."""
    at = (packet[0] & 15) * 4
    whole = packet[9] == _TCP and not int.from_bytes(packet[6:8], "big") & _FRAGMENT
    return at if whole and at >= _IP.size and len(packet) >= at + _SEGMENT.size else 0


def resets(packet: bytes, at: int) -> tuple[bytes, bytes]:
    """Packets that end the connection of a TCP segment (RFC 9293, 3.10.7): one for who sent it, as if its destination
    refused it, and one for its destination, as if the sender gave it up. ``at`` is ``segment_at``."""
    source, target = packet[12:16], packet[16:20]
    near, far, sequence, acknowledged, offset, flags, *_ = _SEGMENT.unpack_from(packet, at)
    told = len(packet) - at - (offset >> 4) * 4 + bool(flags & SYN) + bool(flags & FIN)
    if flags & ACK:
        back = _reset(target, source, far, near, acknowledged, 0, RST)
    else:
        back = _reset(target, source, far, near, 0, (sequence + told) & 0xFFFFFFFF, RST | ACK)
    return back, _reset(source, target, near, far, sequence, acknowledged, RST | (flags & ACK))


def _reset(source: bytes, target: bytes, near: int, far: int, sequence: int, acknowledged: int, flags: int) -> bytes:
    segment = bytearray(_SEGMENT.pack(near, far, sequence, acknowledged, 5 << 4, flags, 0, 0, 0))
    pseudo = _PSEUDO.pack(source, target, 0, _TCP, len(segment))
    segment[16:18] = _checksum(pseudo + segment).to_bytes(2, "big")
    header = bytearray(_IP.pack(0x45, 0, _IP.size + len(segment), 0, 0, 64, _TCP, 0, source, target))
    header[10:12] = _checksum(header).to_bytes(2, "big")
    return bytes(header + segment)


def _checksum(data: bytes | bytearray) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
