"""A process that consumes into a database and tells of each transaction before that ends: to be killed in its midst."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import sqlalchemy as sa

import corgi
from corgi.contrib.sqlalchemy import Database

servers, topic, url = sys.argv[1:]
results = sa.table(
    "results",
    sa.column("partition_number", sa.Integer),
    sa.column("message_offset", sa.BigInteger),
    sa.column("value", sa.String),
)


def book(connection: sa.Connection, messages: Sequence[corgi.Delivered[bytes]]) -> None:
    for m in messages:
        row = {"partition_number": m.partition, "message_offset": m.offset, "value": (m.value or b"").decode()}
        connection.execute(sa.insert(results).values(row))
    sys.stdout.write(f"{len(messages)}\n")
    sys.stdout.flush()


async def main() -> None:
    async with corgi.connect(servers) as mq:
        database = Database(sa.create_engine(url))
        await database.run(mq, book, topic, group=topic, start="earliest", batch=7, session_timeout="1s")


asyncio.run(main())
