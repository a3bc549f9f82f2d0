"""Corgi: a distributed message broker, Paxos-replicated and always writable.

This is the public face of the Python SDK; everything a program needs is imported from here, and loaded when it is
first used, so that importing the package alone costs next to nothing. ``__init__.pyi`` tells type checkers.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_WHERE = {
    "Atomic": "corgi.client.atomic",
    "AtomicReceipt": "corgi.client.atomic",
    "Check": "corgi.client.prepared",
    "Codec": "corgi.client.codecs",
    "Corgi": "corgi.client.corgi",
    "CorgiError": "corgi.base.errors",
    "GroupDescription": "corgi.client.groups",
    "Delivered": "corgi.client.held",
    "GroupSubscription": "corgi.client.group_subscription",
    "RunStatistics": "corgi.client.handlers",
    "GroupSummary": "corgi.client.groups",
    "Message": "corgi.client.messages",
    "NodeDescription": "corgi.client.messages",
    "OpenTransaction": "corgi.client.prepared",
    "Outcomes": "corgi.client.receipts",
    "PartitionDescription": "corgi.client.messages",
    "PendingReceipt": "corgi.client.receipts",
    "Prepared": "corgi.client.prepared",
    "Receipt": "corgi.client.messages",
    "Subscription": "corgi.client.subscription",
    "Topic": "corgi.client.typed",
    "TopicDescription": "corgi.client.messages",
    "connect": "corgi.client.corgi",
    "embedded": "corgi.testing.embedded",
}

__all__ = [
    "Atomic",
    "AtomicReceipt",
    "Check",
    "Codec",
    "Corgi",
    "CorgiError",
    "Delivered",
    "GroupDescription",
    "GroupSubscription",
    "GroupSummary",
    "Message",
    "NodeDescription",
    "OpenTransaction",
    "Outcomes",
    "PartitionDescription",
    "PendingReceipt",
    "Prepared",
    "Receipt",
    "RunStatistics",
    "Subscription",
    "Topic",
    "TopicDescription",
    "__version__",
    "connect",
    "connect_sync",
    "embedded",
    "sync",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    found: object
    if name == "sync":
        found = importlib.import_module("corgi.client.sync")
    elif name == "connect_sync":
        found = importlib.import_module("corgi.client.sync").connect
    elif name in _WHERE:
        found = getattr(importlib.import_module(_WHERE[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
