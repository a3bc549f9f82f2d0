"""One run from its start to its verdict: cluster, clients, faults, healing, drain, judgement.

What is judged is the file that is left behind, read back: so ``corgi check`` says the same of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from corgi.base.errors import CorgiError
from corgi.base.limits import NODES_MAX
from corgi.chaos.client_processes import TOPIC, ClientProcesses, Load
from corgi.chaos.cluster import ChaosCluster
from corgi.chaos.drain import drain
from corgi.chaos.faults import GAP_MAX_S, KINDS, Kind, Victim
from corgi.chaos.health import Healed, busiest, wait_healthy
from corgi.chaos.logs import leaderships
from corgi.chaos.namespaces import Namespaces
from corgi.chaos.recorder import Recorder
from corgi.chaos.schedule import Turn, turns
from corgi.chaos.work import name_of
from corgi.chaos.workers import FAR, OUT
from corgi.client.corgi import Corgi, connect
from corgi.history.lines import DrainLine, FaultLine, HealedLine, LeaderLine, UnfinishedLine
from corgi.history.loading import read_history, without_collector
from corgi.history.model import History, Limits
from corgi.history.verdicts import Verdict, judge
from corgi.server.local import LocalNode, LocalOptions

WARM_S = 1.0
AFTER_S = 2.0  # the load goes on for so long after the last fault
HISTORY = "history.jsonl"
SECONDS_MAX = 86_400.0


@dataclass(frozen=True, slots=True)
class ChaosOptions:
    """``rate``: publishes per second to each partition, of all producers together. ``folder`` is empty or not there."""

    folder: Path
    seed: int
    seconds: float = 60.0
    nodes: int = 3
    faults: tuple[str, ...] = tuple(KINDS)
    partitions: int = 8
    producers: int = 2
    rate: float = 50.0
    size: int = 500
    suspicion_ms: int = 150
    write_gap_ms: int | None = None
    patience_s: float = 30.0  # for whatever has to end once all is healed
    program: str = "corgi.chaos.node_process"  # the module that is a node
    network: Namespaces | None = None  # that of ``namespaces.made``, if the run is within it; None: proxies
    network_reason: str = ""  # why the network is what it is, if that was not wanted

    def check(self) -> None:
        """Raises CorgiError "invalid-argument"."""
        ranges = (
            ("seconds", self.seconds, 1, SECONDS_MAX),
            ("nodes", self.nodes, 1, NODES_MAX),
            ("partitions", self.partitions, 1, 100),
            ("producers", self.producers, 1, 16),
            ("rate", self.rate, 1, 1_000),
            ("size", self.size, 1, 1 << 20),
        )
        for name, value, least, most in ranges:
            if not least <= value <= most:
                raise CorgiError("invalid-argument", f"{name} = {value:g}: expected {least:g} to {most:g}")
        for fault in self.faults:
            if fault not in KINDS:
                hint = "there are " + ", ".join(KINDS)
                raise CorgiError("invalid-argument", f"{fault!r} is no kind of fault", hint=hint)
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise CorgiError("invalid-argument", f"{self.folder} is not an empty folder", hint="name another: --dir")

    def check_faults(self) -> None:
        """Raises CorgiError "invalid-argument" for a kind of fault that such a network does not have."""
        for fault in self.faults:
            if KINDS[fault].needs_packets and self.network is None:
                hint = "it needs Linux and root: --network namespaces"
                raise CorgiError("invalid-argument", f"{fault}: proxies cannot lose packets", hint=hint)

    @property
    def network_kind(self) -> Literal["namespaces", "proxies"]:
        return "proxies" if self.network is None else "namespaces"

    @property
    def network_words(self) -> str:
        words = "through proxies" if self.network is None else "in network namespaces"
        return f"{words} ({self.network_reason})" if self.network_reason else words

    @property
    def kinds(self) -> list[Kind]:
        """What can be done to so many nodes: one node alone has no links to break and no copy of a lost disk."""
        kinds = [KINDS[name] for name in self.faults]
        if self.nodes == 1:
            kinds = [
                k
                for k in kinds
                if k.name in ("kill", "kill-worker", "kill-all", "pause", "restart", "hide", "torn-tail")
            ]
        elif self.nodes == 2:
            kinds = [k for k in kinds if k.part != "disk" or k.name == "torn-tail"]
        return [kind for kind in kinds if self.network is not None or not kind.needs_packets]


class Rejoin(NamedTuple):
    """A node that was started again during a fault: when all was healed (monotonic seconds), how long it took from then
    until it voted and until it held everything, and the bytes that it got of other nodes for that."""

    kind: str
    node: int
    healed: float
    voting_s: float
    whole_s: float
    received_bytes: int


@dataclass(frozen=True, slots=True)
class Run:
    """What is left of a run."""

    options: ChaosOptions
    history: History
    verdicts: list[Verdict]
    began: float
    ended: float
    interrupted: bool
    rejoins: list[Rejoin]

    @property
    def ok(self) -> bool:
        return all(verdict.good for verdict in self.verdicts)


Tell = Callable[[str], None]


async def run_chaos(options: ChaosOptions, tell: Tell = lambda _: None, stop: asyncio.Event | None = None) -> Run:
    """The whole run; ``tell`` is told what happens, ``stop`` ends the faults early: all is healed and judged then.

    Everything started is ended. Raises CorgiError when the run itself could not be made.
    """
    options.check()
    options.folder.mkdir(parents=True, exist_ok=True)
    conductor = _Conductor(options, tell, stop or asyncio.Event())
    try:
        return await conductor.run()
    finally:
        await conductor.close()


class _Conductor:
    def __init__(self, options: ChaosOptions, tell: Tell, stop: asyncio.Event) -> None:
        self._options = options
        self._tell = tell
        self._stop = stop
        local = LocalOptions(
            options.folder / "cluster",
            nodes=options.nodes,
            suspicion_ms=options.suspicion_ms,
            program=(options.program,),
        )
        self._cluster = ChaosCluster(local, options.network)
        load = Load(options.producers, options.partitions, options.rate, options.size, options.seed, options.patience_s)
        cluster = self._cluster
        self._clients = ClientProcesses(options.folder, load, lambda: cluster.native, cluster.client_namespace)
        self._faults: list[FaultLine] = []
        self._rejoins: list[Rejoin] = []
        self._unfinished: list[str] = []
        self._healed = 0.0

    async def run(self) -> Run:
        options = self._options
        nodes = "one node" if options.nodes == 1 else f"{options.nodes} nodes"
        self._tell(f"seed {options.seed}: {nodes}, {len(options.kinds)} kinds of faults, {options.network_words}")
        await asyncio.to_thread(self._cluster.start)
        began = time.monotonic()
        async with connect(",".join(node.native for node in self._cluster.nodes)) as mq:
            await mq.topics.create(TOPIC, partitions=options.partitions)
            for topic in (OUT, FAR):
                await mq.topics.create(topic, partitions=options.partitions, colocate_with=TOPIC)
            await self._clients.start()
            await self._sleep(WARM_S)
            await self._torment(mq, time.monotonic() + options.seconds)
            await self._heal(mq)
            await self._sleep(AFTER_S)
            self._tell("clients finish")
            self._unfinished += await self._clients.finish(mq)
            path = options.folder / HISTORY
            with Recorder(path) as recorder:
                await self._write_down(mq, recorder)
        self._tell("judging the history")
        limits = Limits(options.write_gap_ms / 1000 if options.write_gap_ms else None, options.patience_s)
        history, verdicts = await asyncio.to_thread(_judged, path, limits)
        return Run(options, history, verdicts, began, time.monotonic(), self._stop.is_set(), self._rejoins)

    async def close(self) -> None:
        await self._clients.close()
        await asyncio.to_thread(self._cluster.stop, grace_s=0.0)

    # faults

    async def _torment(self, mq: Corgi, until: float) -> None:
        options = self._options
        if not options.kinds:
            await self._sleep(until - time.monotonic())
            return
        for number, turn in enumerate(turns(options.kinds, options.nodes, options.seed)):
            if self._stop.is_set() or time.monotonic() >= until:
                return
            chance = random.Random(f"turn {number} of {options.seed}")
            running = {node.node: node.pid for node in self._cluster.nodes}
            done: dict[int, str] = {}  # to which nodes, the last fault
            async with asyncio.TaskGroup() as tasks:
                for at, kind in enumerate(turn.kinds):
                    node = await self._target(mq, turn, at)
                    healthy = lambda: self._wait_healthy(mq)  # noqa: E731 - a name for one line
                    victim = Victim(self._cluster, node, turn.hold_s[at], chance, healthy, self._clients.kill_worker)
                    tasks.create_task(self._inject(kind, victim, turn))
                    done[node] = kind.name
            anew = {n: kind for n, kind in done.items() if self._cluster.node(n).pid != running[n]}
            await self._note_rejoins(mq, anew)
            await self._sleep(turn.calm_s)

    async def _target(self, mq: Corgi, turn: Turn, at: int) -> int:
        wanted = turn.places[at] + 1
        if turn.aims[at] < turn.kinds[at].aims_at_leader:
            return await busiest(mq) or wanted
        return wanted

    async def _inject(self, kind: Kind, victim: Victim, turn: Turn) -> None:
        """Two faults at once may take a majority away, as often as not until one of them ends: no limit is promised."""
        began = time.monotonic()
        self._tell(f"{kind.name}: node {victim.node}, {victim.hold_s:.1f} s")
        detail = await kind.act(victim)
        others = [other.name for other in turn.kinds if other is not kind]
        if others:
            detail += f"; together with {', '.join(others)}"
        alone = not others and kind.leaves_majority and self._options.nodes > 2
        target, ended = f"node {victim.node}", time.monotonic()
        self._faults.append(
            FaultLine(kind.name, target, began, ended, detail.strip("; "), GAP_MAX_S if alone else None)
        )

    async def _heal(self, mq: Corgi) -> None:
        self._tell("healing")
        self._cluster.network.heal()
        self._cluster.resume_all()
        for node in self._cluster.nodes:
            self._cluster.suffer(node.node)
        down = [node for node in self._cluster.nodes if not node.pid]
        if down:
            await asyncio.to_thread(self._cluster.start_nodes, down)
        self._healed = time.monotonic()
        await self._wait_healthy(mq)

    async def _note_rejoins(self, mq: Corgi, anew: dict[int, str]) -> None:
        """Wait until all is well, and note how long that took the nodes that were started ``anew``, by which fault."""
        ended = time.monotonic()
        healed = await self._wait_healthy(mq)
        if healed is None:
            return
        for node, kind in anew.items():
            received = healed.received_bytes(node)
            self._rejoins.append(Rejoin(kind, node, ended, healed.voting_s, healed.whole_s, received))

    async def _wait_healthy(self, mq: Corgi) -> Healed | None:
        """None if one does not recover: that is a finding. Raises CorgiError when a node cannot be started."""
        for node, code in self._cluster.ended():
            self._unfinished.append(f"node {node.node} ended by itself, with {code}; see {node.log}")
            await asyncio.to_thread(self._cluster.start_nodes, [node])
        try:
            return await wait_healthy(mq, self._options.nodes, self._options.patience_s)
        except CorgiError as error:
            if error.code != "timeout":
                raise
            self._unfinished.append(error.message)
            self._stop.set()
            return None

    # the record

    async def _write_down(self, mq: Corgi, recorder: Recorder) -> None:
        recorder.head("corgi chaos")
        for part in self._clients.parts:
            recorder.copy(part)
            part.unlink()
        for line in self._clients.checkpoints:
            recorder.write(line)
        for fault in self._faults:
            recorder.write(fault)
        recorder.write(HealedLine(self._healed))
        for group, node, at in leaderships([node.log for node in self._cluster.nodes]):
            recorder.write(LeaderLine(group, f"node {node}", at))
        await self._drain(mq, recorder)
        for text in self._unfinished:
            recorder.write(UnfinishedLine(text))

    async def _drain(self, mq: Corgi, recorder: Recorder) -> None:
        self._tell("draining every node")
        for topic in (TOPIC, OUT, FAR):
            await self._drain_topic(mq, recorder, topic)

    async def _drain_topic(self, mq: Corgi, recorder: Recorder, topic: str) -> None:
        try:
            async with asyncio.timeout(self._options.patience_s * 2):
                ends = await mq.topics.offsets(topic)
        except (TimeoutError, CorgiError) as error:
            self._unfinished.append(f"the ends of {topic} could not be learned: {error}")
            return
        for node in self._cluster.nodes:
            whole: list[DrainLine] = []
            try:
                async with asyncio.timeout(self._options.patience_s * 2 + self._options.seconds / 10):
                    await self._drain_node(node, topic, ends, whole)
            except (TimeoutError, CorgiError) as error:
                self._unfinished.append(f"node {node.node} could not be drained: {error!r}")
            for line in whole:
                recorder.write(line)

    async def _drain_node(self, node: LocalNode, topic: str, ends: dict[int, int], whole: list[DrainLine]) -> None:
        """Add to ``whole`` what the node serves, a partition only if it was read to its end: what could not be read is
        not lost yet."""
        part: list[DrainLine] = []
        async with contextlib.aclosing(_drained(node.host, node.port, topic, ends)) as parts:
            async for partition, records in parts:
                if part and part[0].partition != partition:
                    whole += part
                    part.clear()
                part.append(DrainLine(f"node {node.node}", topic, partition, records))
        whole += part

    async def _sleep(self, seconds: float) -> None:
        """Or until the run is to stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._stop.wait()


async def _drained(
    host: str, port: int, topic: str, ends: dict[int, int]
) -> AsyncGenerator[tuple[int, tuple[tuple[int, str], ...]], None]:
    async for part in drain(host, port, topic, ends):
        yield part.partition, tuple([(offset, name_of(value)) for offset, value in part.records])


def _judged(path: Path, limits: Limits) -> tuple[History, list[Verdict]]:
    with without_collector():
        with path.open("rb") as file:
            history = read_history(file)
        history.limits = limits
        return history, judge(history)


def remove_data(folder: Path) -> None:
    """What the nodes wrote; history, logs and pictures stay."""
    for node in (folder / "cluster").glob("node-*"):
        if node.is_dir():
            shutil.rmtree(node, ignore_errors=True)
