"""Many seeds: spread over processes, told as they end, and kept in a file so that a campaign can be taken up again.

A seed's run is the same wherever it happens, so only its order depends on the number of processes. The file begins with
a line that says what was run with which code; every further line is one seed's outcome. A line that was torn by the end
of the machine is cut, and its seed runs again; a file of other options or other code is refused, because its outcomes
would say nothing about these.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from types import FrameType

import msgspec

import corgi
from corgi.base.errors import CorgiError
from corgi.sim.mutants import MUTANTS
from corgi.sim.report import explain
from corgi.sim.run import RUNAWAY, Options, run_seed

FORMAT = 1
JOBS_MAX = 256
SEED_WALL_S = 900  # a run that takes longer hangs
AHEAD = 2  # seeds per process that wait for it


class Task(msgspec.Struct, frozen=True):
    """What is done with each seed."""

    options: Options
    mutant: str = ""
    trace: bool = False


class Found(msgspec.Struct, frozen=True):
    """A broken rule by its name, what was seen, and when (virtual seconds)."""

    name: str
    detail: str
    time_s: float


class SeedOutcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a seed. ``report`` is text for people; ``transcript`` is all that happened, if asked for."""

    seed: int
    trace_hash: str
    virtual_s: float
    operations: int
    faults: int
    coverage: dict[str, int]
    report: str
    violations: tuple[Found, ...] = ()
    transcript: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.violations


class Head(msgspec.Struct, frozen=True):
    """The first line of a campaign's file."""

    corgi_sim: int
    code: str
    task: str


def run_one(task: Task, seed: int) -> SeedOutcome:
    """Run one seed; a failure is run once more with its whole transcript, to tell what led to it."""
    with MUTANTS[task.mutant].in_force() if task.mutant else nullcontext():
        result = run_seed(seed, task.options, trace=task.trace)
        report = explain(result, task.mutant)
    return SeedOutcome(
        seed, result.trace_hash, round(result.seconds, 3), result.operations, result.faults, dict(result.coverage),
        report, tuple(Found(v.name, v.detail, round(v.time, 6)) for v in result.violations),
        tuple(result.transcript) if task.trace else (),
    )  # fmt: skip


class Campaign:
    """Runs seeds that are not yet in its file, if it has one. Use as a context; ``outcomes`` may be left early."""

    def __init__(self, task: Task, *, jobs: int = 1, journal: Path | None = None) -> None:
        """Raises CorgiError "invalid-argument" when the file holds something else."""
        self.task = task
        self.jobs = jobs
        self.known: dict[int, SeedOutcome] = {}
        self._file = -1
        if journal is not None:
            self._open(journal)

    def __enter__(self) -> Campaign:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def outcomes(self, seeds: range) -> Iterator[SeedOutcome]:
        """Each seed's outcome as it comes: those known from the file first, the others as their runs end."""
        yield from (self.known[seed] for seed in seeds if seed in self.known)
        missing = (seed for seed in seeds if seed not in self.known)
        for outcome in self._alone(missing) if self.jobs == 1 else self._spread(missing):
            if self._file >= 0:
                os.write(self._file, msgspec.json.encode(outcome) + b"\n")
            yield outcome

    # ---- running

    def _alone(self, seeds: Iterator[int]) -> Iterator[SeedOutcome]:
        for seed in seeds:
            yield run_one(self.task, seed)

    def _spread(self, seeds: Iterator[int]) -> Iterator[SeedOutcome]:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.jobs, mp_context=context, initializer=_live_with_the_parent) as pool:
            under_way = {pool.submit(_bounded, self.task, seed): seed for seed in islice(seeds, self.jobs * AHEAD)}
            try:
                while under_way:
                    done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                    for future in sorted(done, key=lambda one: under_way[one]):
                        yield _result_of(future, under_way.pop(future))
                    for seed in islice(seeds, self.jobs * AHEAD - len(under_way)):
                        under_way[pool.submit(_bounded, self.task, seed)] = seed
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    # ---- the file

    def _open(self, path: Path) -> None:
        head = Head(FORMAT, code_fingerprint(), msgspec.json.encode(self.task).decode())
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            content = path.read_bytes()
        except OSError as error:
            raise CorgiError("invalid-argument", f"--journal {path}: {error.strerror}") from error
        whole = content.rfind(b"\n") + 1
        os.ftruncate(self._file, whole)
        lines = content[:whole].splitlines()
        if not lines:
            os.write(self._file, msgspec.json.encode(head) + b"\n")
            return
        try:
            found = msgspec.json.decode(lines[0], type=Head)
            self.known = {one.seed: one for one in (msgspec.json.decode(line, type=SeedOutcome) for line in lines[1:])}
        except msgspec.MsgspecError as error:
            raise CorgiError("invalid-argument", f"--journal {path} is no file of a campaign: {error}") from error
        if found != head:
            what = "options" if found.code == head.code else "code"
            raise CorgiError(
                "invalid-argument",
                f"--journal {path} tells of runs with other {what}",
                hint="name a new file; outcomes of different code or options do not add up",
            )


def code_fingerprint() -> str:
    """A hash over the package's source: two campaigns with one fingerprint ran the same code."""
    root = Path(corgi.__file__).parent
    whole = hashlib.blake2b(digest_size=12)
    for path in sorted(root.rglob("*.py")):
        whole.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()


def _bounded(task: Task, seed: int) -> SeedOutcome:
    """In a process of its own: a run that hangs ends with an error that says where."""
    try:
        with _alarm(SEED_WALL_S, lambda: TimeoutError(f"the run takes more than {SEED_WALL_S} s")):
            return run_one(task, seed)
    except TimeoutError as error:
        report = f"seed {seed}: {RUNAWAY}\n{traceback.format_exc()}"
        return SeedOutcome(seed, "", 0.0, 0, 0, {}, report, (Found(RUNAWAY, str(error), 0.0),))


@contextmanager
def _alarm(seconds: int, error: Callable[[], Exception]) -> Iterator[None]:
    def ring(_: int, __: FrameType | None) -> None:
        raise error()

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _result_of(future: Future[SeedOutcome], seed: int) -> SeedOutcome:
    try:
        return future.result()
    except BrokenProcessPool as error:
        what = f"a process that ran seeds died, perhaps for want of memory; seed {seed} or one near it was under way"
        raise CorgiError("invariant-failed", what, hint="use fewer --jobs") from error


def _live_with_the_parent() -> None:
    """In a process that runs seeds: interrupts are the parent's to handle, and its death is ours."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_the_parent, daemon=True).start()


def _die_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
