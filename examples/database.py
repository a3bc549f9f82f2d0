"""Consume into your own database, each message once: python examples/database.py URL [HOST:PORT,…]

URL as SQLAlchemy has it, for example sqlite:///stock.sqlite. Needs: pip install "corgi-mq[sqlalchemy]"
"""

import asyncio
import sys
from collections.abc import Sequence

import sqlalchemy as sa

import corgi
from corgi.contrib.sqlalchemy import Database

CORGI_DEV = "127.0.0.1:7450,127.0.0.1:7451,127.0.0.1:7452"  # one of them may be down
COUNT = 1_000
metadata = sa.MetaData()
stock = sa.Table(
    "stock", metadata, sa.Column("fruit", sa.String(50), primary_key=True), sa.Column("pieces", sa.Integer)
)


async def main(url: str, servers: str) -> None:
    engine = sa.create_engine(url)
    metadata.create_all(engine)
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    handled = 0

    def book(connection: sa.Connection, deliveries: Sequence[corgi.Delivered[bytes]]) -> None:
        """Called in a thread, within a transaction that also stores how far this is."""
        nonlocal handled
        for delivery in deliveries:
            fruit = (delivery.key or b"").decode()
            more = {"pieces": stock.c.pieces + int(delivery.value or b"0")}
            if not connection.execute(sa.update(stock).where(stock.c.fruit == fruit).values(more)).rowcount:
                connection.execute(sa.insert(stock).values(fruit=fruit, pieces=int(delivery.value or b"0")))
        handled += len(deliveries)
        if handled >= COUNT:
            loop.call_soon_threadsafe(done.set)

    async with corgi.connect(servers) as mq:
        await mq.topics.create("deliveries", partitions=2)
        await mq.publish_many("deliveries", [(("apple", "pear", "fig")[n % 3], b"%d" % (n % 10)) for n in range(COUNT)])
        database = Database(engine)
        await database.run(mq, book, "deliveries", group="stock", start="earliest", stop=done)
    with engine.connect() as connection:
        for fruit, pieces in connection.execute(sa.select(stock).order_by(stock.c.fruit)):
            print(fruit, pieces)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else CORGI_DEV))
