"""The data folder: made by an explicit act, used by one process, and never taken for another's."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId
from corgi.runtime import folder as folder_module
from corgi.runtime.folder import Folder

CLUSTER = b"c" * 16
NODE = NodeId(3)
SEGMENT_BYTES = 64 * 1024


def bootstrap(path: Path) -> Folder:
    return Folder.bootstrap(path, CLUSTER, NODE, 8, segment_bytes=SEGMENT_BYTES)


def code_of(call: Callable[[], Folder]) -> str:
    with pytest.raises(CorgiError) as caught:
        call().close()
    return caught.value.code


def test_bootstrap_makes_a_node_and_opening_finds_it(tmp_path: Path) -> None:
    path = tmp_path / "node" / "three"
    with bootstrap(path) as made:
        assert (made.cluster, made.node, made.groups, made.recovering) == (CLUSTER, NODE, 8, False)
        assert len(made.incarnation) == 16
        first = made.boot
    with Folder.open(path, NODE, CLUSTER) as found:
        assert (found.cluster, found.node, found.groups, found.recovering) == (CLUSTER, NODE, 8, False)
        assert found.incarnation == made.incarnation
        assert found.boot > first


def test_the_boot_counter_grows_durably_with_each_start(tmp_path: Path) -> None:
    bootstrap(tmp_path).close()
    boots = []
    for _ in range(5):
        with Folder.open(tmp_path, NODE) as opened:
            boots.append(opened.boot)
            assert json.loads((tmp_path / "node.json").read_text())["boot"] == opened.boot
    assert boots == sorted(set(boots))


def test_the_boot_counter_does_not_go_back_with_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with bootstrap(tmp_path) as made:
        boot = made.boot
    monkeypatch.setattr(folder_module.time, "time_ns", lambda: 0)
    with Folder.open(tmp_path, NODE) as opened:
        assert opened.boot > boot


def test_two_copies_of_a_folder_started_with_the_clock_behind_count_differently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a disk is put back: else the later life would take the ids of commands that the other gave."""
    bootstrap(tmp_path / "disk").close()
    shutil.copytree(tmp_path / "disk", tmp_path / "copy")
    monkeypatch.setattr(folder_module.time, "time_ns", lambda: 0)
    with Folder.open(tmp_path / "disk", NODE) as one, Folder.open(tmp_path / "copy", NODE) as other:
        assert one.boot != other.boot


@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_folder_is_no_node(tmp_path: Path, exists: bool) -> None:
    path = tmp_path if exists else tmp_path / "none"
    assert code_of(lambda: Folder.open(path, NODE)) == "data-folder-empty"
    assert not (tmp_path / "none").exists()
    bootstrap(path).close()


def test_the_folder_of_another_node_or_cluster_is_refused(tmp_path: Path) -> None:
    bootstrap(tmp_path).close()
    before = (tmp_path / "node.json").read_bytes()
    assert code_of(lambda: Folder.open(tmp_path, NodeId(4))) == "wrong-cluster"
    assert code_of(lambda: Folder.open(tmp_path, NODE, b"d" * 16)) == "wrong-cluster"
    assert (tmp_path / "node.json").read_bytes() == before


@pytest.mark.parametrize("act", [Folder.bootstrap, Folder.rejoin])
def test_a_node_is_made_once(tmp_path: Path, act: Callable[..., Folder]) -> None:
    bootstrap(tmp_path).close()
    before = (tmp_path / "node.json").read_bytes()
    with pytest.raises(CorgiError, match="already holds node 3") as caught:
        act(tmp_path, CLUSTER, NODE, 8)
    assert caught.value.code == "invalid-configuration"
    assert "--bootstrap" in caught.value.hint
    assert (tmp_path / "node.json").read_bytes() == before


@pytest.mark.parametrize("act", [Folder.bootstrap, Folder.rejoin])
def test_a_folder_of_other_things_is_left_alone(tmp_path: Path, act: Callable[..., Folder]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CorgiError, match=r"thesis\.txt"):
        act(tmp_path, CLUSTER, NODE, 8)
    assert not (tmp_path / "node.json").exists()
    assert not (tmp_path / "wal").exists()


def test_the_root_of_a_file_system_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    bootstrap(tmp_path).close()


def test_a_node_that_rejoins_is_another_life_and_recovers_first(tmp_path: Path) -> None:
    with bootstrap(tmp_path / "old") as old:
        pass
    with Folder.rejoin(tmp_path / "new", CLUSTER, NODE, 8, segment_bytes=SEGMENT_BYTES) as new:
        assert new.recovering
        assert new.incarnation != old.incarnation
        assert new.boot > old.boot or new.boot == old.boot  # follows the clock, which may not have moved
    with Folder.open(tmp_path / "new", NODE) as again:
        assert again.recovering
        again.mark_recovered()
        assert not again.recovering
    with Folder.open(tmp_path / "new", NODE) as healed:
        assert not healed.recovering
        assert healed.incarnation == new.incarnation


HOLD = """
import sys
from pathlib import Path
from corgi.runtime.folder import Folder
folder = Folder.open(Path(sys.argv[1]), 3)
print("held", flush=True)
sys.stdin.readline()
"""


def test_two_processes_cannot_use_one_folder(tmp_path: Path) -> None:
    bootstrap(tmp_path).close()
    arguments = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            before = (tmp_path / "node.json").read_bytes()
            for act in (lambda: Folder.open(tmp_path, NODE), lambda: bootstrap(tmp_path)):
                with pytest.raises(CorgiError, match=f"process {process.pid}") as caught:
                    act()
                assert caught.value.code == "data-folder-in-use"
            assert (tmp_path / "node.json").read_bytes() == before
        finally:
            process.kill()
            process.communicate()
    Folder.open(tmp_path, NODE).close()


def test_one_process_cannot_open_a_folder_twice(tmp_path: Path) -> None:
    with bootstrap(tmp_path):
        assert code_of(lambda: Folder.open(tmp_path, NODE)) == "data-folder-in-use"
    with Folder.open(tmp_path, NODE) as opened:
        opened.close()
        opened.close()
        Folder.open(tmp_path, NODE).close()


def test_a_refused_folder_is_not_kept_locked(tmp_path: Path) -> None:
    bootstrap(tmp_path).close()
    for _ in range(2):
        assert code_of(lambda: Folder.open(tmp_path, NodeId(9))) == "wrong-cluster"
    Folder.open(tmp_path, NODE).close()


def changed(path: Path, **fields: object) -> None:
    identity = json.loads((path / "node.json").read_text())
    identity.update(fields)
    (path / "node.json").write_text(json.dumps(identity))


def test_a_newer_format_is_told_as_such(tmp_path: Path) -> None:
    bootstrap(tmp_path).close()
    changed(tmp_path, format=2, more="fields")
    assert code_of(lambda: Folder.open(tmp_path, NODE)) == "unsupported-version"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        "{}",
        '{"format": 1}',
        '{"format": 1, "cluster": "zz", "node": 3, "incarnation": "", "boot": 1, "groups": 8, "recovering": false}',
    ],
)
def test_a_damaged_identity_is_told_as_damage(tmp_path: Path, text: str) -> None:
    bootstrap(tmp_path).close()
    (tmp_path / "node.json").write_text(text)
    assert code_of(lambda: Folder.open(tmp_path, NODE)) == "log-damaged"


@pytest.mark.parametrize("field", ["boot", "groups", "node"])
@pytest.mark.parametrize("value", [0, -1, "x", None])
def test_a_count_out_of_range_is_told_as_damage(tmp_path: Path, field: str, value: object) -> None:
    bootstrap(tmp_path).close()
    changed(tmp_path, **{field: value})
    assert code_of(lambda: Folder.open(tmp_path, NODE)) == "log-damaged"


BOOT_ID, ANOTHER = "one life of the computer", "another"


def with_memory(path: Path) -> None:
    with Folder.bootstrap(path, CLUSTER, NODE, 8, memory_groups=2, segment_bytes=SEGMENT_BYTES) as folder:
        folder.mark_clean()
    Folder.open(path, NODE, kernel=BOOT_ID).close()


def lost(path: Path, kernel: str) -> str:
    with Folder.open(path, NODE, kernel=kernel) as folder:
        assert folder.memory_groups == 2
        return folder.memory_lost


def test_another_boot_id_without_a_clean_end_is_a_power_loss_until_the_groups_have_recovered(tmp_path: Path) -> None:
    with_memory(tmp_path)
    assert lost(tmp_path, BOOT_ID) == "", "killed"
    name = lost(tmp_path, ANOTHER)
    assert name
    assert lost(tmp_path, ANOTHER) == name, "a kill settles nothing"
    assert lost(tmp_path, BOOT_ID) not in ("", name), "another loss"
    with Folder.open(tmp_path, NODE, kernel=BOOT_ID) as folder:
        folder.mark_memory_recovered()
    assert lost(tmp_path, BOOT_ID) == ""


def test_a_clean_end_is_good_for_one_start(tmp_path: Path) -> None:
    with_memory(tmp_path)
    with Folder.open(tmp_path, NODE, kernel=BOOT_ID) as folder:
        folder.mark_clean()
    assert lost(tmp_path, ANOTHER) == ""
    assert lost(tmp_path, BOOT_ID) != ""


def test_where_the_system_tells_no_boot_id_each_unclean_end_counts(tmp_path: Path) -> None:
    with_memory(tmp_path)
    assert lost(tmp_path, "") != ""


def test_a_failed_sync_counts_as_a_power_loss(tmp_path: Path) -> None:
    with_memory(tmp_path)
    with Folder.open(tmp_path, NODE, kernel=BOOT_ID) as folder:
        folder.mark_sync_failed()
    assert lost(tmp_path, BOOT_ID) != ""


def test_a_folder_of_a_build_without_memory_groups_has_none_and_loses_none(tmp_path: Path) -> None:
    """And goes on to be one of such a build, which may open it again."""
    bootstrap(tmp_path).close()
    path = tmp_path / "node.json"
    told = ["format", "cluster", "node", "incarnation", "boot", "groups", "recovering"]
    assert list(json.loads(path.read_text())) == told
    for kernel in (BOOT_ID, ANOTHER, ""):
        with Folder.open(tmp_path, NODE, kernel=kernel) as folder:
            assert (folder.groups, folder.memory_groups, folder.memory_lost) == (8, 0, "")
            folder.mark_clean()
            folder.mark_sync_failed()
    assert list(json.loads(path.read_text())) == told


@pytest.mark.parametrize("value", [-1, "x", None])
def test_a_count_of_memory_groups_out_of_range_is_told_as_damage(tmp_path: Path, value: object) -> None:
    with_memory(tmp_path)
    changed(tmp_path, memory_groups=value)
    assert code_of(lambda: Folder.open(tmp_path, NODE)) == "log-damaged"


def test_a_lost_identity_beside_a_log_is_damage_not_an_empty_folder(tmp_path: Path) -> None:
    bootstrap(tmp_path).close()
    segment = next((tmp_path / "wal").glob("*.wal"))
    with segment.open("r+b") as file:
        file.seek(4096)
        file.write(b"CWSB")
    (tmp_path / "node.json").unlink()
    assert code_of(lambda: Folder.open(tmp_path, NODE)) == "log-damaged"
    with pytest.raises(CorgiError, match="not empty"):
        bootstrap(tmp_path)


@pytest.mark.parametrize("whole", [True, False])
def test_behind_a_lost_log_a_node_begins_anew_and_in_doubt(tmp_path: Path, whole: bool) -> None:
    with bootstrap(tmp_path) as first:
        before = (first.incarnation, first.boot)
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "of the old life").write_bytes(b"")
    shutil.rmtree(tmp_path / "wal")
    if not whole:
        (tmp_path / "wal").mkdir()
    with pytest.raises(CorgiError, match="no other node has its messages"):
        Folder.open(tmp_path, NODE, alone=True)
    with Folder.open(tmp_path, NODE, segment_bytes=1 << 16) as folder:
        assert folder.recovering
        assert folder.incarnation != before[0]
        assert folder.boot > before[1]
        assert not (tmp_path / "snapshots").exists()
        assert [path.stat().st_size for path in (tmp_path / "wal").iterdir()] == [1 << 16]
    with Folder.open(tmp_path, NODE) as again:
        assert (again.incarnation, again.recovering) == (folder.incarnation, True)


def test_an_interrupted_bootstrap_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends behind any of its steps; no node exists before the last, and the next try makes one."""
    for step in ("make_segment", "_write"):
        path = tmp_path / step
        real = getattr(folder_module, step)

        def interrupted(*arguments: object, step: str = step, real: Callable[..., None] = real) -> None:
            if step == "make_segment":
                real(*arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(folder_module, step, interrupted)
            with pytest.raises(KeyboardInterrupt):
                bootstrap(path)
        assert code_of(lambda path=path: Folder.open(path, NODE)) == "data-folder-empty"  # type: ignore[misc]
        bootstrap(path).close()
        Folder.open(path, NODE).close()


def test_a_crash_while_the_identity_is_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bootstrap(tmp_path).close()
    before = (tmp_path / "node.json").read_bytes()

    def crash(fd: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash)
        with pytest.raises(KeyboardInterrupt):
            Folder.open(tmp_path, NODE)
    assert (tmp_path / "node.json").read_bytes() == before
    Folder.open(tmp_path, NODE).close()


def test_the_identity_is_synced_before_it_takes_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bootstrap(tmp_path).close()
    steps: list[str] = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(fd: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{fd}")).name
        steps.append(f"sync {name if name != tmp_path.name else 'folder'}")
        real_fsync(fd)

    def rename(path: Path, target: Path) -> Path:
        steps.append(f"rename {path.name} {target.name}")
        return real_rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    Folder.open(tmp_path, NODE).close()
    assert steps == ["sync node.json.new", "rename node.json.new node.json", "sync folder"]


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "make_segment", no_room)
        assert code_of(lambda: bootstrap(tmp_path)) == "disk-full"
    bootstrap(tmp_path).close()


def test_a_path_that_cannot_be_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert code_of(lambda: bootstrap(tmp_path / "file")) == "invalid-configuration"
    assert code_of(lambda: Folder.open(tmp_path / "file", NODE)) == "data-folder-empty"


@pytest.mark.parametrize(
    ("cluster", "node"), [(b"short", 1), (b"c" * 17, 1), (CLUSTER, 0), (CLUSTER, -1), (CLUSTER, 65536)]
)
def test_ids_out_of_range_are_refused(tmp_path: Path, cluster: bytes, node: int) -> None:
    assert code_of(lambda: Folder.bootstrap(tmp_path / "x", cluster, NodeId(node), 8)) == "invalid-argument"
    assert not (tmp_path / "x").exists()
