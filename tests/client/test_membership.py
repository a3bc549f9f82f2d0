"""A consumer's membership, message by message, against a coordinator that says what the test wants."""

from __future__ import annotations

from typing import Any

from tests.client.model import TOPIC, ModelCluster, Request

from corgi.base.errors import BY_CODE, CorgiError
from corgi.base.ids import Offset
from corgi.client.core.backoff import Backoff
from corgi.client.core.membership import CUT_S, Membership, Wish
from corgi.wire.group_messages import Assigned, GroupChanged, GroupHeartbeat, GroupHeartbeatReply, Unit


def unit(partition: int) -> Unit:
    return TOPIC, partition, 0


def assigned(partition: int, owner_epoch: int = 1, offset: int = -1) -> Assigned:
    return Assigned("t", TOPIC, partition, 0, owner_epoch, 0, Offset(offset))


class Member:
    """A membership, what its listener was told, and the coordinator's side."""

    def __init__(self, **wish: Any) -> None:
        self.cluster = ModelCluster()
        self.told: list[tuple[str, int]] = []
        self.error: CorgiError | None = None
        self.names = 0
        client = self.cluster.client
        self.membership = Membership(
            Wish("g", ("t",), **wish),
            client.asks,
            client.routing,
            self.cluster.clock,
            Backoff(0.005, 0.5, lambda: 0.5),
            self._name,
            lambda: None,
            self,
        )
        client.memberships.add(self.membership)
        self.turn()

    def _name(self) -> str:
        self.names += 1
        return f"m{self.names}"

    def gained(self, unit: Unit, assigned: Assigned) -> None:
        self.told.append(("gained", unit[1]))

    def given_back(self, unit: Unit, assigned: Assigned) -> None:
        self.told.append(("given back", unit[1]))

    def revoked(self, unit: Unit) -> None:
        self.told.append(("revoked", unit[1]))

    def lost(self, unit: Unit) -> None:
        self.told.append(("lost", unit[1]))

    def failed(self, error: CorgiError) -> None:
        self.error = error

    def turn(self) -> None:
        self.cluster.client.advance()
        self.cluster.client.flush()

    def after(self, seconds: float) -> None:
        self.cluster.clock.time += seconds
        for link in self.cluster.links.values():
            link.heard = self.cluster.clock.time
        self.turn()

    def heartbeats(self) -> list[Request]:
        return [
            request
            for link in self.cluster.links.values()
            for request in link.open
            if isinstance(request.message, GroupHeartbeat)
        ]

    def heartbeat(self) -> GroupHeartbeat:
        [request] = self.heartbeats()
        assert isinstance(request.message, GroupHeartbeat)
        return request.message

    def answer(self, epoch: int = 1, units: list[Assigned] | None = None, error: str = "") -> GroupHeartbeat:
        [request] = self.heartbeats()
        number = BY_CODE[error].number if error else 0
        request.reply(GroupHeartbeatReply(number, "", epoch, 3_000, None if units is None else tuple(units)))
        self.turn()
        message = request.message
        assert isinstance(message, GroupHeartbeat)
        if units is not None and not error:
            [known] = self.heartbeats()  # at once: the coordinator waits to hear that the assignment is known
            assert known.message.epoch == epoch
            held = tuple([(*one, number) for one, number in self.membership.held.items()])
            assert known.message.owned == held  # told anew behind each assignment: its coordinator may be another
            known.reply(GroupHeartbeatReply(0, "", epoch, 3_000))
            self.turn()
        return message

    def changed(self) -> None:
        link = next(iter(self.cluster.links.values()))
        self.cluster.client.pushed(link, GroupChanged("g", self.membership.member), memoryview(b""))
        self.turn()


def test_it_joins_and_gets_units_and_sends_heartbeats_in_time() -> None:
    member = Member()
    first = member.answer(1, [assigned(0), assigned(1)])
    assert (first.member, first.epoch, first.owned) == ("m1", 0, ())
    assert member.told == [("gained", 0), ("gained", 1)]
    assert not member.heartbeats()
    member.after(2.9)
    assert not member.heartbeats()
    member.after(0.2)
    second = member.answer(1)
    assert (second.epoch, second.owned) == (1, None)  # as told last
    assert member.membership.held == {unit(0): 1, unit(1): 1}


def test_a_unit_that_has_to_go_is_held_until_it_is_released() -> None:
    member = Member()
    member.answer(1, [assigned(0), assigned(1)])
    member.changed()
    member.answer(2, [assigned(0)])
    assert member.told[2:] == [("revoked", 1)]
    member.after(3.1)
    assert member.answer(2).owned is None  # the same as before: it is held
    member.after(3.1)
    assert member.answer(2).owned is None  # the same as before: it is held
    member.membership.released(unit(1))
    member.turn()
    released = member.answer(2)
    assert (released.epoch, released.owned) == (2, ((TOPIC, 0, 0, 1),))


def test_a_unit_that_comes_back_while_it_is_wound_down_is_given_back_after_its_release() -> None:
    member = Member()
    member.answer(1, [assigned(0)])
    member.changed()
    member.answer(2, [])
    member.changed()
    member.answer(3, [assigned(0)])
    assert member.told == [("gained", 0), ("revoked", 0)]
    member.membership.released(unit(0))
    assert member.told[2:] == [("given back", 0)]
    member.membership.released(unit(0))  # once is enough
    assert member.membership.held == {unit(0): 1}


def test_another_owner_epoch_means_that_it_was_lost_and_comes_again() -> None:
    member = Member()
    member.answer(1, [assigned(0, 1)])
    member.changed()
    member.answer(2, [assigned(0, 3)])
    assert member.told == [("gained", 0), ("lost", 0), ("gained", 0)]
    assert member.membership.held == {unit(0): 3}


def test_silence_for_the_session_time_means_that_everything_is_lost_and_it_joins_under_another_name() -> None:
    member = Member()
    member.answer(1, [assigned(0)])
    for _ in range(20):
        member.after(0.5)
    assert member.told == [("gained", 0), ("lost", 0)]
    assert member.membership.member == "m2"
    for request in member.heartbeats():
        message = request.message
        if message.member == "m1":
            request.reply(GroupHeartbeatReply(0, "", 9, 3_000, (assigned(0),)))
    member.turn()
    assert member.told[-1] == ("lost", 0)  # what the dead one was answered counts for nothing
    assert member.answer(5, [assigned(0, 2)]).member == "m2"
    assert member.told[-1] == ("gained", 0)


def test_a_member_that_is_unknown_joins_anew() -> None:
    member = Member()
    member.answer(1, [assigned(0)])
    member.changed()
    member.answer(error="unknown-member")
    assert member.told == [("gained", 0), ("lost", 0)]
    again = member.answer(7, [])
    assert (again.member, again.epoch) == ("m2", 0)


def test_an_instance_that_is_replaced_does_not_fight_for_its_name() -> None:
    member = Member(instance="one")
    member.answer(1, [assigned(0)])
    member.changed()
    member.answer(error="unknown-member")
    assert member.told[-1] == ("lost", 0)
    assert member.error is not None
    assert member.error.code == "consumer-fenced"
    member.after(60)
    assert not member.heartbeats()


def test_an_error_that_no_patience_mends_ends_it() -> None:
    member = Member()
    member.answer(error="invalid-argument")
    assert member.error is not None
    assert member.error.code == "invalid-argument"


def test_a_coordinator_that_moves_is_asked_elsewhere_and_nothing_is_lost() -> None:
    member = Member()
    member.answer(1, [assigned(0)])
    member.changed()
    member.answer(error="not-leader")
    member.after(0.2)
    member.answer(1)
    assert member.told == [("gained", 0)]
    assert member.error is None


def test_a_lost_connection_is_made_up_for_by_a_heartbeat_at_once() -> None:
    member = Member()
    member.answer(1, [assigned(0)])
    member.cluster.cut(next(iter(member.cluster.links)))
    member.turn()
    assert member.heartbeat().epoch == 1


def test_a_member_whose_connection_broke_knows_before_its_coordinator_gives_its_units_away() -> None:
    member = Member()
    member.answer(1, [assigned(0)])
    member.membership.link_lost()
    member.turn()
    assert member.heartbeats(), "on another connection, at once"
    member.after(CUT_S - 0.1)
    assert member.membership.held
    member.after(0.2)
    assert member.told[-1] == ("lost", 0)
    assert not member.membership.held


def test_a_member_that_is_heard_on_another_connection_goes_on() -> None:
    member = Member()
    member.answer(1, [assigned(0)])
    member.membership.link_lost()
    member.turn()
    member.answer(1)
    member.after(CUT_S + 0.1)
    assert member.membership.held


def test_who_leaves_says_so_and_is_silent_then() -> None:
    member = Member()
    member.answer(1, [assigned(0)])
    done: list[bool] = []
    member.membership.leave(lambda: done.append(True))
    member.turn()
    assert member.heartbeat().leave
    member.answer(0)
    assert done == [True]
    member.after(60)
    assert not member.heartbeats()
