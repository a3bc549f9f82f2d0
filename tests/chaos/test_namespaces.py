"""A network of namespaces with real TCP across it. Where they cannot be made, the tests are skipped and say why."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from corgi.base.errors import CorgiError
from corgi.chaos.namespace import OWN, standing_in
from corgi.chaos.namespaces import Namespaces, made
from corgi.chaos.network import CLIENTS
from corgi.cli.exits import Exit
from corgi.cli.main import main

PATIENCE_S = 20.0
PORT = 7450
SIZE = 200_000  # bytes, fewer than the kernel takes while nobody reads


def why_not() -> str:
    """Empty where namespaces can be made."""
    try:
        Namespaces(1).close()
    except CorgiError as error:
        return error.message
    return ""


@pytest.fixture(scope="module", autouse=True)
def allowed() -> None:
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture
def network() -> Iterator[Namespaces]:
    with contextlib.closing(Namespaces(2)) as network:
        yield network


def listening(network: Namespaces, node: int) -> socket.socket:
    with standing_in(network.path(node)):
        return socket.create_server((network.host(node), PORT))


def dialled(network: Namespaces, end: int, node: int) -> socket.socket:
    """A socket keeps the namespace in which it was made."""
    with standing_in(network.path(end)):
        sock = socket.socket()
    sock.settimeout(PATIENCE_S)
    try:
        sock.connect((network.host(node), PORT))
    except OSError:
        sock.close()
        raise
    return sock


def joined(network: Namespaces, end: int, node: int) -> tuple[socket.socket, socket.socket]:
    with listening(network, node) as listener:
        near = dialled(network, end, node)
        far, _ = listener.accept()
    far.settimeout(PATIENCE_S)
    return near, far


def received(sock: socket.socket, size: int) -> bytes:
    with sock.makefile("rb") as file:
        return file.read(size)


def test_ends_reach_each_other_and_nothing_else(network: Namespaces) -> None:
    for end in (CLIENTS, 1):
        near, far = joined(network, end, 2)
        with near, far:
            near.sendall(bytes(SIZE))
            assert received(far, SIZE) == bytes(SIZE)
    with socket.create_server(("127.0.0.1", 0)) as host, standing_in(network.path(1)):
        assert {name for _, name in socket.if_nameindex()} >= {"lo", "corgi0"}
        for outside in (host.getsockname(), ("192.0.2.1", 80)):
            with socket.socket() as sock, pytest.raises(OSError, match=r"refused|unreachable"):
                sock.connect(outside)


def test_the_machines_own_network_is_as_before() -> None:
    before = sorted(name for _, name in socket.if_nameindex())
    home = os.readlink(OWN)
    with made(3) as network:
        assert os.readlink(OWN) != home
        path = network.path(1)
    assert os.readlink(OWN) == home
    assert sorted(name for _, name in socket.if_nameindex()) == before
    assert not os.path.exists(path)


def test_nothing_passes_a_held_way_until_it_heals(network: Namespaces) -> None:
    near, far = joined(network, 1, 2)
    with near, far:
        network.hold(1, 2)
        near.sendall(b"late")
        far.sendall(b"at once")
        assert received(near, 7) == b"at once"
        far.setblocking(False)
        with pytest.raises(BlockingIOError):
            far.recv(4)
        network.heal()
        far.settimeout(PATIENCE_S)
        assert received(far, 4) == b"late"


def test_connections_break_with_a_reset_and_new_ones_are_made(network: Namespaces) -> None:
    near, far = joined(network, 1, 2)
    with near, far:
        network.reset(1, 2)
        near.sendall(b"a")
        with pytest.raises(ConnectionResetError):
            near.recv(1)
        with pytest.raises(ConnectionResetError):
            far.recv(1)
    near, far = joined(network, 1, 2)
    with near, far:
        network.hold(1, 2)
        near.sendall(b"lost")
        network.heal(reset=True)
        with pytest.raises(ConnectionResetError):
            far.recv(4)


def test_a_refused_link_refuses(network: Namespaces) -> None:
    network.refuse(2, 1)
    with listening(network, 2), pytest.raises(ConnectionRefusedError):
        dialled(network, 1, 2)
    network.heal()
    near, far = joined(network, 1, 2)
    near.close()
    far.close()


def test_a_slow_way_and_a_lossy_one_deliver_everything_in_order(network: Namespaces) -> None:
    near, far = joined(network, 1, 2)
    data = os.urandom(SIZE)
    with near, far:
        network.slow(2, 1, 0.03)
        network.lose(1, 2, loss=0.1, twice=0.1, astray=0.2)
        network.lose(2, 1, loss=0.1, twice=0.1, astray=0.2)
        near.sendall(data)
        assert received(far, SIZE) == data


def test_namespaces_end_with_a_process_that_is_killed() -> None:
    """Its switch ends with it, and the namespaces with the switch."""
    script = (
        "import json, sys\n"
        "from corgi.chaos.namespaces import Namespaces\n"
        "network = Namespaces(1)\n"
        "print(json.dumps([network.path(1), network._process.pid]), flush=True)\n"
        "sys.stdin.read()\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        path, pid = json.loads(process.stdout.readline())
        watched = os.pidfd_open(pid)
        assert os.path.exists(path)
        process.kill()

    async def ended() -> None:
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        loop.add_reader(watched, event.set)
        async with asyncio.timeout(PATIENCE_S):
            await event.wait()
        loop.remove_reader(watched)

    asyncio.run(ended())
    os.close(watched)
    assert not os.path.exists(path)


@pytest.mark.timeout(180)
def test_a_run_in_namespaces_keeps_its_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["chaos", "--seconds", "5", "--seed", "1", "--faults", "one-way,lossy-links", "--partitions", "4"]
    code = main([*words, "--network", "namespaces", "--dir", str(tmp_path / "run"), "--output", "json"])
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert code == Exit.OK, (told, err)
    assert told["network"] == "namespaces"
    assert told["network_reason"] == ""
    assert {fault["kind"] for fault in told["faults"]} == {"one-way", "lossy-links"}
    assert told["acknowledged"] > 200
