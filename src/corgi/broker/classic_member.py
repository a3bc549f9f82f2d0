"""What members of a classic consumer group ask and are answered, and what the group keeps of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from corgi.base.errors import BY_CODE
from corgi.broker.group_records import StoredClassicMember, encode_record

NEW_MEMBER_S = 300.0  # a new member that waits longer for its first generation is taken for dead
NO_GENERATION = -1
NEVER = float("inf")


class Fault:
    """Error numbers that a group answers with."""

    UNKNOWN_MEMBER = BY_CODE["unknown-member"].number
    MEMBER_ID_REQUIRED = BY_CODE["member-id-required"].number
    INCONSISTENT_PROTOCOL = BY_CODE["inconsistent-protocol"].number
    GENERATION_OVER = BY_CODE["generation-over"].number
    REBALANCING = BY_CODE["rebalancing"].number
    INSTANCE_FENCED = BY_CODE["instance-fenced"].number
    OVERLOADED = BY_CODE["overloaded"].number
    TOO_LARGE = BY_CODE["record-too-large"].number


class Join(NamedTuple):
    """A request to join. ``member`` "": its first; ``takes_ids``: it can be asked to join again under a name that is
    given to it (KIP-394); ``skips``: it can be told to lead without assigning (KIP-814)."""

    member: str
    instance: str
    client: str
    host: str
    session_ms: int
    rebalance_ms: int
    protocol_type: str
    protocols: tuple[tuple[str, bytes], ...]
    takes_ids: bool = True
    skips: bool = False


class Joined(NamedTuple):
    """``members`` (member, instance, what it says under the protocol) is told to the leader only."""

    error: int
    member: str
    generation: int = NO_GENERATION
    protocol_type: str = ""
    protocol: str = ""
    leader: str = ""
    members: tuple[tuple[str, str, bytes], ...] = ()
    skip_assignment: bool = False


class Sync(NamedTuple):
    """``assignments``: the leader's, by member. Empty protocol names are not checked: old clients do not tell them."""

    member: str
    instance: str
    generation: int
    protocol_type: str
    protocol: str
    assignments: Mapping[str, bytes]


class Synced(NamedTuple):
    error: int
    protocol_type: str = ""
    protocol: str = ""
    assignment: bytes = b""


OnJoined = Callable[[Joined], None]
OnSynced = Callable[[Synced], None]


class Member:
    """``joined``: it is of the present generation; ``answers`` to it wait for the record; ``size``: ``bytes_of`` it."""

    __slots__ = (
        "answers", "assignment", "client", "heard_at", "host", "instance", "join", "joined", "name", "protocols",
        "rebalance_ms", "session_ms", "size", "sync", "synced",
    )  # fmt: skip

    def __init__(self, name: str, request: Join, now: float) -> None:
        self.name = name
        self.heard_at = now
        self.assignment = b""
        self.joined = False
        self.synced = False
        self.join: OnJoined | None = None
        self.sync: OnSynced | None = None
        self.answers = 0
        self.says(request)

    def says(self, request: Join) -> None:
        self.instance = request.instance
        self.client = request.client
        self.host = request.host
        self.session_ms = request.session_ms
        self.rebalance_ms = request.rebalance_ms
        self.protocols = request.protocols
        self.size = bytes_of(self.name, request)

    def metadata(self, protocol: str) -> bytes:
        return next((metadata for name, metadata in self.protocols if name == protocol), b"")

    def dies_at(self) -> float:
        """While it waits for an answer it need not be heard of."""
        if self.join is not None and not self.joined:
            return self.heard_at + NEW_MEMBER_S
        if self.join is not None or self.sync is not None or self.answers:
            return NEVER
        return self.heard_at + self.session_ms / 1000

    def stored(self) -> StoredClassicMember:
        return StoredClassicMember(
            self.name, self.instance, self.client, self.host, self.session_ms, self.rebalance_ms, self.protocols,
            self.assignment,
        )  # fmt: skip


def common(members: Iterable[Member]) -> set[str]:
    """The protocols that all of them know."""
    sets = [{name for name, _ in member.protocols} for member in members]
    return set.intersection(*sets) if sets else set()


def bytes_of(name: str, says: Join) -> int:
    """What a member takes in the record, without its assignment."""
    return len(
        encode_record(
            StoredClassicMember(
                name, says.instance, says.client, says.host, says.session_ms, says.rebalance_ms, says.protocols
            )
        )
    )
