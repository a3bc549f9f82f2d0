"""Questions of who leads wait until the leaders are known to have lived when the question came.

Clients ask who leads when a leader dies, and are often quicker than its peers: (1) a node is killed; (2) the kernel
closes its sockets one after the other, its clients' some milliseconds before its peers'; (3) a client asks another node
at once; (4) that one, whose own link still seems sound, would name the dead node, and clients that were told so once do
not ask again for long (librdkafka: 600 ms). So the answer waits for an echo of a heartbeat that was sent after the
question and asks for it, or for the end of the link: a few milliseconds. Such heartbeats and their echoes keep a
distance, or two nodes that wait for a third would answer each other without end.

It decides nothing, and what it waits for is bounded: a node that is silent and not suspected yet holds an answer up for
WAIT_S at most.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from corgi.base.ids import NodeId
from corgi.base.limits import ECHO_APART_S
from corgi.base.ports import ClientSession

if TYPE_CHECKING:
    from corgi.broker.node import Node

WAIT_S = 0.400  # more than a suspicion takes, with the patience that a busy machine gets
LOOK_S = 0.002  # between two looks at who has been heard of

Then = Callable[[], None]


class _Question:
    """Who waits, for whom, until when; ``beats``: how many heartbeats this node had sent when the question came."""

    __slots__ = ("beats", "client", "deadline", "nodes", "then")

    def __init__(
        self, client: ClientSession, nodes: frozenset[NodeId], beats: int, deadline: float, then: Then
    ) -> None:
        self.client = client
        self.nodes = nodes
        self.beats = beats
        self.deadline = deadline
        self.then = then


class Hearing:
    """All questions that wait for a sign of life."""

    __slots__ = ("_look_at", "_node", "_questions")

    def __init__(self, node: Node) -> None:
        self._node = node
        self._questions: list[_Question] = []
        self._look_at = 0.0

    def __len__(self) -> int:
        return len(self._questions)

    def wait(self, client: ClientSession, nodes: Collection[NodeId], then: Then) -> None:
        """Call ``then`` when each of the nodes has proved to live now, or seems not to; at once if there are none."""
        detector = self._node.detector
        question = _Question(client, frozenset(nodes) - {detector.me}, detector.beats, 0.0, then)
        if self._answered(question):
            then()
            return
        self._node.beat_soon(ECHO_APART_S)
        now = self._node.clock.now()
        question.deadline = now + WAIT_S
        if not self._questions:
            self._look_at = now + LOOK_S
        self._questions.append(question)

    def client_closed(self, client: ClientSession) -> None:
        if self._questions:
            self._questions = [question for question in self._questions if question.client is not client]

    def advance(self, now: float) -> None:
        """Answer the questions whose nodes were heard of, or whose time is up."""
        if not self._questions or now < self._look_at:
            return
        self._look_at = now + LOOK_S
        questions, self._questions = self._questions, []
        for question in questions:
            if now >= question.deadline or self._answered(question):
                question.then()
            else:
                self._questions.append(question)

    def next_deadline(self) -> float | None:
        return self._look_at if self._questions else None

    def _answered(self, question: _Question) -> bool:
        detector = self._node.detector
        return all(detector.peers[node].echoed > question.beats or not detector.linked(node) for node in question.nodes)
