"""Hostile bytes made from sound ones: a few edits of bits, lengths, order and size, drawn by hypothesis.

So a failure shrinks to the edits that matter.

An edit names its place as a share of the input (in 65,536ths), so it means something for an input of any size.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

SHARE = 65_536
GROWTH_MAX = 1024  # bytes that one edit may add
LENGTHS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 2**63 - 1, 2**64 - 1)


@dataclass(frozen=True)
class Edit:
    """What is done ``at`` a place: ``flip`` bit ``value``, ``set`` the big-endian integer of ``width`` bytes to
    ``value``, ``add`` ``value`` to it, ``cut`` all behind it, ``drop``, ``repeat`` or ``insert`` ``width`` bytes."""

    kind: str
    at: int
    width: int
    value: int

    def apply(self, data: bytes) -> bytes:
        at = self.at * len(data) // SHARE
        before, here, behind = data[:at], data[at : at + self.width], data[at + self.width :]
        if self.kind == "flip" and here:
            return before + bytes([here[0] ^ 1 << self.value % 8]) + here[1:] + behind
        if self.kind in ("set", "add"):
            old = int.from_bytes(here) if self.kind == "add" else 0
            return before + ((old + self.value) % 256 ** len(here)).to_bytes(len(here)) + behind
        if self.kind == "cut":
            return before
        if self.kind == "drop":
            return before + behind
        if self.kind == "repeat":
            return (before + here * (2 + self.value % 8))[: len(data) + GROWTH_MAX] + behind
        if self.kind == "insert":
            return before + (self.value % 2**64).to_bytes(8) + here + behind
        return data


EDITS = st.lists(
    st.builds(
        Edit,
        st.sampled_from(("flip", "flip", "set", "set", "add", "cut", "drop", "repeat", "insert")),
        st.one_of(st.integers(0, SHARE), st.integers(0, 600)),  # heads of inputs decide the most
        st.sampled_from((1, 1, 2, 4, 4, 8, 16)),
        st.one_of(st.sampled_from(LENGTHS), st.integers(-8, 255)),
    ),
    max_size=5,
)


def mutated(data: bytes, edits: list[Edit]) -> bytes:
    for edit in edits:
        data = edit.apply(data)
    return data
