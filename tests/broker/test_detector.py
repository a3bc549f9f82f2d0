"""Liveness as one node sees it."""

from __future__ import annotations

import pytest

from corgi.base.ids import GroupId, NodeId, Slot, make_ballot
from corgi.broker.detector import GAPS_FORGIVEN, PATIENCE_MAX, Detector
from corgi.paxos.messages import Heartbeat, Lead
from memory_cluster import TestClock

ME, PEER, OTHER = NodeId(1), NodeId(2), NodeId(3)
BALLOT = make_ballot(4, PEER)


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
def detector(clock: TestClock) -> Detector:
    detector = Detector(ME, (ME, PEER, OTHER), 0.15, clock)
    detector.connected(PEER)
    return detector


def beat(
    clock: TestClock,
    number: int,
    *,
    echo: int = 0,
    disk_ms: int = 0,
    skew_ms: int = 0,
    age: int = 5,
    barred: bool = False,
    memory_barred: bool = False,
) -> Heartbeat:
    lead = Lead(GroupId(0), BALLOT, Slot(3), age)
    return Heartbeat(
        number,
        echo,
        clock.wall_ms() + skew_ms,
        disk_ms,
        (lead,),
        barred=barred,
        memory_unfit=memory_barred,
        memory_barred=memory_barred,
    )


def test_silence_makes_suspicious(detector: Detector, clock: TestClock) -> None:
    detector.beat(PEER, beat(clock, 1))
    clock.time += 0.14
    assert detector.linked(PEER)
    clock.time += 0.02
    assert not detector.linked(PEER)
    assert not detector.linked(OTHER), "never connected"


def test_a_broken_link_needs_no_silence(detector: Detector, clock: TestClock) -> None:
    detector.beat(PEER, beat(clock, 1))
    detector.lost(PEER)
    assert not detector.linked(PEER)


def test_own_lag_is_not_their_silence(detector: Detector, clock: TestClock) -> None:
    detector.beat(PEER, beat(clock, 1))
    clock.time += 0.4
    detector.loop_lagged(0.35)
    assert detector.linked(PEER)


def test_a_peer_that_pauses_gets_patience_within_bounds(detector: Detector, clock: TestClock) -> None:
    for number in range(1, 4):
        detector.beat(PEER, beat(clock, number))
        clock.time += 0.1
    clock.time += 0.1 * GAPS_FORGIVEN - 0.1 - 0.02
    assert detector.linked(PEER), "a pause of 0.1 s was seen before"
    clock.time += 0.15 * PATIENCE_MAX
    assert not detector.linked(PEER)


def test_patience_is_forgotten(detector: Detector, clock: TestClock) -> None:
    detector.beat(PEER, beat(clock, 1))
    clock.time += 0.1
    for number in range(2, 300):
        detector.beat(PEER, beat(clock, number))
        clock.time += 0.01
    clock.time += 0.16
    assert not detector.linked(PEER)


def test_a_stuck_disk_is_suspected_only_while_the_own_one_moves(detector: Detector, clock: TestClock) -> None:
    detector.beat(PEER, beat(clock, 1, disk_ms=400))
    assert not detector.linked(PEER)
    detector.own_disk_age_s = 0.39
    assert detector.linked(PEER)


def test_the_age_of_the_quorum_is_that_of_the_echo(detector: Detector, clock: TestClock) -> None:
    number = detector.next_beat()
    clock.time += 0.05
    assert detector.quorum_age_s() > 1000
    detector.beat(PEER, beat(clock, 1, echo=number))
    assert detector.quorum_age_s() == pytest.approx(0.05)


def test_an_answer_vouches_for_the_quorum_too(detector: Detector, clock: TestClock) -> None:
    detector.acknowledged(PEER)
    clock.time += 0.03
    assert detector.quorum_age_s() == pytest.approx(0.03)


def test_a_leader_lives_as_long_as_it_tells_of_a_quorum(detector: Detector, clock: TestClock) -> None:
    detector.beat(PEER, beat(clock, 1, age=20))
    clock.time += 0.05
    assert detector.leader_age_ms(GroupId(0), BALLOT, self_leads=False) == pytest.approx(70, abs=2)
    detector.beat(PEER, beat(clock, 2, age=900))
    assert detector.leader_age_ms(GroupId(0), BALLOT, self_leads=False) == -1
    detector.beat(PEER, beat(clock, 3, age=-1))
    assert detector.leader_age_ms(GroupId(0), BALLOT, self_leads=False) == -1


def test_an_overtaken_heartbeat_is_ignored(detector: Detector, clock: TestClock) -> None:
    detector.beat(PEER, beat(clock, 5, age=20))
    detector.beat(PEER, beat(clock, 4, age=-1))
    assert detector.leader_age_ms(GroupId(0), BALLOT, self_leads=False) >= 0


def test_who_relays(detector: Detector, clock: TestClock) -> None:
    detector.beat(PEER, beat(clock, 1, age=20))
    assert detector.relays(PEER, GroupId(0), BALLOT)
    assert not detector.relays(PEER, GroupId(0), make_ballot(5, OTHER))
    assert not detector.relays(OTHER, GroupId(0), BALLOT)


def test_clocks_far_apart_are_not_trusted(detector: Detector, clock: TestClock) -> None:
    detector.connected(OTHER)
    detector.beat(PEER, beat(clock, 1, skew_ms=60_000))
    detector.beat(OTHER, beat(clock, 1, skew_ms=60_100))
    assert not detector.clock_trusted()
    detector.beat(OTHER, beat(clock, 2, skew_ms=10))
    detector.beat(PEER, beat(clock, 2, skew_ms=-10))
    assert detector.clock_trusted()


@pytest.mark.parametrize("clocks_ms", [(0, -61_000, -81_000), (0, 7_000, 60_000), (0, 60_000, 60_100)])
def test_if_nobody_near_the_median_may_lead_the_nearest_does(clock: TestClock, clocks_ms: tuple[int, ...]) -> None:
    """The one in the middle recovers and waits for a leader itself."""
    trusted = []
    barred = sorted(clocks_ms)[1]
    for mine in clocks_ms:
        detector = Detector(ME, (ME, PEER, OTHER), 0.15, clock)
        for peer, other in zip((PEER, OTHER), [other for other in clocks_ms if other != mine], strict=True):
            detector.connected(peer)
            detector.beat(peer, beat(clock, 1, skew_ms=other - mine, barred=other == barred))
        if mine != barred and detector.clock_trusted():
            trusted.append(mine)
    assert trusted == [min((other for other in clocks_ms if other != barred), key=lambda other: abs(other - barred))]


def test_who_recovers_memory_groups_leads_none_of_them_and_all_others(detector: Detector, clock: TestClock) -> None:
    detector.connected(OTHER)
    detector.beat(PEER, beat(clock, 1, skew_ms=17_000, memory_barred=True))
    detector.beat(OTHER, beat(clock, 1, skew_ms=77_000))
    assert not detector.clock_trusted()
    assert detector.clock_trusted(memory=True)
    assert detector.heirs() == [PEER, OTHER]
    assert detector.heirs(memory=True) == [OTHER]
    detector.beat(PEER, beat(clock, 2, skew_ms=17_000))
    assert not detector.clock_trusted(memory=True)


def test_a_restarted_peer_is_listened_to_first(detector: Detector, clock: TestClock) -> None:
    detector.beat(PEER, beat(clock, 900))
    assert detector.heard_all()
    detector.lost(PEER)
    detector.connected(PEER)
    assert not detector.heard_all()
    detector.beat(PEER, beat(clock, 1))
    assert detector.heard_all()


def test_a_leader_that_is_heard_and_hears_nobody_tells_so_itself(detector: Detector, clock: TestClock) -> None:
    group = GroupId(0)
    assert not detector.out_of_touch(PEER, group, BALLOT), "nothing was heard: silence is judged elsewhere"
    detector.beat(PEER, beat(clock, 1, age=299))
    assert not detector.out_of_touch(PEER, group, BALLOT)
    detector.beat(PEER, beat(clock, 2, age=300))
    assert detector.out_of_touch(PEER, group, BALLOT)
    assert detector.linked(PEER)
    assert not detector.out_of_touch(PEER, group, make_ballot(5, PEER)), "that was said of an earlier leadership"
    detector.beat(PEER, beat(clock, 3, age=-1))
    assert not detector.out_of_touch(PEER, group, BALLOT), "it does not lead, which is told otherwise"
