"""Which fault is done when, to whom: drawn from the seed alone.

All kinds take turns in an order by chance, so that a short run has many of them and a long one each several times. Now
and then a fault of the links meets one of the processes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from corgi.chaos.faults import Kind

TOGETHER = 0.25  # how often a fault of a process meets one of the links
HOLD_S = (0.5, 3.0)
CALM_S = (0.5, 1.5)


class Turn(NamedTuple):
    """``kinds`` are done together. ``hold_s`` each of them, ``calm_s`` after everything is well again."""

    kinds: tuple[Kind, ...]
    hold_s: tuple[float, ...]
    aims: tuple[float, ...]  # against Kind.aims_at_leader
    places: tuple[int, ...]  # which node otherwise, 0 …
    calm_s: float


def turns(kinds: Sequence[Kind], nodes: int, seed: int) -> Iterator[Turn]:
    """Without an end."""
    chance = random.Random(f"schedule {seed}")
    deck: list[Kind] = []
    links = [kind for kind in kinds if kind.part == "links"]
    while True:
        if not deck:
            deck = list(kinds)
            chance.shuffle(deck)
        together = [deck.pop()]
        if together[0].part == "process" and links and chance.random() < TOGETHER:
            together.append(chance.choice(links))
        yield Turn(
            tuple(together),
            tuple([round(chance.uniform(*HOLD_S), 2) for _ in together]),
            tuple([chance.random() for _ in together]),
            tuple([chance.randrange(nodes) for _ in together]),
            round(chance.uniform(*CALM_S), 2),
        )
