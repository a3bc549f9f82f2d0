"""A whole broker inside the process, for tests and small jobs: python examples/embedded.py"""

import asyncio

import corgi


async def main() -> None:
    async with corgi.embedded() as mq:  # one node on a temporary folder; embedded("folder") keeps what it holds
        await mq.topics.create("notes")
        await mq.publish("notes", "nobody else needs to run")
        async with mq.subscribe("notes", start="earliest") as notes:
            async for note in notes:
                print(note.value)
                break


if __name__ == "__main__":
    asyncio.run(main())
