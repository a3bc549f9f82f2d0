"""The answers of a classic group that are not out yet: those that wait for its record, and the rest of this turn.

Nothing is told in the middle of a change: who is told may come with the next request at once.

Invariant: each callback is called once, by ``release`` or by ``fail``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from corgi.broker.classic_member import Joined, Member, OnJoined, OnSynced, Synced


class _Answer(NamedTuple):
    """``tell`` goes out when the record's ``revision`` is saved, and (``claims``) units were claimed."""

    revision: int
    claims: bool
    member: Member | None
    tell: Callable[[], None]
    refuse: Callable[[int], None]


class Answers:
    """Of one group."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[_Answer] = []

    def joined(self, revision: int, member: Member, done: OnJoined, joined: Joined) -> None:
        """This generation is known when the record is saved."""

        def refuse(error: int) -> None:
            done(Joined(error, joined.member))

        member.answers += 1
        self._waiting.append(_Answer(revision, False, member, lambda: done(joined), refuse))

    def synced(self, revision: int, member: Member, done: OnSynced, synced: Synced, *, settling: bool) -> None:
        """This assignment is true when the record is saved, and may be worked on when units were claimed."""

        def refuse(error: int) -> None:
            done(Synced(error))

        member.answers += 1
        self._waiting.append(_Answer(revision, settling, member, lambda: done(synced), refuse))

    def refuse_join(self, done: OnJoined, error: int, name: str) -> None:
        def refuse(error: int) -> None:
            done(Joined(error, name))

        self._waiting.append(_Answer(0, False, None, lambda: refuse(error), refuse))

    def refuse_sync(self, done: OnSynced, error: int) -> None:
        def refuse(error: int) -> None:
            done(Synced(error))

        self._waiting.append(_Answer(0, False, None, lambda: refuse(error), refuse))

    def release(self, saved: int, now: float, *, settling: bool) -> list[Member]:
        """Tell what waits for nothing any more; whose time begins now."""
        ready: list[_Answer] = []
        waiting: list[_Answer] = []
        for one in self._waiting:
            waits = one.revision > saved or (one.claims and settling)
            (waiting if waits else ready).append(one)
        self._waiting = waiting
        members = [one.member for one in ready if one.member is not None]
        for member in members:
            member.answers -= 1
            member.heard_at = now
        for one in ready:
            one.tell()
        return members

    def fail(self, error: int) -> None:
        """Nothing goes on here."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.refuse(error)
