"""Reserved ports belong to one cluster, and to its nodes again and again."""

import socket

import pytest

from corgi.base.errors import CorgiError
from corgi.server.ports import PORT_MAX, reserve_free, reserve_from


def listener(port: int) -> socket.socket:
    """As a node listens."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen()
    return sock


def test_a_node_can_listen_on_a_reserved_port_and_again_after_it_died() -> None:
    with reserve_free(1) as reservation:
        (port,) = reservation.ports
        for _ in range(2):
            with listener(port) as node, socket.create_connection(("127.0.0.1", port)):
                node.accept()[0].close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))


def test_two_clusters_do_not_get_the_same_ports() -> None:
    with reserve_free(3) as first, reserve_free(3) as second:
        assert len({*first.ports, *second.ports}) == 6


def test_a_port_range_belongs_to_one_cluster_at_a_time() -> None:
    with reserve_free(1) as free:
        (base,) = free.ports
    with reserve_from(base, 1), pytest.raises(CorgiError, match=f"127.0.0.1:{base} cannot be used"):
        reserve_from(base, 1)
    reserve_from(base, 1).release()


def test_a_port_that_somebody_listens_on_is_named() -> None:
    with reserve_free(1) as free, listener(free.ports[0]), pytest.raises(CorgiError) as caught:
        reserve_from(free.ports[0], 1)
    assert caught.value.code == "port-in-use"


@pytest.mark.parametrize("base", [-1, PORT_MAX - 1, 2**31, 2**63])
def test_a_base_without_room_is_refused(base: int) -> None:
    with pytest.raises(CorgiError, match="expected 1 to 65533"):
        reserve_from(base, 3)
