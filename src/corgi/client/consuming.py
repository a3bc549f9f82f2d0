"""The consuming half of ``Corgi`` for consumer groups: what users say, checked, as options of a consumption."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypedDict, TypeVar

from corgi.base.errors import CorgiError
from corgi.client.consumption import ConsumeOptions
from corgi.client.core.membership import Wish
from corgi.client.core.options import PREFETCH_BYTES_MAX
from corgi.client.core.slices import SLICES_MAX, SLICES_SHARED
from corgi.client.failing import Failures, check_names, retry_topic
from corgi.client.handlers import Run, RunStatistics
from corgi.client.handling import Handler, RunOptions
from corgi.client.local_run import LocalRun, LocalStatistics, Store
from corgi.client.messages import Message
from corgi.client.publishing import Publisher
from corgi.client.shell import Shell
from corgi.client.topics import route_of
from corgi.client.words import (
    NAME_MAX,
    Duration,
    Read,
    StartAt,
    between,
    committed,
    group_name,
    one_of,
    seconds,
    start_at,
    topic_name,
)

V = TypeVar("V")
Order = Literal["key", "partition", "none"]
Semantics = Literal["at_least_once", "at_most_once", "exactly_once"]
Sharing = Literal["partition", "key"]
Mode = Literal["cluster", "broadcast"]
Retry = Literal["place", "topic"]

CONCURRENCY_MAX = 10_000
BATCH_MAX = 10_000  # messages in one transaction of a database
SESSION_S = (0.5, 3_600.0)


class GroupWords(TypedDict, total=False):
    """How a consumer of a group consumes; ``Corgi.run`` tells what each word means, and what it is by default."""

    start: StartAt
    prefetch_bytes: int
    semantics: Semantics
    sharing: Sharing
    slices: int
    instance: str
    mode: Mode
    attempts: int
    backoff: Duration
    backoff_max: Duration
    session_timeout: Duration
    rebalance_timeout: Duration
    commit_interval: Duration
    read: Read


class HandlerWords(GroupWords, total=False):
    """The same for handlers."""

    order: Order
    retry: Retry | None
    handler_timeout: Duration | None


def check_stop(stop: object) -> None:
    if stop is not None and not isinstance(stop, asyncio.Event):
        raise CorgiError("invalid-argument", f"stop is an asyncio.Event, not {stop!r}")


def prefetch(bytes_: int) -> int:
    said: object = type(bytes_)
    if said is not int or not 0 <= bytes_ <= PREFETCH_BYTES_MAX:
        text = f"prefetch_bytes is between 1 and {PREFETCH_BYTES_MAX}, 0 for the client's, not {bytes_!r}"
        raise CorgiError("invalid-argument", text)
    return bytes_


def consume_options(
    shell: Shell,
    topics: str | Iterable[str],
    group: str,
    *,
    start: StartAt,
    semantics: str,
    sharing: str,
    slices: int,
    instance: str,
    mode: str,
    session_timeout: Duration,
    rebalance_timeout: Duration,
    commit_interval: Duration,
    prefetch_bytes: int,
    read: str,
    retry: str = "place",
) -> ConsumeOptions:
    """Raises "invalid-argument", "invalid-topic-name"."""
    chosen: object = (topics,) if isinstance(topics, str) else topics
    if not isinstance(chosen, Iterable):
        raise CorgiError("invalid-argument", f"topics are a name or several, not {topics!r}")
    names = tuple(dict.fromkeys([topic_name(one) for one in chosen]))
    if names == ():
        raise CorgiError("invalid-argument", "no topic is named")
    name = group_name(group)
    one_of(mode, "mode", ("cluster", "broadcast"))
    one_of(semantics, "semantics", ("at_least_once", "at_most_once", "exactly_once"))
    said: object = instance
    if not isinstance(said, str) or len(said) > NAME_MAX:
        raise CorgiError("invalid-argument", f"instance is a name of at most {NAME_MAX} characters, not {instance!r}")
    if mode == "broadcast":
        if not instance:
            raise CorgiError(
                "invalid-argument",
                "broadcast needs an instance, the name under which this consumer's checkpoints are kept",
                hint='instance="..." that outlives the process; to read without checkpoints: mq.subscribe(topic)',
            )
        name, instance = group_name(f"{group}.{instance}", "group and instance together"), ""
    shared = one_of(sharing, "sharing", ("partition", "key")) == "key"
    number = between(slices, "slices", 0, SLICES_MAX)
    if not number:
        number = SLICES_SHARED if shared else 1
    if not shared and number != 1:
        raise CorgiError("invalid-argument", 'slices need sharing="key"')
    check_names(names, name)
    session_s = seconds(session_timeout, "session_timeout")
    if not SESSION_S[0] <= session_s <= SESSION_S[1]:
        raise CorgiError("invalid-argument", f"session_timeout is 500 ms to an hour, not {session_timeout!r}")
    again = tuple([retry_topic(topic, name) for topic in names]) if retry == "topic" else ()
    wish = Wish(
        name,
        names + again,
        instance,
        shell.process_name[:NAME_MAX],
        number,
        int(session_s * 1000),
        int(seconds(rebalance_timeout, "rebalance_timeout") * 1000),
    )
    return ConsumeOptions(
        wish,
        start_at(start),
        semantics,
        seconds(commit_interval, "commit_interval"),
        prefetch(prefetch_bytes) or shell.options.prefetch_bytes,
        frozenset(again),
        committed(read),
    )


def failures_of(shell: Shell, group: str, attempts: int, backoff: Duration, backoff_max: Duration) -> Failures:
    min_s = seconds(backoff, "backoff")
    return Failures(
        shell,
        group,
        between(attempts, "attempts", 1, 1_000_000),
        min_s,
        max(min_s, seconds(backoff_max, "backoff_max")),
    )


async def run_handler(
    shell: Shell,
    handler: Handler,
    topics: str | Iterable[str],
    *,
    group: str,
    decode: Callable[[Message[bytes]], Message[V]] | None = None,
    concurrency: int,
    order: Order,
    semantics: Semantics,
    sharing: Sharing,
    slices: int,
    start: StartAt,
    instance: str,
    mode: Mode,
    attempts: int,
    backoff: Duration,
    backoff_max: Duration,
    retry: Retry | None,
    handler_timeout: Duration | None,
    session_timeout: Duration,
    rebalance_timeout: Duration,
    commit_interval: Duration,
    prefetch_bytes: int,
    read: Read,
    stop: asyncio.Event | None,
) -> RunStatistics:
    """See ``Corgi.run``."""
    for what, said in (("handler", handler), ("decode", decode or handler)):
        if not callable(said):
            raise CorgiError("invalid-argument", f"the {what} is a function of a message, not {said!r}")
    check_stop(stop)
    one_of(order, "order", ("key", "partition", "none"))
    one_of(semantics, "semantics", ("at_least_once", "at_most_once", "exactly_once"))
    chosen = retry
    if chosen is None:
        chosen = "topic" if order == "none" and semantics == "at_least_once" else "place"
    one_of(chosen, "retry", ("place", "topic"))
    if chosen == "topic" and order != "none":
        raise CorgiError("invalid-argument", f'a retry topic would break order="{order}"', hint='order="none"')
    if chosen == "topic" and semantics != "at_least_once":
        raise CorgiError("invalid-argument", f"a retry topic does not go with {semantics}", hint='retry="place"')
    if order == "partition" and sharing == "key":
        raise CorgiError("invalid-argument", 'order="partition" does not go with sharing="key"')
    options = consume_options(
        shell,
        topics,
        group,
        start=start,
        semantics=semantics,
        sharing=sharing,
        slices=slices,
        instance=instance,
        mode=mode,
        session_timeout=session_timeout,
        rebalance_timeout=rebalance_timeout,
        commit_interval=commit_interval,
        prefetch_bytes=prefetch_bytes,
        read=read,
        retry=chosen,
    )
    timeout_s = 0.0 if handler_timeout is None else seconds(handler_timeout, "handler_timeout")
    run_options = RunOptions(between(concurrency, "concurrency", 1, CONCURRENCY_MAX), order, chosen, timeout_s)
    failures = failures_of(shell, options.wish.group, attempts, backoff, backoff_max)
    await known(shell, options)
    how: Callable[[Message[bytes]], Any] | None = decode
    return await Run(shell, handler, options, run_options, failures, how).run(stop)


async def run_in_store(
    shell: Shell,
    publisher: Publisher,
    store: Store,
    topics: str | Iterable[str],
    *,
    group: str,
    batch: int,
    attempts: int,
    backoff: Duration,
    backoff_max: Duration,
    stop: asyncio.Event | None,
    start: StartAt,
    instance: str,
    session_timeout: Duration,
    rebalance_timeout: Duration,
    commit_interval: Duration,
    prefetch_bytes: int,
) -> LocalStatistics:
    """See ``Corgi.run_in``."""
    check_stop(stop)
    options = consume_options(
        shell,
        topics,
        group,
        start=start,
        semantics="at_least_once",  # of the cursor, which follows
        sharing="partition",
        slices=0,
        instance=instance,
        mode="cluster",
        session_timeout=session_timeout,
        rebalance_timeout=rebalance_timeout,
        commit_interval=commit_interval,
        prefetch_bytes=prefetch_bytes,
        read="committed",
    )
    batch_max = between(batch, "batch", 1, BATCH_MAX)
    failures = failures_of(shell, options.wish.group, attempts, backoff, backoff_max)
    await known(shell, options)
    return await LocalRun(shell, publisher, store, options, failures, batch_max).run(stop)


async def known(shell: Shell, options: ConsumeOptions) -> None:
    """Wait until the topics are known. Raises "unknown-topic"."""
    for topic in options.wish.topics:
        if topic not in options.optional:
            await route_of(shell, topic)
