"""Every argument of the SDK with values of every wrong type: an error that names it; never a hang, a bare TypeError, or
a client that does not work afterwards."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

import corgi
from corgi import CorgiError, Message, Outcomes

SOON_S = 10.0  # below every time-out of a call
REFUSED = {"invalid-argument", "invalid-topic-name"}
THING = object()
ANY: tuple[Any, ...] = (None, 7, -1, 2**70, 1.5, True, "", "\ud800", b"x", THING, [], [1], {}, {1: 2})


def but(*allowed: Any) -> tuple[Any, ...]:
    """Everything except these; 1, True and 1.0 are different things here."""
    return tuple(v for v in ANY if not any(type(v) is type(a) and v == a for a in allowed))


NO_NAMES = ANY
NO_NUMBERS = but(7, -1, 2**70)
NO_BYTES = but(None, "", b"x")
DURATIONS = (7, 1.5)

Call = Callable[[corgi.Corgi, str, Any], Any]


async def one(messages: Any) -> Any:
    return await anext(messages)


async def act(mq: corgi.Corgi, topic: str, **words: Any) -> None:
    async with mq.atomic() as tx:
        tx.publish(topic, b"", **words)


async def checkpoint(mq: corgi.Corgi, **words: Any) -> None:
    async with mq.atomic() as tx:
        tx.checkpoint(**{"group": "g", "topic": "t", "partition": 0, "offset": 0, **words})


async def answering(mq: corgi.Corgi, producer: Any, decide: Any) -> None:
    async with mq.answer(producer, decide):
        pass


async def nothing(_: Any) -> None: ...


CALLS: dict[str, tuple[tuple[Any, ...], Call]] = {
    "publish topic": (NO_NAMES, lambda mq, _, v: mq.publish(v, b"")),
    "publish value": (NO_BYTES, lambda mq, t, v: mq.publish(t, v)),
    "publish key": (NO_BYTES, lambda mq, t, v: mq.publish(t, b"", key=v)),
    "publish headers": (but(None, [], {}), lambda mq, t, v: mq.publish(t, b"", headers=v)),
    "publish header name": (but(""), lambda mq, t, v: mq.publish(t, b"", headers=[(v, b"")])),
    "publish header value": (but(None, b"x"), lambda mq, t, v: mq.publish(t, b"", headers={"a": v})),
    "publish timestamp": (but(None, 7), lambda mq, t, v: mq.publish(t, b"", timestamp=v)),
    "publish partition": (but(None, 7, -1, 2**70), lambda mq, t, v: mq.publish(t, b"", partition=v)),
    "publish partition of no topic": (but(None, 7, -1, 2**70), lambda mq, _, v: mq.publish("no", b"", partition=v)),
    "publish acks": (ANY, lambda mq, t, v: mq.publish(t, b"", acks=v)),
    "publish timeout": (but(None, *DURATIONS), lambda mq, t, v: mq.publish(t, b"", timeout=v)),
    "publish_nowait topic": (NO_NAMES, lambda mq, _, v: mq.publish_nowait(v, b"")),
    "publish_nowait value": (NO_BYTES, lambda mq, t, v: mq.publish_nowait(t, v)),
    "publish_nowait key": (NO_BYTES, lambda mq, t, v: mq.publish_nowait(t, b"", key=v)),
    "publish_nowait partition": (but(None, 7, -1, 2**70), lambda mq, t, v: mq.publish_nowait(t, b"", partition=v)),
    "publish_nowait acks": (ANY, lambda mq, t, v: mq.publish_nowait(t, b"", acks=v)),
    "publish_many topic": (NO_NAMES, lambda mq, _, v: mq.publish_many(v, [b""])),
    "publish_many items": (but([], [1], {}, {1: 2}), lambda mq, t, v: mq.publish_many(t, v)),
    "publish_many item": (NO_BYTES, lambda mq, t, v: mq.publish_many(t, [v])),
    "publish_many key": (NO_BYTES, lambda mq, t, v: mq.publish_many(t, [(v, b"")])),
    "publish_many value": (NO_BYTES, lambda mq, t, v: mq.publish_many(t, [(b"", v)])),
    "publish_many three": (ANY, lambda mq, t, v: mq.publish_many(t, [(b"", b"", v)])),
    "publish_many acks": (ANY, lambda mq, t, v: mq.publish_many(t, [b""], acks=v)),
    "publish_many timestamp": (but(7, -1), lambda mq, t, v: mq.publish_many(t, [Message(timestamp=v)])),
    "publish_many headers": ((7, [1], {1: 2}, THING), lambda mq, t, v: mq.publish_many(t, [Message(headers=v)])),
    "subscribe topic": (NO_NAMES, lambda mq, _, v: anext(mq.subscribe(v))),
    "subscribe start": (but(7, {1: 2}), lambda mq, t, v: anext(mq.subscribe(t, start=v))),
    "subscribe start partition": ((None, 1.5, True, "", THING), lambda mq, t, v: mq.subscribe(t, start={v: 0})),
    "subscribe start offset": (but(7), lambda mq, t, v: mq.subscribe(t, start={0: v})),
    "subscribe partitions": (but(None, b"x", [1], {1: 2}), lambda mq, t, v: mq.subscribe(t, partitions=v)),
    "subscribe partition": (NO_NUMBERS, lambda mq, t, v: mq.subscribe(t, partitions=[v])),
    "subscribe prefetch_bytes": (but(7), lambda mq, t, v: mq.subscribe(t, prefetch_bytes=v)),
    "topic name": (NO_NAMES, lambda mq, _, v: mq.topic(v, str)),
    "topic format": (ANY, lambda mq, t, v: mq.topic(t, dict, format=v)),
    "topic codec": (but(None), lambda mq, t, v: mq.topic(t, codec=v)),
    "typed items": (but([], [1], {}, {1: 2}), lambda mq, t, v: mq.topic(t, str).publish_many(v)),
    "create name": (NO_NAMES, lambda mq, _, v: mq.topics.create(v)),
    "create partitions": (but(7), lambda mq, _, v: mq.topics.create("c", partitions=v)),
    "create colocate_with": (but(""), lambda mq, _, v: mq.topics.create("c", colocate_with=v)),
    "create timeout": (but(*DURATIONS), lambda mq, _, v: mq.topics.create("c", timeout=v)),
    "create config": (but(None, 7, -1), lambda mq, _, v: mq.topics.create("c", retention_ms=v)),
    "alter name": (NO_NAMES, lambda mq, _, v: mq.topics.alter(v)),
    "alter partitions": (but(7), lambda mq, t, v: mq.topics.alter(t, partitions=v)),
    "alter config": (but(None, 7, -1), lambda mq, t, v: mq.topics.alter(t, retention_bytes=v)),
    "describe": (NO_NAMES, lambda mq, _, v: mq.topics.describe(v)),
    "offsets name": (NO_NAMES, lambda mq, _, v: mq.topics.offsets(v)),
    "offsets at": (but(7), lambda mq, t, v: mq.topics.offsets(t, v)),
    "delete": (NO_NAMES, lambda mq, _, v: mq.topics.delete(v)),
    "atomic name": (but("", "\ud800"), lambda mq, _, v: mq.atomic(v)),
    "atomic timeout": (but(*DURATIONS), lambda mq, _, v: mq.atomic(timeout=v)),
    "atomic key": (NO_BYTES, lambda mq, t, v: act(mq, t, key=v)),
    "atomic partition": (but(None, 7, 2**70), lambda mq, t, v: act(mq, t, partition=v)),
    "checkpoint group": (ANY, lambda mq, t, v: checkpoint(mq, topic=t, group=v)),
    "checkpoint topic": (NO_NAMES, lambda mq, _, v: checkpoint(mq, topic=v)),
    "checkpoint partition": (but(7), lambda mq, t, v: checkpoint(mq, topic=t, partition=v)),
    "checkpoint offset": (but(7), lambda mq, t, v: checkpoint(mq, topic=t, offset=v)),
    "checkpoint version": (but(7, -1), lambda mq, t, v: checkpoint(mq, topic=t, version=v)),
    "checkpoint slice": (NO_NUMBERS, lambda mq, t, v: checkpoint(mq, topic=t, slice=v)),
    "checkpoint owner_epoch": (NO_NUMBERS, lambda mq, t, v: checkpoint(mq, topic=t, owner_epoch=v)),
    "checkpoint member": (but(""), lambda mq, t, v: checkpoint(mq, topic=t, member=v)),
    "checkpoint ranges": (but("", [], b"x", [1]), lambda mq, t, v: checkpoint(mq, topic=t, ranges=v)),
    "checkpoint range": (ANY, lambda mq, t, v: checkpoint(mq, topic=t, ranges=[v])),
    "checkpoint metadata": (but(""), lambda mq, t, v: checkpoint(mq, topic=t, metadata=v)),
    "prepare topic": (NO_NAMES, lambda mq, _, v: mq.prepare(v, b"", producer="p")),
    "prepare producer": (ANY, lambda mq, t, v: mq.prepare(t, b"", producer=v)),
    "prepare partition": (but(None, 7), lambda mq, t, v: mq.prepare(t, b"", producer="p", partition=v)),
    "prepare id": ((7, 1.5, "\ud800", b"x", [1], {1: 2}), lambda mq, t, v: mq.prepare(t, b"", producer="p", id=v)),
    "prepare check_after": (but(*DURATIONS), lambda mq, t, v: mq.prepare(t, b"", producer="p", check_after=v)),
    "prepare checks": (but(7), lambda mq, t, v: mq.prepare(t, b"", producer="p", checks=v)),
    "answer producer": (but("", "\ud800"), lambda mq, _, v: answering(mq, v, nothing)),
    "answer decide": (ANY, lambda mq, _, v: answering(mq, "p", v)),
    "settle": (ANY, lambda mq, _, v: mq.settle(v, commit=True)),
    "replay topic": (NO_NAMES, lambda mq, _, v: one(mq.replay(v))),
    "replay start": (but(7, {1: 2}), lambda mq, t, v: one(mq.replay(t, v))),
    "replay end": (but(7, {1: 2}), lambda mq, t, v: one(mq.replay(t, "earliest", v))),
    "replay partitions": (but(None, b"x", [1], {1: 2}), lambda mq, t, v: one(mq.replay(t, partitions=v))),
    "run handler": (ANY, lambda mq, t, v: mq.run(v, t, group="g")),
    "run topics": (but(b"x", [1], {1: 2}), lambda mq, _, v: mq.run(nothing, v, group="g")),
    "run group": (ANY, lambda mq, t, v: mq.run(nothing, t, group=v)),
    "run concurrency": (but(7), lambda mq, t, v: mq.run(nothing, t, group="g", concurrency=v)),
    "run stop": (but(None), lambda mq, t, v: mq.run(nothing, t, group="g", stop=v)),
    "run decode": ((7, b"x", THING, [1]), lambda mq, t, v: mq.run(nothing, t, group="g", decode=v)),
    "group subscribe": (ANY[1:], lambda mq, t, v: one(mq.subscribe(t, group=v))),
    "group reset": (ANY, lambda mq, t, v: mq.groups.reset(v, t, "earliest")),
    "trim before": (but({1: 2}, {}), lambda mq, t, v: mq.topics.trim(t, v)),
    "connect": (ANY, lambda mq, _, v: corgi.connect(v)),
    "connect list": (ANY, lambda mq, _, v: corgi.connect([v])),
    "connect_sync": (ANY, lambda mq, _, v: corgi.connect_sync(v)),
    "connect compression": (ANY, lambda mq, _, v: corgi.connect(compression=v)),
    "connect publish_timeout": (but(*DURATIONS), lambda mq, _, v: corgi.connect(publish_timeout=v)),
    "connect batch_bytes": (ANY, lambda mq, _, v: corgi.connect(batch_bytes=v)),
    "connect buffer_bytes": (but(2**70), lambda mq, _, v: corgi.connect(buffer_bytes=v)),
    "connect prefetch_bytes": (ANY, lambda mq, _, v: corgi.connect(prefetch_bytes=v)),
    "connect cluster": (but(""), lambda mq, _, v: corgi.connect(cluster=v)),
}


async def code_of(make: Callable[[], Any]) -> str:
    """The code of the error that a call ends with, soon."""
    try:
        async with asyncio.timeout(SOON_S):
            made = make()
            result = await made if inspect.isawaitable(made) else made
            if isinstance(result, Outcomes):
                result.raise_first()
    except CorgiError as error:
        return error.code
    return "nothing was raised"


@pytest.mark.parametrize("what", CALLS)
async def test_a_value_of_a_wrong_type_is_refused_and_does_no_harm(servers: str, name: str, what: str) -> None:
    values, call = CALLS[what]
    assert values
    async with corgi.connect(servers) as mq:
        await mq.topics.create(name, partitions=2)
        codes = {repr(value): await code_of(lambda value=value: call(mq, name, value)) for value in values}  # type: ignore[misc]
        assert set(codes.values()) <= REFUSED, codes
        assert (await mq.publish(name, b"still works")).topic == name


async def test_a_client_that_is_used_before_it_is_connected_says_how_to_connect(servers: str) -> None:
    connecting: Any = corgi.connect(servers)
    for attribute in ("publish", "publish_nowait", "subscribe", "topics", "topic", "close", "cluster"):
        with pytest.raises(CorgiError, match="before the client is connected") as caught:
            getattr(connecting, attribute)
        assert "async with corgi.connect(...) as mq" in caught.value.hint
    assert not hasattr(connecting, "nonsense")
    assert not hasattr(connecting, "__fspath__")
