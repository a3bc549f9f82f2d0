"""What type checkers see of ``corgi``; at run time each name is imported when it is first used."""

from corgi.base.errors import CorgiError as CorgiError
from corgi.client import sync as sync
from corgi.client.atomic import Atomic as Atomic
from corgi.client.atomic import AtomicReceipt as AtomicReceipt
from corgi.client.codecs import Codec as Codec
from corgi.client.corgi import Corgi as Corgi
from corgi.client.corgi import connect as connect
from corgi.client.group_subscription import GroupSubscription as GroupSubscription
from corgi.client.groups import GroupDescription as GroupDescription
from corgi.client.groups import GroupSummary as GroupSummary
from corgi.client.handlers import RunStatistics as RunStatistics
from corgi.client.held import Delivered as Delivered
from corgi.client.messages import (
    Message,
    NodeDescription,
    PartitionDescription,
    Receipt,
    TopicDescription,
)
from corgi.client.prepared import Check as Check
from corgi.client.prepared import OpenTransaction as OpenTransaction
from corgi.client.prepared import Prepared as Prepared
from corgi.client.receipts import Outcomes as Outcomes
from corgi.client.receipts import PendingReceipt as PendingReceipt
from corgi.client.subscription import Subscription as Subscription
from corgi.client.sync import connect as connect_sync
from corgi.client.typed import Topic as Topic
from corgi.testing.embedded import embedded as embedded

__version__: str
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
