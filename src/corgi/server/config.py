"""What an operator may say about one node, from a TOML file, the environment and flags, in rising precedence.

Strict on purpose: an unknown key is refused with its nearest relative, every value has a range, and a
listener that strangers could reach is refused unless the configuration says so in words. Knows nothing of how
a node is run.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from corgi.base.errors import CorgiError
from corgi.base.limits import (
    GROUPS_MAX,
    KEYS_BYTES_MAX,
    KIB,
    MEMORY_GROUPS_MAX,
    MIB,
    NODES_MAX,
    PARTITIONS_MAX,
    SCRUB_BYTES_S,
    SUSPICION_S,
    TAIL_BYTES_MAX,
)
from corgi.kafka.security import Security
from corgi.server.address import LOOPBACK, NATIVE_PORT, Address, is_loopback, is_wildcard, parse_address
from corgi.server.kafka_listeners import advertised, parse_listeners
from corgi.server.users import (
    RULES_MAX,
    SASL_PLAINTEXT,
    USERS_MAX,
    AccessEntry,
    UserEntry,
    parse_mechanisms,
    parse_security,
    security_of,
    sends_passwords,
)

NODE_ID_MAX = 65_535
DIGITS_MAX = 9  # of a node id, before it is a number
UNSAFE_PHRASE = "yes, anybody may read and write"
ENVIRONMENT_PREFIX = "CORGI_"
CLIENT_VARIABLES = frozenset({"CORGI_CLUSTER", "CORGI_CLUSTERS"})  # the command line's, not a node's

NodeNumber = Annotated[int, Meta(ge=1, le=NODE_ID_MAX)]
HostLabel = Annotated[str, Meta(max_length=100)]


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One node of the cluster as all the others know it; every node's configuration has the same list."""

    node: NodeNumber
    address: str  # host:port where the other nodes reach it
    advertised: str = ""  # host:port told to clients; empty: the address
    label: HostLabel = ""  # failure domain; replicas never share one
    kafka: str = ""  # host:port told to Kafka's clients, or name=host:port,… by listener

    @property
    def peer_address(self) -> Address:
        return parse_address(self.address, what=f"address of member {self.node}")

    @property
    def client_address(self) -> Address:
        return parse_address(self.advertised or self.address, what=f"advertised address of member {self.node}")


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole configuration of a node, checked. The comments become the example file."""

    # This node's id in the cluster.
    node: NodeNumber
    # The folder that holds the node's identity and log; one node each.
    data: Annotated[str, Meta(min_length=1, max_length=4096)]
    # Where clients and the other nodes connect.
    listen: str = f"{LOOPBACK}:{NATIVE_PORT}"
    # All nodes of the cluster, this one included; empty: this node alone.
    members: Annotated[tuple[Member, ...], Meta(max_length=NODES_MAX)] = ()
    # 32 hex digits, the same on all nodes; needed once, at --bootstrap or --rejoin.
    cluster_id: Annotated[str, Meta(pattern="^([0-9a-f]{32})?$")] = ""
    # A name for people, shown in the log.
    cluster_name: Annotated[str, Meta(max_length=100)] = ""
    # Paxos groups of the cluster, fixed at bootstrap; not given: 8 then, and what the folder says from then on.
    groups: Annotated[int, Meta(ge=1, le=GROUPS_MAX)] | None = None
    # Paxos groups besides, for topics with durability memory, fixed at bootstrap; not given: 2 then. 0: no such topics.
    memory_groups: Annotated[int, Meta(ge=0, le=MEMORY_GROUPS_MAX)] | None = None
    # Silence after which another node is suspected.
    suspicion_ms: Annotated[int, Meta(ge=20, le=600_000)] = round(SUSPICION_S * 1000)
    # How long a stopping node waits for its leaderships to be handed over.
    stop_timeout_ms: Annotated[int, Meta(ge=0, le=600_000)] = 5_000
    # Recent messages kept in memory for consumers that keep up, in bytes.
    tail_bytes: Annotated[int, Meta(ge=MIB, le=1024 * MIB)] = TAIL_BYTES_MAX
    # Cold data read per second to find damage before it is needed, in bytes; 0: none.
    scrub_bytes_per_s: Annotated[int, Meta(ge=0, le=1024 * MIB)] = SCRUB_BYTES_S
    # Segments of 64 MiB between two snapshots of a group: what a restart reads, at least.
    snapshot_segments: Annotated[int, Meta(ge=1, le=1024)] = 2
    # Old values moved per second so that sparse segments of the log can be deleted, in bytes.
    rewrite_bytes_per_s: Annotated[int, Meta(ge=64 * KIB, le=1024 * MIB)] = 8 * MIB
    # Read per second for compaction by key, in bytes.
    compaction_bytes_per_s: Annotated[int, Meta(ge=64 * KIB, le=1024 * MIB)] = 8 * MIB
    # New bytes of a partition before compaction begins, at least.
    compaction_min_bytes: Annotated[int, Meta(ge=1, le=1024 * MIB)] = MIB
    # Memory for the keys of one pass of compaction, in bytes.
    compaction_keys_bytes: Annotated[int, Meta(ge=64 * KIB, le=4096 * MIB)] = KEYS_BYTES_MAX
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    # "text" for people, "json" for programs: one object a line, on stderr.
    log_format: Literal["text", "json"] = "text"
    # host:port of an HTTP listener for Prometheus (GET /metrics); empty: none.
    metrics_listen: str = ""
    # host:port where Kafka's clients are served, or name=host:port,name=host:port; empty: nowhere.
    kafka_listen: str = ""
    # Whether a topic is made when a Kafka client asks for it and allows that.
    kafka_create_topics: bool = True
    # Partitions of a topic that a Kafka client makes without saying how many.
    kafka_partitions: Annotated[int, Meta(ge=1, le=PARTITIONS_MAX)] = 3
    # Whether Kafka's clients say who they are: plaintext or sasl_plaintext, or name=word,… by listener; empty: the
    # latter where there are users.
    kafka_security: str = ""
    # How they may: SCRAM-SHA-256, SCRAM-SHA-512, PLAIN.
    kafka_mechanisms: str = "SCRAM-SHA-256,SCRAM-SHA-512"
    # Who they may be.
    users: Annotated[tuple[UserEntry, ...], Meta(max_length=USERS_MAX)] = ()
    # What each may do; without any rule, everything.
    acls: Annotated[tuple[AccessEntry, ...], Meta(max_length=RULES_MAX)] = ()
    # A listener off the loopback needs UNSAFE_PHRASE here as long as there is no authentication.
    listen_without_authentication: str = ""

    @property
    def listen_address(self) -> Address:
        return parse_address(self.listen, what="listen")

    @property
    def everyone(self) -> tuple[Member, ...]:
        """The members by node id; a node that lists none is a cluster of its own."""
        alone = (Member(node=self.node, address=self.listen),)
        return tuple(sorted(self.members or alone, key=lambda member: member.node))

    @property
    def kafka_listeners(self) -> dict[str, Address]:
        """Where this node listens for Kafka's clients, by the listener's name."""
        return parse_listeners(self.kafka_listen, what="kafka_listen")

    @property
    def kafka_words(self) -> dict[str, str]:
        """plaintext or sasl_plaintext, by listener."""
        return parse_security(self.kafka_security, tuple(self.kafka_listeners), users=bool(self.users))

    @property
    def security(self) -> Security:
        """Who Kafka's clients are and what they may do."""
        return security_of(self.users, self.acls, self.kafka_words, parse_mechanisms(self.kafka_mechanisms))

    @property
    def kafka_advertised(self) -> dict[str, dict[int, Address]]:
        """What Kafka's clients are told, by listener and node."""
        members = {member.node: member.kafka for member in self.everyone}
        return advertised(self.kafka_listeners, self.node, members)


NESTED: dict[str, type[msgspec.Struct]] = {"members": Member, "users": UserEntry, "acls": AccessEntry}
KEYS = tuple(field.name for field in msgspec.structs.fields(ServerConfig))


def load(
    path: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any] = {}
) -> tuple[ServerConfig, list[str]]:
    """The configuration and warnings for people. ``flags``: key → value; None counts as not given.

    Raises CorgiError "invalid-configuration" naming the key, or "unsafe-listener".
    """
    merged: dict[str, Any] = {}
    if path is not None:
        merged.update(_read_file(path))
    from_environment, warnings = _from_environment(environment)
    merged.update(from_environment)
    merged.update({key: value for key, value in flags.items() if value is not None})
    config = check(merged)
    return config, [*warnings, *warnings_of(config)]


def warnings_of(config: ServerConfig) -> list[str]:
    """What an operator should know of a configuration that can be used."""
    warnings = []
    asked = [name for name, word in config.kafka_words.items() if word == SASL_PLAINTEXT]
    if asked:
        warnings.append(
            f"only Kafka's clients are asked who they are: whoever reaches {config.listen} reads and writes everything"
        )
    open_ones = [name for name in asked if not is_loopback(config.kafka_listeners[name].host)]
    if open_ones and sends_passwords(parse_mechanisms(config.kafka_mechanisms)):
        warnings.append(f"kafka_mechanisms has PLAIN: passwords cross the network of {open_ones[0]!r} as they are")
    return warnings


def check(values: Mapping[str, Any]) -> ServerConfig:
    """Values of the keys → a configuration that a node can run with; raises like ``load``."""
    _refuse_unknown_keys(values)
    for key in ("node", "data"):
        if key not in values:
            raise _refuse(f"the key {key!r} is missing", hint="see: corgi server --example-config")
    try:
        config = msgspec.convert(values, ServerConfig)
    except msgspec.ValidationError as error:
        raise _refuse(_told(error, values)) from None
    _check_listeners(config)
    _check_members(config)
    try:
        config.security  # noqa: B018 - whether it can be told
    except CorgiError as error:
        raise _refuse(error.message, hint=error.hint) from None
    return config


def parse_members(text: str) -> list[dict[str, Any]]:
    """``1=host:port,2=host:port/label``: the members as one line, for the environment and flags."""
    members: list[dict[str, Any]] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        number, equals, rest = part.partition("=")
        number = number.strip()
        if not equals or not (number.isascii() and number.isdigit() and len(number) <= DIGITS_MAX):
            raise _refuse(f"members: {part[:200]!r} is not NODE=HOST:PORT or NODE=HOST:PORT/LABEL")
        address, _, label = rest.partition("/")
        members.append({"node": int(number), "address": address.strip(), "label": label.strip()})
    return members


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise _refuse(
            f"the file {str(path)!r} cannot be read: {why}", hint="check the path given to --config"
        ) from None
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise _refuse(f"the file {str(path)!r} nests its values too deeply") from None
    except ValueError as error:  # not TOML, or a number of thousands of digits
        raise _refuse(f"the file {str(path)!r} is not TOML: {error}") from None


def _from_environment(environment: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """A strange variable is only warned of: container platforms inject some for a service named corgi."""
    values: dict[str, Any] = {}
    warnings: list[str] = []
    types = {field.name: field.type for field in msgspec.structs.fields(ServerConfig)}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in CLIENT_VARIABLES:
            continue
        key = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if key == "members":
            values[key] = parse_members(text)
        elif key in NESTED:
            raise _refuse(f"the variable {variable}: {key} stand in the file")
        elif key in types:
            try:
                values[key] = msgspec.convert(text, types[key], strict=False)
            except msgspec.ValidationError:
                raise _refuse(f"the variable {variable} = {text!r}: {_expected(key)}") from None
        else:
            warnings.append(f"the variable {variable} is no configuration key and is ignored")
    return values, warnings


def _refuse_unknown_keys(values: Mapping[str, Any]) -> None:
    for key in values:
        if key not in KEYS:
            raise _unknown(key, KEYS, "")
    for name, kind in NESTED.items():
        known = tuple(field.name for field in msgspec.structs.fields(kind))
        entries = values.get(name)
        for entry in entries if isinstance(entries, list) else ():
            for key in entry if isinstance(entry, dict) else ():
                if key not in known:
                    raise _unknown(key, known, f" of one of the {name}")


def _unknown(key: str, known: tuple[str, ...], where: str) -> CorgiError:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "the keys are: " + ", ".join(known)
    return _refuse(f"unknown key {key!r}{where}", hint=hint)


def _check_members(config: ServerConfig) -> None:
    everyone = config.everyone
    seen: dict[int | Address, str] = {}
    for member in everyone:
        for fact, what in ((member.node, f"node {member.node}"), (_address(member), member.address)):
            if fact in seen:
                raise _refuse(f"members: {what} is listed twice")
            seen[fact] = what
    try:
        config.kafka_advertised  # noqa: B018 - whether it can be told
    except CorgiError as error:
        raise _refuse(error.message, hint=error.hint) from None
    if config.node not in seen:
        listed = ", ".join(str(member.node) for member in everyone)
        raise _refuse(f"members: node {config.node}, which is this one, is not among the members {listed}")


def _address(member: Member) -> Address:
    try:
        addresses = (member.peer_address, member.client_address)
    except CorgiError as error:
        raise _refuse(f"members: {error.message}") from None
    for address in addresses:
        if is_wildcard(address.host):
            raise _refuse(
                f"members: nobody can connect to {address}",
                hint="list the members with addresses that the others reach; only listen may be a wildcard",
            )
    return addresses[0]


def _check_listeners(config: ServerConfig) -> None:
    phrase = config.listen_without_authentication
    if phrase not in ("", UNSAFE_PHRASE):
        raise _refuse(f"listen_without_authentication must be empty or {UNSAFE_PHRASE!r}, not {phrase!r}")
    try:
        words = config.kafka_words
        kafka = [
            ("kafka_listen", str(address), words[name] == SASL_PLAINTEXT)
            for name, address in config.kafka_listeners.items()
        ]
    except CorgiError as error:
        raise _refuse(error.message) from None
    for key, text, asked in (
        ("listen", config.listen, False), ("metrics_listen", config.metrics_listen, False), *kafka
    ):  # fmt: skip
        if not text and key == "metrics_listen":
            continue
        try:
            address = parse_address(text, what=key)
        except CorgiError as error:
            raise _refuse(error.message) from None
        if not is_loopback(address.host) and not phrase and not asked:
            raise CorgiError(
                "unsafe-listener",
                f"{key} = {text!r} can be reached by others, and nothing authenticates them",
            )


def _told(error: msgspec.ValidationError, values: Mapping[str, Any]) -> str:
    """``Expected `int` >= 1 - at `$.node` `` → ``node = 0: expected an integer from 1 to 65535``."""
    why, _, where = str(error).partition(" - at `$")
    path = where.rstrip("`").lstrip(".")
    if path in values and path not in ("users", "acls"):  # whose values are not to be shown
        return f"{path} = {values[path]!r}: {_expected(path)}"
    return f"{path}: {why[:1].lower()}{why[1:]}"


def _expected(key: str) -> str:
    """What a key takes, in words."""
    (kind,) = (field.type for field in msgspec.inspect.type_info(ServerConfig).fields if field.name == key)  # type: ignore[attr-defined]
    if isinstance(kind, msgspec.inspect.UnionType):
        kind = kind.types[0]
    match kind:
        case msgspec.inspect.IntType(ge=least, le=most):
            return f"expected an integer from {least} to {most}"
        case msgspec.inspect.LiteralType(values=choices):
            return "expected one of " + ", ".join(map(repr, choices))
        case msgspec.inspect.StrType(pattern=str()):
            return "expected 32 hex digits in lower case"
        case msgspec.inspect.StrType():
            return "expected text"
        case msgspec.inspect.BoolType():
            return "expected true or false"
    return "expected a list of members, each with node and address"


def _refuse(message: str, *, hint: str = "") -> CorgiError:
    return CorgiError("invalid-configuration", message, hint=hint)
