"""The schedule: clients in turn, bounds per turn, slow clients aside."""

from __future__ import annotations

import pytest

from corgi.delivery import limits, turns
from corgi.delivery.turns import Schedule, Turn


class Client:
    """As much of a session as the schedule sees."""

    def __init__(self) -> None:
        self.closed = False
        self.backlog = 0
        self.asked = 0

    def buffered(self) -> int:
        self.asked += 1
        return self.backlog


class Job:
    """Has ``left`` pieces to serve, one batch each."""

    def __init__(self, client: Client, name: str, served: list[str], left: int = 1, urgent: bool = False) -> None:
        self.client = client
        self.name = name
        self.served = served
        self.left = left
        self.urgent = urgent
        self.queued = False
        self.times_parked = 0

    def run(self, turn: Turn) -> bool:
        self.served.append(self.name)
        self.left -= 1
        turn.spend(1, 100)
        return self.left > 0

    def parked(self) -> None:
        self.times_parked += 1


def test_clients_take_turns_however_many_jobs_each_has() -> None:
    schedule, served = Schedule(), []
    many, one = Client(), Client()
    for name in ("a1", "a2", "a3"):
        schedule.wake(Job(many, name, served, 2))  # type: ignore[arg-type]
    schedule.wake(Job(one, "b", served, 3))  # type: ignore[arg-type]
    schedule.run(0.0)
    assert served == ["a1", "b", "a2", "b", "a3", "b", "a1", "a2", "a3"]


def test_a_job_that_waits_already_is_not_queued_twice() -> None:
    schedule, served = Schedule(), []
    job = Job(Client(), "a", served)
    schedule.wake(job)  # type: ignore[arg-type]
    schedule.wake(job)  # type: ignore[arg-type]
    schedule.run(0.0)
    assert served == ["a"]


def test_both_lanes_have_their_part_of_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TAIL_TURN_BATCHES", 3)
    monkeypatch.setattr(turns, "BACKLOG_TURN_BYTES", 200)
    schedule, served = Schedule(), []
    schedule.wake(Job(Client(), "behind", served, 100))  # type: ignore[arg-type]
    schedule.wake(Job(Client(), "tail", served, 100, urgent=True))  # type: ignore[arg-type]
    schedule.run(0.0)
    assert served == ["tail"] * 3 + ["behind"] * 2
    assert schedule.next_deadline(5.0) == 5.0
    schedule.run(0.0)
    assert served.count("behind") == 4


def test_a_slow_client_is_set_aside_with_all_its_jobs_until_it_drained() -> None:
    schedule, served = Schedule(), []
    slow, fast = Client(), Client()
    slow.backlog = limits.CLIENT_BUFFER_HIGH
    jobs = [Job(slow, name, served) for name in ("s1", "s2")]
    for job in (*jobs, Job(fast, "f", served)):
        schedule.wake(job)  # type: ignore[arg-type]
    schedule.run(0.0)
    assert served == ["f"]
    assert [job.times_parked for job in jobs] == [1, 1]
    assert (schedule.clients_parked, schedule.parkings) == (1, 1)
    slow.asked = 0
    schedule.wake(jobs[0])  # type: ignore[arg-type]
    schedule.run(0.0)
    assert slow.asked == 0
    slow.backlog = 0
    schedule.drained(slow)  # type: ignore[arg-type]
    schedule.run(0.0)
    assert served == ["f", "s1", "s2"]


def test_parked_clients_are_looked_at_again() -> None:
    schedule, served = Schedule(), []
    client = Client()
    client.backlog = limits.CLIENT_BUFFER_HIGH
    schedule.wake(Job(client, "a", served))  # type: ignore[arg-type]
    schedule.run(10.0)
    deadline = schedule.next_deadline(10.0)
    assert deadline == 10.0 + limits.PARKED_CHECK_S
    schedule.advance(deadline)
    assert schedule.next_deadline(deadline) == deadline + limits.PARKED_CHECK_S, "still slow"
    client.backlog = 0
    schedule.advance(deadline + limits.PARKED_CHECK_S)
    schedule.run(11.0)
    assert served == ["a"]
    assert schedule.next_deadline(11.0) is None


def test_the_jobs_of_a_client_that_left_are_gone() -> None:
    schedule, served = Schedule(), []
    gone, parked, stays = Client(), Client(), Client()
    parked.backlog = limits.CLIENT_BUFFER_HIGH
    for client, urgent in ((gone, True), (gone, False), (parked, False), (stays, False)):
        schedule.wake(Job(client, "x", served, urgent=urgent))  # type: ignore[arg-type]
    schedule.remove(gone)  # type: ignore[arg-type]
    schedule.run(0.0)
    schedule.remove(parked)  # type: ignore[arg-type]
    assert served == ["x"]
    assert schedule.clients_parked == 0
