"""Results and checkpoint in one transaction of the user's database, whatever happens in between."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.contrib.conftest import results

import corgi
from corgi import CorgiError
from corgi.client.held import Delivered
from corgi.client.local_run import HandlerFailedError, LocalUnit, StoreTroubleError
from corgi.contrib.sqlalchemy import Database, _Store

COUNT = 300
PARTITIONS = 3
UNIT = LocalUnit("c" * 32, "g", "t", 7, 0)
CONSUMER = Path(__file__).with_name("database_consumer.py")


@pytest.fixture
async def mq(servers: str) -> AsyncIterator[corgi.Corgi]:
    async with corgi.connect(servers) as client:
        yield client


async def fill(mq: corgi.Corgi, name: str, count: int = COUNT) -> None:
    await mq.topics.create(name, partitions=PARTITIONS)
    for partition in range(PARTITIONS):
        messages = [corgi.Message(value=b"%d" % n) for n in range(partition, count, PARTITIONS)]
        await asyncio.gather(*[mq.publish(name, m.value or b"", partition=partition) for m in messages])


def book(connection: sa.Connection, messages: Sequence[Delivered[bytes]]) -> None:
    rows = [
        {"partition_number": m.partition, "message_offset": m.offset, "value": (m.value or b"").decode()}
        for m in messages
    ]
    connection.execute(sa.insert(results), rows)


def booked(engine: sa.Engine) -> Counter[str]:
    with engine.connect() as connection:
        return Counter(connection.execute(sa.select(results.c.value)).scalars())


async def run_until_booked(
    mq: corgi.Corgi, database: Database, name: str, count: int = COUNT, handler: Any = book, **options: Any
) -> Any:
    """Run until the database has so many results; returns the statistics."""
    stop = asyncio.Event()
    run = asyncio.ensure_future(database.run(mq, handler, name, group=name, start="earliest", stop=stop, **options))
    async with asyncio.timeout(60):
        while not run.done() and (await asyncio.to_thread(booked, database.engine)).total() < count:
            await mq.topics.offsets(name)  # time passes
        stop.set()
        return await run


def everything() -> Counter[str]:
    return Counter(str(n) for n in range(COUNT))


async def test_results_and_checkpoints_are_in_the_database_and_the_cursor_follows(
    mq: corgi.Corgi, name: str, engine: sa.Engine
) -> None:
    await fill(mq, name)
    database = Database(engine, concurrency=1)
    statistics = await run_until_booked(mq, database, name)
    assert statistics.handled == COUNT
    assert booked(engine) == everything()
    stored = {row.partition: row.next_offset for row in database.checkpoints(name)}
    assert stored == dict.fromkeys(range(PARTITIONS), COUNT // PARTITIONS)
    units = (await mq.groups.describe(name)).units
    assert {unit.partition: unit.checkpoint for unit in units} == stored


async def test_it_goes_on_where_the_database_says_and_not_the_cursor(
    mq: corgi.Corgi, name: str, engine: sa.Engine
) -> None:
    await fill(mq, name)
    database = Database(engine)
    await run_until_booked(mq, database, name)
    with engine.begin() as connection:  # as from a backup that is older
        connection.execute(sa.delete(results).where(results.c.message_offset >= 40))
    for partition in range(PARTITIONS):
        assert database.set_offset(name, name, partition, 40) == 1
    await run_until_booked(mq, database, name)
    assert booked(engine) == everything()
    await mq.groups.reset(name, name, "earliest")
    await mq.publish(name, b"last", partition=0)
    await run_until_booked(mq, database, name, COUNT + 1)
    assert booked(engine) == everything() + Counter(["last"])


async def test_latest_is_decided_once(mq: corgi.Corgi, name: str, engine: sa.Engine) -> None:
    await fill(mq, name)
    database = Database(engine)
    run = asyncio.ensure_future(database.run(mq, book, name, group=name, start="latest"))
    async with asyncio.timeout(30):
        while len([row for row in _checkpoints(database, name) if row.next_offset > 0]) < PARTITIONS:
            await mq.topics.offsets(name)  # time passes
    run.cancel()
    await asyncio.wait([run])
    await mq.publish(name, b"while nobody was there", partition=1)
    await run_until_booked(mq, database, name, 1)
    assert booked(engine) == Counter(["while nobody was there"])


def _checkpoints(database: Database, group: str) -> Any:
    try:
        return database.checkpoints(group)
    except sa.exc.DBAPIError:
        return ()  # the table is not there yet


async def test_cancelled_in_the_midst_again_and_again_each_result_is_there_once(
    mq: corgi.Corgi, name: str, engine: sa.Engine
) -> None:
    await fill(mq, name)
    database = Database(engine)
    loop = asyncio.get_running_loop()
    for _ in range(4):
        crash = asyncio.Event()

        def handle(connection: sa.Connection, messages: Any, crash: asyncio.Event = crash) -> None:
            book(connection, messages)
            loop.call_soon_threadsafe(crash.set)

        run = asyncio.ensure_future(database.run(mq, handle, name, group=name, start="earliest", batch=7))
        await asyncio.wait_for(crash.wait(), 30)
        run.cancel()
        await asyncio.wait([run])
    await run_until_booked(mq, database, name, batch=7)
    assert booked(engine) == everything()


@pytest.mark.timeout(120)
async def test_killed_processes_leave_each_result_once(
    servers: str, mq: corgi.Corgi, name: str, engine: sa.Engine
) -> None:
    await fill(mq, name)
    url = engine.url.render_as_string(hide_password=False)
    database = Database(engine)
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(CONSUMER), servers, name, url, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        for _ in range(5):
            assert await asyncio.wait_for(process.stdout.readline(), 60)
        os.kill(process.pid, signal.SIGKILL)
        await process.communicate()
    await run_until_booked(mq, database, name, batch=7)
    assert booked(engine) == everything()


async def test_a_poison_message_ends_among_the_dead_and_takes_nobody_with_it(
    mq: corgi.Corgi, name: str, engine: sa.Engine
) -> None:
    await fill(mq, name)
    tries = 0

    def handler(connection: sa.Connection, messages: Sequence[Delivered[bytes]]) -> None:
        nonlocal tries
        book(connection, messages)
        if any(m.value == b"100" for m in messages):
            tries += len(messages) == 1
            raise ValueError("poison")

    database = Database(engine)
    statistics = await run_until_booked(
        mq, database, name, COUNT - 1, handler, attempts=3, backoff="1ms", backoff_max="1ms"
    )
    assert (statistics.dead, tries) == (1, 3)
    assert booked(engine) == everything() - Counter(["100"])
    dead = await asyncio.wait_for(anext(mq.subscribe(f"{name}.dead.{name}", start="earliest")), 10)
    assert (dead.value, dead.header("corgi-error")) == (b"100", b"ValueError: poison")


async def test_trouble_with_the_database_is_waited_out_and_blames_no_message(
    mq: corgi.Corgi, name: str, engine: sa.Engine
) -> None:
    await fill(mq, name)
    database = Database(engine)
    left = 0

    def handler(connection: sa.Connection, messages: Sequence[Delivered[bytes]]) -> None:
        nonlocal left
        book(connection, messages)
        if not asked:
            asked.append(len(messages))
            left = 4

    asked: list[int] = []

    @sa.event.listens_for(engine, "commit")
    def lost(connection: sa.Connection) -> None:
        """Every other commit happens, and its answer is lost."""
        nonlocal left
        if threading.current_thread().name.startswith("corgi-database") and left:
            left -= 1
            if left % 2:
                connection.connection.dbapi_connection.commit()  # type: ignore[union-attr]
            raise sa.exc.OperationalError("COMMIT", None, Exception("the connection is gone"))

    statistics = await run_until_booked(mq, database, name, handler=handler, backoff="1ms", attempts=1)
    assert (left, bool(asked)) == (0, True)
    assert statistics.dead == 0
    assert booked(engine) == everything()


# The store by itself


def message(offset: int) -> Delivered[bytes]:
    return Delivered("t", 0, offset, 0, None, b"%d" % offset, ())


async def test_two_consumers_may_make_the_table_at_the_same_time(engine: sa.Engine) -> None:
    database = Database(engine)
    others: list[bool] = []

    @sa.event.listens_for(database.table, "before_create")
    def other(*_: Any, **__: Any) -> None:
        """Between the look whether it is there and its making another consumer makes it."""
        if not others:
            others.append(True)
            Database(sa.create_engine(engine.url, poolclass=sa.NullPool)).create_table()

    database.create_table()
    assert (others, database.checkpoints("g")) == ([True], [])


def test_what_the_database_refuses_when_the_table_is_made_is_raised(tmp_path: Path) -> None:
    with pytest.raises(sa.exc.OperationalError):
        Database(sa.create_engine(f"sqlite:///{tmp_path}/no-folder/database.sqlite")).create_table()


async def test_an_old_owner_is_fenced_in_the_database(engine: sa.Engine) -> None:
    database = Database(engine)
    database.create_table()
    store = _Store(database, book)
    assert await store.claim(UNIT, 5) == -1
    await store.act(UNIT, 5, [message(0), message(1)], 2)
    assert await store.claim(UNIT, 6) == 2
    with pytest.raises(CorgiError) as zombie:
        await store.act(UNIT, 5, [message(2)], 3)
    assert zombie.value.code == "consumer-fenced"
    with pytest.raises(CorgiError) as late:
        await store.claim(UNIT, 5)
    assert late.value.code == "consumer-fenced"
    await store.act(UNIT, 6, [message(2)], 3)
    assert await store.claim(UNIT, 6) == 3
    assert booked(engine) == Counter(["0", "1", "2"])
    with pytest.raises(CorgiError) as again:
        await store.act(UNIT, 6, [message(2)], 3)
    assert again.value.code == "checkpoint-moved"
    store.close()


async def test_a_new_owner_waits_for_a_transaction_of_the_old_one_and_begins_behind_it(engine: sa.Engine) -> None:
    database = Database(engine)
    database.create_table()
    inside, go_on = threading.Event(), threading.Event()

    def slow(connection: sa.Connection, messages: Sequence[Delivered[bytes]]) -> None:
        inside.set()
        assert go_on.wait(10)
        book(connection, messages)

    old, new = _Store(database, slow), _Store(database, book)
    await old.claim(UNIT, 1)
    acting = asyncio.ensure_future(old.act(UNIT, 1, [message(0)], 1))
    await asyncio.to_thread(inside.wait, 10)
    claiming = asyncio.ensure_future(new.claim(UNIT, 2))
    await asyncio.wait([claiming], timeout=0.05)
    assert not claiming.done()
    go_on.set()
    await acting
    assert await asyncio.wait_for(claiming, 10) == 1
    assert booked(engine) == Counter(["0"])
    old.close()
    new.close()


async def test_what_a_handler_did_before_it_raised_is_rolled_back(engine: sa.Engine) -> None:
    database = Database(engine)
    database.create_table()

    def handler(connection: sa.Connection, messages: Sequence[Delivered[bytes]]) -> None:
        book(connection, messages)
        raise ZeroDivisionError

    store = _Store(database, handler)
    await store.claim(UNIT, 1)
    with pytest.raises(HandlerFailedError) as failed:
        await store.act(UNIT, 1, [message(0)], 1)
    assert isinstance(failed.value.error, ZeroDivisionError)
    assert await store.claim(UNIT, 1) == -1
    assert booked(engine) == Counter()
    store.close()


async def test_a_database_that_is_not_there_is_trouble_and_no_message_s_fault(tmp_path: Path) -> None:
    database = Database(sa.create_engine(f"sqlite:///{tmp_path}/no-folder/database.sqlite"))
    store = _Store(database, book)
    with pytest.raises(StoreTroubleError):
        await store.claim(UNIT, 1)
    store.close()


async def test_a_group_that_was_deleted_and_made_anew_is_told_of(mq: corgi.Corgi, name: str, engine: sa.Engine) -> None:
    await fill(mq, name)
    database = Database(engine)
    await run_until_booked(mq, database, name)
    with engine.begin() as connection:
        connection.execute(sa.update(database.table).values(owner_epoch=1_000))
    with pytest.raises(CorgiError) as refused:
        await asyncio.wait_for(database.run(mq, book, name, group=name), 30)
    assert (refused.value.code, "deleted" in refused.value.hint) == ("invalid-argument", True)
    assert database.forget(name) == PARTITIONS
    await run_until_booked(mq, database, name, 2 * COUNT)
    assert booked(engine) == everything() + everything()


async def test_wrong_words_are_refused(mq: corgi.Corgi, engine: sa.Engine) -> None:
    async def coroutine(connection: Any, messages: Any) -> None: ...

    for wrong in (coroutine, 5):
        with pytest.raises(CorgiError) as refused:
            await Database(engine).run(mq, wrong, "t", group="g")  # type: ignore[arg-type]
        assert refused.value.code == "invalid-argument"
    with pytest.raises(CorgiError) as no_engine:
        Database("sqlite://")  # type: ignore[arg-type]
    assert no_engine.value.code == "invalid-argument"
    for number in (-1, 1.5, True):
        with pytest.raises(CorgiError) as concurrency:
            Database(engine, concurrency=number)  # type: ignore[arg-type]
        assert concurrency.value.code == "invalid-argument"
    with pytest.raises(CorgiError) as batch:
        await Database(engine).run(mq, book, "t", group="g", batch=0)
    assert batch.value.code == "invalid-argument"
    with pytest.raises(CorgiError) as nowhere:
        await Database(engine).run(mq, book, "nowhere", group="g")
    assert nowhere.value.code == "unknown-topic"
