"""Each measurement, small, on one cluster of three processes: it measures what it says, and finds what is wrong."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from corgi.base.errors import CorgiError
from corgi.bench import backlog as backlog_module
from corgi.bench.backlog import BacklogOptions, Handled, backlog, blocked_key
from corgi.bench.echo import EchoOptions, echo
from corgi.bench.failover import FailoverOptions, Publishes, failover, terms_ms
from corgi.bench.memory import MemoryOptions, memory
from corgi.bench.pace import schedule
from corgi.bench.publish import PublishOptions, publish_latency
from corgi.bench.rebalance import RebalanceOptions, rebalance
from corgi.bench.slow import SlowOptions, slow_beside_fast
from corgi.bench.target import Target, TargetOptions, file_system, median_of, target
from corgi.bench.throughput import ThroughputOptions, Via, throughput
from corgi.bench.values import SIZE_MIN, Stamps, make_values, read_stamp
from corgi.cli.main import main


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(TargetOptions(folder=tmp_path_factory.mktemp("cluster"), suspicion_ms=10_000)) as running:
        yield running


@pytest.mark.parametrize("via", ["publish_many", "publish_nowait", "publish"])
def test_throughput(cluster: Target, via: Via) -> None:
    options = ThroughputOptions(size=100, records=600, via=via, tasks=20, warm_up=50)
    told = asyncio.run(throughput(cluster, options))
    assert 600 / told["records_per_s"] == pytest.approx(told["seconds"], abs=0.001)  # told to the millisecond
    assert ("acknowledgement" in told) == (via != "publish_many")


def test_publish_latency(cluster: Target) -> None:
    told = asyncio.run(publish_latency(cluster, PublishOptions(records=60, warm_up=5)))
    assert told["latency"]["samples"] == 60
    assert 0 < told["latency"]["p50_ms"] <= told["latency"]["p99_ms"] <= told["latency"]["max_ms"]


@pytest.mark.parametrize("rate", [0.0, 500.0])
def test_echo(cluster: Target, rate: float) -> None:
    told = asyncio.run(echo(cluster, EchoOptions(rate=rate, records=200)))
    assert told["latency"]["samples"] == 180, "the first tenth is not timed"
    assert (told["lost"], told["duplicated"]) == (0, 0)


def test_failover(cluster: Target) -> None:
    options = FailoverOptions(rate=20, partitions=4, before_s=0.6, after_s=0.6)
    told = asyncio.run(failover(cluster, options))
    assert (told["lost"], told["duplicated"], told["reordered"], told["strange"]) == (0, 0, 0, 0)
    assert told["publishes"] == round(20 * 4 * 1.2)
    assert not told["errors"]
    assert told["gap_ms"] < 5_000, "takeover did not wait for the suspicion time of 10 s"
    terms = told["terms_ms"]
    assert list(terms) == ["connection_closed", "prepare", "promises", "first_accept", "client_acknowledged"]
    assert 0 < terms["connection_closed"] <= terms["prepare"] < terms["promises"] < terms["first_accept"]


def test_gaps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "gaps", "--faults", "deaf,restart", "--hold", "3", "--rate", "20", "--dir", str(tmp_path)]
    assert main([*words, "--output", "json"]) == 0
    deaf, restart = json.loads(capsys.readouterr().out)["medians"]
    assert (deaf["fault"], restart["fault"]) == ("deaf", "restart")
    assert deaf["gap_ms"] < 2_900, "another node led before the end of the partition"
    assert deaf["changes"] >= deaf["groups_led"]
    assert restart["changes"] >= restart["groups_led"]
    assert not deaf["lost"] + restart["lost"] + deaf["duplicated"] + restart["duplicated"]
    assert main(["bench", "gaps", "--faults", "fire"]) == 2
    assert "'fire' is no fault" in capsys.readouterr().err


def test_memory(cluster: Target) -> None:
    told = asyncio.run(memory(cluster, MemoryOptions(records=2000, size=100, fill_bytes=200_000)))
    assert 10 < told["idle_mb"] < 200


def test_failover_spares_a_cluster_that_is_not_its_own() -> None:
    with pytest.raises(CorgiError, match="kills a node"):
        asyncio.run(failover(Target("127.0.0.1:1", None), FailoverOptions()))


def test_a_measurement_as_a_command(cluster: Target, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "publish", "--records", "20", "--repeat", "3", "--cluster", cluster.native]
    assert main([*words, "--output", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["bench"], told["options"]["records"], len(told["runs"])) == ("publish", 20, 3)
    runs = sorted(run["latency"]["p50_ms"] for run in told["runs"])
    assert told["median"]["latency"]["p50_ms"] == runs[1]
    assert main(words) == 0
    assert "latency p99_ms" in capsys.readouterr().out


def test_a_backlog_is_consumed_in_three_ways(cluster: Target) -> None:
    told = asyncio.run(backlog(cluster, BacklogOptions(records=3_000, partitions=4)))
    assert all(told[f"{way}_per_s"] > 0 for way in ("stream", "group", "handlers"))
    assert (told["lost"], told["duplicated"]) == (0, 0)


def test_a_blocked_key_is_measured_beside_a_free_run(cluster: Target) -> None:
    options = BacklogOptions(records=500, keys=50, partitions=2, concurrency=16, blocked_s=1.0, rate=200)
    told = asyncio.run(blocked_key(cluster, options))
    for kind in ("free", "blocked"):
        assert told[kind]["latency"]["samples"] == 200 - 4, "the blocked key's are not counted"
        assert told[kind]["records_per_s"] > 0
    assert told["p50_ratio"] == pytest.approx(
        told["blocked"]["latency"]["p50_ms"] / told["free"]["latency"]["p50_ms"], abs=0.001
    )
    assert (told["lost"], told["duplicated"], told["reordered"]) == (0, 0, 0)


class Disorderly:
    """A cluster that hands out what is there as ``numbers`` say."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers

    async def run(
        self, handler: Callable[[Any], Awaitable[None]], _topic: str, *, stop: asyncio.Event, **_: Any
    ) -> None:
        for number in self.numbers:
            value = Stamps(100).value(number, 0.0)
            await handler(SimpleNamespace(key=b"key-%d" % (number % 2), value=value))
        await stop.wait()


def test_messages_that_come_twice_or_out_of_order_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog_module, "PATIENCE_S", 2.0)
    options = BacklogOptions(records=6, keys=2)

    def measured(*numbers: int) -> dict[str, Any]:
        mq: Any = Disorderly(*numbers)
        return asyncio.run(Handled(mq, "topic", options, blocked=False).measure())

    told = [measured(0, 1, 2, 3, 4, 5), measured(0, 3, 1, 1, 4, 2, 3, 5)]
    assert [[run[key] for key in ("lost", "duplicated", "reordered")] for run in told] == [[0, 0, 0], [0, 2, 2]]
    with pytest.raises(CorgiError, match="not enough"):
        measured(0, 1, 2, 3, 4, 4)


def test_members_that_come_and_go(cluster: Target) -> None:
    told = asyncio.run(rebalance(cluster, RebalanceOptions(members=4, partitions=8, step=1, rate=5)))
    assert told["steps"] == 4
    assert 4 <= told["moved_units"] <= 14
    assert 0 < told["pause_ms"]["p50"] <= told["pause_ms"]["max"]
    assert told["epochs_of_unmoved"] == 0
    assert told["leadership_changes"] or not told["sessions_of_unmoved"]
    assert (told["lost"], told["duplicated"], told["reordered"]) == (0, 0, 0)


@pytest.mark.parametrize(
    "words",
    [
        ("throughput", "--size", "0"), ("throughput", "--size", str(2**31)), ("throughput", "--records", "-1"),
        ("throughput", "--records", str(2**63)), ("throughput", "--tasks", "0"), ("publish", "--records", "0"),
        ("publish", "--partitions", "0"), ("echo", "--rate", "-1"), ("echo", "--records", "0"),
        ("failover", "--rate", "0"), ("failover", "--before", "-1"), ("publish", "--repeat", "0"),
        ("backlog", "--records", "0"), ("backlog", "--blocked", "-1"), ("backlog", "--pairs", "0"),
        ("rebalance", "--members", "1"), ("rebalance", "--step", "51"), ("rebalance", "--processes", "0"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_before_anything_starts(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words]) == 2
    assert ": expected " in capsys.readouterr().err


async def test_a_late_schedule_does_not_move_the_others() -> None:
    start = time.monotonic() - 1.0
    dues = [due async for _, due in schedule(100.0, 50, start_s=start)]
    assert dues == [pytest.approx(start + number / 100) for number in range(50)]
    assert time.monotonic() < start + 1.5, "what is overdue comes at once"


def test_values_are_distinct_and_do_not_compress() -> None:
    import zlib

    values = make_values(500, 100)
    assert len(set(values)) == 500
    assert all(len(value) == 100 for value in values)
    assert len(zlib.compress(b"".join(values))) > 0.9 * 500 * 100


def test_a_stamp_is_read_back() -> None:
    stamps = Stamps(64)
    assert read_stamp(stamps.value(7, 12.5)) == (7, 12.5)
    assert len({stamps.value(number, 0.0) for number in range(1000)}) == 1000
    assert len(Stamps(SIZE_MIN).value(1, 1.0)) == SIZE_MIN


def test_a_gap_is_the_longest_wait_of_one_partition() -> None:
    """All partitions together never pause for 0.1 s here, yet partition 1 stood still for 0.9 s."""
    published = Publishes(waits=[(0, t / 10, t / 10 + 0.01) for t in range(20)] + [(1, 0.55, 1.45), (1, 1.5, 1.51)])
    assert published.gaps_s(0.5, float("inf")) == {0: pytest.approx(0.01), 1: pytest.approx(0.9)}
    assert published.gaps_s(1.46, float("inf"))[1] == pytest.approx(0.01)


def test_terms_are_those_of_the_slowest_group_that_the_victim_led() -> None:
    def event(at: float, name: str, group: int) -> dict[str, object]:
        return {"monotonic_s": at, "event": name, "group": group}

    events = [
        event(0.5, "leading", 1),  # before the kill
        event(1.002, "peer-lost", 0), event(1.004, "peer-lost", 0),
        event(1.005, "prepare-sent", 1), event(1.006, "prepare-sent", 2), event(1.5, "prepare-sent", 9),
        event(1.010, "promise-quorum", 1), event(1.012, "promise-quorum", 2),
        event(1.015, "leading", 1), event(1.018, "leading", 2),
    ]  # fmt: skip
    assert terms_ms(events, 1.0, {1, 2}, 1.02) == {
        "connection_closed": 2.0, "prepare": 6.0, "promises": 12.0, "first_accept": 18.0, "client_acknowledged": 20.0,
    }  # fmt: skip


def test_medians_are_taken_number_by_number() -> None:
    runs = [
        {"a": 1, "b": {"c": 5.0}, "d": "x"},
        {"a": 3, "b": {"c": 1.0}, "d": "y"},
        {"a": 2, "b": {"c": 9.0}, "d": "z"},
    ]
    assert median_of(runs) == {"a": 2, "b": {"c": 5.0}, "d": "x"}


def test_the_file_system_is_told() -> None:
    assert file_system(Path("/dev/shm")) == "tmpfs"
    assert file_system(Path("/proc/self")) == "proc"


def test_a_slow_consumer_is_measured_in_pairs(cluster: Target) -> None:
    told = asyncio.run(slow_beside_fast(cluster, SlowOptions(rate=500, records=150, pairs=2)))
    assert len(told["pairs"]) == len(told["p50_ratios"]) == 2
    assert all(pair[kind]["samples"] == 135 for pair in told["pairs"] for kind in ("alone", "beside"))
    ratios = [pair["beside"]["p50_ms"] / pair["alone"]["p50_ms"] for pair in told["pairs"]]
    assert told["p50_ratio"] == pytest.approx(sum(ratios) / 2, abs=0.001)


def test_volumes_are_told_and_drawn(cluster: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chart = tmp_path / "volume.svg"
    arguments = ["--rates", "100,400", "--seconds", "0.5", "--repeat", "1", "--cluster", cluster.native]
    assert main(["bench", "volume", *arguments, "--chart", str(chart), "--output", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [median["rate"] for median in document["medians"]] == ["100", "400"]
    picture = ElementTree.fromstring(chart.read_text(encoding="utf-8"))
    texts = [element.text for element in picture.iter() if element.tag.endswith("text")]
    assert {"100", "400", "p50", "p90", "p99", "messages per second"} <= set(texts)


def test_strategies_are_told_side_by_side_and_drawn(
    cluster: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chart = tmp_path / "strategies.svg"
    arguments = ["--records", "60", "--rate", "300", "--repeat", "1", "--cluster", cluster.native]
    assert main(["bench", "strategies", *arguments, "--chart", str(chart), "--output", "json"]) == 0
    medians = json.loads(capsys.readouterr().out)["medians"]
    assert [median["strategy"] for median in medians] == [
        f"{acks}, {durability}" for durability in ("fsync", "memory") for acks in ("none", "leader", "quorum")
    ]
    assert all(median["acknowledged"]["samples"] == median["latency"]["samples"] == 54 for median in medians)
    assert all((median["lost"], median["duplicated"]) == (0, 0) for median in medians)
    picture = ElementTree.fromstring(chart.read_text(encoding="utf-8"))
    texts = [element.text for element in picture.iter() if element.tag.endswith("text")]
    assert {"quorum, fsync", "quorum, memory", "acknowledged p50", "echo p50", "echo p99"} <= set(texts)
    assert main(["bench", "strategies", *arguments]) == 0
    assert "acknowledged p99" in capsys.readouterr().out


def test_a_rate_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "volume", "--rates", "100,fast"]) == 2
    assert "'fast' is not a rate" in capsys.readouterr().err


def test_semantics_are_told_side_by_side(cluster: Target, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--backlog", "300", "--records", "50", "--rate", "200", "--repeat", "1", "--cluster", cluster.native]
    assert main(["bench", "semantics", *arguments, "--output", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    told = {median["semantics"]: median for median in document["medians"]}
    assert list(told) == ["at_most_once", "at_least_once", "exactly_once"]
    assert all(median["latency"]["samples"] == 50 for median in told.values())
    assert all((median["lost"], median["duplicated"]) == (0, 0) for median in told.values())
