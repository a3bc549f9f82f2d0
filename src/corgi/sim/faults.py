"""Faults, swarm fashion: each seed draws which kinds it has and how often, so that rare pairs meet undisturbed.

A fault has a beginning and an end of its own; at most one of those that lose a disk is under way, and never beside
another node's absence, because with a majority gone for good no protocol keeps its promises. ``heal`` ends all.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, permutations

from corgi.base.ids import NodeId
from corgi.sim.cluster import Cluster, Image
from corgi.sim.damage import Damage
from corgi.sim.network import Trouble
from corgi.sim.process import Process
from corgi.sim.sessions import Front

KINDS = (
    "kill", "kill-in-flight", "mumble", "power", "power-all", "pause", "stall", "stop",
    "isolate", "split", "one-way", "bridge", "chain", "ring", "cut",
    "slow-link", "lossy-link", "doubling-link", "shuffling-link",
    "slow-disk", "stuck-disk", "full-disk", "failed-sync", "clock-jump", "client-cut", "hide",
    "wipe", "bit-flip", "header-flip", "lost-segment", "old-disk",
)  # fmt: skip
RARE = frozenset(
    {"power-all", "wipe", "bit-flip", "header-flip", "lost-segment", "old-disk", "stop", "clock-jump", "failed-sync"}
)
COMMON_CHANCE, RARE_CHANCE = 0.35, 0.2
LAST_S = 20.0
LATE_S = 15.0
ALONE_S = 2.0  # how long at most a fault lasts that befalls the only node
SETTLE_S = 4.0  # undisturbed time that a node with a lost disk gets to recover
ALL_FULL_SHARE = 0.3  # of full disks befall every node


class Faults:
    """Injects faults until ``heal``. All chance comes from its own stream."""

    def __init__(self, cluster: Cluster, front: Front, *, only: tuple[str, ...] | None = None) -> None:
        self.cluster = cluster
        self.front = front
        self.world = cluster.world
        self.chance = self.world.stream("faults")
        enabled = tuple(
            kind for kind in KINDS if self.chance.random() < (RARE_CHANCE if kind in RARE else COMMON_CHANCE)
        )
        self.enabled = only if only is not None else enabled or ("kill",)
        self.pace = self.chance.choice((0.4, 0.8, 1.5, 3.0))  # mean seconds between faults
        self.length = self.chance.choice((0.3, 1.0, 3.0))  # mean seconds that one lasts
        self.injected = 0
        self.damage = Damage(cluster, self.chance)
        self.healed = False
        self._quiet_until = 0.0
        cluster.on_exit.append(self._restart_stopped)
        self._image: tuple[NodeId, Image] | None = None
        self._inject: dict[str, Callable[[], bool]]
        self._inject = {kind: getattr(self, "_" + kind.replace("-", "_")) for kind in KINDS}

    def start(self, at: float) -> None:
        self.world.note("faults", f"enabled {' '.join(self.enabled)}")
        self.world.at(at, self._next)
        self.world.at(LAST_S, self._at_least_one)

    def _at_least_one(self) -> None:
        """A run in which nothing befell the cluster proves nothing."""
        if not self.injected:
            self._try("kill")

    def heal(self) -> None:
        """End every fault and start every node."""
        self.healed = True
        self.cluster.on_turn = None
        self.world.note("faults", "heal")
        self.cluster.network.slow.clear()
        self.cluster.network.loss.clear()
        self.cluster.network.trouble.clear()
        self.cluster.network.unblock_all()
        self.front.unreachable.clear()
        for node in self.cluster.members:
            self.cluster.resume(node)
            disk = self.cluster.computers[node].disk
            disk.slow = disk.stuck_until = 0.0
            disk.on_write = None
            disk.full = disk.fails_next_sync = False
            self.cluster.start(node)

    def _restart_stopped(self, process: Process) -> None:
        """A node that was asked to stop has done so only after healing."""
        if self.healed:
            self.world.after(0.1, self.cluster.start, process.id)

    def _next(self) -> None:
        if self.healed:
            return
        self.world.after(self.chance.expovariate(1.0) * self.pace, self._next)
        if self.world.now < self._quiet_until:
            return
        kind = self.chance.choice(self.enabled)
        if not self.injected and self.world.now > LATE_S:
            kind = "kill"  # what the seed drew cannot happen in this cluster
        self._try(kind)

    def _try(self, kind: str) -> None:
        if self._inject[kind]():
            self.injected += 1
            self.cluster.count(f"fault {kind}")

    # ---- what goes

    def _lasting(self) -> float:
        """Seconds. While the only node is away nothing happens that could go wrong."""
        seconds = 0.02 + self.chance.expovariate(1.0) * self.length
        return seconds if len(self.cluster.members) > 1 else min(seconds, ALONE_S)

    def _later(self, delay: float, call: Callable[..., object], *arguments: object) -> None:
        def unless_healed() -> None:
            if not self.healed:
                call(*arguments)

        self.world.after(delay, unless_healed)

    def _any_up(self) -> NodeId | None:
        up = self.cluster.up()
        return self.chance.choice(up) if up else None

    # ---- processes

    def _leader(self) -> NodeId | None:
        """A node that leads something, more often than not."""
        up = self.cluster.up()
        leaders = [
            node
            for node in up
            if (process := self.cluster.process_of(node)) is not None
            and any(g.replica.leading for g in process.node.groups)
        ]
        return self.chance.choice(leaders) if leaders and self.chance.random() < 0.6 else self._any_up()

    def _kill(self) -> bool:
        node = self._leader()
        if node is None:
            return False
        self.cluster.kill(node)
        self._later(self._lasting(), self.cluster.start, node)
        return True

    def _kill_in_flight(self) -> bool:
        """Kill the next leader that has several slots under way: what it leaves behind may have gaps."""

        def look(process: Process) -> None:
            flights = (len(group.replica.tenure.flights) for group in process.node.groups if group.replica.tenure)
            if max(flights, default=0) > 1:
                self.cluster.on_turn = None
                self._later(self.chance.random() * 0.001, self._kill_again, process.id)

        self.cluster.on_turn = look
        return True

    def _mumble(self) -> bool:
        """A leader loses half of what it says for a moment and dies before it could repeat itself: that leaves gaps."""
        node = self._leader()
        if node is None or not self.cluster.network.options.datagrams:
            return False
        self.cluster.network.loss[node] = 0.5
        self._later(0.02 + self.chance.random() * 0.08, self._fall_silent, node)
        return True

    def _fall_silent(self, node: NodeId) -> None:
        self.cluster.network.loss.pop(node, None)
        self._kill_again(node)

    def _kill_again(self, node: NodeId) -> None:
        self.cluster.kill(node)
        self._later(self._lasting(), self.cluster.start, node)

    def _power(self) -> bool:
        """Often in the middle of a write, when there is something to tear."""
        node = self._leader()
        if node is None:
            return False
        if self.chance.random() < 0.3:
            self._power_off(node)
        else:
            self.cluster.computers[node].disk.on_write = lambda done: self._power_off_before(node, done)
        return True

    def _power_off_before(self, node: NodeId, done: float) -> None:
        self._later(self.chance.random() * (done - self.world.now), self._power_off, node)

    def _power_off(self, node: NodeId) -> None:
        self.cluster.kill(node, power=True)
        self._later(self._lasting(), self.cluster.start, node)

    def _power_all(self) -> bool:
        for node in self.cluster.members:
            self.cluster.kill(node, power=True)
            self._later(self._lasting(), self.cluster.start, node)
        return True

    def _pause(self) -> bool:
        node = self._leader()
        if node is None:
            return False
        self.cluster.pause(node)
        self._later(self._lasting(), self.cluster.resume, node)
        return True

    def _stall(self) -> bool:
        """A loop stands still for about as long as others take to become suspicious, and nothing else is wrong."""
        node = self._leader()
        if node is None:
            return False
        self.cluster.pause(node)
        self._later(0.2 + self.chance.random() * 0.2, self.cluster.resume, node)
        return True

    def _stop(self) -> bool:
        node = self._any_up()
        if node is None:
            return False
        self.cluster.stop(node)
        self._later(1.0 + self._lasting(), self.cluster.start, node)
        return True

    # ---- links

    def _block(self, ways: list[tuple[NodeId, NodeId]]) -> bool:
        reset = self.chance.random() < 0.3
        for source, target in ways:
            self.cluster.network.block(source, target, reset=reset)
        self.world.note("faults", f"block {' '.join(f'{a}>{b}' for a, b in ways)}{' with reset' if reset else ''}")
        self._later(self._lasting(), self._unblock, ways)
        return bool(ways)

    def _unblock(self, ways: list[tuple[NodeId, NodeId]]) -> None:
        self.world.note("faults", f"unblock {' '.join(f'{a}>{b}' for a, b in ways)}")
        for source, target in ways:
            self.cluster.network.unblock(source, target)

    def _between(self, one: list[NodeId], other: list[NodeId]) -> list[tuple[NodeId, NodeId]]:
        return [way for a in one for b in other if a != b for way in ((a, b), (b, a))]

    def _isolate(self) -> bool:
        node = self._leader() or self.cluster.members[0]
        return self._block(self._between([node], list(self.cluster.members)))

    def _split(self) -> bool:
        members = list(self.cluster.members)
        self.chance.shuffle(members)
        at = self.chance.randrange(1, len(members)) if len(members) > 1 else 1
        return self._block(self._between(members[:at], members[at:]))

    def _one_way(self) -> bool:
        if len(self.cluster.members) < 2:
            return False
        source, target = self.chance.sample(self.cluster.members, 2)
        return self._block([(source, target)])

    def _bridge(self) -> bool:
        """One node reaches all; the others are cut into two sides that do not reach each other."""
        members = list(self.cluster.members)
        self.chance.shuffle(members)
        sides = members[1:]
        half = len(sides) // 2
        return self._block(self._between(sides[:half], sides[half:])) if half else False

    def _chain(self) -> bool:
        """Each node reaches its neighbours only."""
        members = list(self.cluster.members)
        self.chance.shuffle(members)
        far = [(a, b) for (i, a), (j, b) in combinations(enumerate(members), 2) if j - i > 1]
        return self._block([way for a, b in far for way in ((a, b), (b, a))])

    def _ring(self) -> bool:
        """Each node reaches its two neighbours in a ring, or only the next one: what comes back comes round."""
        members = list(self.cluster.members)
        if len(members) < 3:
            return False
        self.chance.shuffle(members)
        steps = (1,) if len(members) == 3 or self.chance.random() < 0.5 else (1, len(members) - 1)
        ways = [(a, b) for (i, a), (j, b) in permutations(enumerate(members), 2) if (j - i) % len(members) not in steps]
        return self._block(ways)

    def _cut(self) -> bool:
        if len(self.cluster.members) < 2:
            return False
        one, other = self.chance.sample(self.cluster.members, 2)
        self.cluster.network.cut(one, other)
        return True

    def _slow_link(self) -> bool:
        node = self.chance.choice(self.cluster.members)
        self.cluster.network.slow[node] = self.chance.choice((0.005, 0.03, 0.12, 0.4))
        self._later(self._lasting(), self.cluster.network.slow.pop, node, None)
        return True

    def _lossy_link(self) -> bool:
        return self._trouble(Trouble(drop=self.chance.choice((0.02, 0.2, 0.6))))

    def _doubling_link(self) -> bool:
        return self._trouble(Trouble(duplicate=self.chance.choice((0.1, 0.9))))

    def _shuffling_link(self) -> bool:
        return self._trouble(Trouble(overtake=self.chance.choice((0.05, 0.5))))

    def _trouble(self, trouble: Trouble) -> bool:
        """One direction between two nodes, or all that one node says."""
        if len(self.cluster.members) < 2:
            return False
        source, target = self.chance.sample(self.cluster.members, 2)
        every = self.chance.random() < 0.3
        for way in [(source, other) for other in self.cluster.members if other == target or every]:
            self.cluster.network.trouble[way] = trouble
            self._later(self._lasting(), self.cluster.network.trouble.pop, way, None)
        self.world.note("faults", f"{trouble} from {source} to {'all' if every else target}")
        return True

    # ---- disks and clocks

    def _slow_disk(self) -> bool:
        disk = self.cluster.computers[self.chance.choice(self.cluster.members)].disk
        disk.slow = self.chance.choice((0.005, 0.03, 0.15))
        self._later(self._lasting(), setattr, disk, "slow", 0.0)
        return True

    def _stuck_disk(self) -> bool:
        node = self._leader()
        if node is None:
            return False
        self.cluster.computers[node].disk.stuck_until = self.world.now + self._lasting()
        return True

    def _full_disk(self) -> bool:
        """No room for another segment, for long enough that one is wanted; now and then on all disks at once."""
        one, share = self.chance.choice(self.cluster.members), self.chance.random()
        for node in self.cluster.members if share < ALL_FULL_SHARE else (one,):
            disk = self.cluster.computers[node].disk
            disk.full = True
            self._later(2.0 + share * 6.0, setattr, disk, "full", False)
        return True

    def _failed_sync(self) -> bool:
        """The next sync fails, the node stops, and comes back; perhaps behind a power loss, or before one."""
        node = self._leader()
        if node is None:
            return False
        self.cluster.computers[node].disk.fails_next_sync = True
        self._later(0.1 + self._lasting(), self.cluster.start, node)
        if self.chance.random() < 0.5:
            self._later(0.1 + self._lasting(), self._power_off, node)
        return True

    def _clock_jump(self) -> bool:
        clock = self.cluster.computers[self.chance.choice(self.cluster.members)].clock
        clock.jump(self.chance.choice((-20_000, -1_500, 700, 3_000, 60_000)))
        return True

    # ---- clients

    def _client_cut(self) -> bool:
        self.front.cut(self.chance.choice(self.cluster.members))
        return True

    def _hide(self) -> bool:
        """No client reaches this node, while its peers do."""
        node = self.chance.choice(self.cluster.members)
        self.front.unreachable.add(node)
        self.front.cut(node)
        self._later(self._lasting(), self.front.unreachable.discard, node)
        return True

    # ---- lost disks

    def _calm(self) -> bool:
        """Every node votes, and no link is blocked: one disk may be lost now."""
        return (
            not self.cluster.network.blocked
            and len(self.cluster.members) > 2
            and all(self.cluster.trusted(node) for node in self.cluster.members)
            and self.damage.clean
        )

    def _lose(self, node: NodeId, how: Callable[[], object]) -> None:
        self.cluster.kill(node)
        how()
        self._quiet_until = self.world.now + SETTLE_S
        self._later(0.02 + self.chance.random() * 0.5, self.cluster.start, node)

    def _wipe(self) -> bool:
        if not self._calm():
            return False
        node = self.chance.choice(self.cluster.members)
        self._lose(node, lambda: self.cluster.wipe(node))
        return True

    def _bit_flip(self) -> bool:
        """Values go wrong, each on a minority of the nodes. Nobody may notice for long, or all restart at once."""
        how = self.chance.random()
        if how < 0.3:
            for node in self.cluster.members:
                self.cluster.kill(node, power=how < 0.1)
                self._later(self._lasting(), self.cluster.start, node)
        elif how < 0.6 and (victim := self._leader()) is not None:
            self.cluster.kill(victim)
            self._later(self._lasting(), self.cluster.start, victim)
        flipped = self.damage.flip_values(1 + self.chance.randrange(8), newest=how < 0.3)
        self.cluster.count("flipped_values", flipped)
        return flipped > 0 or how < 0.3

    def _header_flip(self) -> bool:
        if not self._calm():
            return False
        node = self.chance.choice(self.cluster.members)
        if self.cluster.options.scrub_bytes_s and self.chance.random() < 0.5:
            return self.damage.flip_header(node)  # the scrubber may find it, or a later restart
        self._lose(node, lambda: self.damage.flip_header(node))
        return True

    def _lost_segment(self) -> bool:
        if not self._calm():
            return False
        node = self.chance.choice(self.cluster.members)
        self._lose(node, lambda: self.damage.lose_segment(node))
        return True

    def _old_disk(self) -> bool:
        """The first time an image is taken, later it is put back.

        Only when every peer has durably noted that the log had grown since. A copy that is younger than that is what a
        crash would leave without its last moments, which no peer can tell from a synced log that lost them.
        """
        if self._image is None:
            node = self.chance.choice(self.cluster.members)
            if self.cluster.process_of(node) is not None:
                self._image = (node, self.cluster.image(node))
            return False
        node, image = self._image
        if not self._calm() or not self.cluster.outdated(node, image):
            return False
        self._image = None
        self._lose(node, lambda: self.cluster.put_back(node, image))
        if self.chance.random() < 0.4:  # and those who knew better restart before they are asked
            for other in self.cluster.members:
                if other != node:
                    self._power_off(other)
        return True
