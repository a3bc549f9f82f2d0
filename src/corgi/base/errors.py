# ruff: noqa: E501 (the table reads best in rows)
"""One tree of errors and one table of codes.

An error has a stable text ``code`` for people and programs, a small ``number`` for the wire, says whether a retry can
help, and ends with a hint to act on. Protocol numbers never leak into what a user sees.
"""

from __future__ import annotations

from typing import NamedTuple


class ErrorKind(NamedTuple):
    """A row of the table: what the code means and what to do about it."""

    number: int
    code: str
    retryable: bool
    meaning: str
    hint: str


OK = 0

_ROWS: tuple[ErrorKind, ...] = (
    ErrorKind(1, "unknown-topic", False, "The topic does not exist.", "create it: corgi topic create NAME --partitions N"),
    ErrorKind(2, "unknown-partition", False, "The topic has no such partition.", "see: corgi topic describe NAME"),
    ErrorKind(3, "topic-exists", False, "A topic of this name exists already.", "choose another name, or use the one that exists"),
    ErrorKind(4, "invalid-topic-name", False, "The name cannot name a topic.",
              "use 1 to 249 letters, digits, '.', '_' or '-', not starting with '__'"),
    ErrorKind(5, "invalid-argument", False, "A value is out of its range or of the wrong form.", "correct what the message names: the same call is refused again"),
    ErrorKind(6, "record-too-large", False, "The record or batch is larger than the topic allows.",
              "send smaller records or raise the topic's max_batch_bytes"),
    ErrorKind(7, "corrupt-batch", False, "The record batch fails its checksum or contradicts itself.",
              "the client or the network damaged it; send it again from the source"),
    ErrorKind(8, "offset-out-of-range", False, "The offset lies outside what the partition holds.",
              "start from earliest, latest or a time"),
    ErrorKind(9, "out-of-order-sequence", False, "An idempotent producer left a gap in its sequence numbers.",
              "this is a fault of the client library; create the producer anew"),
    ErrorKind(10, "producer-fenced", False, "A newer producer of the same identity has taken over.", "stop this producer"),
    ErrorKind(11, "no-quorum", True, "No majority of the nodes can be reached.", "see: corgi status"),
    ErrorKind(12, "not-leader", True, "This node does not lead the group at the moment.", "the client asks another node by itself"),
    ErrorKind(13, "timeout", True, "No answer came in time; the outcome is unknown.",
              "an idempotent producer may retry without doubling"),
    ErrorKind(14, "overloaded", True, "The node holds as much unfinished work as it may.", "slow down, or add nodes"),
    ErrorKind(15, "disk-full", True, "The disk of too many nodes is full; writes are refused.",
              "shorten the retention of topics, delete some, or give the disks room; reading goes on"),
    ErrorKind(16, "unsupported-version", False, "The two sides share no protocol version.", "upgrade the older side"),
    ErrorKind(17, "malformed-frame", False, "The bytes are not a frame of this protocol.", "check that the port is Corgi's native port"),
    ErrorKind(18, "frame-too-large", False, "The frame is larger than this node accepts.", "send smaller batches"),
    ErrorKind(19, "wrong-cluster", False, "The two sides belong to different clusters.", "check the addresses and the data folder"),
    ErrorKind(20, "data-folder-in-use", False, "Another process uses the data folder.", "stop it, or give this node a folder of its own"),
    ErrorKind(21, "data-folder-empty", False, "The folder holds no node, and a node is not made by itself.",
              "start once with --bootstrap for a new cluster, or with --rejoin to replace a lost disk"),
    ErrorKind(22, "log-damaged", False, "The identity of the node is gone, or what its log says contradicts itself.",
              "restore the folder, or empty it and start with --rejoin while the other nodes run"),
    ErrorKind(23, "disk-failed", False, "A write or sync failed; the node has stopped.", "check the disk, then restart the node"),
    ErrorKind(24, "port-in-use", False, "The port is taken by another process.", "choose another port or stop that process"),
    ErrorKind(25, "unreachable", True, "No node of the cluster answers.", "check the addresses and that the nodes run"),
    ErrorKind(26, "closed", False, "The client or node is closed.", "open a new one"),
    ErrorKind(27, "recovering", True, "The node does not vote until it has recovered from a majority.", "wait; see: corgi status"),
    ErrorKind(28, "invalid-configuration", False, "The configuration cannot be used.", "see docs/configuration.md; a whole example: corgi server --example-config"),
    ErrorKind(29, "partition-not-open", True, "The partition is being created or deleted.", "retry in a moment"),
    ErrorKind(30, "invariant-failed", False, "The node found a fault in itself and stopped.", "keep the folder and report it"),
    ErrorKind(31, "unsafe-listener", False, "A listener off the loopback has no authentication.",
              "listen on 127.0.0.1, or set listen_without_authentication = \"yes, anybody may read and write\""),
    ErrorKind(32, "unsettled", True, "The command was superseded; it was not applied.", "retry"),
    ErrorKind(33, "record-damaged", True, "Stored bytes fail their checksum; another node may hold a good copy.",
              "see: corgi status; the record is served from another node"),
    ErrorKind(34, "codec", False, "A value cannot be encoded or decoded.", "check the type given to mq.topic(...)"),
    ErrorKind(35, "outcome-unknown", False, "The connection ended before the answer; the message may be stored or not.",
              "use an idempotent producer, which retries safely"),
    ErrorKind(36, "record-lost", False, "Stored records are damaged on every node that holds them.",
              "begin again behind them: the message names the range; see: corgi status"),
    ErrorKind(38, "snapshot-damaged", False, "A snapshot in the data folder, or what a peer sent of one, cannot be used.",
              "empty the folder and start with --rejoin while the other nodes run"),
    ErrorKind(39, "internal-error", False, "The client met a fault of its own and takes no more calls.",
              "report it with the traceback in the log (logger corgi.client); connect anew to go on"),
    ErrorKind(40, "output-failed", False, "What a command prints cannot be written.", "free space there, or send it elsewhere"),
    ErrorKind(41, "invalid-record", False, "The topic does not take such a record.",
              "give each record of a compacted topic a key: the newest of each key stays"),
    ErrorKind(45, "consumer-fenced", False, "Another consumer of the group has taken over.",
              "what it did not commit, its successor does again; the SDK joins anew by itself"),
    ErrorKind(46, "unknown-member", False, "The consumer is no member of its group, or no longer.",
              "the SDK joins anew by itself; see: corgi group describe NAME"),
    ErrorKind(47, "unknown-group", False, "There is no such consumer group.", "see: corgi group list"),
    ErrorKind(48, "group-not-empty", False, "The consumer group has members.", "stop its consumers first"),
    ErrorKind(49, "checkpoint-moved", False, "The checkpoint is not where the caller took it to be.",
              "read it anew; to move it back, reset it: corgi group reset NAME"),
    ErrorKind(50, "transaction-fenced", False, "A newer producer of the same transactional name has taken over.",
              "stop this producer, or give each one a name of its own"),
    ErrorKind(51, "transaction-ended", False, "The transaction has ended; nothing can be added to it.", "begin a new one"),
    ErrorKind(52, "transaction-aborted", False, "The transaction was aborted; nothing of it is visible.",
              "do it again from its beginning; if it took too long, raise its timeout"),
    ErrorKind(53, "transaction-in-progress", True, "A transaction that has not ended is in the way.", "retry in a moment; see: corgi tx list"),
    ErrorKind(54, "unknown-transaction", False, "There is no such transaction or prepared message.", "see: corgi tx list"),
    ErrorKind(55, "handler-timeout", True, "A handler took longer than it may.", "raise handler_timeout, or find what it waits for"),
    ErrorKind(56, "not-delivered", False, "The message was not delivered to this consumer, or was taken from it since.",
              "acknowledge the messages that this subscription gave you, while it holds their partition"),
    ErrorKind(60, "inconsistent-protocol", False, "The consumer does not fit to the members that its group has.",
              "use one kind of client, with one way of assigning, in a group; others take a group of another name"),
    ErrorKind(61, "member-id-required", True, "The consumer joins again under the name that it was just given.", "Kafka clients do so by themselves"),
    ErrorKind(62, "generation-over", True, "The consumer group has gone on to another generation of members.", "Kafka clients join again by themselves"),
    ErrorKind(63, "rebalancing", True, "The members of the consumer group are sharing anew.", "Kafka clients join again by themselves"),
    ErrorKind(64, "instance-fenced", False, "A newer process of the same group instance id has taken over.",
              "stop this one, or give each process a group.instance.id of its own"),
    ErrorKind(65, "checkpoint-unstable", True, "A transaction or a claim that has not ended may still move the checkpoint.", "retry in a moment"),
    ErrorKind(66, "invalid-session-timeout", False, "The session time-out of a group's member is too short or too long.", "set session.timeout.ms between 500 and 3,600,000"),
    ErrorKind(67, "metadata-too-large", False, "The text of a checkpoint is too long.", "it may have 4,096 characters"),
    ErrorKind(68, "authentication-failed", False, "It is not known who is at the other end of a connection.",
              "check the user, the password and the mechanism; see docs/kafka.md"),
)  # fmt: skip

BY_NUMBER: dict[int, ErrorKind] = {row.number: row for row in _ROWS}
BY_CODE: dict[str, ErrorKind] = {row.code: row for row in _ROWS}
assert len(BY_NUMBER) == len(BY_CODE) == len(_ROWS)

UNKNOWN_TOPIC = BY_CODE["unknown-topic"].number
UNKNOWN_PARTITION = BY_CODE["unknown-partition"].number
TOPIC_EXISTS = BY_CODE["topic-exists"].number
INVALID_TOPIC_NAME = BY_CODE["invalid-topic-name"].number
INVALID_ARGUMENT = BY_CODE["invalid-argument"].number
RECORD_TOO_LARGE = BY_CODE["record-too-large"].number
CORRUPT_BATCH = BY_CODE["corrupt-batch"].number
OFFSET_OUT_OF_RANGE = BY_CODE["offset-out-of-range"].number
OUT_OF_ORDER_SEQUENCE = BY_CODE["out-of-order-sequence"].number
PRODUCER_FENCED = BY_CODE["producer-fenced"].number
NO_QUORUM = BY_CODE["no-quorum"].number
NOT_LEADER = BY_CODE["not-leader"].number
TIMEOUT = BY_CODE["timeout"].number
OVERLOADED = BY_CODE["overloaded"].number
DISK_FULL = BY_CODE["disk-full"].number
PARTITION_NOT_OPEN = BY_CODE["partition-not-open"].number
RECOVERING = BY_CODE["recovering"].number
UNSETTLED = BY_CODE["unsettled"].number
RECORD_DAMAGED = BY_CODE["record-damaged"].number
RECORD_LOST = BY_CODE["record-lost"].number
CONSUMER_FENCED = BY_CODE["consumer-fenced"].number
TRANSACTION_FENCED = BY_CODE["transaction-fenced"].number
TRANSACTION_ENDED = BY_CODE["transaction-ended"].number
TRANSACTION_ABORTED = BY_CODE["transaction-aborted"].number
TRANSACTION_IN_PROGRESS = BY_CODE["transaction-in-progress"].number
INVALID_RECORD = BY_CODE["invalid-record"].number


class CorgiError(Exception):
    """Every error of Corgi.

    ``code`` is stable text, ``retryable`` tells whether the same call may succeed later, ``hint`` what to do.
    """

    def __init__(self, code: str, message: str = "", *, hint: str = "") -> None:
        kind = BY_CODE[code]
        self.kind = kind
        self.code = code
        self.message = message or kind.meaning
        self.hint = hint or kind.hint
        self.retryable = kind.retryable
        super().__init__(code, self.message, self.hint)

    def copy(self) -> CorgiError:
        """The same to be raised once more: an exception keeps the traceback of every raise."""
        return CorgiError(self.code, self.message, hint=self.hint)

    def __str__(self) -> str:
        return f"{self.message} [{self.code}] hint: {self.hint}"


class InvariantError(CorgiError):
    """A fault of Corgi itself: the node that finds it stops."""

    def __init__(self, message: str) -> None:
        super().__init__("invariant-failed", message)


def error_from_number(number: int, message: str = "") -> CorgiError:
    """The error of a number received from the wire; an unknown number is told as such."""
    kind = BY_NUMBER.get(number)
    if kind is None:
        return CorgiError("malformed-frame", f"the node answered with the unknown error number {number}: {message}")
    return CorgiError(kind.code, message)


def check(condition: bool, message: str) -> None:
    """Assert an invariant; stays on in production."""
    if not condition:
        raise InvariantError(message)
