"""The schedule is a function of its seed, and every kind takes its turn."""

import re
from itertools import islice
from pathlib import Path

from corgi.chaos.faults import KINDS
from corgi.chaos.schedule import turns

EVERY = list(KINDS.values())


def test_the_same_seed_draws_the_same() -> None:
    first, second, other = (list(islice(turns(EVERY, 3, seed), 50)) for seed in (7, 7, 8))
    assert first == second
    assert first != other


def test_every_kind_takes_its_turn_before_any_comes_again() -> None:
    drawn = [turn.kinds[0].name for turn in islice(turns(EVERY, 3, 1), 2 * len(EVERY))]
    assert set(drawn[: len(EVERY)]) == set(drawn[len(EVERY) :]) == set(KINDS)


def test_disks_are_lost_alone_and_now_and_then_two_faults_meet() -> None:
    every = list(islice(turns(EVERY, 5, 3), 200))
    assert all(
        [kind.part for kind in turn.kinds] in (["process"], ["links"], ["disk"], ["process", "links"]) for turn in every
    )
    assert all(0 <= place < 5 for turn in every for place in turn.places)


def test_the_document_lists_every_kind() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "chaos.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z-]+)`", text, re.MULTILINE) == list(KINDS)
