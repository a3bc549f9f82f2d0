"""What a client does in one turn of its loop leaves together at the end of it."""

from __future__ import annotations

import asyncio

import pytest

import corgi
from corgi import CorgiError
from corgi.client import flights
from corgi.client.committing import Committer
from corgi.client.shell import Shell


def shell_of(mq: corgi.Corgi) -> Shell:
    return mq._shell


async def test_what_is_asked_for_before_the_end_of_a_turn_leaves_with_it(servers: str) -> None:
    """Also if something else had asked for the end before."""
    async with corgi.connect(servers) as mq:
        shell = shell_of(mq)
        told: list[str] = []
        flush = shell.core.flush

        def flushed() -> None:
            told.append("flush")
            flush()

        def second() -> None:
            told.append("second")
            shell.before_end(lambda: told.append("third"))

        shell.core.flush = flushed  # type: ignore[method-assign]
        await asyncio.sleep(0.05)
        told.clear()
        shell.wake()
        shell.before_end(lambda: told.append("first"))
        shell.before_end(second)
        await asyncio.sleep(0)
        assert told == ["first", "second", "flush"]
        await asyncio.sleep(0)
        assert told == ["first", "second", "flush", "third", "flush"], "one turn never goes on for ever"


async def test_a_fault_before_the_end_of_a_turn_breaks_the_client_and_is_told(servers: str) -> None:
    async with corgi.connect(servers) as mq:

        def broken() -> None:
            raise ZeroDivisionError("a bug")

        shell_of(mq).before_end(broken)
        await asyncio.sleep(0.01)
        with pytest.raises(CorgiError, match="ZeroDivisionError: a bug") as caught:
            await mq.publish("t", b"v")
        assert caught.value.code == "internal-error"


async def test_a_result_leaves_in_the_turn_in_which_its_handler_has_ended(
    servers: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each turn more costs the latency of everything that is processed exactly once."""
    async with corgi.connect(servers) as mq:
        await mq.topics.create(name, partitions=1)
        out = f"{name}-out"
        await mq.topics.create(out, partitions=1, colocate_with=name)
        turns: list[int] = []
        turn = 0
        finish, send = Shell._finish_turn, Committer._send

        def finished(shell: Shell) -> None:
            nonlocal turn
            finish(shell)
            turn += 1

        def sent(committer: Committer, *arguments: object) -> None:
            turns.append(turn)
            send(committer, *arguments)  # type: ignore[arg-type]

        async def handler(message: corgi.Message[bytes]) -> corgi.Message[bytes]:
            turns.append(turn)
            return corgi.Message(topic=out, value=message.value)

        stop = asyncio.Event()
        working = asyncio.create_task(
            mq.run(handler, name, group=name, semantics="exactly_once", start="earliest", stop=stop)
        )
        await mq.publish(name, b"to be there")
        async with asyncio.timeout(10):
            await results(mq, out, 1)
        monkeypatch.setattr(Shell, "_finish_turn", finished)
        monkeypatch.setattr(Committer, "_send", sent)
        turns.clear()
        await mq.publish(name, b"timed")
        async with asyncio.timeout(10):
            await results(mq, out, 2)
        stop.set()
        await working
        handled, left = turns[:2]
        assert handled == left


async def test_a_result_that_no_batch_takes_ends_its_consumer_and_nothing_else(
    servers: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with corgi.connect(servers) as mq:
        await mq.topics.create(name, partitions=1)

        def refused(*_: object) -> bytes:
            raise CorgiError("invalid-argument", "it does not fit")

        async def handler(message: corgi.Message[bytes]) -> corgi.Message[bytes]:
            return corgi.Message(topic=name, value=message.value)

        monkeypatch.setattr(flights, "encode_batch", refused)
        await mq.publish(name, b"v")
        with pytest.raises(CorgiError, match="it does not fit"):
            async with asyncio.timeout(10):
                await mq.run(handler, name, group=name, semantics="exactly_once", start="earliest")
        await mq.publish(name, b"others go on")


async def results(mq: corgi.Corgi, topic: str, count: int) -> None:
    found = 0
    async for _ in mq.subscribe(topic, start="earliest"):
        found += 1
        if found == count:
            return
