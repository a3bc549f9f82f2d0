"""Messages as one act, and one that belongs to an act elsewhere: python examples/transaction.py [HOST:PORT,…]"""

import asyncio
import sqlite3
import sys

import corgi

CORGI_DEV = "127.0.0.1:7450,127.0.0.1:7451,127.0.0.1:7452"  # one of them may be down


async def main(servers: str) -> None:
    async with corgi.connect(servers) as mq:
        await mq.topics.create("accounts", partitions=4)

        # Both or neither, in whatever partitions they are.
        async with mq.atomic() as tx:
            tx.publish("accounts", "-10", key="ada")
            tx.publish("accounts", "+10", key="bob")
        print("transferred", len(tx.receipt.messages), "messages")

        try:
            async with mq.atomic() as tx:
                tx.publish("accounts", "-99", key="ada")
                raise RuntimeError("not enough money")
        except RuntimeError as error:
            print(f"nothing of it happened: {error}")

        # A message and a row of a database of your own: it is prepared, unseen, until the row is committed.
        database = sqlite3.connect(":memory:")
        database.execute("CREATE TABLE orders (id TEXT, message TEXT)")

        async def look_up(check: corgi.Check) -> bool:
            """The program died before it settled: the cluster asks, and the database knows."""
            found = database.execute("SELECT 1 FROM orders WHERE message = ?", (check.id,)).fetchone()
            return found is not None

        async with mq.answer("shop", look_up):
            prepared = await mq.prepare("accounts", "order o-1", key="ada", producer="shop")
            with database:
                database.execute("INSERT INTO orders VALUES ('o-1', ?)", (prepared.id,))
            await prepared.commit()

        for value in sorted([message.value or b"" async for message in mq.replay("accounts")]):
            print(value.decode())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else CORGI_DEV))
