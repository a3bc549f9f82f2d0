"""Kafka's messages as kafka-python reads and writes them, from Kafka's schemas: a second opinion beside kio."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from typing import Any

REQUEST, RESPONSE = "Request", "Response"


def _messages() -> dict[tuple[int, str], Any]:
    """By API and side."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the way in which it finds the schemas
        protocol = importlib.import_module("kafka.protocol")
        for module in pkgutil.walk_packages(protocol.__path__, "kafka.protocol."):
            if ".old" not in module.name and "stubs" not in module.name:
                importlib.import_module(module.name)
        known = importlib.import_module("kafka.protocol.api_message").ApiMessage.__subclasses__()
        return {(one.API_KEY, REQUEST if one.is_request() else RESPONSE): one for one in known}


_MESSAGES = _messages()
_API_VERSIONS = 18


def there_and_back(key: int, side: str, version: int, data: bytes) -> bytes:
    """A body, read and written again: the same bytes, if nothing of it is strange or left over.

    What it reads lacks what its constructor would have set. It takes any answer to ApiVersions that begins with an
    error for one of version 0, which only that of an unknown version is (KIP-511): of others nothing is said.
    """
    if (key, side) == (_API_VERSIONS, RESPONSE) and data[:2] != b"\0\0" and version:
        return data
    read = _MESSAGES[key, side].decode(data, version=version)
    read._header = read._min_version = read._max_version = None
    return bytes(read.encode(version=version))
