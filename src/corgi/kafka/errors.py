"""Kafka's error codes, and which of them tells a client what an error of Corgi means.

Clients act on these numbers: whether they retry, refresh their metadata, split a batch or give up. So each error of
Corgi is told by the code whose reaction fits, not by the one whose name sounds alike.
"""

from __future__ import annotations

from enum import IntEnum

from corgi.base.errors import BY_CODE


class Code(IntEnum):
    """The codes that are used here, by Kafka's names."""

    UNKNOWN_SERVER_ERROR = -1
    NONE = 0
    OFFSET_OUT_OF_RANGE = 1
    CORRUPT_MESSAGE = 2
    UNKNOWN_TOPIC_OR_PARTITION = 3
    LEADER_NOT_AVAILABLE = 5
    NOT_LEADER_OR_FOLLOWER = 6
    REQUEST_TIMED_OUT = 7
    MESSAGE_TOO_LARGE = 10
    OFFSET_METADATA_TOO_LARGE = 12
    COORDINATOR_LOAD_IN_PROGRESS = 14
    COORDINATOR_NOT_AVAILABLE = 15
    NOT_COORDINATOR = 16
    INVALID_TOPIC_EXCEPTION = 17
    NOT_ENOUGH_REPLICAS = 19
    INVALID_REQUIRED_ACKS = 21
    ILLEGAL_GENERATION = 22
    INCONSISTENT_GROUP_PROTOCOL = 23
    INVALID_GROUP_ID = 24
    UNKNOWN_MEMBER_ID = 25
    INVALID_SESSION_TIMEOUT = 26
    REBALANCE_IN_PROGRESS = 27
    TOPIC_AUTHORIZATION_FAILED = 29
    GROUP_AUTHORIZATION_FAILED = 30
    CLUSTER_AUTHORIZATION_FAILED = 31
    INVALID_TIMESTAMP = 32
    UNSUPPORTED_SASL_MECHANISM = 33
    ILLEGAL_SASL_STATE = 34
    UNSUPPORTED_VERSION = 35
    TOPIC_ALREADY_EXISTS = 36
    INVALID_PARTITIONS = 37
    INVALID_REPLICATION_FACTOR = 38
    INVALID_REPLICA_ASSIGNMENT = 39
    INVALID_CONFIG = 40
    NOT_CONTROLLER = 41
    INVALID_REQUEST = 42
    UNSUPPORTED_FOR_MESSAGE_FORMAT = 43
    POLICY_VIOLATION = 44
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45
    INVALID_PRODUCER_EPOCH = 47
    INVALID_TXN_STATE = 48
    INVALID_PRODUCER_ID_MAPPING = 49
    INVALID_TRANSACTION_TIMEOUT = 50
    CONCURRENT_TRANSACTIONS = 51
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53
    SECURITY_DISABLED = 54
    OPERATION_NOT_ATTEMPTED = 55
    KAFKA_STORAGE_ERROR = 56
    SASL_AUTHENTICATION_FAILED = 58
    UNKNOWN_PRODUCER_ID = 59
    NON_EMPTY_GROUP = 68
    GROUP_ID_NOT_FOUND = 69
    FETCH_SESSION_ID_NOT_FOUND = 70
    INVALID_FETCH_SESSION_EPOCH = 71
    FENCED_LEADER_EPOCH = 74
    UNKNOWN_LEADER_EPOCH = 75
    UNSUPPORTED_COMPRESSION_TYPE = 76
    MEMBER_ID_REQUIRED = 79
    GROUP_MAX_SIZE_REACHED = 81
    FENCED_INSTANCE_ID = 82
    ELECTION_NOT_NEEDED = 84
    GROUP_SUBSCRIBED_TO_TOPIC = 86
    INVALID_RECORD = 87
    UNSTABLE_OFFSET_COMMIT = 88
    PRODUCER_FENCED = 90
    RESOURCE_NOT_FOUND = 91
    DUPLICATE_RESOURCE = 92
    UNACCEPTABLE_CREDENTIAL = 93
    UNKNOWN_TOPIC_ID = 100
    TRANSACTIONAL_ID_NOT_FOUND = 105
    MISMATCHED_ENDPOINT_TYPE = 114
    UNSUPPORTED_ENDPOINT_TYPE = 115


_MEANING = {
    "unknown-topic": Code.UNKNOWN_TOPIC_OR_PARTITION,
    "unknown-partition": Code.UNKNOWN_TOPIC_OR_PARTITION,
    "partition-not-open": Code.UNKNOWN_TOPIC_OR_PARTITION,  # retriable: clients ask for metadata anew
    "topic-exists": Code.TOPIC_ALREADY_EXISTS,
    "invalid-topic-name": Code.INVALID_TOPIC_EXCEPTION,
    "invalid-argument": Code.INVALID_REQUEST,
    "record-too-large": Code.MESSAGE_TOO_LARGE,
    "corrupt-batch": Code.CORRUPT_MESSAGE,
    "invalid-record": Code.INVALID_RECORD,
    "offset-out-of-range": Code.OFFSET_OUT_OF_RANGE,
    "out-of-order-sequence": Code.OUT_OF_ORDER_SEQUENCE_NUMBER,
    "producer-fenced": Code.INVALID_PRODUCER_EPOCH,
    "no-quorum": Code.NOT_ENOUGH_REPLICAS,
    "not-leader": Code.NOT_LEADER_OR_FOLLOWER,
    "timeout": Code.REQUEST_TIMED_OUT,
    "overloaded": Code.REQUEST_TIMED_OUT,  # retried with the same sequence, and without new metadata
    "disk-full": Code.KAFKA_STORAGE_ERROR,
    "recovering": Code.NOT_LEADER_OR_FOLLOWER,
    "unsettled": Code.REQUEST_TIMED_OUT,
    "record-damaged": Code.KAFKA_STORAGE_ERROR,  # retried; the node repairs it meanwhile
    "record-lost": Code.CORRUPT_MESSAGE,
    "consumer-fenced": Code.ILLEGAL_GENERATION,
    "unknown-member": Code.UNKNOWN_MEMBER_ID,
    "unknown-group": Code.GROUP_ID_NOT_FOUND,
    "group-not-empty": Code.NON_EMPTY_GROUP,
    "transaction-fenced": Code.PRODUCER_FENCED,
    "transaction-ended": Code.INVALID_TXN_STATE,
    "transaction-aborted": Code.INVALID_TXN_STATE,
    "transaction-in-progress": Code.CONCURRENT_TRANSACTIONS,
    "unknown-transaction": Code.TRANSACTIONAL_ID_NOT_FOUND,
    "inconsistent-protocol": Code.INCONSISTENT_GROUP_PROTOCOL,
    "member-id-required": Code.MEMBER_ID_REQUIRED,
    "generation-over": Code.ILLEGAL_GENERATION,
    "rebalancing": Code.REBALANCE_IN_PROGRESS,
    "instance-fenced": Code.FENCED_INSTANCE_ID,
    "checkpoint-unstable": Code.UNSTABLE_OFFSET_COMMIT,
    "invalid-session-timeout": Code.INVALID_SESSION_TIMEOUT,
    "metadata-too-large": Code.OFFSET_METADATA_TOO_LARGE,
}

BY_NUMBER: dict[int, Code] = {BY_CODE[code].number: meaning for code, meaning in _MEANING.items()}


def code_of(error: int) -> Code:
    """The code for an error number of Corgi; 0 is 0."""
    return Code.NONE if error == 0 else BY_NUMBER.get(error, Code.UNKNOWN_SERVER_ERROR)


_GROUP_MEANING = {
    "not-leader": Code.NOT_COORDINATOR,
    "recovering": Code.NOT_COORDINATOR,
    "invalid-argument": Code.INVALID_GROUP_ID,
    "no-quorum": Code.COORDINATOR_NOT_AVAILABLE,
    "timeout": Code.COORDINATOR_NOT_AVAILABLE,
    "overloaded": Code.COORDINATOR_NOT_AVAILABLE,
    "disk-full": Code.COORDINATOR_NOT_AVAILABLE,
    "unsettled": Code.COORDINATOR_LOAD_IN_PROGRESS,  # asked again, of the same node
    "transaction-in-progress": Code.COORDINATOR_LOAD_IN_PROGRESS,
    "record-too-large": Code.UNKNOWN_SERVER_ERROR,
}
_BY_NUMBER_OF_GROUPS = {**BY_NUMBER, **{BY_CODE[code].number: meaning for code, meaning in _GROUP_MEANING.items()}}


def group_code_of(error: int) -> Code:
    """As ``code_of`` where a group's coordinator answers: whether to ask it again, or to look for another."""
    return Code.NONE if error == 0 else _BY_NUMBER_OF_GROUPS.get(error, Code.UNKNOWN_SERVER_ERROR)
