"""The switch between namespaces, packet by packet: what arrives where and when, what is lost, what breaks."""

import random
import socket
import struct

import pytest

from corgi.chaos.packets import ACK, FIN, RST, SYN, address, destination, resets, segment_at
from corgi.chaos.switch import CALM, DELAYED_MAX, Condition, Out, Switch

ENDS = [address(f"10.77.0.{host}") for host in (1, 2, 3)]
PORTS = (40_000, 7_450)


def checksum(data: bytes) -> int:
    """As whoever receives it sums it up: 0 if it is right."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def segment(
    source: int, target: int, flags: int = ACK, *, ports: tuple[int, int] = PORTS, seq: int = 100, data: bytes = b"data"
) -> bytes:
    """A TCP segment between two ends; its checksums are nobody's business here."""
    tcp = struct.pack("!HHIIBBHHH", *ports, seq, 7_000, 5 << 4, flags, 65_535, 0, 0) + data
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0, ENDS[source], ENDS[target]) + tcp


def parts(packet: bytes) -> tuple[bytes, bytes, int, int, int, int, int]:
    near, far, seq, ack, _, flags = struct.unpack_from("!HHIIBB", packet, 20)
    return packet[12:16], packet[16:20], near, far, seq, ack, flags


def switch() -> Switch:
    return Switch(ENDS, random.Random(1))


def test_a_packet_leaves_at_the_end_that_it_is_for() -> None:
    packet = segment(0, 2)
    assert list(switch().received(0, packet, 0.0)) == [(2, packet)]


@pytest.mark.parametrize(
    "packet",
    [b"", b"\x45", segment(0, 1)[:19], b"\x60" + bytes(60), segment(0, 0), segment(0, 1)[:16] + bytes(4) + bytes(40)],
    ids=["empty", "one byte", "cut short", "IPv6", "to itself", "to nobody"],
)
def test_what_belongs_nowhere_is_lost(packet: bytes) -> None:
    assert list(switch().received(0, packet, 0.0)) == []


def test_a_held_way_loses_everything_and_the_way_back_nothing() -> None:
    made = switch()
    made.set(0, 1, Condition(held=True))
    assert list(made.received(0, segment(0, 1, SYN), 0.0)) == []
    assert list(made.received(1, segment(1, 0), 0.0)) == [(0, segment(1, 0))]
    made.set(0, 1, CALM)
    assert list(made.due(1e9)) == []
    assert len(made.received(0, segment(0, 1), 0.0)) == 1


def test_a_slow_way_delays_and_keeps_the_order_also_when_it_gets_quicker() -> None:
    made = switch()
    made.set(0, 1, Condition(delay_s=0.4))
    first, second = segment(0, 1, seq=1), segment(0, 1, seq=2)
    assert list(made.received(0, first, 10.0)) == []
    made.set(0, 1, Condition(delay_s=0.1))
    assert list(made.received(0, second, 10.1)) == []
    assert made.next_due == pytest.approx(10.4)
    assert made.due(10.3) == []
    assert made.due(10.41) == [(1, first), (1, second)]
    assert made.next_due is None


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_packets_are_lost_and_repeated_as_often_as_was_said(share: float) -> None:
    made = switch()
    made.set(0, 1, Condition(loss=share))
    made.set(1, 0, Condition(twice=share))
    there = sum(len(made.received(0, segment(0, 1), 0.0)) for _ in range(2_000))
    back = sum(len(made.received(1, segment(1, 0), 0.0)) for _ in range(2_000))
    assert there == pytest.approx(2_000 * (1 - share), abs=100)
    assert back == pytest.approx(2_000 * (1 + share), abs=100)


def test_packets_that_go_astray_are_overtaken() -> None:
    made = switch()
    made.set(0, 1, Condition(astray=0.3))
    left: list[Out] = []
    for number in range(100):
        now = number * 0.001
        left += made.due(now)
        left += made.received(0, segment(0, 1, seq=number), now)
    left += made.due(1.0)
    order = [parts(packet)[4] for _, packet in left]
    assert sorted(order) == list(range(100))
    assert order != sorted(order)


def test_what_is_delayed_is_bounded() -> None:
    made = switch()
    made.set(0, 1, Condition(delay_s=1.0))
    for _ in range(DELAYED_MAX + 10):
        made.received(0, segment(0, 1), 0.0)
    assert len(made.due(1.0)) == DELAYED_MAX


def test_who_is_refused_is_told_so() -> None:
    made = switch()
    made.set(0, 1, Condition(refused=True))
    ((end, answer),) = made.received(0, segment(0, 1, SYN, seq=41, data=b""), 0.0)
    assert end == 0
    assert parts(answer) == (ENDS[1], ENDS[0], PORTS[1], PORTS[0], 0, 42, RST | ACK)


def test_a_reset_breaks_the_connections_that_are_there_for_both_sides() -> None:
    made = switch()
    back = (PORTS[1], PORTS[0])
    made.received(0, segment(0, 1, SYN), 0.0)
    made.received(1, segment(1, 0, SYN | ACK, ports=back), 0.0)
    made.received(0, segment(0, 2, SYN), 0.0)
    made.reset(1, 0)
    (to_sender, told), (onward, passed) = made.received(1, segment(1, 0, ports=back, seq=500), 0.0)
    assert (to_sender, onward) == (1, 0)
    assert parts(told) == (ENDS[0], ENDS[1], PORTS[0], PORTS[1], 7_000, 0, RST)
    assert parts(passed) == (ENDS[1], ENDS[0], PORTS[1], PORTS[0], 500, 7_000, RST | ACK)
    assert {end for end, _ in made.received(0, segment(0, 1), 0.0)} == {0, 1}
    assert len(made.received(0, segment(0, 2), 0.0)) == 1
    assert len(made.received(0, segment(0, 1, SYN), 0.0)) == 1
    assert len(made.received(0, segment(0, 1), 0.0)) == 1


@pytest.mark.parametrize("flags", [SYN, ACK, ACK | FIN, 0])
def test_resets_are_whole_packets(flags: int) -> None:
    packet = segment(0, 1, flags)
    for reset in resets(packet, segment_at(packet)):
        assert len(reset) == 40
        assert checksum(reset[:20]) == 0
        assert checksum(reset[12:20] + struct.pack("!HH", socket.IPPROTO_TCP, 20) + reset[20:]) == 0
        assert segment_at(reset) == 20
        assert destination(reset) in ENDS


def test_fragments_and_other_protocols_are_no_segments() -> None:
    packet = bytearray(segment(0, 1))
    packet[6:8] = (0x2001).to_bytes(2, "big")
    assert segment_at(bytes(packet)) == 0
    packet = bytearray(segment(0, 1))
    packet[9] = socket.IPPROTO_UDP
    assert segment_at(bytes(packet)) == 0
    assert segment_at(segment(0, 1)[:39]) == 0
