"""The commands that talk to a cluster, against a broker of the test's own: what they print, and how they end."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corgi.base.errors import CorgiError
from corgi.base.ids import GroupId, NodeId
from corgi.cli import common
from corgi.cli.common import addresses_of
from corgi.cli.exits import Exit
from corgi.cli.main import main
from corgi.cli.status import survey
from corgi.cli.sub import start_of
from corgi.client.corgi import DEFAULT_SERVERS
from corgi.client.loop_thread import LoopThread
from corgi.client.messages import NodeDescription
from corgi.client.sync import connect as connect_sync
from corgi.server.ports import reserve_free
from corgi.testing.embedded import Broker
from corgi.testing.plugin import RunningBroker
from corgi.wire.messages import GroupStatus, StatusReply

PATIENCE_S = 30.0
FLIGHTS = Path(__file__).resolve().parents[2] / "examples" / "data" / "flights-2013-01.csv.gz"


class Shell:
    """Runs commands in this process; each returns its exit code, stdout and stderr."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = main(words)
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    def json(self, *words: str) -> Any:
        code, out, err = self(*words, "-o", "json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def corgi(corgi_embedded: RunningBroker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.setenv("CORGI_CLUSTER", corgi_embedded.servers)
    return Shell(capsys)


@pytest.fixture(scope="module")
def shared_broker() -> Iterator[str]:
    """One broker with an empty topic "t" for all tests that only ask what is refused."""
    thread, broker = LoopThread(), Broker()
    try:
        thread.call(broker.start)
        with connect_sync(broker.servers) as mq:
            mq.topics.create("t")
        yield broker.servers
        thread.call(broker.stop)
    finally:
        thread.close()


@pytest.fixture
def strict(shared_broker: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.setenv("CORGI_CLUSTER", shared_broker)
    return Shell(capsys)


def test_a_topic_from_its_creation_to_its_end(corgi: Shell) -> None:
    assert corgi("topic", "list")[2].startswith("there are no topics")
    made = corgi.json("topic", "create", "orders", "--partitions", "3", "--config", "max_batch_bytes=65536")
    assert made["name"] == "orders"
    assert [partition["partition"] for partition in made["partitions"]] == [0, 1, 2]
    assert made["config"] == {"max_batch_bytes": "65536"}
    code, _, err = corgi("topic", "create", "orders")
    assert code == Exit.FAILURE
    assert "[topic-exists]" in err
    assert corgi("topic", "create", "orders", "--if-not-exists")[0] == Exit.OK
    assert [topic["name"] for topic in corgi.json("topic", "list")] == ["orders"]
    assert len(corgi.json("topic", "alter", "orders", "--partitions", "5")["partitions"]) == 5
    assert corgi.json("topic", "alter", "orders", "--config", "max_batch_bytes=")["config"] == {}
    told = corgi.json("topic", "describe", "orders")
    assert all(
        (partition["start"], partition["end"], partition["leader"]) == (0, 0, 1) for partition in told["partitions"]
    )
    assert corgi.json("topic", "trim", "orders", "--before", "latest")["starts"] == dict.fromkeys("01234", 0)
    assert corgi.json("topic", "trim", "orders", "--before", "0", "--partition", "3")["starts"] == {"3": 0}
    assert "[unknown-partition]" in corgi("topic", "trim", "orders", "--before", "latest", "--partition", "9")[2]
    for wrong in (("--before", "5"), ("--before", "x", "--partition", "0")):
        assert corgi("topic", "trim", "orders", *wrong)[0] == Exit.USAGE
    assert "[offset-out-of-range]" in corgi("topic", "trim", "orders", "--before", "5", "--partition", "3")[2]
    assert corgi.json("topic", "delete", "orders") == {"deleted": "orders"}
    code, _, err = corgi("topic", "describe", "orders")
    assert code == Exit.FAILURE
    assert "[unknown-topic]" in err
    assert "hint: create it: corgi topic create" in err


@pytest.mark.parametrize(
    ("words", "exit_code", "told"),
    [
        (("create", "a b"), Exit.USAGE, "[invalid-topic-name]"),
        (("create", "__meta"), Exit.USAGE, "[invalid-topic-name]"),
        (("create", "x" * 250), Exit.USAGE, "[invalid-topic-name]"),
        (("create", "u", "--partitions", "0"), Exit.USAGE, "[invalid-argument]\nhint: see: corgi topic create --help"),
        (("create", "u", "--partitions", "-1"), Exit.USAGE, "[invalid-argument]"),
        (("create", "u", "--partitions", str(2**31)), Exit.USAGE, "[invalid-argument]"),
        (("create", "u", "--partitions", str(2**63)), Exit.USAGE, "[invalid-argument]"),
        (("create", "u", "--config", "nonsense=1"), Exit.USAGE, "'nonsense'"),
        (("create", "u", "--config", "nonsense"), Exit.USAGE, "is not KEY=VALUE"),
        (("create", "u", "--config", "timeout=1"), Exit.USAGE, "no setting 'timeout'"),
        (("create", "u", "--colocate-with", "nobody"), Exit.FAILURE, "[unknown-topic]"),
        (("alter", "u"), Exit.USAGE, "nothing is to be changed"),
        (("alter", "u", "--partitions", "2"), Exit.FAILURE, "[unknown-topic]"),
        (("delete", "u"), Exit.FAILURE, "[unknown-topic]\nhint: see which there are: corgi topic list"),
    ],
)
def test_a_topic_that_cannot_be(strict: Shell, words: tuple[str, ...], exit_code: Exit, told: str) -> None:
    code, out, err = strict("topic", *words)
    assert (code, out) == (exit_code, "")
    assert told in err
    assert "hint: " in err


def test_flights_are_published_by_column_and_read_back(corgi: Shell) -> None:
    corgi("topic", "create", "flights", "--partitions", "4")
    told = corgi.json("pub", "flights", str(FLIGHTS), "--key-column", "tailnum", "--compression", "lz4")
    assert told["published"] == 27_004
    code, out, _ = corgi("sub", "flights", "--start", "earliest", "--until-end", "--format", "%p %k %v")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == len(set(lines)) == 27_004
    assert all(line.split(" ")[1] == line.split(" ")[2].split(",")[11] for line in lines)
    homes: dict[str, set[str]] = {}
    for line in lines:
        partition, aircraft, _ = line.split(" ", 2)
        homes.setdefault(aircraft, set()).add(partition)
    assert len(homes) == 3_149
    assert all(len(partitions) == 1 for partitions in homes.values())


def test_every_part_of_a_message_is_shown(corgi: Shell, tmp_path: Path) -> None:
    corgi("topic", "create", "t")
    path = tmp_path / "lines"
    path.write_bytes(b"k1:v1\nk2:\xff\n")
    assert corgi("pub", "t", str(path), "--separator", ":", "--header", "a=1")[2].startswith("published 2 messages")
    _, out, _ = corgi("sub", "t", "--start", "earliest", "--count", "2", "-o", "json")
    first, second = map(json.loads, out.splitlines())
    assert (first["topic"], first["partition"], first["offset"], first["key"], first["value"]) == (
        "t",
        0,
        0,
        "k1",
        "v1",
    )
    assert first["headers"] == [{"name": "a", "value": "1"}]
    assert second["value_base64"] == "/w=="
    assert corgi("sub", "t", "--start", "1", "--count", "1", "--format", "%o %k %h")[1] == "1 k2 a=1\n"
    assert corgi("sub", "t", "--start", "10m", "--until-end", "--format", "%k")[1] == "k1\nk2\n"
    assert corgi("sub", "t", "--start", "latest", "--until-end")[1] == ""
    assert corgi("sub", "t", "--start", "earliest", "--count", "0")[1] == ""


def test_lines_are_published_as_they_come(corgi: Shell, corgi_embedded: RunningBroker) -> None:
    """A message is there while stdin is still open."""
    corgi("topic", "create", "t")
    command = [sys.executable, "-m", "corgi", "pub", "t", "--key", "k"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert corgi("sub", "t", "--start", "earliest", "--count", "1", "--format", "%k=%v")[1] == "k=one\n"
        process.stdin.write(b"two")
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr is not None
        assert b"published 2 messages" in process.stderr.read()
    assert corgi("sub", "t", "--start", "1", "--count", "1")[1] == "two\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_subscription_ends_quietly(
    corgi: Shell, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    corgi("topic", "create", "t")
    path = tmp_path / "lines"
    path.write_bytes(b"one\n")
    corgi("pub", "t", str(path))
    command = [sys.executable, "-m", "corgi", "sub", "t", "--start", "earliest"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"one\n"
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == code
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("words", "exit_code", "told"),
    [
        (("pub", "nowhere", str(FLIGHTS)), Exit.FAILURE, "[unknown-topic]"),
        (("sub", "nowhere"), Exit.FAILURE, "[unknown-topic]"),
        (("sub", "nowhere", "--until-end"), Exit.FAILURE, "[unknown-topic]"),
        (("pub", "t", "no such file"), Exit.USAGE, "'no such file' cannot be read"),
        (("pub", "t", str(FLIGHTS), "--key-column", "wings"), Exit.USAGE, "its columns are: year,"),
        (("pub", "t", str(FLIGHTS), "--partition", "7"), Exit.FAILURE, "[unknown-partition]"),
        (("pub", "t", str(FLIGHTS), "--partition", "-1"), Exit.FAILURE, "[unknown-partition]"),
        (("pub", "t", str(FLIGHTS), "--header", "x"), Exit.USAGE, "is not NAME=VALUE"),
        (("sub", "t", "--start", "yesterday"), Exit.USAGE, "no place to start"),
        (("sub", "t", "--start", "2026-01-01"), Exit.USAGE, "has no time zone"),
        (("sub", "t", "--count", "-1"), Exit.USAGE, "expected 0 or more"),
        (("sub", "t", "--start", str(2**63)), Exit.USAGE, "[invalid-argument]"),
        (("sub", "t", "--format", "%q"), Exit.USAGE, "'%q' is not known"),
        (("sub", "t", "--partition", "7"), Exit.FAILURE, "[unknown-partition]"),
        (("sub", "t", "--partition", "7", "--until-end"), Exit.FAILURE, "[unknown-partition]"),
    ],
)
def test_what_cannot_be_published_or_read(strict: Shell, words: tuple[str, ...], exit_code: Exit, told: str) -> None:
    code, _, err = strict(*words)
    assert code == exit_code, err
    assert told in err
    assert "hint: " in err


def test_too_large_a_record_is_told_and_nothing_else_is_lost(corgi: Shell, tmp_path: Path) -> None:
    corgi("topic", "create", "t", "--config", "max_batch_bytes=1024")
    path = tmp_path / "lines"
    path.write_bytes(b"small\n" + b"x" * 5000 + b"\n")
    code, _, err = corgi("pub", "t", str(path))
    assert code == Exit.FAILURE
    assert "[record-too-large]" in err


def test_one_look_at_a_cluster(corgi: Shell) -> None:
    corgi("topic", "create", "t")  # by then every group has its leader
    told = corgi.json("status")
    assert told["healthy"]
    (node,) = told["nodes"]
    assert (node["node"], node["reachable"], node["voting"], node["lag"]) == (1, True, True, 0)
    assert [group["leader"] for group in told["groups"]] == [1] * len(told["groups"])
    code, out, err = corgi("status")
    assert code == 0
    assert "127.0.0.1:" in out
    assert f"cluster {told['cluster']} is well" in err


def test_an_unreachable_cluster_has_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(common, "CONNECT_S", 0.3)
    with reserve_free(1) as free:
        code, out, err = Shell(capsys)("status", "--cluster", f"127.0.0.1:{free.ports[0]}")
    assert (code, out) == (Exit.UNREACHABLE, "")
    assert "[unreachable]" in err


def test_without_a_name_it_is_the_cluster_of_dev_also_when_one_of_its_nodes_is_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tutorial kills the first node and goes on."""
    monkeypatch.delenv("CORGI_CLUSTER", raising=False)
    assert addresses_of(None) == DEFAULT_SERVERS == "127.0.0.1:7450,127.0.0.1:7451,127.0.0.1:7452"


def test_clusters_can_have_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clusters.toml"
    path.write_text('home = "127.0.0.1:1, 127.0.0.1:2"\n')
    monkeypatch.setenv("CORGI_CLUSTERS", str(path))
    assert addresses_of("home") == "127.0.0.1:1,127.0.0.1:2"
    code, _, err = Shell(capsys)("status", "--cluster", "hoem")
    assert code == Exit.USAGE
    assert "no cluster named 'hoem'" in err
    assert "known names are home" in err
    path.write_text("home = ")
    with pytest.raises(CorgiError, match="cannot be read"):
        addresses_of("home")


@pytest.mark.parametrize("cluster", ["", "h:0", "h:99999", ":1", "h:1,nonsense", "nonsense"])
def test_a_cluster_that_is_none_is_no_default(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORGI_CLUSTERS", str(tmp_path / "none.toml"))
    code, _, err = Shell(capsys)("topic", "list", "--cluster", cluster)
    assert code == Exit.USAGE
    assert "hint: " in err


def node(number: int) -> NodeDescription:
    return NodeDescription(number, "127.0.0.1", 7449 + number, "", connected=True)


def reply(number: int, leader: int = 1, *, voting: bool = True, applied: int = 10, term: int = 1) -> StatusReply:
    group = GroupStatus(GroupId(0), NodeId(leader), term, "follower", 10, applied, 0, 0, 1)
    peers = tuple((NodeId(other), True, 0.01, 0.0) for other in (1, 2) if other != number)
    return StatusReply("c", NodeId(number), "corgi", 1.0, voting, peers, (group,), {})


@pytest.mark.parametrize(
    ("replies", "problem"),
    [
        ([reply(1)], "node 2 at 127.0.0.1:7451 does not answer"),
        ([reply(1), reply(2, voting=False)], "node 2 does not vote"),
        ([reply(1, leader=0), reply(2, leader=0)], "no leader is known for group 0"),
        ([reply(1), reply(2, leader=3, term=2)], "no leader is known for group 0"),
        ([reply(1), StatusReply("c", NodeId(2), "", 1.0, True, ((NodeId(1), False, 9.0, 0.0),), reply(2).groups, {})],
         "node 2 has no link to node 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(replies: list[StatusReply], problem: str) -> None:
    told = survey("c", [node(1), node(2)], replies)
    assert not told["healthy"]
    assert any(problem in words for words in told["problems"])


def after_a_power_loss(number: int, topics: int) -> StatusReply:
    roles = ("follower", "recovering")
    groups = [GroupStatus(GroupId(n), NodeId(1 - n), 1, role, 10, 10, 0, 0, 1) for n, role in enumerate(roles)]
    gauges = {"memory_groups": 1.0, "memory_groups_in_doubt": 1.0, "memory_topics": float(topics)}
    peers = ((NodeId(3 - number), True, 0.01, 0.0),)
    return StatusReply("c", NodeId(number), "corgi", 1.0, not topics, peers, tuple(groups), gauges)


def test_memory_groups_without_a_majority_are_a_problem_where_there_are_such_topics() -> None:
    told = survey("c", [node(1), node(2)], [after_a_power_loss(1, 1), after_a_power_loss(2, 1)])
    words = "\n".join(told["problems"])
    assert "node 1 does not vote in groups of topics with durability memory" in words
    assert "--accept-loss memory" in words
    assert "no leader is known for group 1" in words
    assert survey("c", [node(1), node(2)], [after_a_power_loss(1, 0), after_a_power_loss(2, 0)])["healthy"]


def test_one_doubtful_node_is_a_problem_of_memory_topics_if_the_others_are_no_majority() -> None:
    def advised(nodes: int, replies: list[StatusReply]) -> bool:
        told = survey("c", [node(number) for number in range(1, nodes + 1)], replies)
        return "--accept-loss memory" in "\n".join(told["problems"])

    assert advised(2, [after_a_power_loss(1, 1), reply(2)])
    assert advised(3, [after_a_power_loss(1, 1), reply(2)])
    assert not advised(3, [after_a_power_loss(1, 1), reply(2), reply(3)])
    assert not advised(3, [reply(1), reply(2)])


def test_a_log_that_grows_for_topics_that_stand_still_is_a_problem() -> None:
    held = after_a_power_loss(1, 1)
    held.counters["memory_log_bytes_held"] = 3.0 * 2**20
    told = survey("c", [node(1), node(2)], [held, reply(2)])
    assert any("node 1 holds 3 MiB of its log" in words for words in told["problems"])


def test_a_healthy_pair_has_no_problem() -> None:
    assert survey("c", [node(1), node(2)], [reply(1), reply(2)])["problems"] == []


def test_a_node_far_behind_is_a_problem() -> None:
    behind = [reply(1), reply(2, applied=10 - 5000)]
    assert survey("c", [node(1), node(2)], behind)["problems"] == ["node 2 is 5000 slots behind in a group"]


@pytest.mark.parametrize(
    "text", ["latest", "earliest", "0", "17", "2026-01-31T12:00:00Z", "2026-01-31T12:00+01:00", "90s", "7d"]
)
def test_places_to_start(text: str) -> None:
    assert start_of(text) is not None
