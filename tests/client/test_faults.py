"""A client that meets a fault of its own: nobody waits for what will not come, and it takes no more calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import corgi
from corgi import CorgiError
from corgi.base.records import BatchBuilder
from corgi.client.shell import Shell

SOON_S = 5.0  # far below the time-outs of the calls, 60 s here


def broken(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("a bug")


def shell_of(mq: corgi.Corgi) -> Shell:
    return mq._shell


def patient(servers: str) -> Any:
    return corgi.connect(servers, publish_timeout=60, request_timeout=60)


async def code_of(call: Awaitable[Any]) -> str:
    with pytest.raises(CorgiError) as caught:
        async with asyncio.timeout(SOON_S):
            await call
    assert "ZeroDivisionError: a bug" in caught.value.message
    assert "report it" in caught.value.hint
    return caught.value.code


def spoil_flush(mq: corgi.Corgi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell_of(mq).core.producer.sender, "flush", broken)


def spoil_answers(mq: corgi.Corgi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell_of(mq).core.routing, "learn", broken)
    monkeypatch.setattr(shell_of(mq).core.producer.sender._landing, "succeed", broken)


def spoil_time(mq: corgi.Corgi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell_of(mq).core.producer.sender, "flush", lambda now: None)
    monkeypatch.setattr(shell_of(mq).core, "advance", broken)


@pytest.mark.parametrize("spoil", [spoil_flush, spoil_answers, spoil_time])
async def test_every_open_call_ends_with_what_broke_the_client_and_every_later_one(
    servers: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[corgi.Corgi, pytest.MonkeyPatch], None],
) -> None:
    async with patient(servers) as mq:
        await mq.topics.create(name)
        subscription = mq.subscribe(name)
        await subscription.ready()
        spoil(mq, monkeypatch)
        calls: list[Awaitable[Any]] = [
            anext(subscription),
            mq.publish(name, b"1"),
            mq.publish_nowait(name, b"2"),
        ]
        if spoil is spoil_flush:  # with the others these may be answered before the fault is met
            calls += [mq.publish("unheard-of", b"3"), mq.publish_many("unheard-of-too", [b"4"]), mq.topics.list()]
        assert await asyncio.gather(*(code_of(call) for call in calls)) == ["internal-error"] * len(calls)
        later: list[Awaitable[Any]] = [
            mq.publish(name, b"5"),
            mq.publish_many(name, [b"6"]),
            mq.publish_many("unheard-of", [b"7"]),
            mq.topics.describe(name),
            mq.topics.create("another"),
            anext(mq.subscribe(name)),
        ]
        for call in later:
            assert await code_of(call) == "internal-error"
        with pytest.raises(CorgiError, match="internal-error"):
            mq.publish_nowait(name, b"8")
        async with asyncio.timeout(SOON_S):
            await mq.flush()
    told = [record for record in caplog.records if record.name == "corgi.client"]
    assert told[0].levelno == logging.CRITICAL
    assert told[0].exc_info


async def test_a_batch_that_cannot_be_made_is_not_lost_from_sight(
    servers: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with patient(servers) as mq:
        await mq.topics.create(name)
        await mq.publish(name, b"1")

        class Unbuildable(BatchBuilder):
            build = broken

        monkeypatch.setattr("corgi.client.core.producer.BatchBuilder", Unbuildable)
        assert await code_of(mq.publish(name, b"2")) == "internal-error"


async def test_a_fault_while_connecting_is_told_at_once(servers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corgi.client.core.peers.Peers.link_up", broken)

    async def connect() -> None:
        await corgi.connect(servers, connect_timeout=60)

    assert await code_of(connect()) == "internal-error"
