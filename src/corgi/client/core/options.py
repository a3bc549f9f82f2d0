"""How a client behaves: one frozen object, with the reason of each default."""

from __future__ import annotations

import re
from dataclasses import dataclass

from corgi.base.compression import CODECS
from corgi.base.errors import CorgiError
from corgi.base.limits import BATCH_BYTES_MAX, KIB, MIB, PRODUCER_WINDOW, VALUE_BYTES_MAX

ACKS: dict[str, int] = {"none": 0, "leader": 1, "quorum": 2}
QUORUM = ACKS["quorum"]
BATCH_BYTES = 256 * KIB
BUFFER_BYTES = 32 * MIB
PREFETCH_BYTES = 16 * MIB
PREFETCH_BYTES_MAX = 1024 * MIB  # what nodes grant at once
_CLUSTER = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """Sizes in bytes, times in seconds."""

    compression: str = "none"
    batch_bytes: int = BATCH_BYTES  # of one batch: large enough to hide the cost per batch
    request_bytes: int = VALUE_BYTES_MAX // 2  # of one produce request: two of them make one Paxos value
    buffer_bytes: int = BUFFER_BYTES  # published and not yet acknowledged; more is refused or waited for
    link_bytes: int = 4 * MIB  # waiting for one socket; more stays with the batches
    requests_in_flight: int = 2  # per Paxos group: more hides round trips, fewer make larger batches
    batches_in_flight: int = PRODUCER_WINDOW  # per partition: what the brokers remember
    publish_timeout_s: float = 30.0  # from publish to a definite answer, retries included
    request_timeout_s: float = 10.0  # the same for administration and metadata
    connect_timeout_s: float = 10.0
    retry_min_s: float = 0.005  # back-off after the first refusal; it doubles
    retry_max_s: float = 0.500
    redial_min_s: float = 0.050
    redial_max_s: float = 1.0
    hedge_s: float = 0.250  # a produce that waits longer, and much longer than usual, is sent to another node too
    ping_s: float = 1.0  # a connection silent for so long is asked whether it lives
    silence_s: float = 4.0  # and given up after that
    prefetch_bytes: int = PREFETCH_BYTES  # delivered ahead of the consumer, over all partitions of a subscription
    software: str = "corgi-python"
    cluster: str = ""  # the cluster id expected, 32 hex digits; empty for any

    def __post_init__(self) -> None:
        """Raises CorgiError "invalid-argument" for what cannot work."""
        for name in ("batch_bytes", "buffer_bytes", "prefetch_bytes", "batches_in_flight", "requests_in_flight"):
            if type(getattr(self, name)) is not int:
                raise CorgiError("invalid-argument", f"{name} is a whole number, not {getattr(self, name)!r}")
        cluster: object = self.cluster
        compression: object = self.compression
        if not isinstance(cluster, str) or (cluster and not _CLUSTER.fullmatch(cluster)):
            raise CorgiError("invalid-argument", f"cluster is an id of 32 hex digits, not {self.cluster!r}")
        if not isinstance(compression, str) or compression not in CODECS:
            raise CorgiError("invalid-argument", f"compression is one of {', '.join(CODECS)}, not {self.compression!r}")
        if not KIB <= self.batch_bytes <= BATCH_BYTES_MAX:
            raise CorgiError("invalid-argument", f"batch_bytes is between {KIB} and {BATCH_BYTES_MAX}")
        if not 1 <= self.batches_in_flight <= PRODUCER_WINDOW:
            raise CorgiError("invalid-argument", f"batches_in_flight is between 1 and {PRODUCER_WINDOW}")
        if self.requests_in_flight < 1:
            raise CorgiError("invalid-argument", "requests_in_flight is at least 1")
        if self.buffer_bytes < self.batch_bytes:
            raise CorgiError("invalid-argument", "buffer_bytes holds at least one batch")
        if not KIB <= self.prefetch_bytes <= PREFETCH_BYTES_MAX:
            raise CorgiError("invalid-argument", f"prefetch_bytes is between {KIB} and {PREFETCH_BYTES_MAX}")
        for name in ("publish_timeout_s", "request_timeout_s", "connect_timeout_s", "hedge_s", "ping_s"):
            if not 0 < getattr(self, name) <= 86_400:
                raise CorgiError("invalid-argument", f"{name} is more than 0 and at most a day")
