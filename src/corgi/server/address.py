"""Host and port as text: parsing, showing, and telling loopback from the rest of the world."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from corgi.base.errors import CorgiError

NATIVE_PORT = 7450
KAFKA_PORT = 9092  # what Kafka clients try when nobody says otherwise
LOOPBACK = "127.0.0.1"


class Address(NamedTuple):
    """``host`` is a name or an IP address without brackets, ``port`` 1 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, *, what: str = "address") -> Address:
    """``host:port`` or ``[v6]:port``. Raises CorgiError "invalid-argument" naming ``what`` and the text."""
    host, colon, port_text = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise _refuse(what, text, "an IPv6 host needs brackets: [::1]:7450")
    if not colon or not host or any(c.isspace() or not c.isprintable() for c in host):
        raise _refuse(what, text, "expected host:port")
    if not (port_text.isascii() and port_text.isdigit() and len(port_text) <= 5 and 1 <= int(port_text) <= 65535):
        raise _refuse(what, text, "the port must be a number from 1 to 65535")
    return Address(host, int(port_text))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``. A name other than localhost is never taken for loopback."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_wildcard(host: str) -> bool:
    """Whether ``host`` stands for all addresses of this machine: good to listen on, not to connect to."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _refuse(what: str, text: str, why: str) -> CorgiError:
    return CorgiError("invalid-argument", f"{what} = {text!r}: {why}")
