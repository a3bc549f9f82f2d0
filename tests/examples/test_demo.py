"""The demonstration's own judgement: hand-made bad journeys that it must reject, and a short real one."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from corgi import Receipt

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"
sys.path.insert(0, str(DEMO))

from journey import Journey, read_flights  # noqa: E402 - a script's folder, not a package

FLIGHTS = [(b"N1", b"a"), (b"N2", b"b"), (b"N1", b"c")]


def good() -> Journey:
    journey = Journey(FLIGHTS, seen=list(FLIGHTS), reread=list(FLIGHTS))
    journey.places = {line: (0, offset) for offset, (_, line) in enumerate(FLIGHTS)}
    journey.receipts = {line: Receipt("flights", 0, offset, 1) for offset, (_, line) in enumerate(FLIGHTS)}
    return journey


def lose(journey: Journey) -> None:
    journey.seen.pop()


def double(journey: Journey) -> None:
    journey.seen.append(FLIGHTS[0])


def reorder(journey: Journey) -> None:
    journey.seen.reverse()


def damage(journey: Journey) -> None:
    journey.seen[1] = (b"N2", b"B")


def change_aircraft(journey: Journey) -> None:
    journey.seen[1] = (b"N1", b"b")


def lose_later(journey: Journey) -> None:
    journey.reread.pop()


def move(journey: Journey) -> None:
    journey.places[b"b"] = (1, 1)


def fail(journey: Journey) -> None:
    journey.errors = Counter(timeout=1)


def test_a_good_journey_is_fine() -> None:
    journey = good()
    journey.judge()
    assert journey.fine, journey.complaints


@pytest.mark.parametrize("spoil", [lose, double, reorder, damage, change_aircraft, lose_later, move, fail])
def test_a_bad_journey_is_not(spoil: Callable[[Journey], None]) -> None:
    journey = good()
    spoil(journey)
    journey.judge()
    assert not journey.fine


def test_the_flights_are_all_there() -> None:
    flights = list(read_flights())
    assert (len(flights), len(set(flights)), len({aircraft for aircraft, _ in flights})) == (27_004, 27_004, 3_149)


def test_a_short_journey_survives_a_killed_leader() -> None:
    done = subprocess.run(
        [sys.executable, str(DEMO / "flights.py"), "--seconds", "2", "--flights", "1500", "--output", "json"],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["fine"]
    assert told["records"] == 1500
    assert told["victim"] in (1, 2, 3)
    assert told["gap_during_ms"] > 0
