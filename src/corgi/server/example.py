"""The example configuration: every key with its meaning and default, and a cluster id of its own."""

from __future__ import annotations

import secrets

from corgi.base.limits import GROUPS_DEFAULT, MEMORY_GROUPS_DEFAULT
from corgi.server.address import LOOPBACK, NATIVE_PORT
from corgi.server.config import UNSAFE_PHRASE, ServerConfig, check

_TEMPLATE = """\
# One node of a Corgi cluster. Save as node-1.toml and adapt for the other nodes (node, data, listen).
# The first time start each with: corgi server --config node-1.toml --bootstrap
# and from then on with:          corgi server --config node-1.toml
# Each key can also be a variable (CORGI_LOG_LEVEL=debug) or a flag (--log-level debug); flags win.

node = 1                               # this node's id: 1 to 65535
data = "./corgi-1"                     # identity and log of this node; created at --bootstrap
listen = "{host}:{port}"              # clients and nodes connect here

cluster_id = "{cluster_id}"  # random; the same on all nodes of this cluster
cluster_name = "example"               # for people, shown in the log
groups = {groups}                             # Paxos groups; fixed at bootstrap, the same on all nodes
memory_groups = {memory_groups}                      # as groups, for topics with durability memory; 0: none

suspicion_ms = {suspicion_ms}                     # silence after which another node is suspected
stop_timeout_ms = {stop_timeout_ms}                 # at SIGTERM: how long to wait for leaderships to move
tail_bytes = {tail_bytes}                  # recent messages kept in memory
snapshot_segments = {snapshot_segments}                  # of 64 MiB, between two snapshots of a group
rewrite_bytes_per_s = {rewrite_bytes_per_s}          # old values moved so that sparse segments can go
scrub_bytes_per_s = {scrub_bytes_per_s}            # cold data read to find damage early; 0: none
compaction_bytes_per_s = {compaction_bytes_per_s}       # read for compaction by key
compaction_min_bytes = {compaction_min_bytes}         # new bytes of a partition before it begins
compaction_keys_bytes = {compaction_keys_bytes}       # memory for the keys of one pass
log_level = "{log_level}"                     # debug, info, warning, error
log_format = "{log_format}"                    # text for people, json for programs
metrics_listen = ""                    # host:port for Prometheus (GET /metrics); empty: none

kafka_listen = ""                      # host:port for Kafka's clients, e.g. 127.0.0.1:9092; empty: none
kafka_create_topics = {kafka_create_topics}             # a topic is made when such a client asks for it
kafka_partitions = {kafka_partitions}                   # of a topic made without saying how many

kafka_security = ""                    # plaintext, sasl_plaintext; empty: the latter where there are users
kafka_mechanisms = "{kafka_mechanisms}"  # and PLAIN, which sends passwords as they are

# Nothing authenticates Corgi's own clients yet, so a node listens on the loopback only.
# To open it to a network that you trust:
# listen_without_authentication = "{phrase}"

# Users of the Kafka listeners, the same list everywhere; corgi user entry NAME makes an entry of a password.
# [[users]]
# name = "alice"
# credentials = ["SCRAM-SHA-256$15000:…$…:…"]
# Who may do what. Without any rule every user may do everything; with rules, what they allow.
# [[acls]]
# user = "alice"
# operations = ["read", "write"]
# resource = "topic"                   # topic, group, transactional_id, cluster
# name = "orders."
# pattern = "prefixed"                 # or literal; the name "*" is all

# All nodes, the same list everywhere. advertised: what clients are told, when it differs from address.
# label: failure domain (a host, a rack). kafka = "host:port": what Kafka's clients are told, if they are served.
[[members]]
node = 1
address = "{host}:{port}"
label = "host-a"

[[members]]
node = 2
address = "{host}:{port_2}"
label = "host-b"

[[members]]
node = 3
address = "{host}:{port_3}"
label = "host-c"
"""


def example_config() -> str:
    """TOML text that loads without a change."""
    defaults = check({"node": 1, "data": "corgi-1"})
    return _TEMPLATE.format(
        host=LOOPBACK,
        port=NATIVE_PORT,
        port_2=NATIVE_PORT + 1,
        port_3=NATIVE_PORT + 2,
        cluster_id=new_cluster_id(),
        groups=GROUPS_DEFAULT,
        memory_groups=MEMORY_GROUPS_DEFAULT,
        phrase=UNSAFE_PHRASE,
        kafka_create_topics=str(defaults.kafka_create_topics).lower(),
        **{key: getattr(defaults, key) for key in _defaults()},
    )


def new_cluster_id() -> str:
    """32 random hex digits."""
    return secrets.token_hex(16)


def _defaults() -> tuple[str, ...]:
    storage = ("tail_bytes", "snapshot_segments", "rewrite_bytes_per_s", "scrub_bytes_per_s")
    compaction = ("compaction_bytes_per_s", "compaction_min_bytes", "compaction_keys_bytes")
    kafka = ("kafka_partitions", "kafka_mechanisms")
    names = ("suspicion_ms", "stop_timeout_ms", *storage, *compaction, "log_level", "log_format", *kafka)
    assert set(names) <= set(ServerConfig.__struct_fields__)
    return names
