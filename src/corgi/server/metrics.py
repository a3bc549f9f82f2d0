"""The node's numbers over HTTP, in the text format that Prometheus scrapes (GET /metrics).

A scrape is answered from the node's own event loop, so it sees one consistent moment; it costs well under a
millisecond. Nothing here is imported unless ``metrics_listen`` is set. One request per connection, GET only, and a
client that is slow or talks too much is dropped.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from corgi.base.errors import CorgiError
from corgi.server.address import Address

REQUEST_BYTES_MAX = 8192
REQUEST_S = 5.0
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}


class Sample(NamedTuple):
    """One number. ``name`` without the prefix ``corgi_``; ``counter``: it only grows; ``labels``: name → text."""

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()
    counter: bool = False


class NodeCollector(Collector):
    """Turns samples into metric families, grouped by name."""

    def __init__(self, samples: Callable[[], Iterable[Sample]]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        """Called once per scrape."""
        families: dict[str, Metric] = {}
        for name, value, labels, counter in self._samples():
            family = families.get(name)
            if family is None:
                kind = CounterMetricFamily if counter else GaugeMetricFamily
                family = families[name] = kind(f"corgi_{name}", name.replace("_", " "), labels=[k for k, _ in labels])
            family.add_metric([text for _, text in labels], value)  # type: ignore[attr-defined]
        yield from families.values()


class MetricsServer:
    """The HTTP listener; ``close`` ends it."""

    def __init__(self, samples: Callable[[], Iterable[Sample]]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(NodeCollector(samples))
        self._server: asyncio.Server | None = None

    async def listen(self, address: Address) -> None:
        """Raises CorgiError "port-in-use" or "invalid-configuration"."""
        try:
            self._server = await asyncio.start_server(
                self._serve, address.host, address.port, limit=REQUEST_BYTES_MAX, reuse_address=True
            )
        except OSError as error:
            code = "port-in-use" if error.errno == errno.EADDRINUSE else "invalid-configuration"
            raise CorgiError(code, f"metrics_listen: cannot listen on {address}: {error.strerror or error}") from None

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_S)
            writer.write(self.answer(request))
            await asyncio.wait_for(writer.drain(), REQUEST_S)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError):
            pass  # a stranger who does not speak HTTP, or does not listen
        finally:
            writer.close()

    def answer(self, request: bytes) -> bytes:
        """The whole response to a request's head."""
        method, _, rest = request.partition(b"\r\n")[0].partition(b" ")
        path, _, version = rest.partition(b" ")
        if not version.startswith(b"HTTP/1."):
            return _response(400, b"expected an HTTP/1 request\n")
        if method not in (b"GET", b"HEAD"):
            return _response(405, b"only GET\n")
        if path.partition(b"?")[0] != b"/metrics":
            return _response(404, b"there is only /metrics\n")
        body = generate_latest(self._registry)
        return _response(200, body, CONTENT_TYPE_LATEST, head_only=method == b"HEAD")


def _response(status: int, body: bytes, kind: str = "text/plain; charset=utf-8", *, head_only: bool = False) -> bytes:
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + (b"" if head_only else body)
