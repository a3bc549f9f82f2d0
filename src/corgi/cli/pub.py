"""``corgi pub``: lines become messages."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from corgi.base.errors import CorgiError
from corgi.cli.common import ClusterOption, connected, run
from corgi.cli.exits import Exit
from corgi.cli.lines import KeyOf, key_reader, read_chunks
from corgi.cli.output import OutputOption, print_json
from corgi.cli.words import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from corgi.client.corgi import Corgi
    from corgi.client.receipts import PendingReceipt

Acks = Literal["quorum", "leader", "none"]
Codec = Literal["none", "lz4", "zstd", "gzip", "snappy"]
TOLD_S = 0.5  # between two lines of progress


def pub(
    topic: str,
    file: str = "-",
    /,
    *,
    key: str | None = None,
    key_column: str | None = None,
    separator: str | None = None,
    partition: int | None = None,
    header: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    acks: Acks = "quorum",
    compression: Codec = "none",
    cluster: ClusterOption = None,
    output: OutputOption = "table",
) -> int:
    """Publish each line of a file, or of stdin, as a message. Empty lines are
    left out.

    It ends when every message is acknowledged: durable on a majority of the
    nodes.

    Examples:

    echo hello | corgi pub greetings

    corgi pub flights flights.csv.gz --key-column tailnum      (CSV with a
    header; the whole line is the value)

    corgi pub users --separator :      (the key stands before the first ":",
    the value behind it)

    tail -F app.log | corgi pub logs --key web-1

    JSON: {"topic", "published", "bytes", "seconds"}

    Parameters
    ----------
    topic
        Where to.
    file
        Lines, plain or compressed with gzip; "-" is stdin.
    key
        The key of all messages. Messages of one key stay in order.
    key_column
        The column that holds the key: its name in the first line, or its
        number from 1.
    separator
        What ends a column; by default a comma. Without --key-column: what ends
        the key.
    partition
        Where all messages go, whatever their key.
    header
        NAME=VALUE, for all messages; may be given several times.
    acks
        quorum: on the disks of a majority. leader: on one disk. none: not
        waited for.
    compression
        Of the batches.
    """
    headers = [_header(pair) for pair in header]
    key_of = key_reader(key=key, column=key_column, separator=separator)
    press = _Press(topic, key_of, partition, headers, acks)

    async def work() -> None:
        async with connected(cluster, compression=compression) as mq:
            await press.run(mq, read_chunks(file))

    began = time.monotonic()
    try:
        run(work())
    except (CorgiError, KeyboardInterrupt):
        press.clear()
        if press.acknowledged or press.open:
            say(f"published {press.acknowledged} messages, {press.open} have no acknowledgement")
        raise
    press.clear()
    seconds = time.monotonic() - began
    if output == "json":
        document = {"topic": topic, "published": press.acknowledged, "bytes": press.bytes, "seconds": round(seconds, 3)}
        print_json(document)
    else:
        say(f"published {press.acknowledged} messages in {seconds:.1f} s")
    return Exit.OK


class _Press:
    """Publishes chunks of lines while the next ones are read, and keeps count of the acknowledgements."""

    def __init__(
        self, topic: str, key_of: KeyOf, partition: int | None, headers: list[tuple[str, bytes | None]], acks: Acks
    ) -> None:
        self._topic = topic
        self._key_of = key_of
        self._partition = partition
        self._headers = headers or None
        self._acks = acks
        self._open: deque[PendingReceipt] = deque()
        self._told_at = time.monotonic()
        self._told = False
        self.acknowledged = 0
        self.bytes = 0

    @property
    def open(self) -> int:
        """Messages that were published and not acknowledged."""
        return len(self._open)

    async def run(self, mq: Corgi, chunks: Iterator[list[bytes]]) -> None:
        """Until the lines end. Raises the error of the first message that failed, in the order of the lines."""
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            for line in chunk:
                if (record := self._key_of(line)) is not None:
                    await self._publish(mq, *record)
            self._settle()
            self._tell()
        while self._open:
            await self._open[0]
            self._settle()

    def clear(self) -> None:
        """Wipe the line of progress off the terminal."""
        if self._told:
            sys.stderr.write("\r\x1b[K")

    async def _publish(self, mq: Corgi, key: bytes | None, value: bytes) -> None:
        while True:
            try:
                pending = mq.publish_nowait(
                    self._topic, value, key=key, headers=self._headers, partition=self._partition, acks=self._acks
                )
            except CorgiError as error:
                if error.code != "overloaded":
                    raise
                await mq.ready()
                self._settle()
                continue
            self._open.append(pending)
            self.bytes += len(value)
            return

    def _settle(self) -> None:
        """Take the acknowledged ones off the front; raises the error of one that failed."""
        while self._open and self._open[0].done:
            self._open[0].result()
            _ = self._open.popleft()
            self.acknowledged += 1

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told_at > TOLD_S and sys.stderr.isatty():
            self._told_at = now
            self._told = True
            sys.stderr.write(f"\r{self.acknowledged} acknowledged, {len(self._open)} under way ")
            sys.stderr.flush()


def _header(pair: str) -> tuple[str, bytes | None]:
    name, equals, value = pair.partition("=")
    if not equals or not name:
        raise CorgiError("invalid-argument", f"--header {pair!r} is not NAME=VALUE", hint="see: corgi pub --help")
    return name, value.encode()
