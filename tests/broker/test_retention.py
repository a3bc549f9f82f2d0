"""What a partition keeps, by age and by size."""

from __future__ import annotations

import pytest

from corgi.base.ids import CHECKPOINTS, META, LeaderEpoch, Offset, Slot, TopicId
from corgi.broker.retention import due
from corgi.state.index import PartitionLog


def log_of(config: dict[str, str], topic: int = 16) -> PartitionLog:
    """Ten batches of three records and 100 bytes, a second apart, the newest at 10 s."""
    log = PartitionLog(TopicId(topic), 0)
    log.config = config
    for i in range(10):
        log.append(Slot(1 + i), 0, 100, 3, 1000 * (1 + i), LeaderEpoch(1))
    return log


@pytest.mark.parametrize(
    ("config", "start"),
    [
        ({}, 0),
        ({"retention_ms": "-1", "retention_bytes": "-1"}, 0),
        ({"retention_ms": "9000"}, 0),
        ({"retention_ms": "8999"}, 3),
        ({"retention_ms": "1"}, 27),
        ({"retention_bytes": "1000"}, 0),
        ({"retention_bytes": "999"}, 3),
        ({"retention_bytes": "200"}, 24),
        ({"retention_bytes": "1"}, 27),
        ({"retention_bytes": "450", "retention_ms": "6000"}, 18),
        ({"retention_bytes": "950", "retention_ms": "2000"}, 21),
        ({"retention_ms": "no number"}, 0),
    ],
)
def test_where_a_partition_begins(config: dict[str, str], start: int) -> None:
    assert due(log_of(config), 10_000) == start


def test_all_may_be_too_old() -> None:
    log = log_of({"retention_ms": "500"})
    assert due(log, 10_501) == log.end == 30
    log.trim(log.end)
    assert due(log, 20_000) == 30, "there is nothing more to forget"


def test_the_newest_time_so_far_counts() -> None:
    """A batch that tells an early time is kept as long as those before it."""
    log = log_of({"retention_ms": "500"})
    log.append(Slot(11), 0, 100, 1, 3, LeaderEpoch(1))
    assert due(log, 10_500) == 27


def test_a_start_never_goes_back() -> None:
    log = log_of({"retention_bytes": "700"})
    log.trim(Offset(20))
    assert log.start == 20
    assert due(log, 10_000) == 20


def test_what_is_not_a_users_is_left_alone() -> None:
    assert due(log_of({"retention_bytes": "1"}, META), 10_000) == 0
    assert due(log_of({"retention_bytes": "1"}, CHECKPOINTS), 10_000) == 0  # far from what is kept of them
    closed = log_of({"retention_bytes": "1"})
    closed.close()
    assert due(closed, 10_000) == closed.start
