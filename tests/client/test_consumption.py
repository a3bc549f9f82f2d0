"""What a consumer does when it learns from two sides that a unit is gone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from corgi.base.ids import TopicId
from corgi.client.consumption import Consumption
from corgi.wire.group_messages import Unit


def test_a_unit_that_a_refused_checkpoint_took_is_given_back_when_it_is_revoked() -> None:
    released: list[Unit] = []
    consumption = object.__new__(Consumption)
    consumption.units = {}
    consumption.membership = cast(Any, SimpleNamespace(released=released.append))
    unit = (TopicId(1), 0, 0)
    consumption.revoked(unit)
    assert released == [unit]
