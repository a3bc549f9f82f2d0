"""Which topic names can be asked for at all: what no frame can hold must not reach one, where it would spoil the
requests beside it.

It does not know the cluster's whole rule for names; the cluster tells that itself.
"""

from __future__ import annotations

from corgi.base.errors import CorgiError
from corgi.base.limits import TOPIC_NAME_MAX


def name_error(name: object) -> CorgiError | None:
    """Why this cannot name a topic, or None."""
    if not isinstance(name, str):
        return CorgiError("invalid-topic-name", f"a topic's name is a str, not {type(name).__name__}")
    if not 1 <= len(name) <= TOPIC_NAME_MAX:
        return CorgiError("invalid-topic-name", f"a topic's name has 1 to {TOPIC_NAME_MAX} characters, not {len(name)}")
    try:
        name.encode()
    except UnicodeEncodeError:
        return CorgiError("invalid-topic-name", f"a topic's name cannot hold the bytes of {name!r}")
    return None
