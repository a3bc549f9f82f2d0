"""Where a node serves Kafka's clients, and what it tells them: the words of the configuration made into addresses.

A listener is `host:port`, or `name=host:port` where there are several, separated by commas. Clients of a listener are
told the address that each member names for that listener.
"""

from __future__ import annotations

from collections.abc import Mapping

from corgi.base.errors import CorgiError
from corgi.server.address import Address, is_wildcard, parse_address

DEFAULT = "default"  # the name of a listener that was given none
LISTENERS_MAX = 8
NAME_MAX = 50


def parse_listeners(text: str, *, what: str) -> dict[str, Address]:
    """``host:port`` or ``name=host:port,name=host:port``. Raises CorgiError "invalid-argument"."""
    found: dict[str, Address] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, rest = part.partition("=")
        if not equals:
            name, rest = DEFAULT, part
        name = name.strip()
        if not 1 <= len(name) <= NAME_MAX or not name.isprintable():
            raise CorgiError("invalid-argument", f"{what} = {text!r}: {name!r} names no listener")
        if name in found:
            raise CorgiError("invalid-argument", f"{what} = {text!r}: the listener {name!r} is there twice")
        found[name] = parse_address(rest, what=what)
    if len(found) > LISTENERS_MAX:
        raise CorgiError("invalid-argument", f"{what}: {len(found)} listeners, {LISTENERS_MAX} are the most")
    return found


def advertised(
    listeners: Mapping[str, Address], node: int, members: Mapping[int, str]
) -> dict[str, dict[int, Address]]:
    """By listener and node, what clients are told; ``members``: what each says of itself, by node.

    This node is where it listens unless it says something else. Raises CorgiError "invalid-argument" when one says
    nothing, or what nobody can connect to.
    """
    told = {number: parse_listeners(text, what=f"kafka of member {number}") for number, text in members.items()}
    found: dict[str, dict[int, Address]] = {}
    for name, own in listeners.items():
        addresses = {number: at[name] for number, at in told.items() if name in at}
        addresses.setdefault(node, own)
        for number in members:
            if number not in addresses:
                raise CorgiError(
                    "invalid-argument",
                    f"members: node {number} does not say where clients of the Kafka listener {name!r} reach it",
                    hint=f'give every member a line kafka = "host:port", or "{name}=host:port" where there are several',
                )
            address = addresses[number]
            if is_wildcard(address.host):
                raise CorgiError(
                    "invalid-argument",
                    f"members: nobody can connect to {address}, the address of node {number} for Kafka's clients",
                    hint="only kafka_listen may be a wildcard; name in the member's kafka what clients reach",
                )
        found[name] = {number: addresses[number] for number in members}
    return found
