"""A cluster of three real nodes for Kafka's own clients; one for all tests of a module, which name their own topics."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from corgi.server.local import LocalCluster, LocalOptions

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder: Path = tmp_path_factory.mktemp("kafka") / "cluster"
    with LocalCluster(LocalOptions(folder=folder, nodes=3, groups=4, kafka_port=0)) as running:
        yield running


@pytest.fixture
def topic() -> str:
    """A name that no other test uses."""
    return f"topic-{next(_numbers)}"
