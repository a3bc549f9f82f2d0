"""Checks of transactions: all of one or nothing, nothing before it is decided, nothing of what was aborted.

They judge what readers of committed data saw; the values of a transaction differ from everything else in the history.
"""

from __future__ import annotations

from collections.abc import Iterator

from corgi.history.model import FAILED, NEVER, OK, History, Partition, Transaction, Value, Violation


def torn_transaction(history: History) -> Iterator[Violation]:
    """At the end each replica serves all of a transaction or nothing of it; all of it, if it was acknowledged. What
    lies below a partition's start, or nobody drained, is not judged."""
    stored = {
        (partition, replica): {value for _, value in records}
        for partition, replicas in history.final.items()
        for replica, records in replicas.items()
    }
    replicas = sorted({replica for _, replica in stored}, key=str)
    for transaction in history.transactions:
        for replica in replicas:
            drained = [
                (partition, value)
                for partition, value in transaction.messages
                if (partition, replica) in stored and not history.starts.get(partition)
            ]
            there = [value for partition, value in drained if value in stored[partition, replica]]
            wanted = len(drained) if there or transaction.status == OK else 0
            if len(there) != wanted:
                text = f"{transaction}: replica {replica} has {len(there)} of its {len(drained)} messages"
                yield Violation("torn-transaction", text, transaction.ended)


def precommitted_read(history: History) -> Iterator[Violation]:
    """No reader sees a message of a transaction before its producer asked for the commit."""
    for transaction, partition, value, time, reader in _seen(history):
        if transaction.decided == NEVER or time < transaction.decided:
            text = f"{reader} saw {value!r} in {partition} before {transaction} was to be committed"
            yield Violation("precommitted-read", text, time)


def aborted_transaction_read(history: History) -> Iterator[Violation]:
    """No reader sees a message of a transaction that was aborted; nor is it in a drain. Told as "aborted-read"."""
    for transaction, partition, value, time, reader in _seen(history):
        if transaction.status == FAILED:
            text = f"{reader} saw {value!r} in {partition}, which {transaction} aborted"
            yield Violation("aborted-read", text, time)


def _seen(history: History) -> Iterator[tuple[Transaction, Partition, Value, float, str]]:
    """Every message of a transaction that anybody saw: when, and who; a drain comes last of all."""
    if not history.transactions:
        return
    owners = {value: transaction for transaction in history.transactions for _, value in transaction.messages}
    for read in history.reads:
        for _, value in read.records:
            if value in owners:
                yield owners[value], read.partition, value, read.time, read.reader
    for partition, replicas in sorted(history.final.items()):
        for replica, records in replicas.items():
            for _, value in records:
                if value in owners:
                    yield owners[value], partition, value, float("inf"), f"the drain of {replica}"
