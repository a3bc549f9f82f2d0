"""What a consumer does when it learns from two sides that a unit is gone."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from corgi.base.errors import CorgiError
from corgi.base.ids import TopicId
from corgi.client.committing import Committer
from corgi.client.consumption import Consumption
from corgi.client.held import Delivered, Held, UnitState
from corgi.wire.group_messages import Assigned, Cursors, Unit

KEEPER = cast(Any, SimpleNamespace(settled_before=False))


def test_a_unit_that_a_refused_checkpoint_took_is_given_back_when_it_is_revoked() -> None:
    released: list[Unit] = []
    consumption = object.__new__(Consumption)
    consumption.units = {}
    consumption.membership = cast(Any, SimpleNamespace(released=released.append))
    unit = (TopicId(1), 0, 0)
    consumption.revoked(unit)
    assert released == [unit]


@pytest.mark.parametrize("verdict", [Consumption.moved, Consumption.fenced])
def test_a_unit_that_has_to_go_is_given_away_when_its_last_checkpoint_is_refused(
    verdict: Callable[[Consumption, Held], None],
) -> None:
    """It once began anew at the cursor, was reported as gone when its time was up, and was consumed here for ever."""
    told: list[tuple[str, Unit]] = []
    consumption = object.__new__(Consumption)
    unit = (TopicId(1), 0, 0)
    held = Held(KEEPER, "t", unit, 1, 0, "")
    held.begin(0)
    held.state = UnitState.DRAINING
    consumption.units = {unit: held}
    consumption.lost_units = 0
    consumption.membership = cast(Any, SimpleNamespace(released=lambda unit: told.append(("released", unit))))
    consumption.committer = cast(Any, SimpleNamespace(forget=lambda held: told.append(("forgotten", held.unit))))
    consumption._owner = cast(Any, SimpleNamespace(dropped=lambda held: told.append(("dropped", held.unit))))
    consumption._draining = {held: cast(Any, SimpleNamespace(cancel=lambda: told.append(("cancelled", unit))))}
    consumption._feeds = {}
    consumption._settled = asyncio.Event()
    verdict(consumption, held)
    assert told == [("dropped", unit), ("cancelled", unit), ("forgotten", unit), ("released", unit)]
    assert not consumption.units
    assert not consumption._draining
    assert held.state is UnitState.GONE


def test_a_unit_that_is_given_back_begins_at_its_cursor_and_not_where_it_was_when_that_was_decided() -> None:
    asked: list[Any] = []
    consumption = object.__new__(Consumption)
    consumption.units = {}
    consumption.handovers = 0
    consumption._keeper = cast(Any, None)
    consumption.options = cast(Any, SimpleNamespace(wish=SimpleNamespace(group="g")))
    core = SimpleNamespace(
        routing=SimpleNamespace(group_of=lambda topic, partition: 5),
        ask=lambda message, told, **options: asked.append(message),
    )
    consumption._shell = cast(Any, SimpleNamespace(core=core))
    unit = (TopicId(1), 0, 0)
    consumption.given_back(unit, Assigned("t", TopicId(1), 0, 0, 1, 3, 45, (), ""))
    assert asked == [Cursors("g", (unit,))]
    assert consumption.units[unit].state is UnitState.STARTING
    assert not consumption.units[unit].progress.position


def test_nothing_is_stored_for_a_unit_that_is_gone_though_a_handler_of_it_ends_only_then() -> None:
    """The checkpoint would pass what the handler had in work: until the next owner is known, it would be accepted."""
    flushes: list[Any] = []
    shell = cast(Any, SimpleNamespace(before_end=flushes.append))
    committer = Committer(shell, "g", lambda: "me", 0.0, cast(Any, None))
    held = Held(KEEPER, "t", (TopicId(1), 0, 0), 1, 0, "")
    held.begin(0)
    held.progress.hand_out([0, 1], 2)
    held.end()
    committer.touch(held)
    committer.touch(held, now=True)
    assert flushes == []
    assert committer.idle(held)


def test_who_keeps_a_message_of_a_unit_that_is_gone_does_not_keep_its_consumer() -> None:
    """The garbage collector does not look into messages: a circle through one would be kept for ever."""

    class Keeper:
        settled_before = False

    keeper = Keeper()
    still_there = weakref.ref(keeper)
    held = Held(cast(Any, keeper), "t", (TopicId(1), 0, 0), 1, 0, "")
    message: Delivered[bytes] = Delivered("t", 0, 7, 0, None, b"v", (), 1, held)
    del keeper
    assert still_there() is not None
    held.end()
    assert still_there() is None
    for settle in (message.ack, message.retry, message.reject, message.extend):
        with pytest.raises(CorgiError, match="t/0 at offset 7") as caught:
            settle()
        assert caught.value.code == "not-delivered"


def test_at_most_once_an_acknowledgement_is_for_nothing_also_when_the_unit_is_gone() -> None:
    held = Held(cast(Any, SimpleNamespace(settled_before=True)), "t", (TopicId(1), 0, 0), 1, 0, "")
    message: Delivered[bytes] = Delivered("t", 0, 7, 0, None, b"v", (), 1, held)
    held.end()
    message.ack()
    with pytest.raises(CorgiError) as caught:
        message.retry()
    assert caught.value.code == "not-delivered"
