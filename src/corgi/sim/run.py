"""One run from a seed, and a suite of them: chaos, then healing, then every operation ends and replicas are equal."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from corgi.history.checks import check_history
from corgi.history.model import History, Violation
from corgi.sim.clients import Client
from corgi.sim.cluster import Cluster, ClusterOptions
from corgi.sim.faults import Faults
from corgi.sim.fleeting import FleetingReader, FleetingWriter
from corgi.sim.ledger import NOWHERE, Focus
from corgi.sim.network import NetworkOptions
from corgi.sim.readers import Drainer
from corgi.sim.scene import Scene
from corgi.sim.sessions import Front
from corgi.sim.workload import Workload
from corgi.sim.world import Note, World, line

HEAL_AT_S = 24.0
STOP_AT_S = 28.0  # producers make no new batches
REST_S = 2.0  # no log start moves any more
SETTLE_S = 15.0  # after that every operation must have ended and every replica be equal
DRAIN_S = 10.0
SECONDS_MIN = 30.0
OPERATIONS_PER_S = 20
OPERATIONS_MIN = int(OPERATIONS_PER_S * SECONDS_MIN)
EVENTS_MAX = 5_000_000  # of a run: fifty times what a busy one needs
RUNAWAY = "runaway"


@dataclass(frozen=True, slots=True)
class Options:
    """How to run. ``faults`` None draws the kinds from the seed, ``nodes`` None their number, ``rough`` None the links:
    True are lossy datagrams and a busy workload."""

    faults: tuple[str, ...] | None = None
    nodes: int | None = None
    rough: bool | None = None
    groups: bool | None = None  # are there consumer groups?
    transactions: bool | None = None
    minimum: bool = True  # a run with too few operations is a failure of the simulator

    def flags(self) -> str:
        """The same for ``corgi sim``."""
        flags = [f"--faults {','.join(self.faults)}"] if self.faults is not None else []
        if self.nodes is not None:
            flags.append(f"--nodes {self.nodes}")
        if self.rough is not None:
            flags.append("--rough" if self.rough else "--smooth")
        if self.groups is not None:
            flags.append("--groups" if self.groups else "--no-groups")
        if self.transactions is not None:
            flags.append("--transactions" if self.transactions else "--no-transactions")
        return " ".join(["", *flags])


@dataclass(slots=True)
class Result:
    """What a run found."""

    seed: int
    violations: list[Violation]
    trace_hash: str
    seconds: float
    events: int
    operations: int
    faults: int
    coverage: Counter[str]
    options: Options
    focus: Focus = NOWHERE  # where the first broken rule was
    replicas: list[str] = field(default_factory=list)  # how each stood at the end of a failure
    notes: Sequence[Note] = ()  # what happened, as it was noted: all of it when traced
    traced: bool = False

    @property
    def ok(self) -> bool:
        return not self.violations

    @property
    def transcript(self) -> list[str]:
        """The notes, readable."""
        return [line(note) for note in self.notes]


def run_seed(seed: int, options: Options | None = None, *, trace: bool = False) -> Result:
    """Run one seed. With ``trace`` the transcript is kept as a whole; the run itself is the same."""
    collecting = gc.isenabled()
    told = logging.getLogger("corgi.client")
    quiet = told.disabled
    gc.disable()  # what a run makes lives until its end
    told.disabled = True  # what befalls simulated users is in the transcript
    try:
        return _Run(seed, options or Options(), trace).run()
    finally:
        told.disabled = quiet
        if collecting:
            gc.enable()


def run_suite(
    first: int, count: int, progress: Callable[[Result], None] | None = None, options: Options | None = None
) -> list[Result]:
    """Run ``count`` seeds from ``first`` on, each told to ``progress``."""
    results = []
    for seed in range(first, first + count):
        result = run_seed(seed, options)
        if progress is not None:
            progress(result)
        results.append(result)
    return results


class _Run:
    """The phases of one run."""

    def __init__(self, seed: int, options: Options, trace: bool) -> None:
        self.seed = seed
        self.options = options
        self.trace = trace
        self.world = World(seed, keep_transcript=trace)
        self.cluster = Cluster(self.world, self._shape())
        self.front = Front(self.cluster)
        self.history = History()
        self.scene = Scene(self.world, self.front, self.cluster.members, self.history, self.cluster.ledger.violate)
        self.workload = Workload(
            self.scene, busy=options.rough, groups=options.groups, transactions=options.transactions
        )
        ledger = self.cluster.ledger
        self.fleeting = FleetingWriter(self.scene, lambda group: group in ledger.restarted)
        self.faults = Faults(self.cluster, self.front, only=options.faults)
        self.violations = self.cluster.ledger.violations
        self.replicas: list[str] = []

    def _shape(self) -> ClusterOptions:
        """The cluster that the seed asks for."""
        chance = self.world.stream("shape")
        compaction = self.world.stream("compaction shape")
        network = NetworkOptions()
        drawn = chance.random() < 0.25
        if drawn if self.options.rough is None else self.options.rough:
            loss = chance.choice((0.005, 0.02, 0.08))
            network = NetworkOptions(datagrams=True, drop=loss, duplicate=loss, spike_chance=0.02)
        elif chance.random() < 0.3:
            network = NetworkOptions(delay_mean=chance.choice((0.001, 0.004)), spike_chance=0.01)
        shape = ClusterOptions(
            nodes=chance.choice((3, 3, 3, 3, 5, 1)),
            groups=chance.choice((2, 4, 8)),
            segment_bytes=chance.choice((40, 64, 128, 256)) * 1024,
            tail_bytes_max=chance.choice((4, 64, 1024)) * 1024,
            window_slots=chance.choice((1, 3, 8)),
            network=network,
            clock_skew=chance.random() < 0.8,
            snapshot_segments=chance.choice((1, 1, 1, 3)),
            far_slots=self.world.stream("far").choice((20, 100, 4096)),
            rewrite_below=self.world.stream("rewriting").choice((0.25, 0.5, 0.7)),
            compaction_bytes_min=compaction.choice((1, 400, 2000)),
            compaction_bytes_per_s=compaction.choice((200_000, 8_000_000)),
            compaction_keys_bytes_max=compaction.choice((1_000, 1_000_000)),
            memory_groups=self.world.stream("memory shape").choice((0, 1, 2)),
            scrub_bytes_s=self.world.stream("scrub").choice((0, 0, 96 * 1024)),
        )
        if self.options.nodes is not None:
            shape = replace(shape, nodes=self.options.nodes)
        return shape

    def run(self) -> Result:
        self.cluster.start_all()
        self.workload.start(HEAL_AT_S)
        if self.cluster.options.memory_groups:
            self.fleeting.start()
        self.faults.start(at=1.0)
        if not (self._until(HEAL_AT_S) or self._heal() or self._finish() or self._drain()):
            self.cluster.compare_states()
            self.replicas = self.cluster.describe()
            self.cluster.finish()
            self.workload.crowd.tell()
            self.violations.extend(check_history(self.history))
            self._check_size()
        result = self._result()
        self.workload.crowd.wind_up()
        return result

    def _until(self, when: float) -> bool:
        """Whether something broke before ``when``."""
        broke = self.world.run(when, EVENTS_MAX)
        if self.world.events >= EVENTS_MAX and not self.violations:
            text = f"{EVENTS_MAX} events in {self.world.now:.3f} s: something goes round in a circle"
            self.violations.append(Violation(RUNAWAY, text, self.world.now))
        return broke

    def _heal(self) -> bool:
        self.faults.heal()
        self.workload.heal()
        return self._until(STOP_AT_S)

    def _finish(self) -> bool:
        """No new work: every operation ends, and the replicas become equal."""
        self.scene.producing = False
        limit, rest = STOP_AT_S + SETTLE_S, STOP_AT_S + REST_S
        if self._run_until(
            limit,
            lambda: (
                self.world.now >= rest
                and self.workload.idle()
                and self.fleeting.idle()
                and self.cluster.replicas_equal()
                and self.cluster.rest_compaction()
            ),
        ):
            return True
        if not self.cluster.rest_compaction():
            self.history.unfinished.append("compaction does not come to rest")
        self.history.unfinished.extend(self.workload.unfinished())
        if not self.cluster.replicas_equal():
            self.history.unfinished.extend(["replicas differ", *self.cluster.describe()])
        return self._until(max(self.world.now + 0.5, SECONDS_MIN - 1.0))

    def _drain(self) -> bool:
        """Read everything back from every node."""
        self.scene.reading = False
        members = self.cluster.members
        drainers: list[Client] = [Drainer(self.scene, node) for node in members]
        drainers += [FleetingReader(self.fleeting, node) for node in members]
        for drainer in drainers:
            drainer.start()
        # A group may go home meanwhile, when a node was started late.
        equal = self.cluster.replicas_equal
        if self._run_until(self.world.now + DRAIN_S, lambda: all(d.idle() for d in drainers) and equal()):
            return True
        self.history.unfinished.extend(drainer.describe() for drainer in drainers if not drainer.idle())
        return self._until(max(self.world.now, SECONDS_MIN))

    def _run_until(self, limit: float, done: Callable[[], bool]) -> bool:
        """Run until ``done``, asked every 50 ms, or ``limit``; whether something broke."""
        while self.world.now < limit and not done():
            if self._until(min(limit, self.world.now + 0.05)):
                return True
        return False

    def _check_size(self) -> None:
        operations = self.history.operations()
        too_few = operations < max(OPERATIONS_MIN, OPERATIONS_PER_S * self.world.now)
        if self.options.minimum and (too_few or self.faults.injected < 1):
            text = f"{operations} operations and {self.faults.injected} faults are too few to prove anything"
            self.violations.append(Violation("too-small", text, self.world.now))

    def _result(self) -> Result:
        coverage = self.cluster.coverage
        coverage["chosen_slots"] = self.cluster.ledger.chosen_slots
        coverage["acknowledged"] = sum(send.status == "ok" for send in self.history.sends)
        coverage["torn_writes"] = sum(computer.disk.torn_writes for computer in self.cluster.computers.values())
        failed = bool(self.violations)
        return Result(
            self.seed,
            list(self.violations),
            self.world.trace_hash(),
            self.world.now,
            self.world.events,
            self.history.operations(),
            self.faults.injected,
            coverage,
            self.options,
            self.cluster.ledger.focus,
            (self.replicas or self.cluster.describe()) if failed else [],
            self.world.transcript if failed or self.trace else (),
            self.trace,
        )
