"""No bytes from outside crash, hang or bloat what reads them: hypothesis edits sound inputs, and a corpus is kept.

Each file of ``corpus/TARGET`` is hostile on purpose or was found by fuzzing; it is tried always. Longer runs, guided by
coverage: ``python tests/fuzz/fuzz_with_atheris.py TARGET`` (CONTRIBUTING).
"""

import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corgi.base.errors import CorgiError
from fuzz.mutations import EDITS, Edit, mutated
from fuzz.targets import TARGETS, Target, probe

CORPUS = Path(__file__).parent / "corpus"
CPU_S_MAX = 3.0  # for one input, on a slow machine that counts every allocation
FILES = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
FILE_BYTES_MAX = 64 * 1024


def bounded(target: Target, data: bytes) -> CorgiError | None:
    """``probe``, with a limit on time and memory: what a length claims is never allocated."""
    began = time.process_time()
    tracemalloc.start()
    try:
        found = probe(target, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= target.memory + 64 * len(data), f"{peak} bytes for an input of {len(data)}"
    assert time.process_time() - began < CPU_S_MAX
    return found


@pytest.mark.parametrize("name", TARGETS)
def test_sound_inputs_are_taken(name: str) -> None:
    target = TARGETS[name]
    assert [bounded(target, sample) for sample in target.samples()] == [None] * len(target.samples())


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
def test_edited_inputs_are_taken_or_refused(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    sample = data.draw(st.sampled_from(target.samples()))
    bounded(target, mutated(sample, data.draw(EDITS)))


@pytest.mark.parametrize("name", TARGETS)
@given(junk=st.binary(max_size=400))
def test_junk_is_refused_or_taken(name: str, junk: bytes) -> None:
    bounded(TARGETS[name], junk)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_corpus_is_taken_or_refused(path: Path) -> None:
    bounded(TARGETS[path.parent.name], path.read_bytes())


def test_the_corpus_is_small_and_has_something_for_every_target() -> None:
    assert {path.parent.name for path in FILES} == set(TARGETS)
    assert [path.name for path in FILES if path.stat().st_size > FILE_BYTES_MAX] == []
    assert sum(path.stat().st_size for path in FILES) < 512 * 1024


def test_an_error_that_is_not_documented_and_memory_that_is_only_claimed_are_noticed() -> None:
    def careless(data: bytes) -> None:
        bytearray(int.from_bytes(data[:4]))
        raise CorgiError("timeout")

    target = Target("careless", list, careless, ("malformed-frame",))
    with pytest.raises(CorgiError, match="timeout"):
        bounded(target, b"")
    allowed = Target("careless", list, careless, ("timeout",))
    with pytest.raises(AssertionError, match="bytes for an input of 4"):
        bounded(allowed, (64 * 1024 * 1024).to_bytes(4))


@pytest.mark.parametrize(
    ("edit", "result"),
    [
        (Edit("flip", 0, 1, 0), b"\x01\0\0\0"),
        (Edit("set", 32768, 2, 0x0102), b"\0\0\x01\x02"),
        (Edit("add", 0, 4, -1), b"\xff\xff\xff\xff"),
        (Edit("cut", 16384, 1, 0), b"\0"),
        (Edit("drop", 0, 3, 0), b"\0"),
        (Edit("repeat", 0, 1, 0), b"\0\0\0\0\0"),
        (Edit("insert", 65536, 1, 7), b"\0\0\0\0" + bytes(7) + b"\x07"),
    ],
)
def test_edits_do_what_they_say(edit: Edit, result: bytes) -> None:
    assert mutated(bytes(4), [edit]) == result
