"""The data folder: whose it is, which start this is, and that one process alone uses it.

An identity is written by an explicit act only, ``bootstrap`` for a new cluster or ``rejoin`` for a node whose disk was
lost; an empty folder never becomes a node by itself, because a node that forgot its votes must not vote. ``node.json``
is always written beside, synced, renamed and the folder synced, so a crash leaves the old one or the new one.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import SystemRandom
from types import TracebackType

from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId, next_boot
from corgi.base.limits import SEGMENT_BYTES
from corgi.log.record import DATA_FROM, LogIdentity
from corgi.runtime.power import kernel_boot_id
from corgi.runtime.segments import NO_ROOM, UNFINISHED, make_segment, segment_numbers, segment_path, sync_folder

FORMAT_VERSION = 1
IDENTITY = "node.json"
LOCK = "lock"
WAL = "wal"
SNAPSHOTS = "snapshots"
_OF_MEMORY = frozenset({"memory_groups", "kernel", "clean", "memory_lost"})
_NOT_OURS = frozenset({LOCK, "lost+found", IDENTITY + UNFINISHED})  # may lie in a folder that counts as empty


@dataclass(frozen=True, slots=True)
class Identity:
    """What ``node.json`` holds, ids as hex digits. ``boot`` grows with each start, ``recovering``: may not vote yet.

    ``kernel`` is the boot id of the computer at the last start, ``clean``: the node has stopped since, with all that it
    wrote durable. ``memory_lost`` names the power loss after which the memory groups have not recovered yet.
    """

    format: int
    cluster: str
    node: int
    incarnation: str
    boot: int
    groups: int
    recovering: bool
    memory_groups: int = 0
    kernel: str = ""
    clean: bool = False
    memory_lost: str = ""


class Folder:
    """An open data folder; holds its lock until ``close``. Made by ``open``, ``bootstrap`` or ``rejoin``."""

    def __init__(self, path: Path, lock: int, identity: Identity) -> None:
        self._lock = lock
        self._identity = identity
        self.path = path

    @property
    def cluster(self) -> bytes:
        """Cluster id, 16 bytes."""
        return bytes.fromhex(self._identity.cluster)

    @property
    def node(self) -> NodeId:
        return NodeId(self._identity.node)

    @property
    def incarnation(self) -> bytes:
        """16 random bytes: which life of this node id it is."""
        return bytes.fromhex(self._identity.incarnation)

    @property
    def boot(self) -> int:
        """Which start it is; grows with each, never the same twice, not even on a replaced or restored disk."""
        return self._identity.boot

    @property
    def groups(self) -> int:
        """Number of Paxos groups of the cluster."""
        return self._identity.groups

    @property
    def memory_groups(self) -> int:
        """Number of Paxos groups, behind the others, whose votes are answered before they are synced."""
        return self._identity.memory_groups

    @property
    def memory_lost(self) -> str:
        """Names the power loss after which the memory groups have not recovered yet; "": there is none."""
        return self._identity.memory_lost

    @property
    def recovering(self) -> bool:
        """The node replaces a lost disk and may not vote until it has recovered from a majority."""
        return self._identity.recovering

    @classmethod
    def open(
        cls,
        path: Path,
        node: NodeId,
        cluster_id: bytes | None = None,
        *,
        alone: bool = False,
        segment_bytes: int = SEGMENT_BYTES,
        kernel: str | None = None,
    ) -> Folder:
        """Take an existing folder and count this start durably. ``kernel``: the boot id of the computer, if not the one
        that the system tells; another one than at the last start, which did not end cleanly, is a power loss.

        If every segment of the log is gone, the disk is as good as replaced: the node begins a new log and recovers
        from the others before it votes, unless it is ``alone``. Raises CorgiError "data-folder-empty",
        "data-folder-in-use", "wrong-cluster" (it belongs to another node, or to another cluster than ``cluster_id``),
        "unsupported-version", "log-damaged" (the identity is gone, or the log of a cluster of one), "disk-full",
        "invalid-configuration".
        """
        if not path.is_dir():
            raise CorgiError("data-folder-empty", f"the data folder {path} does not exist")

        def identify() -> Identity:
            identity = _read(path)
            if identity.node != node:
                what = f"the data folder {path} belongs to node {identity.node}, this is node {node}"
                raise CorgiError("wrong-cluster", what)
            if cluster_id is not None and identity.cluster != cluster_id.hex():
                what = f"the data folder {path} belongs to cluster {identity.cluster}, this is {cluster_id.hex()}"
                raise CorgiError("wrong-cluster", what)
            if not (path / WAL).is_dir() or not segment_numbers(path / WAL):
                if alone:
                    what = f"every segment of the log in {path / WAL} is gone, and no other node has its messages"
                    raise CorgiError("log-damaged", what, hint="restore the folder, or begin anew in an empty one")
                identity = _begin_anew(path, identity, segment_bytes)
            identity = _noticed(identity, kernel_boot_id() if kernel is None else kernel)
            return replace(identity, boot=next_boot(identity.boot, _wall_ms(), SystemRandom()))

        return cls._take(path, identify)

    @classmethod
    def bootstrap(
        cls,
        path: Path,
        cluster_id: bytes,
        node: NodeId,
        groups: int,
        *,
        memory_groups: int = 0,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> Folder:
        """Make ``path`` the folder of a node of a new cluster, once; its first start.

        Raises CorgiError "invalid-configuration" when anything is in the folder, "data-folder-in-use", "disk-full".
        """
        return cls._create(path, cluster_id, node, (groups, memory_groups), segment_bytes, recovering=False)

    @classmethod
    def rejoin(
        cls,
        path: Path,
        cluster_id: bytes,
        node: NodeId,
        groups: int,
        *,
        memory_groups: int = 0,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> Folder:
        """As ``bootstrap``, for a node of a living cluster whose disk was lost: it recovers before it votes."""
        return cls._create(path, cluster_id, node, (groups, memory_groups), segment_bytes, recovering=True)

    def mark_recovered(self) -> None:
        """Note durably that the node may vote. Raises CorgiError "disk-full" or "invalid-configuration"."""
        self._note(replace(self._identity, recovering=False))

    def mark_memory_recovered(self) -> None:
        """Note durably that the memory groups may vote. Raises as ``mark_recovered``."""
        self._note(replace(self._identity, memory_lost=""))

    def mark_clean(self) -> None:
        """Note durably that the node has stopped and all that it wrote is durable. Raises as ``mark_recovered``."""
        if self.memory_groups:
            self._note(replace(self._identity, clean=True))

    def mark_sync_failed(self) -> None:
        """Note that the system may lose what was written, as in a power loss. Raises as ``mark_recovered``."""
        if self.memory_groups:
            self._note(replace(self._identity, kernel=""))

    def _note(self, identity: Identity) -> None:
        try:
            _write(self.path, identity)
        except OSError as error:
            raise _unusable(self.path, error) from error
        self._identity = identity

    def close(self) -> None:
        """Let another process have the folder. Closing again does nothing."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @classmethod
    def _create(
        cls,
        path: Path,
        cluster_id: bytes,
        node: NodeId,
        counts: tuple[int, int],
        segment_bytes: int,
        *,
        recovering: bool,
    ) -> Folder:
        if len(cluster_id) != 16:
            raise CorgiError("invalid-argument", f"a cluster id has 16 bytes, not {len(cluster_id)}")
        if not 1 <= node <= 0xFFFF:
            raise CorgiError("invalid-argument", f"a node id is 1 to 65535, not {node}")

        def identify() -> Identity:
            _check_empty(path)
            identity = LogIdentity(cluster_id, node)
            (path / WAL).mkdir(mode=0o700, exist_ok=True)
            make_segment(path / WAL, identity, 1, segment_bytes, int.from_bytes(os.urandom(8), "big"))
            incarnation = os.urandom(16).hex()
            boot = next_boot(0, _wall_ms(), SystemRandom())
            groups, memory_groups = counts
            told = (FORMAT_VERSION, cluster_id.hex(), node, incarnation, boot, groups, recovering)
            return Identity(*told, memory_groups, kernel_boot_id())

        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(path, error) from error
        return cls._take(path, identify)

    @classmethod
    def _take(cls, path: Path, identify: Callable[[], Identity]) -> Folder:
        """Lock the folder, then learn or decide whose it is and write that down."""
        lock = _lock(path)
        try:
            identity = identify()
            _write(path, identity)
        except OSError as error:
            os.close(lock)
            raise _unusable(path, error) from error
        except BaseException:
            os.close(lock)
            raise
        return cls(path, lock, identity)


def _noticed(identity: Identity, kernel: str) -> Identity:
    """The start of a life on the computer's life ``kernel``; was there a power loss since the node's last one? Where
    the system does not tell, each end that was not clean counts as one."""
    lost = identity.memory_lost
    if identity.memory_groups and not identity.clean and (not kernel or kernel != identity.kernel):
        lost = os.urandom(8).hex()
    return replace(identity, kernel=kernel, clean=False, memory_lost=lost)


def _begin_anew(path: Path, identity: Identity, segment_bytes: int) -> Identity:
    """A new life behind a lost log: nothing of the old one is left to be taken for the new one's.

    The doubt is durable before the new log is there, so no crash leaves a node that forgot and may vote.
    """
    shutil.rmtree(path / SNAPSHOTS, ignore_errors=True)
    fresh = replace(identity, incarnation=os.urandom(16).hex(), recovering=True)
    _write(path, fresh)
    (path / WAL).mkdir(mode=0o700, exist_ok=True)
    salt = int.from_bytes(os.urandom(8), "big")
    make_segment(path / WAL, LogIdentity(bytes.fromhex(fresh.cluster), NodeId(fresh.node)), 1, segment_bytes, salt)
    return fresh


def _lock(path: Path) -> int:
    """The descriptor that holds the folder's lock, with our process id in the file."""
    try:
        fd = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        what = f"the data folder {path} is in use by process {holder}"
        raise CorgiError("data-folder-in-use", what) from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _check_empty(path: Path) -> None:
    """Nothing but what an interrupted bootstrap leaves. Raises CorgiError "invalid-configuration"."""
    if (path / IDENTITY).exists():
        identity = _read(path)
        what = f"the data folder {path} already holds node {identity.node} of cluster {identity.cluster}"
        raise CorgiError("invalid-configuration", what, hint="start without --bootstrap and --rejoin")
    names = sorted(entry.name for entry in path.iterdir() if entry.name not in _NOT_OURS)
    if names == [WAL] and _only_an_unused_segment(path / WAL):
        return
    if names:
        what = f"the data folder {path} is not empty, it holds {names[0]!r}"
        raise CorgiError("invalid-configuration", what, hint="name an empty folder")


def _only_an_unused_segment(folder: Path) -> bool:
    """Whether bootstrap may have been interrupted behind the log's first segment and before the identity."""
    names = {entry.name for entry in folder.iterdir() if not entry.name.endswith(UNFINISHED)}
    first = segment_path(folder, 1)
    if names - {first.name}:
        return False
    if first.name in names:
        with first.open("rb") as file:
            file.seek(DATA_FROM)
            return not any(file.read(DATA_FROM))
    return True


def _read(path: Path) -> Identity:
    """The identity in the folder, checked."""
    try:
        text = (path / IDENTITY).read_bytes()
    except FileNotFoundError:
        if (path / WAL).is_dir() and not _only_an_unused_segment(path / WAL):
            raise CorgiError("log-damaged", f"{IDENTITY} is missing beside the log in {path}") from None
        raise CorgiError("data-folder-empty", f"the data folder {path} holds no node") from None
    try:
        fields = json.loads(text)
        version = fields["format"]
        if version != FORMAT_VERSION:
            what = f"{path / IDENTITY} has format {version}, this release knows {FORMAT_VERSION}"
            raise CorgiError("unsupported-version", what)
        identity = Identity(**fields)
        sound = len(bytes.fromhex(identity.cluster)) == 16 == len(bytes.fromhex(identity.incarnation))
        sound = sound and min(int(identity.node), int(identity.boot), int(identity.groups)) >= 1
        sound = sound and int(identity.memory_groups) >= 0 and isinstance(identity.memory_lost, str)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise CorgiError("log-damaged", f"{path / IDENTITY} is damaged: {error!r}") from error
    if not sound:
        raise CorgiError("log-damaged", f"{path / IDENTITY} is damaged: an id or a count is out of range")
    return identity


def _write(path: Path, identity: Identity) -> None:
    """Replace the identity durably. Raises OSError and leaves the old one."""
    beside = path / (IDENTITY + UNFINISHED)
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        told = asdict(identity)
        if not identity.memory_groups:  # so that builds without memory groups read it
            told = {key: value for key, value in told.items() if key not in _OF_MEMORY}
        text = json.dumps(told, indent=2) + "\n"
        os.write(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    beside.rename(path / IDENTITY)
    sync_folder(path)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _unusable(path: Path, error: OSError) -> CorgiError:
    if error.errno in NO_ROOM:
        return CorgiError("disk-full", f"the data folder {path} has no room for the node's files: {error}")
    return CorgiError("invalid-configuration", f"the data folder {path} cannot be used: {error}")
