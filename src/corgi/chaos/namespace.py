"""Network namespaces of Linux, as far as a run needs them: make, enter, leave.

They have no names and are mounted nowhere: a namespace lives as long as a process in it or an open file of it. So
nothing is left behind, however a run ends, and runs side by side cannot meet.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

OWN = Path("/proc/thread-self/ns/net")
TUN = Path("/dev/net/tun")
DEVICE = "corgi0"
MTU = 9_000  # as in many data centres; smaller packets would cost the switch more
QUEUE = 2_000  # packets that wait for the switch
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_TUNSETIFF, _TUN_PLAIN = 0x400454CA, 0x1001  # a TUN device whose packets have no head of its own
_SET_FLAGS, _SET_ADDRESS, _SET_NETMASK, _SET_MTU, _SET_QUEUE = 0x8914, 0x8916, 0x891C, 0x8922, 0x8943
_UP_AND_RUNNING = 0x41


def unshare() -> None:
    """The thread goes to a new, empty namespace. Raises OSError."""
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "only Linux has them")
    _called(_libc().unshare(_NEW_NETWORK), "unshare")


def enter(path: str) -> None:
    """The thread, and every thread that it starts from here on, goes to the namespace of ``path``. Raises OSError."""
    file = os.open(path, os.O_RDONLY)
    try:
        _called(_libc().setns(file, _NEW_NETWORK), "setns")
    finally:
        os.close(file)


@contextlib.contextmanager
def standing_in(path: str) -> Iterator[None]:
    """The calling thread is in a namespace meanwhile, and so are threads that it starts; other threads are not."""
    home = os.open(OWN, os.O_RDONLY)
    try:
        enter(path)
        try:
            yield
        finally:
            enter(f"/proc/self/fd/{home}")
    finally:
        os.close(home)


def open_device(address: str, prefix: int) -> int:
    """A TUN device with an address in the thread's namespace, where the loopback is up too; the file of its packets.

    Raises OSError.
    """
    device = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH14x", DEVICE.encode(), _TUN_PLAIN))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:

            def ask(request: int, name: str, layout: str, *values: bytes | int) -> None:
                fcntl.ioctl(sock, request, struct.pack(f"16s{layout}", name.encode(), *values).ljust(40, b"\0"))

            netmask = (0xFFFFFFFF << (32 - prefix) & 0xFFFFFFFF).to_bytes(4, "big")
            for request, octets in ((_SET_ADDRESS, socket.inet_aton(address)), (_SET_NETMASK, netmask)):
                ask(request, DEVICE, "H2x4s", socket.AF_INET, octets)
            ask(_SET_MTU, DEVICE, "i", MTU)
            ask(_SET_QUEUE, DEVICE, "i", QUEUE)
            for name in ("lo", DEVICE):
                ask(_SET_FLAGS, name, "H", _UP_AND_RUNNING)
    except BaseException:
        os.close(device)
        raise
    return device


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _called(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
