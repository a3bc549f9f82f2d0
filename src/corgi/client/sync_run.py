"""``run`` of the synchronous face: handlers are plain functions, called in threads, ``concurrency`` at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from corgi.base.errors import CorgiError
from corgi.client.handlers import RunStatistics
from corgi.client.handling import takes_two
from corgi.client.held import Delivered
from corgi.client.loop_thread import LoopThread
from corgi.client.sync_consuming import delivered

LOOK_S = 0.05  # how late it is noticed that ``stop`` was set
CONCURRENCY_MAX = 512  # threads


async def run_in_threads(
    run: Callable[..., Awaitable[RunStatistics]],
    thread: LoopThread,
    handler: Callable[..., Any],
    stop: threading.Event | None,
    concurrency: int,
    words: dict[str, Any],
) -> RunStatistics:
    """As ``run``, which gets ``words``. A handler that is given up (time-out, lost partition) runs on in its thread to
    its end."""
    said: object = handler
    if not callable(said) or asyncio.iscoroutinefunction(handler):
        raise CorgiError("invalid-argument", f"the handler is a plain function of a message, not {handler!r}")
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(min(max(1, concurrency), CONCURRENCY_MAX), thread_name_prefix="corgi-handler")

    async def handle(message: Delivered[Any]) -> Any:
        return await loop.run_in_executor(pool, handler, delivered(thread, message))

    async def handle_with_results(message: Delivered[Any], tx: Any) -> Any:
        return await loop.run_in_executor(pool, handler, delivered(thread, message), tx)

    ended = asyncio.Event()

    async def watch(stop: threading.Event) -> None:
        while not stop.is_set():  # noqa: ASYNC110 - it is set in another thread, which knows nothing of this loop
            await asyncio.sleep(LOOK_S)
        ended.set()

    watcher = None if stop is None else loop.create_task(watch(stop))
    called = handle_with_results if takes_two(handler) else handle
    try:
        return await run(called, concurrency=concurrency, stop=ended, **words)
    finally:
        if watcher is not None:
            watcher.cancel()
        pool.shutdown(wait=False, cancel_futures=True)
