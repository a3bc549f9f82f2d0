"""Where a node serves Kafka's clients, and what it tells them: the words of the configuration made into options.

A listener is `host:port`, or `name=host:port` where there are several, separated by commas. Clients of a listener are
told the address that each member names for that listener.
"""

from __future__ import annotations

from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId
from corgi.kafka.front import KafkaOptions
from corgi.server.address import Address, is_wildcard, parse_address
from corgi.server.config import Member, ServerConfig

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


def listeners(config: ServerConfig) -> dict[str, Address]:
    """Where this node listens for Kafka's clients, by name."""
    return parse_listeners(config.kafka_listen, what="kafka_listen")


def kafka_options(config: ServerConfig) -> KafkaOptions:
    """What clients are told. Raises CorgiError "invalid-configuration" when a member cannot be told of."""
    advertised = {}
    for name, own in listeners(config).items():
        advertised[name] = {NodeId(member.node): _of(member, name, own, config) for member in config.everyone}
    return KafkaOptions(advertised, config.kafka_create_topics, config.kafka_partitions)


def check_kafka(config: ServerConfig) -> None:
    """Raises CorgiError "invalid-configuration"."""
    try:
        kafka_options(config)
    except CorgiError as error:
        raise CorgiError("invalid-configuration", error.message, hint=error.hint) from None


def _of(member: Member, listener: str, own: Address, config: ServerConfig) -> Address:
    told = parse_listeners(member.kafka, what=f"kafka of member {member.node}").get(listener)
    if told is None and member.node == config.node:
        told = own
    if told is None:
        raise CorgiError(
            "invalid-configuration",
            f"members: node {member.node} does not say where clients of the Kafka listener {listener!r} reach it",
            hint=f'give every member a line kafka = "host:port", or "{listener}=host:port" where there are several',
        )
    if is_wildcard(told.host):
        raise CorgiError(
            "invalid-configuration",
            f"members: nobody can connect to {told}, which node {member.node} would tell Kafka's clients",
            hint="only kafka_listen may be a wildcard; name the address that clients reach in the member's kafka",
        )
    return told
