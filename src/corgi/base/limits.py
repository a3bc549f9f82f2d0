"""Every bound of the system with its reason. Sizes in bytes, times in seconds unless the name says otherwise."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

FRAME_BYTES_MAX = 64 * MIB  # a frame of the native protocol, header and payload
HEADER_BYTES_MAX = 1 * MIB  # the msgpack header of a request: decoded, it may cost thirty times that
HELLO_BYTES_MAX = 4 * KIB  # the first frame of a connection: before it, a peer may cost next to nothing
BATCH_BYTES_MAX = 8 * MIB  # one record batch; a topic's max_batch_bytes may be smaller
BATCH_BYTES_DEFAULT = 1 * MIB  # a topic's max_batch_bytes when nobody chose one
VALUE_COMMANDS_MAX = 512  # so that applying one value does not hold the loop
VALUE_BYTES_MAX = 1 * MIB  # merging stops here; a single larger command makes a value of its own
COMMAND_BYTES_MAX = 32 * MIB  # appends of one request that go into one group
PROMISE_CHUNK_BYTES = 4 * MIB  # values in one Promise or Learned message
WINDOW_SLOTS = 8  # slots a leader keeps in flight; more load is merged into the next values
PENDING_BYTES_MAX = 64 * MIB  # commands a node holds for one group before it refuses ("overloaded")
TAIL_BYTES_MAX = 24 * MIB  # recent values kept in memory per node, over all groups
KEYS_BYTES_MAX = 64 * MIB  # the newest offset of each key that one pass of compaction remembers
SEGMENT_BYTES = 64 * MIB  # one WAL segment
CLIENT_OUTPUT_LOW = 64 * KIB  # output waiting for a client below which ``client_drained`` tells that pushing may go on
CLIENT_OUTPUT_HIGH = 1 * MIB  # … above which its requests are no longer read, so that it reads its answers first
CLIENT_OUTPUT_MAX = 64 * MIB  # … above which it is cut off: it does not read
CLIENT_PENDING_BYTES = 8 * MIB  # unanswered requests of one client beyond which no more are read
CLIENT_PENDING_REQUESTS = 4096  # … counted, because a small request costs as much as a large one
PEER_OUTPUT_MAX = 64 * MIB  # output waiting for a node above which its link is closed: it catches up by asking
GROUPS_DEFAULT = 8
GROUPS_MAX = 1024
MEMORY_GROUPS_DEFAULT = 2  # each costs a line in every heartbeat
MEMORY_GROUPS_MAX = 64
NODES_MAX = 9
PARTITIONS_MAX = 10_000  # of one topic
TOPIC_NAME_MAX = 249  # characters, as Kafka's
PRODUCER_WINDOW = 5  # remembered batches of an idempotent producer in a partition (KIP-98)
SUSPICION_S = 0.150  # silence after which a peer is suspected
HEARTBEAT_S = 0.030  # idle beat; under load BUSY_HEARTBEAT_S
BUSY_HEARTBEAT_S = 0.010
ECHO_APART_S = 0.005  # between two heartbeats where somebody waits for an echo
RANK_DELAY_S = 0.008  # takeover delay per rank behind the first successor
RETRANSMIT_S = 0.300  # an Accept without an answer is sent again; links keep order, so this is rare
FORWARD_RETRY_S = 0.250  # a forwarded command without outcome is forwarded again to the same ballot
SCRUB_BYTES_S = 4 * MIB  # of cold data read to find damage: a disk of 300 GB in a day, hardly felt by others
SCRUB_PAUSE_S = 600.0  # between two passes
CLOCK_SKEW_MS_MAX = 5_000  # a node further from its peers' median does not lead

assert HELLO_BYTES_MAX <= 64 * KIB
assert VALUE_BYTES_MAX <= COMMAND_BYTES_MAX < FRAME_BYTES_MAX
assert HELLO_BYTES_MAX < HEADER_BYTES_MAX < FRAME_BYTES_MAX
assert CLIENT_OUTPUT_LOW < CLIENT_OUTPUT_HIGH < CLIENT_OUTPUT_MAX
assert COMMAND_BYTES_MAX < PEER_OUTPUT_MAX
assert BATCH_BYTES_MAX < COMMAND_BYTES_MAX < SEGMENT_BYTES
assert PROMISE_CHUNK_BYTES < FRAME_BYTES_MAX
assert BUSY_HEARTBEAT_S < HEARTBEAT_S < SUSPICION_S / 3
