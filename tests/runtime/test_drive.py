"""The driver: facts in, one flush a turn, time watched, and a node that fails stops for good."""

import asyncio
import errno
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from net_world import CLUSTER, HOST, FakeNode, Probe, options, until

from corgi.base.errors import CorgiError, InvariantError
from corgi.base.ids import Ballot, GroupId, NodeId, Slot, TopicId
from corgi.base.limits import KIB
from corgi.base.ports import ClientSession, LogRecord, RecordKind
from corgi.broker.options import NodeOptions
from corgi.paxos.messages import Heartbeat
from corgi.runtime.disk import DiskOptions
from corgi.runtime.drive import LATE_S, Driver, Notes
from corgi.runtime.folder import Folder
from corgi.wire import messages as m

SEGMENT = DiskOptions(segment_bytes=256 * KIB)


def driver_of(folder: Path, node_options: NodeOptions | None = None, **changes: Any) -> Driver:
    settings: dict[str, Any] = {"disk": SEGMENT, "make_node": FakeNode, **changes}
    return Driver(node_options or options(1, (1,)), folder, **settings)


def fake(driver: Driver) -> FakeNode:
    return cast(FakeNode, driver.node)


def record(slot: int) -> LogRecord:
    return LogRecord(RecordKind.ACCEPT, GroupId(0), Ballot(65537), Slot(slot), Slot(0), b"value")


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Driver]:
    driver = driver_of(tmp_path)
    await driver.start()
    yield driver
    await driver.stop()


async def test_a_batch_of_facts_is_flushed_once_and_answered(driver: Driver) -> None:
    node = fake(driver)
    node.answer = lambda session, correlation, *_: session.reply(correlation, m.Pong())
    probe = await Probe.connect(driver.port)
    for _ in range(10):
        probe.session.request(m.Ping())
    node.calls.clear()
    probe.send()
    for _ in range(10):
        assert (await probe.take()).message == m.Pong()
    assert node.calls == ["request"] * 10 + ["flush"]
    await probe.close()
    await until(lambda: len(node.closed) == 1)


async def test_a_client_is_sent_to_the_address_that_was_bound(tmp_path: Path) -> None:
    driver = driver_of(tmp_path, options(1, (1, 2)))
    port = await driver.bind()
    assert await driver.start({NodeId(1): (HOST, 0), NodeId(2): (HOST, 1)}) == port
    assert fake(driver).options.addresses == {1: (HOST, port), 2: (HOST, 1)}
    await driver.stop()


async def test_records_come_back_synced_and_after_a_restart(tmp_path: Path) -> None:
    driver = driver_of(tmp_path)
    await driver.start()
    node = fake(driver)
    node.wal.append(record(1))
    node.wal.append(record(2))
    await until(lambda: len(node.synced) == 2)
    read: list[bytes | CorgiError] = []
    node.calls.clear()
    node.wal.read(node.synced[1].position, 5, read.append)
    await until(lambda: read)
    assert read == [b"value"]
    await until(lambda: node.calls == ["flush"])
    await driver.stop()
    again = driver_of(tmp_path)
    await again.start()
    slots = [found.slot for found in fake(again).recovered_records if found.kind is RecordKind.ACCEPT]
    assert slots == [1, 2]
    assert fake(again).calls[0] == "start"
    await again.stop()


async def test_a_turn_writes_sockets_first_and_the_log_once(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    node = fake(driver)
    waiting: list[int] = []
    flush = driver.disk.flush

    def look() -> None:
        waiting.append(node.requests[-1][0].buffered())
        flush()

    def take(session: ClientSession, correlation: int, *_: object) -> None:
        session.reply(correlation, m.Pong())
        node.wal.append(record(1))
        node.on_flush = once

    def once() -> None:
        node.wal.append(record(2))
        node.on_flush = lambda: None

    node.answer = take
    probe = await Probe.connect(driver.port)
    monkeypatch.setattr(driver.disk, "flush", look)
    before = driver.disk.statistics().writes
    await probe.ask(m.Ping())
    await until(lambda: len(node.synced) == 2)
    assert waiting[0] == 0
    assert driver.disk.statistics().writes == before + 1
    await probe.close()


async def test_an_error_that_a_request_meets_is_its_answer(driver: Driver) -> None:
    def refuse(*_: object) -> None:
        raise CorgiError("overloaded", "not now")

    fake(driver).answer = refuse
    probe = await Probe.connect(driver.port)
    answer = await probe.ask(m.Ping())
    assert answer.message == m.ErrorReply(14, "not now")
    assert driver.failure is None
    await probe.close()


FAULTS: list[tuple[Callable[[], Exception], str]] = [
    (lambda: InvariantError("two values in one slot"), "two values in one slot"),
    (lambda: KeyError("gone"), "KeyError at test_drive.py:"),
]


@pytest.mark.parametrize(("make", "said"), FAULTS, ids=["invariant", "exception"])
@pytest.mark.parametrize("where", ["request", "flush", "advance", "synced"])
async def test_a_fault_of_the_node_stops_it_with_a_clear_error(
    driver: Driver, where: str, make: Callable[[], Exception], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise make()

    node = fake(driver)
    probe = await Probe.connect(driver.port)
    if where == "request":
        node.answer = lambda *_: (_ for _ in ()).throw(InvariantError(said))
        probe.request(m.Ping())
    elif where == "flush":
        node.on_flush = fail
        driver._turn.wake()
    elif where == "advance":
        node.on_advance = fail
        node.deadline = node.clock.now()
        driver._turn.wake()
    else:
        node.log_synced = fail  # type: ignore[method-assign]
        node.wal.append(record(1))
    with pytest.raises(CorgiError, match="invariant-failed") as caught:
        await driver.wait()
    assert said in caught.value.message
    assert driver.failure is caught.value
    assert await probe.rest() == b""
    probe.writer.close()
    calls = list(node.calls)
    driver.peer_lost(NodeId(2))
    driver.heartbeat(NodeId(2), Heartbeat(1, 0, 0, 0, ()))
    await asyncio.sleep(0)
    assert node.calls == calls
    assert node.facts == []
    (line,) = [found for found in caplog.records if found.levelno == logging.CRITICAL]
    assert line.exc_info is None
    assert "hint:" in line.getMessage()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HOST, driver.port)


async def test_a_request_that_meets_a_fault_costs_its_client_the_connection_and_nobody_else(driver: Driver) -> None:
    def fail(*_: object) -> None:
        raise KeyError("gone")

    node = fake(driver)
    other = await Probe.connect(driver.port)
    probe = await Probe.connect(driver.port)
    node.answer = fail
    probe.request(m.Ping())
    await probe.rest()
    probe.writer.close()
    node.answer = lambda session, correlation, *_: session.reply(correlation, m.Pong())
    assert driver.failure is None
    assert node.counters["request_faults"] == 1
    assert isinstance((await other.ask(m.Ping())).message, m.Pong)
    await other.close()


async def test_a_disk_that_fails_stops_the_node(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    probe = await Probe.connect(driver.port)
    driver.disk._fail(CorgiError("disk-failed", "the sync said no"))
    with pytest.raises(CorgiError, match="the sync said no"):
        await driver.wait()
    assert await probe.rest() == b""
    probe.writer.close()
    await driver.stop()
    assert "disk-failed" in caplog.text


async def test_time_is_told_at_the_deadline(driver: Driver) -> None:
    node = fake(driver)
    for delay in (0.0, 0.0004, 0.015):
        node.calls.clear()
        node.deadline = due = node.clock.now() + delay
        driver._turn.wake()
        await until(lambda: "advance" in node.calls, 0)
        assert node.clock.now() >= due - 0.001


async def test_an_earlier_deadline_moves_the_timer_and_a_later_one_does_not(driver: Driver) -> None:
    node = fake(driver)
    now = node.clock.now()
    node.deadline = now + 3600
    driver._turn.wake()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    far = driver._timer
    node.deadline = now + 7200
    driver._turn.wake()
    await asyncio.sleep(0.002)
    assert driver._timer is far
    node.deadline = now + 0.01
    driver._turn.wake()
    await until(lambda: "advance" in node.calls)
    assert node.clock.now() < now + 3600


async def test_after_a_stall_what_had_arrived_is_read_before_the_clock_is_looked_at(driver: Driver) -> None:
    """Else a node whose own loop stood still would suspect its peers, whose beats lie unread in its sockets."""
    node = fake(driver)
    probe = await Probe.connect(driver.port)
    node.calls.clear()
    node.deadline = node.clock.now() + 0.010
    driver._turn.wake()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    since = time.monotonic()
    probe.request(m.Ping())
    while time.monotonic() < since + 0.010 + 2 * LATE_S:
        pass  # the loop stands still
    await until(lambda: "advance" in node.calls, 0)
    assert node.calls.index("lag") < node.calls.index("advance")
    assert node.calls.index("request") < node.calls.index("advance")
    assert node.lags[0] > LATE_S
    statistics = driver.statistics()
    assert statistics.late_timers == 1
    assert statistics.lag_max_s > LATE_S
    assert node.counters["loop_stalls"] == 1
    await probe.close()


async def test_work_that_a_flush_leaves_is_flushed_in_the_next_turn(driver: Driver) -> None:
    node = fake(driver)
    node.calls.clear()
    node.unflushed = True

    def flushed() -> None:
        node.unflushed = node.calls.count("flush") < 3

    node.on_flush = flushed
    driver._turn.wake()
    await until(lambda: not node.unflushed)
    for _ in range(10):
        await asyncio.sleep(0)
    assert node.calls == ["flush"] * 3


async def test_a_graceful_stop_waits_until_the_node_has_stopped(tmp_path: Path) -> None:
    driver = driver_of(tmp_path)
    await driver.start()
    node = fake(driver)
    node.on_stop = lambda: None
    probe = await Probe.connect(driver.port)
    stopping = asyncio.create_task(driver.stop())
    await until(lambda: "stop" in node.calls)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HOST, driver.port)
    node.answer = lambda session, correlation, *_: session.reply(correlation, m.Pong())
    assert (await probe.ask(m.Ping())).message == m.Pong()
    assert not stopping.done()
    node.stopped = True
    driver._turn.wake()
    with pytest.raises(CorgiError, match="the node stops"):
        await probe.take()
    probe.writer.close()
    await stopping
    await driver.wait()
    assert driver.failure is None
    await driver.stop()


async def test_a_graceful_stop_has_an_end(tmp_path: Path) -> None:
    driver = driver_of(tmp_path)
    await driver.start()
    fake(driver).on_stop = lambda: None
    await driver.stop(timeout_s=0.01)
    await driver.wait()


async def test_a_second_stop_does_not_wait(tmp_path: Path) -> None:
    driver = driver_of(tmp_path)
    await driver.start()
    fake(driver).on_stop = lambda: None
    stopping = asyncio.create_task(driver.stop(timeout_s=3600))
    await until(lambda: "stop" in fake(driver).calls)
    await driver.stop()
    await stopping


async def test_a_port_in_use_leaves_nothing_behind(driver: Driver, tmp_path: Path) -> None:
    second = driver_of(tmp_path / "second", host=HOST, port=driver.port)
    with pytest.raises(CorgiError, match="port-in-use"):
        await second.start()
    await second.stop()
    tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith("corgi")]
    assert tasks == []


@asynccontextmanager
async def real_cluster(tmp_path: Path, count: int) -> AsyncIterator[dict[int, Driver]]:
    members = range(1, count + 1)
    folders = [Folder.bootstrap(tmp_path / str(n), CLUSTER, NodeId(n), 4, segment_bytes=256 * KIB) for n in members]
    drivers = {}
    for folder in folders:
        node_options = options(
            folder.node, members, incarnation=folder.incarnation, boot=folder.boot, groups=folder.groups
        )
        drivers[int(folder.node)] = Driver(node_options, folder.path, disk=SEGMENT, recovered=folder.mark_recovered)
    try:
        addresses = {NodeId(n): (HOST, await driver.bind()) for n, driver in drivers.items()}
        for driver in drivers.values():
            await driver.start(addresses)
        yield drivers
    finally:
        await asyncio.gather(*[driver.stop(timeout_s=0.1) for driver in drivers.values()])
        for folder in folders:
            folder.close()


async def answered(probe: Probe, message: m.WireMessage) -> Any:
    """Ask until the answer is no retriable error: a young cluster has no leaders yet."""
    async with asyncio.timeout(20):
        while True:
            reply = (await probe.ask(message)).message
            if not getattr(reply, "error", 0):
                return reply
            await asyncio.sleep(0.01)


async def known(probe: Probe, name: str) -> Any:
    """Metadata of a node that has heard of the topic."""
    async with asyncio.timeout(20):
        while True:
            reply = cast(m.MetadataReply, (await probe.ask(m.Metadata((name,)))).message)
            if not reply.topics[0].error:
                return reply
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("count", [1, 3])
async def test_real_nodes_on_real_sockets_take_a_topic(tmp_path: Path, count: int) -> None:
    async with real_cluster(tmp_path, count) as drivers:
        probes = [await Probe.connect(driver.port) for driver in drivers.values()]
        reply = await answered(probes[-1], m.CreateTopic("t", 2))
        assert reply.topic.topic >= TopicId(16)
        for probe in probes:
            (topic,) = (await known(probe, "t")).topics
            assert topic.topic == reply.topic.topic
        assert all(driver.failure is None for driver in drivers.values())
        for probe in probes:
            await probe.close()


class Noted:
    """A folder that keeps what it was asked to note, and what is then done."""

    def __init__(self, done: Callable[[], None] = lambda: None) -> None:
        self.calls: list[str] = []
        self.done = done

    def driver(self, folder: Path, **changes: Any) -> Driver:
        notes = Notes(*[partial(self.note, name) for name in ("recovered", "stopped", "sync failed")])
        return driver_of(folder, options(1, (1,), memory_groups=1), notes=notes, **changes)

    def note(self, name: str) -> None:
        self.calls.append(name)
        self.done()


def refuse() -> None:
    raise CorgiError("disk-full", "no room for the node's files")


async def test_a_node_stops_in_order_although_the_end_cannot_be_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noted = Noted(refuse)
    driver = noted.driver(tmp_path)
    await driver.start()
    fake(driver).stopped = True
    await driver.stop()
    await driver.wait()
    assert noted.calls == ["stopped"]
    assert "no room for the node's files" in caplog.text


async def test_a_driver_ends_whatever_its_closing_meets(tmp_path: Path) -> None:
    def fault() -> None:
        raise ValueError("a fault")

    driver = Noted(fault).driver(tmp_path)
    await driver.start()
    fake(driver).stopped = True
    with pytest.raises(ValueError, match="a fault"):
        await driver.stop()
    await asyncio.wait_for(driver.wait(), 5.0)


async def test_without_memory_groups_nothing_is_noted(tmp_path: Path) -> None:
    noted = Noted()
    notes = Notes(*[partial(noted.note, name) for name in ("recovered", "stopped", "sync failed")])
    driver = driver_of(tmp_path, notes=notes)
    await driver.start()
    fake(driver).stopped = True
    await driver.stop()
    assert noted.calls == []


async def test_a_sync_that_fails_in_the_start_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was to repair may be lost with the power, and the next life could read it."""
    first = Noted().driver(tmp_path)
    await first.start()
    first.disk.append(record(1))
    await until(lambda: first.disk.statistics().syncs > 0)
    first.disk.abort()
    await first.stop()

    def failing(_: int) -> None:
        raise OSError(errno.EIO, "the disk says no")

    noted = Noted()
    driver = noted.driver(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("corgi.runtime.disk.os.fsync", failing)
        with pytest.raises(CorgiError, match="the disk says no") as caught:
            await driver.start()
    assert caught.value.code == "disk-failed"
    assert noted.calls == ["sync failed"]


@pytest.mark.parametrize("noting", [lambda: None, refuse])
async def test_a_disk_that_failed_is_noted_when_no_link_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, noting: Callable[[], None]
) -> None:
    """The note goes to the same disk, which may hang: nobody must wait for this node meanwhile."""
    link: list[str] = []

    def look() -> None:
        try:
            sock.recv(1)
            link.append("ended")
        except ConnectionResetError:
            link.append("ended")
        except TimeoutError:
            link.append("open")
        noting()

    noted = Noted(look)
    driver = noted.driver(tmp_path)
    await driver.start()
    with socket.create_connection((HOST, driver.port)) as sock:
        await until(lambda: driver.statistics().clients.connections == 1)
        sock.settimeout(1.0)
        driver.disk._fail(CorgiError("disk-failed", "the sync said no"))
        with pytest.raises(CorgiError, match="the sync said no"):
            await driver.wait()
        await driver.stop()
    assert noted.calls == ["sync failed"]
    assert link == ["ended"]
    assert ("restart the computer" in caplog.text) is (noting is refuse)
