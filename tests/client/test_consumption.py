"""What a consumer does when it learns from two sides that a unit is gone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from corgi.base.ids import TopicId
from corgi.client.committing import Committer
from corgi.client.consumption import Consumption
from corgi.client.held import Held
from corgi.wire.group_messages import Unit


def test_a_unit_that_a_refused_checkpoint_took_is_given_back_when_it_is_revoked() -> None:
    released: list[Unit] = []
    consumption = object.__new__(Consumption)
    consumption.units = {}
    consumption.membership = cast(Any, SimpleNamespace(released=released.append))
    unit = (TopicId(1), 0, 0)
    consumption.revoked(unit)
    assert released == [unit]


def test_nothing_is_stored_for_a_unit_that_is_gone_though_a_handler_of_it_ends_only_then() -> None:
    """The checkpoint would pass what the handler had in work: until the next owner is known, it would be accepted."""
    flushes: list[Any] = []
    shell = cast(Any, SimpleNamespace(loop=SimpleNamespace(call_soon=flushes.append, call_later=flushes.append)))
    committer = Committer(shell, "g", lambda: "me", 0.0, cast(Any, None))
    held = Held(cast(Any, None), "t", (TopicId(1), 0, 0), 1, 0, "")
    held.begin(0)
    held.progress.hand_out([0, 1], 2)
    held.end()
    committer.touch(held)
    committer.touch(held, now=True)
    assert flushes == []
    assert committer.idle(held)
