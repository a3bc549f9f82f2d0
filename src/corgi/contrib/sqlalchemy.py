"""Consume into your own database: results and checkpoint are one transaction of it.

    database = Database(create_engine("postgresql+psycopg://..."))
    await database.run(mq, book, "orders", group="billing")

A table of its own (``corgi_checkpoints``) holds a row for each partition of each group: owner epoch and next offset.
Each transaction first moves its partition's row, which has to name the owner epoch of this consumer: so it locks out
all others, and one that lost its partition writes nothing any more. Works with every database of SQLAlchemy that has
transactions; tested with SQLite and PostgreSQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from corgi.base.errors import CorgiError
from corgi.client.held import Delivered
from corgi.client.local_run import NOT_BEGUN, HandlerFailedError, LocalStatistics, LocalUnit, StoreTroubleError
from corgi.client.words import NAME_MAX, Duration, StartAt, between

if TYPE_CHECKING:
    from corgi.client.corgi import Corgi

CONCURRENCY = 4
CONCURRENCY_MAX = 512  # threads
T = TypeVar("T")
Handler = Callable[[sa.Connection, Sequence[Delivered[bytes]]], object]


class StoredCheckpoint(NamedTuple):
    """A row of the table. ``next_offset``: of the next message to be done, -1 before the first."""

    cluster: str
    topic: str
    topic_id: int
    partition: int
    owner_epoch: int
    next_offset: int


class Database:
    """Where the checkpoints are. One object serves any number of runs.

    ``engine``: a synchronous one; handlers run in threads, ``concurrency`` transactions at a time (4; with SQLite,
    which has one writer, 1), each of another partition.
    """

    def __init__(self, engine: sa.Engine, *, table: str = "corgi_checkpoints", concurrency: int = 0) -> None:
        if not isinstance(engine, sa.Engine):
            raise CorgiError(
                "invalid-argument",
                f"the engine is one of sqlalchemy.create_engine, not {type(engine).__name__}",
                hint="handlers run in threads: an asynchronous engine is not needed",
            )
        self.engine = engine
        between(concurrency, "concurrency", 0, CONCURRENCY_MAX)
        self.concurrency = concurrency or (1 if engine.dialect.name == "sqlite" else CONCURRENCY)
        self.table = sa.Table(
            table,
            sa.MetaData(),
            sa.Column("cluster", sa.String(32), primary_key=True),
            sa.Column("consumer_group", sa.String(NAME_MAX), primary_key=True),
            sa.Column("topic_id", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("partition_number", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("topic", sa.String(NAME_MAX), nullable=False),
            sa.Column("owner_epoch", sa.BigInteger, nullable=False),
            sa.Column("next_offset", sa.BigInteger, nullable=False),
        )

    def create_table(self) -> None:
        """Make the table if it is not there; ``run`` does so."""
        try:
            self.table.metadata.create_all(self.engine)
        except DBAPIError:
            if not sa.inspect(self.engine).has_table(self.table.name):
                raise  # otherwise another consumer has just made it

    def checkpoints(self, group: str) -> list[StoredCheckpoint]:
        """How far a consumer group is, as this database knows it."""
        t = self.table.c
        wanted = sa.select(t.cluster, t.topic, t.topic_id, t.partition_number, t.owner_epoch, t.next_offset)
        with self.engine.connect() as connection:
            rows = connection.execute(wanted.where(t.consumer_group == group).order_by(t.topic, t.partition_number))
            return [StoredCheckpoint(*row) for row in rows]

    def set_offset(self, group: str, topic: str, partition: int, offset: int) -> int:
        """Have a group go on elsewhere when it runs next; returns how many rows were changed. Nobody may run it now."""
        t = self.table.c
        where = (t.consumer_group == group) & (t.topic == topic) & (t.partition_number == partition)
        with self.engine.begin() as connection:
            return connection.execute(sa.update(self.table).where(where).values(next_offset=offset)).rowcount

    def forget(self, group: str) -> int:
        """Delete what is known of a group; returns how many rows. For one that was deleted in the cluster, too."""
        with self.engine.begin() as connection:
            return connection.execute(sa.delete(self.table).where(self.table.c.consumer_group == group)).rowcount

    async def run(
        self,
        mq: Corgi,
        handler: Handler,
        topic: str | Sequence[str],
        *,
        group: str,
        batch: int = 500,
        start: StartAt = "latest",
        instance: str = "",
        attempts: int = 5,
        backoff: Duration = "100ms",
        backoff_max: Duration = "30s",
        session_timeout: Duration = "10s",
        rebalance_timeout: Duration = "30s",
        commit_interval: Duration = "100ms",
        prefetch_bytes: int = 0,
        stop: asyncio.Event | None = None,
    ) -> LocalStatistics:
        """Call ``handler(connection, messages)`` in a thread, within a transaction, for up to ``batch`` messages of one
        partition in order, as a member of a consumer group, until cancelled or ``stop`` is set.

        What it writes with the connection is committed together with the checkpoint; it must not commit by itself. If
        it raises, all is rolled back and each of the messages is tried alone, ``attempts`` times, after ``backoff``,
        which doubles up to ``backoff_max``; then it goes to the topic "TOPIC.dead.GROUP". Trouble with the database
        itself (sqlalchemy's OperationalError, InterfaceError) is waited out, and counts as no attempt.

        ``start`` is for partitions that the database does not know; the group's checkpoints in the cluster follow those
        in the database, and say nothing. Raises CorgiError, and what the database raises when it cannot go on.
        """
        said: object = handler
        if not callable(said) or asyncio.iscoroutinefunction(handler):
            raise CorgiError(
                "invalid-argument", f"the handler is a plain function of a connection and messages, not {handler!r}"
            )
        store = _Store(self, handler)
        try:
            await store.in_thread(self.create_table)
            return await mq.run_in(
                store,
                topic,
                group=group,
                batch=batch,
                start=start,
                instance=instance,
                attempts=attempts,
                backoff=backoff,
                backoff_max=backoff_max,
                session_timeout=session_timeout,
                rebalance_timeout=rebalance_timeout,
                commit_interval=commit_interval,
                prefetch_bytes=prefetch_bytes,
                stop=stop,
            )
        finally:
            store.close()


class _Store:
    """A run's view of the database."""

    def __init__(self, database: Database, handler: Handler) -> None:
        self.concurrency = database.concurrency
        self._engine = database.engine
        self._table = database.table
        self._handler = handler
        self._pool = ThreadPoolExecutor(database.concurrency, thread_name_prefix="corgi-database")

    def close(self) -> None:
        """A transaction that still runs goes on to its end; nothing more begins."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def claim(self, unit: LocalUnit, owner_epoch: int) -> int:
        return await self.in_thread(lambda: self._claim(unit, owner_epoch))

    async def act(
        self, unit: LocalUnit, owner_epoch: int, messages: Sequence[Delivered[bytes]], next_offset: int
    ) -> None:
        await self.in_thread(lambda: self._act(unit, owner_epoch, messages, next_offset))

    def _claim(self, unit: LocalUnit, owner_epoch: int) -> int:
        """The UPDATE waits for a transaction of the last owner that is not over, and sees what it did."""
        mine, t = self._row(unit), self._table.c
        claim = sa.update(self._table).where(mine, t.owner_epoch <= owner_epoch).values(owner_epoch=owner_epoch)
        try:
            with self._engine.begin() as connection:
                if connection.execute(claim).rowcount:
                    return int(connection.execute(sa.select(t.next_offset).where(mine)).scalar_one())
                self._check_epoch(connection, unit, owner_epoch)
                connection.execute(
                    sa.insert(self._table).values(
                        cluster=unit.cluster,
                        consumer_group=unit.group,
                        topic_id=unit.topic_id,
                        partition_number=unit.partition,
                        topic=unit.topic,
                        owner_epoch=owner_epoch,
                        next_offset=NOT_BEGUN,
                    )
                )
                return NOT_BEGUN
        except IntegrityError as error:
            raise StoreTroubleError("another consumer has just made the row of this partition") from error
        except Exception as error:
            if _troubled(error):
                raise StoreTroubleError(str(error)) from error
            raise

    def _act(self, unit: LocalUnit, owner_epoch: int, messages: Sequence[Delivered[bytes]], next_offset: int) -> None:
        first = messages[0].offset if messages else next_offset
        mine, t = self._row(unit), self._table.c
        move = (
            sa.update(self._table)
            .where(mine, t.owner_epoch == owner_epoch, t.next_offset <= first)
            .values(next_offset=next_offset)
        )
        try:
            with self._engine.begin() as connection:
                if not connection.execute(move).rowcount:
                    self._check_epoch(connection, unit, owner_epoch)
                    raise CorgiError(
                        "checkpoint-moved", f"the database is beyond offset {first} of {unit.topic}/{unit.partition}"
                    )
                if messages:
                    self._handle(connection, messages)
        except (CorgiError, HandlerFailedError):
            raise
        except Exception as error:
            if _troubled(error):
                raise StoreTroubleError(str(error)) from error
            raise HandlerFailedError(error) from error  # its COMMIT was refused for what it wrote

    def _handle(self, connection: sa.Connection, messages: Sequence[Delivered[bytes]]) -> None:
        try:
            self._handler(connection, messages)
        except Exception as error:
            if _troubled(error):
                raise StoreTroubleError(str(error)) from error
            raise HandlerFailedError(error) from error

    def _row(self, unit: LocalUnit) -> sa.ColumnElement[bool]:
        t = self._table.c
        return sa.and_(
            t.cluster == unit.cluster,
            t.consumer_group == unit.group,
            t.topic_id == unit.topic_id,
            t.partition_number == unit.partition,
        )

    def _check_epoch(self, connection: sa.Connection, unit: LocalUnit, owner_epoch: int) -> None:
        """Raises "consumer-fenced"."""
        wanted = sa.select(self._table.c.owner_epoch).where(self._row(unit))
        found = connection.execute(wanted).scalar_one_or_none()
        if found is not None and found > owner_epoch:
            text = f"{unit.topic}/{unit.partition} was claimed in the database under owner epoch {found}"
            raise CorgiError("consumer-fenced", f"{text}, this consumer has {owner_epoch}")


def _troubled(error: Exception) -> bool:
    """Is it the database's own trouble?"""
    if isinstance(error, (OperationalError, InterfaceError, PoolTimeoutError, StoreTroubleError)):
        return True
    return isinstance(error, DBAPIError) and error.connection_invalidated
