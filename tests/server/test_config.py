"""What an operator may write, and what is refused with which words."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from corgi.base.errors import CorgiError
from corgi.server.address import Address, is_loopback, parse_address
from corgi.server.config import KEYS, UNSAFE_PHRASE, check, load, parse_members
from corgi.server.example import example_config

LEAST: dict[str, Any] = {"node": 1, "data": "somewhere"}
THREE = [{"node": n, "address": f"127.0.0.1:{7449 + n}"} for n in (1, 2, 3)]


def refusal(values: dict[str, Any]) -> CorgiError:
    with pytest.raises(CorgiError) as caught:
        check(values)
    return caught.value


def test_the_least_configuration_is_a_safe_node_of_its_own() -> None:
    config = check(LEAST)
    assert config.listen_address == Address("127.0.0.1", 7450)
    assert [(member.node, member.peer_address) for member in config.everyone] == [(1, config.listen_address)]
    assert (config.groups, config.suspicion_ms, config.metrics_listen) == (None, 150, "")


def test_the_example_has_every_key_and_loads(tmp_path: Path) -> None:
    path = tmp_path / "node-1.toml"
    path.write_text(example_config())
    config, warnings = load(path, {})
    assert not warnings
    assert [member.label for member in config.everyone] == ["host-a", "host-b", "host-c"]
    assert len(config.cluster_id) == 32
    assert not [key for key in KEYS if key not in path.read_text()]


def test_two_examples_are_two_clusters() -> None:
    first, second = (tomllib.loads(example_config())["cluster_id"] for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, n) for key in ("node", "groups", "suspicion_ms", "tail_bytes") for n in (-1, 0, 2**31, 2**63)),
        *(("stop_timeout_ms", number) for number in (-1, 2**31, 2**63)),
        ("node", 65_536), ("node", "1"), ("node", True), ("node", 1.5), ("groups", 1025), ("suspicion_ms", 19),
        ("data", ""), ("data", 7), ("listen", 7450), ("cluster_name", "x" * 101),
        ("log_level", "loud"), ("log_format", "xml"), ("cluster_id", "abc"), ("cluster_id", "G" * 32),
        ("members", "1=127.0.0.1:1"), ("members", [{"node": 1}]), ("members", [{"node": 0, "address": "h:1"}]),
        ("members", [{"node": n, "address": f"127.0.0.1:{n}"} for n in range(1, 11)]),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_its_key(key: str, value: object) -> None:
    error = refusal({**LEAST, key: value})
    assert error.code == "invalid-configuration"
    assert key in error.message


def test_a_refusal_says_what_is_allowed() -> None:
    assert refusal({**LEAST, "node": 0}).message == "node = 0: expected an integer from 1 to 65535"
    assert "'debug', 'error', 'info', 'warning'" in refusal({**LEAST, "log_level": "loud"}).message


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({**LEAST, "suspicion": 5}, "did you mean 'suspicion_ms'?"),
        ({**LEAST, "lisen": "x"}, "did you mean 'listen'?"),
        ({**LEAST, "members": [{"node": 1, "adress": "h:1"}]}, "did you mean 'address'?"),
        ({**LEAST, "zzz": 1}, "the keys are: node, data, listen"),
    ],
)
def test_an_unknown_key_is_refused_with_its_nearest_relative(values: dict[str, Any], hint: str) -> None:
    error = refusal(values)
    assert error.code == "invalid-configuration"
    assert error.hint.startswith(hint)


@pytest.mark.parametrize("key", ["node", "data"])
def test_a_missing_key_is_named(key: str) -> None:
    assert repr(key) in refusal({k: v for k, v in LEAST.items() if k != key}).message


@pytest.mark.parametrize(
    "listen",
    ["", "7450", "localhost", ":7450", "h:0", "h:65536", "h:-1", "h:x", "::1:7450", "h:²", "a b:1", "h:000001"],
)
def test_an_address_that_is_none_is_refused(listen: str) -> None:
    error = refusal({**LEAST, "listen": listen})
    assert error.code == "invalid-configuration"
    assert error.message.startswith("listen = ")


@pytest.mark.parametrize("listen", ["0.0.0.0:7450", "[::]:7450", "192.168.0.1:7450", "example.test:7450"])
def test_a_listener_that_others_reach_needs_the_phrase(listen: str) -> None:
    assert refusal({**LEAST, "listen": listen}).code == "unsafe-listener"
    assert refusal({**LEAST, "metrics_listen": listen}).code == "unsafe-listener"
    for phrase in ("yes", "true", UNSAFE_PHRASE.upper()):
        error = refusal({**LEAST, "listen": listen, "listen_without_authentication": phrase})
        assert error.code == "invalid-configuration"
    allowed = {**LEAST, "listen": listen, "members": THREE, "listen_without_authentication": UNSAFE_PHRASE}
    assert check(allowed).listen == listen


@pytest.mark.parametrize("listen", ["0.0.0.0:7450", "[::]:7450"])
def test_a_wildcard_is_no_address_to_tell_others(listen: str) -> None:
    error = refusal({**LEAST, "listen": listen, "listen_without_authentication": UNSAFE_PHRASE})
    assert "nobody can connect" in error.message


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_loopback_is_recognised(host: str) -> None:
    assert is_loopback(host)


def test_an_ipv6_address_needs_brackets_and_is_shown_with_them() -> None:
    assert str(parse_address("[::1]:7450")) == "[::1]:7450"
    assert parse_address("[::1]:7450").host == "::1"


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (THREE[1:], "node 1, which is this one"),
        ([*THREE, {"node": 2, "address": "127.0.0.1:1"}], "node 2 is listed twice"),
        ([*THREE, {"node": 4, "address": "127.0.0.1:7450"}], "127.0.0.1:7450 is listed twice"),
        ([*THREE, {"node": 4, "address": "nowhere"}], "expected host:port"),
        ([*THREE, {"node": 4, "address": "h:1", "advertised": "h"}], "expected host:port"),
    ],
)
def test_members_that_contradict_each_other_are_refused(members: list[dict[str, Any]], words: str) -> None:
    assert words in refusal({**LEAST, "members": members}).message


def test_clients_are_told_the_advertised_address() -> None:
    members = [{"node": 1, "address": "10.0.0.1:7450", "advertised": "broker.example:1234"}]
    (member,) = check({**LEAST, "members": members}).everyone
    assert member.peer_address == Address("10.0.0.1", 7450)
    assert member.client_address == Address("broker.example", 1234)


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('node = 1\ndata = "file"\nlog_level = "error"\ngroups = 2\n')
    environment = {"CORGI_DATA": "environment", "CORGI_LOG_LEVEL": "debug", "HOME": "x"}
    config, warnings = load(path, environment, {"log_level": "warning", "data": None})
    assert (config.groups, config.data, config.log_level) == (2, "environment", "warning")
    assert not warnings


def test_the_environment_gives_numbers_and_members() -> None:
    environment = {
        "CORGI_NODE": "2", "CORGI_DATA": "d", "CORGI_SUSPICION_MS": "500",
        "CORGI_MEMBERS": "1=127.0.0.1:7450/rack a, 2=127.0.0.1:7451",
    }  # fmt: skip
    config, _ = load(None, environment)
    assert config.suspicion_ms == 500
    assert [(m.node, m.address, m.label) for m in config.everyone] == [
        (1, "127.0.0.1:7450", "rack a"),
        (2, "127.0.0.1:7451", ""),
    ]


@pytest.mark.parametrize("text", ["x", "-1", "0", "99999999999999999999", ""])
def test_a_bad_variable_is_named(text: str) -> None:
    with pytest.raises(CorgiError, match="CORGI_NODE"):
        load(None, {"CORGI_NODE": text, "CORGI_DATA": "d"})


def test_a_strange_variable_is_a_warning_only() -> None:
    _, warnings = load(None, {"CORGI_NODE": "1", "CORGI_DATA": "d", "CORGI_SERVICE_HOST": "10.0.0.1"})
    assert warnings == ["the variable CORGI_SERVICE_HOST is no configuration key and is ignored"]


def test_the_clients_own_variable_is_none_of_the_servers_business() -> None:
    _, warnings = load(None, {"CORGI_CLUSTER": "h:1"}, LEAST)
    assert not warnings


@pytest.mark.parametrize("text", ["1", "x=h:1", "=h:1", "-1=h:1", "²=h:1"])
def test_members_on_one_line_have_one_form(text: str) -> None:
    with pytest.raises(CorgiError, match="NODE=HOST:PORT"):
        parse_members(text)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"node = ", "is not TOML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"node = 1\nnode = 2", "is not TOML"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "broken.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CorgiError, match=words) as caught:
        load(path, {})
    assert "broken.toml" in caught.value.message


def test_a_node_alone_tells_kafkas_clients_where_it_listens() -> None:
    config = check({**LEAST, "kafka_listen": "127.0.0.1:9092"})
    assert config.kafka_listeners == {"default": Address("127.0.0.1", 9092)}
    assert config.kafka_advertised == {"default": {1: Address("127.0.0.1", 9092)}}
    assert check(LEAST).kafka_advertised == {}


def test_clients_of_each_kafka_listener_are_told_its_own_addresses() -> None:
    members = [{**one, "kafka": f"in=10.0.0.{one['node']}:9092,out=host-{one['node']}:9094"} for one in THREE]
    listen = {"kafka_listen": "in=127.0.0.1:9092, out=0.0.0.0:9094", "listen_without_authentication": UNSAFE_PHRASE}
    config = check({**LEAST, **listen, "members": members})
    assert config.kafka_listeners == {"in": Address("127.0.0.1", 9092), "out": Address("0.0.0.0", 9094)}
    assert config.kafka_advertised["out"] == {n: Address(f"host-{n}", 9094) for n in (1, 2, 3)}
    assert config.kafka_advertised["in"][2] == Address("10.0.0.2", 9092)


@pytest.mark.parametrize(
    ("listen", "told", "words"),
    [
        ("what", "", "kafka_listen = 'what': expected host:port"),
        ("a=127.0.0.1:1,a=127.0.0.1:2", "", "the listener 'a' is there twice"),
        ("=127.0.0.1:1", "", "names no listener"),
        ("127.0.0.1:9092", "", "node 2 does not say where clients of the Kafka listener 'default' reach it"),
        ("in=127.0.0.1:9092", "out=127.0.0.1:1", "node 2 does not say"),
        ("127.0.0.1:9092", "0.0.0.0:9092", "nobody can connect to 0.0.0.0:9092"),
        ("127.0.0.1:9092", "nonsense", "kafka of member 1 = 'nonsense'"),
    ],
)
def test_kafka_listeners_that_cannot_be_are_refused_before_the_node_starts(listen: str, told: str, words: str) -> None:
    error = refusal({**LEAST, "kafka_listen": listen, "members": [{**one, "kafka": told} for one in THREE]})
    assert error.code == "invalid-configuration"
    assert words in error.message


def test_a_kafka_listener_that_strangers_reach_is_refused() -> None:
    assert refusal({**LEAST, "kafka_listen": "in=127.0.0.1:1,out=10.0.0.1:9092"}).code == "unsafe-listener"
