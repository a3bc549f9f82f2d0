"""The links to the nodes: all of them are kept open, so that failing over needs no connecting.

A node may be known by several addresses (a seed and what the cluster advertises); it gets one link. A link
that is silent is asked whether it lives, and given up if it says nothing. All links lead to one cluster: the
one that the first node to greet belongs to stays the client's, and ``disagreement`` tells when a seed is of another.
"""

from __future__ import annotations

from collections.abc import Iterable

from corgi.base.errors import CorgiError
from corgi.base.ids import NodeId
from corgi.client.core.backoff import Backoff
from corgi.client.core.links import Address, Answer, Chance, Clock, Dialer, Link
from corgi.client.core.options import ClientOptions
from corgi.client.core.routing import NO_NODE, Routing
from corgi.wire.messages import HelloReply, Ping

LAG_S = 0.5  # if we ourselves were away for so long, silence says nothing about the others


class Peer:
    """One address, with the node behind it as far as known."""

    __slots__ = ("address", "backoff", "cluster", "dial_at", "dialing", "error", "node", "seed")

    def __init__(self, address: Address, backoff: Backoff, *, seed: bool) -> None:
        self.address = address
        self.backoff = backoff
        self.seed = seed
        self.cluster = ""  # that it told of last
        self.node = NO_NODE
        self.dialing = False
        self.dial_at = 0.0
        self.error: CorgiError | None = None


class Watch:
    """When an open link was last asked whether it lives, and since when it was suspected as it was asked last."""

    __slots__ = ("asked_at", "node", "peer", "suspected_at")

    def __init__(self, node: NodeId, peer: Peer | None) -> None:
        self.node = node
        self.peer = peer
        self.asked_at = -1.0  # no question is open
        self.suspected_at = -1.0


class Peers:
    """Dials, remembers, watches."""

    def __init__(self, options: ClientOptions, routing: Routing, clock: Clock, chance: Chance, dialer: Dialer) -> None:
        self._options = options
        self._routing = routing
        self._clock = clock
        self._chance = chance
        self._dialer = dialer
        self._peers: dict[Address, Peer] = {}
        self._links: dict[Link, Watch] = {}
        self._advanced_at = clock.now()
        self._cluster = options.cluster
        self._closed = False
        self.disagreement: CorgiError | None = None  # two seeds belong to different clusters

    def know(self, addresses: Iterable[Address], node: NodeId = NO_NODE) -> None:
        """Seeds, or, with its number, the address that the cluster tells of a node."""
        for address in addresses:
            peer = self._peers.get(address)
            if peer is None:
                backoff = Backoff(self._options.redial_min_s, self._options.redial_max_s, self._chance)
                peer = self._peers[address] = Peer(address, backoff, seed=not node)
            if node:
                peer.node = node

    def link_up(self, link: Link, hello: HelloReply, address: Address) -> bool:
        """A handshake is done; False if the link is not wanted (it is closed then)."""
        peer = self._peers.get(address)
        if peer is not None:
            peer.dialing = False
            peer.cluster = hello.cluster
            peer.error = None
        if self._cluster and hello.cluster != self._cluster:
            error = CorgiError("wrong-cluster", f"{address} belongs to cluster {hello.cluster}, not {self._cluster}")
            if peer is not None:
                peer.error = error
                peer.dial_at = self._clock.now() + peer.backoff.next()
                self._compare(peer)
            link.close()
            return False
        if peer is not None:
            peer.node = hello.node
        if self._closed or hello.node in self._routing.links:
            link.close()
            return False
        self._cluster = hello.cluster
        if peer is not None:
            peer.backoff.reset()
        self._links[link] = Watch(hello.node, peer)
        self._routing.links[hello.node] = link
        self._routing.suspected.pop(hello.node, None)
        return True

    def link_lost(self, link: Link, error: CorgiError) -> NodeId:
        """Returns the node that was behind it, NO_NODE if the link was not in use."""
        watch = self._links.pop(link, None)
        if watch is None:
            return NO_NODE
        self._routing.links.pop(watch.node, None)
        self._routing.suspected.pop(watch.node, None)
        if watch.peer is not None:
            watch.peer.error = error
            watch.peer.dial_at = self._clock.now() + watch.peer.backoff.next()
        return watch.node

    def dial_failed(self, address: Address, error: CorgiError) -> None:
        peer = self._peers.get(address)
        if peer is not None:
            peer.dialing = False
            peer.error = error
            peer.dial_at = self._clock.now() + peer.backoff.next()

    def advance(self, now: float) -> None:
        """Dial who is due, ask who is silent, give up who stays silent."""
        if self._closed:
            return
        for peer in self._peers.values():
            if not peer.dialing and peer.node not in self._routing.links and peer.dial_at <= now:
                peer.dialing = True
                self._dialer.dial(peer.address)
        lagged = now - self._advanced_at > LAG_S + self._options.ping_s
        self._advanced_at = now
        for link, watch in list(self._links.items()):
            self._listen(link, watch, now, lagged)

    def next_deadline(self) -> float | None:
        if self._closed:
            return None
        times = [
            peer.dial_at for peer in self._peers.values() if not peer.dialing and peer.node not in self._routing.links
        ]
        if self._links:
            times.append(self._advanced_at + self._options.ping_s / 2)
        return min(times, default=None)

    def errors(self) -> list[str]:
        """Why nobody can be reached, one line for each address."""
        return [f"{peer.address}: {peer.error.message}" for peer in self._peers.values() if peer.error]

    def worst_error(self) -> CorgiError | None:
        """An error that no patience will mend."""
        errors = [peer.error for peer in self._peers.values() if peer.error is not None]
        if len(errors) < len(self._peers):
            return None
        return next((error for error in errors if not error.retryable), None)

    def seeds_told(self) -> bool:
        """Has every seed greeted, or said why not?"""
        return all(peer.cluster or peer.error is not None for peer in self._peers.values() if peer.seed)

    def close(self) -> None:
        self._closed = True
        for link in list(self._links):
            link.close()

    def _compare(self, stranger: Peer) -> None:
        """A node belongs to another cluster. If it is a seed beside seeds of ours, nobody can tell which was meant."""
        ours = next((peer for peer in self._peers.values() if peer.seed and peer.cluster == self._cluster), None)
        if stranger.seed and ours is not None and self.disagreement is None:
            self.disagreement = CorgiError(
                "wrong-cluster",
                f"the addresses belong to different clusters: {ours.address} to {ours.cluster}, "
                f"{stranger.address} to {stranger.cluster}",
                hint="give the addresses of one cluster only",
            )

    def _listen(self, link: Link, watch: Watch, now: float, lagged: bool) -> None:
        silent = now - link.heard_at()
        suspected_at = self._routing.suspected.get(watch.node)
        if suspected_at is not None and suspected_at > watch.suspected_at:
            watch.suspected_at = suspected_at
            link.request(Ping(), (), _ignore)  # at once: it may be the next leader, and only words end the suspicion
        if silent < self._options.ping_s:
            watch.asked_at = -1.0
        elif watch.asked_at < 0.0 or lagged:
            watch.asked_at = now
            link.request(Ping(), (), _ignore)
        elif now - watch.asked_at >= self._options.silence_s - self._options.ping_s:
            link.close()


def _ignore(_: Answer, __: memoryview) -> None:
    """The answer to a ping was heard; what it says is nothing."""
