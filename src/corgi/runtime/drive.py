"""Runs a node in an event loop: joins it with its log, its links, its port and its timer.

Facts come in through this object, each at once handed to the node; at the end of the loop's turn the node is flushed
once, then every socket is written, then the log. A fault of the node itself or of its disk stops it: from then on
nothing is handed over or sent any more.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ParamSpec

from corgi.base.errors import BY_CODE, CorgiError, InvariantError
from corgi.base.ids import NodeId
from corgi.base.ports import ClientSession, Clock, LogRecord, Random, Wal
from corgi.broker.node import Node
from corgi.broker.options import NodeOptions
from corgi.kafka.front import KafkaOptions
from corgi.paxos.messages import Heartbeat, PeerMessage
from corgi.runtime.clock import MonotonicClock, system_random
from corgi.runtime.disk import DiskLog, DiskOptions, DiskStatistics
from corgi.runtime.fault import fault_of
from corgi.runtime.folder import Folder
from corgi.runtime.kafka import KafkaStatistics
from corgi.runtime.kafka_side import KafkaSide
from corgi.runtime.net import Listener, ListenerStatistics
from corgi.runtime.peers import LinkStatistics, Peers
from corgi.runtime.snapshots import SnapshotFiles
from corgi.runtime.store import NodeSnapshots, NodeWal, restore
from corgi.runtime.turn import Turn
from corgi.wire.messages import ErrorReply, WireMessage
from corgi.wire.receiver import Scratch

LATE_S = 0.020  # a timer that fires so late tells of a stall: what arrived meanwhile is looked at first
RECOVERY_SLICE_S = 0.004  # recovery lets the loop turn after this
STOP_S = 3.5  # for a graceful stop, before it is cut short

logger = logging.getLogger("corgi.node")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class DriverStatistics:
    """A snapshot. Lag in seconds: how late timers fired, the last one and the latest of all."""

    turns: int
    lag_s: float
    lag_max_s: float
    late_timers: int
    disk: DiskStatistics
    links: tuple[LinkStatistics, ...]
    clients: ListenerStatistics
    kafka: tuple[tuple[str, KafkaStatistics], ...] = ()  # by listener


@dataclass(frozen=True, slots=True)
class Notes:
    """What a node has to note in its folder, by calls that return when it is durable; all may raise CorgiError."""

    memory_recovered: Callable[[], None]  # its memory groups, from a power loss
    stopped: Callable[[], None]  # and all that it wrote is durable
    sync_failed: Callable[[], None]  # so what it wrote may be lost

    @classmethod
    def of(cls, folder: Folder) -> Notes:
        """Those of an open folder."""
        return cls(folder.mark_memory_recovered, folder.mark_clean, folder.mark_sync_failed)


class Driver:
    """One node on the running event loop (uvloop in the server, asyncio's own will do).

        driver = Driver(options, folder.path, host="127.0.0.1", port=7450, recovered=folder.mark_recovered)
        port = await driver.start()      # recovers, then takes part; raises CorgiError
        await driver.wait()              # returns after stop(); raises the CorgiError that stopped the node
        await driver.stop()              # hands leaderships over, closes everything; also after a failure

    ``data`` is the node's folder, locked by the caller; ``options`` come from its identity. ``addresses`` tells where
    the members are reached (host, port), ``options.addresses`` where clients are sent to; either defaults to the other.
    With port 0 the system chooses: ``bind`` tells which before ``start``, so that nodes can be told of each other.
    ``recovered`` is called once when a replaced disk may be trusted again, ``notes`` for what else the folder has to
    know. ``kafka_listen``: (host, port) by name, where Kafka's clients are served; ``kafka`` says what they are told.
    """

    def __init__(
        self,
        options: NodeOptions,
        data: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        disk: DiskOptions | None = None,
        recovered: Callable[[], None] | None = None,
        notes: Notes | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        make_node: Callable[..., Node] = Node,
        kafka: KafkaOptions | None = None,
        kafka_listen: Mapping[str, tuple[str, int]] | None = None,
    ) -> None:
        self._options = options
        self._data = data
        self._host = host
        self._wanted_port = port
        self._disk_options = disk
        self._recovered = recovered
        self._notes = notes if options.memory_groups else None  # of others nothing depends on how a life ends
        self._sync_failed = False  # and that is not noted yet
        self._clock = clock or MonotonicClock()
        self._random = random or system_random()
        self._make_node = make_node
        self._kafka_options = kafka or KafkaOptions()
        self._kafka_listen = kafka_listen or {}
        self.kafka = KafkaSide(self._fact)
        self.port = 0
        self.failure: CorgiError | None = None
        self.node: Node
        self.disk: DiskLog
        self.snapshots: SnapshotFiles
        self.peers: Peers
        self.listener: Listener | None = None
        self._turn: Turn
        self._loop: asyncio.AbstractEventLoop
        self._ended: asyncio.Future[None]
        self._opened = False
        self._started = False
        self._stopped: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        self._catching_up = False
        self._lag = 0.0
        self._lag_max = 0.0
        self._late = 0

    # -- life -----------------------------------------------------------------------------------------------------

    async def bind(self) -> int:
        """Take the port without answering on it yet. Raises CorgiError "port-in-use", "invalid-configuration"."""
        if self.listener is not None:
            return self.port
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._turn = Turn(self._loop, self._work, self._finish)
        scratch = Scratch()
        options = self._options
        self.peers = Peers(self, self._turn, scratch, options)
        listener = Listener(
            self,
            self.peers,
            self._turn,
            scratch,
            cluster=options.cluster,
            node=options.node,
            software=options.software,
        )
        self.port = await listener.bind(self._host, self._wanted_port)
        self.listener = listener
        await self.kafka.bind(self._kafka_listen, self._turn, scratch)
        return self.port

    async def start(self, addresses: Mapping[NodeId, tuple[str, int]] | None = None) -> int:
        """Recover from the log, then take part in the cluster and serve clients; returns the port.

        Raises CorgiError as ``bind``, ``DiskLog`` and ``Node.recover`` do; the driver is closed then.
        """
        try:
            await self.bind()
            await self._start(addresses)
        except BaseException:
            await self._close()
            raise
        return self.port

    async def wait(self) -> None:
        """Until the node is stopped. Raises the CorgiError that stopped it, if it was not ``stop``."""
        await asyncio.shield(self._ended)
        if self.failure is not None:
            raise self.failure

    async def stop(self, timeout_s: float = STOP_S) -> None:
        """Hand leaderships over, answer what can be answered, close everything. At most ``timeout_s`` and a moment.

        Called again meanwhile, it closes at once.
        """
        if self.listener is None:
            return
        if self._started and self.failure is None and self._stopped is None:
            self._stopped = asyncio.Event()
            self.listener.stop_listening()
            self.kafka.stop_listening()
            self._fact(self.node.stop)
            try:
                await asyncio.wait_for(self._stopped.wait(), timeout_s)
            except TimeoutError:
                logger.warning("stopped without having handed everything over")
        await self._close()

    def statistics(self) -> DriverStatistics:
        """Of a started driver."""
        assert self.listener is not None
        return DriverStatistics(
            turns=self._turn.number,
            lag_s=self._lag,
            lag_max_s=self._lag_max,
            late_timers=self._late,
            disk=self.disk.statistics(),
            links=self.peers.statistics(),
            clients=self.listener.statistics(),
            kafka=self.kafka.statistics(),
        )

    # -- facts: whatever happens calls one of these ---------------------------------------------------------------

    def peer_connected(self, peer: NodeId, incarnation: bytes, version: int) -> None:
        self._fact(self.node.peer_connected, peer, incarnation, version)

    def peer_lost(self, peer: NodeId) -> None:
        self._fact(self.node.peer_lost, peer)

    def peer_message(self, peer: NodeId, message: PeerMessage, payload: memoryview) -> None:
        """Raises CorgiError when the message makes no sense: the link is cut."""
        self._fact(self.node.peer_message, peer, message, payload)

    def heartbeat(self, peer: NodeId, message: Heartbeat) -> None:
        self._fact(self.node.heartbeat, peer, message)

    def client_request(
        self, session: ClientSession, correlation: int, message: WireMessage, payload: memoryview
    ) -> None:
        """One client's request. An unexpected fault in taking it ends that client's connection, not the node: the same
        request would come again, to the next node and the next."""
        try:
            self._fact(self._take_request, session, correlation, message, payload)
        except CorgiError as error:
            session.reply(correlation, ErrorReply(BY_CODE[error.code].number, error.message))

    def _take_request(
        self, session: ClientSession, correlation: int, message: WireMessage, payload: memoryview
    ) -> None:
        try:
            self.node.client_request(session, correlation, message, payload)
        except CorgiError:
            raise
        except Exception as error:  # noqa: BLE001 - see client_request
            fault = fault_of(error)
            logger.error("a client's %s met a fault: %s", type(message).__name__, fault)
            self.node.counters["request_faults"] = self.node.counters.get("request_faults", 0) + 1
            session.fail(fault)

    def client_closed(self, session: ClientSession) -> None:
        self._fact(self.node.client_closed, session)

    def client_drained(self, session: ClientSession) -> None:
        self._fact(self.node.client_drained, session)

    def _log_synced(self, records: Sequence[LogRecord]) -> None:
        self._own(self.node.log_synced, records)

    def _log_written(self, records: Sequence[LogRecord]) -> None:
        self._own(self.node.log_written, records)

    def _group_states(self) -> list[LogRecord]:
        return self.node.group_states()

    def _log_full(self, full: bool) -> None:
        self._own(self.node.log_full, full)

    # -- starting and ending --------------------------------------------------------------------------------------

    async def _start(self, addresses: Mapping[NodeId, tuple[str, int]] | None) -> None:
        options = self._advertised(addresses)
        self.disk = DiskLog(
            self._data,
            options.cluster,
            options.node,
            self._loop,
            self._log_synced,
            self._fail,
            self._group_states,
            self._disk_options,
            on_full=self._log_full,
            on_written=self._log_written,
        )
        self._opened = True
        self.snapshots = SnapshotFiles(self._data, self._loop)
        wal: Wal = NodeWal(self.disk, self._own)
        self.node = self._make_node(
            options, self._clock, self._random, wal, self.peers,
            NodeSnapshots(self.snapshots, self._own),
        )  # fmt: skip
        self.node.identity.recovered = self._recovered
        if self._notes is not None:
            self.node.identity.amnesia.recovered = self._notes.memory_recovered
        first_segment = restore(self.node, self.snapshots)
        since = self._loop.time()
        for record in self.disk.recover(first_segment):
            self.node.recover(record)
            if self._loop.time() - since > RECOVERY_SLICE_S:
                await asyncio.sleep(0)
                since = self._loop.time()
        try:
            self.disk.start()
        except CorgiError as error:
            self._sync_failed = error.code == "disk-failed"
            raise
        self._started = True
        self.node.start()
        assert self.listener is not None
        await self.listener.listen()
        await self.kafka.listen(self.node, self._kafka_options)
        self.peers.start(options.addresses if addresses is None else addresses)
        self._turn.wake()

    def _advertised(self, addresses: Mapping[NodeId, tuple[str, int]] | None) -> NodeOptions:
        """The options with what is known only now: the addresses, and which process this is."""
        told = {**(addresses or {}), **self._options.addresses}
        if told.get(self._options.node, ("", 0))[1] == 0:
            told[self._options.node] = (self._host, self.port)
        return replace(self._options, addresses=told, process_id=os.getpid())

    def _fail(self, error: CorgiError) -> None:
        """The node must not go on: nothing is handed over or sent any more."""
        self._sync_failed |= error.code == "disk-failed"
        if self.failure is not None:
            return
        self.failure = error
        logger.critical("the node has stopped: %s", error)
        if self._timer is not None:
            self._timer.cancel()
        if self.listener is not None:
            self.listener.abort()
        self.kafka.abort()
        self.peers.abort()
        if self._stopped is not None:
            self._stopped.set()
        self._loop.call_soon(self._note_failed_sync)  # behind what ends the links: the note may hang as the disk does
        if not self._ended.done():
            self._ended.set_result(None)

    async def _close(self) -> None:
        listener, self.listener = self.listener, None
        if listener is None:
            return
        try:
            await self._close_all(listener)
        finally:
            if not self._ended.done():
                self._ended.set_result(None)

    async def _close_all(self, listener: Listener) -> None:
        if self._stopped is not None:
            self._stopped.set()
        self.kafka.abort()
        await listener.close()
        await self.peers.close()
        if self._timer is not None:
            self._timer.cancel()
        self._due = -math.inf
        self._started = False
        if self._opened:
            self.snapshots.close()
            rests = self.disk.failed is None
            await self.disk.close()
            if rests and self.failure is None and self._notes is not None and self.disk.at_rest:
                try:
                    self._notes.stopped()
                except CorgiError as error:  # as if it had been killed
                    logger.warning("stopped in good order, which cannot be noted: %s", error)
            self._note_failed_sync()

    def _note_failed_sync(self) -> None:
        """So what was written may be lost with the power, although the next life can read it."""
        if not self._sync_failed or self._notes is None:
            return
        self._sync_failed = False
        try:
            self._notes.sync_failed()
        except CorgiError as error:
            what = "that cannot be noted, restart the computer before the node: votes of memory groups may be lost: %s"
            logger.critical(what, error)

    # -- the turn of the loop -------------------------------------------------------------------------------------

    def _fact(self, tell: Callable[P, None], *arguments: P.args, **named: P.kwargs) -> None:
        """Hand a fact of the outside world to the node; raises the CorgiError with which the node rejects it."""
        if self.failure is not None or not self._started:
            return
        self._turn.wake()  # first, so that the turn comes before whatever this causes: the log then writes once
        try:
            tell(*arguments, **named)
        except InvariantError as error:
            self._fail(error)
        except CorgiError:
            raise
        except Exception as error:  # noqa: BLE001 - a fault of our own, whatever it is, ends the node
            self._fail(fault_of(error))

    def _own(self, call: Callable[P, None], *arguments: P.args, **named: P.kwargs) -> None:
        """As ``_fact`` for what nobody outside can be blamed for: any error ends the node."""
        try:
            self._fact(call, *arguments, **named)
        except CorgiError as error:
            self._fail(error)

    def _work(self) -> None:
        """The middle of a turn: after the facts, before the sockets are written."""
        if not self._started or self.failure is not None:
            return
        try:
            self.node.flush()
        except CorgiError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - as in _fact
            self._fail(fault_of(error))
        else:
            if self.node.unflushed:
                self._turn.wake()
            if self.node.stopped and self._stopped is not None:
                self._stopped.set()

    def _finish(self) -> None:
        """The end of a turn: what was appended goes to the disk, and the timer is set."""
        if self._started and self.failure is None:
            self.disk.flush()
            self._arm()

    def _arm(self) -> None:
        """Have the timer fire at the node's next deadline; one that fires too early arms anew."""
        if self._catching_up:
            return
        deadline = self.node.next_deadline()
        if deadline is None or deadline >= self._due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = deadline
        # Loops count timers in ms: rounded up, or they fire before the deadline and spin.
        delay_ms = max(1, math.ceil((deadline - self._clock.now()) * 1000))
        self._timer = self._loop.call_later(delay_ms / 1000, self._timed)

    def _timed(self) -> None:
        """The deadline has come. After a stall the beats of the others lie unread in the sockets: (1) a timer fires
        late; (2) the node is told, so that it blames nobody for that time; (3) the loop reads what is there, once
        around; (4) only then the node looks at the clock."""
        due, self._due = self._due, math.inf
        self._timer = None
        self._lag = max(0.0, self._clock.now() - due)
        if self._lag > self._lag_max:
            self._lag_max = self._lag
            self.node.counters["loop_lag_max_ms"] = round(self._lag * 1000, 1)
        if self._lag <= LATE_S:
            self._own(self.node.advance)
            return
        self._late += 1
        self.node.counters["loop_stalls"] = self._late
        self._own(self.node.loop_lag, self._lag)
        self._catching_up = True
        self._loop.call_soon(self._loop.call_soon, self._caught_up)

    def _caught_up(self) -> None:
        self._catching_up = False
        self._own(self.node.advance)
