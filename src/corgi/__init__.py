"""Corgi: a distributed message broker, Paxos-replicated and always writable.

This is the public face of the Python SDK; everything a program needs is imported from here, and loaded when it is
first used, so that importing the package alone costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from corgi.base.errors import CorgiError
    from corgi.client import sync
    from corgi.client.codecs import Codec
    from corgi.client.corgi import Corgi, connect
    from corgi.client.messages import (
        Message,
        NodeDescription,
        PartitionDescription,
        Receipt,
        TopicDescription,
    )
    from corgi.client.receipts import Outcomes, PendingReceipt
    from corgi.client.subscription import Subscription
    from corgi.client.sync import connect as connect_sync
    from corgi.client.typed import Topic
    from corgi.testing.embedded import embedded

_WHERE = {
    "Codec": "corgi.client.codecs",
    "Corgi": "corgi.client.corgi",
    "CorgiError": "corgi.base.errors",
    "Message": "corgi.client.messages",
    "NodeDescription": "corgi.client.messages",
    "Outcomes": "corgi.client.receipts",
    "PartitionDescription": "corgi.client.messages",
    "PendingReceipt": "corgi.client.receipts",
    "Receipt": "corgi.client.messages",
    "Subscription": "corgi.client.subscription",
    "Topic": "corgi.client.typed",
    "TopicDescription": "corgi.client.messages",
    "connect": "corgi.client.corgi",
    "embedded": "corgi.testing.embedded",
}

__all__ = [
    "Codec",
    "Corgi",
    "CorgiError",
    "Message",
    "NodeDescription",
    "Outcomes",
    "PartitionDescription",
    "PendingReceipt",
    "Receipt",
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
