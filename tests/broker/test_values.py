"""Chosen values are read from the place where the chosen bytes lie, in whatever order the disk and the quorum speak."""

from array import array
from collections.abc import Callable, Sequence

import pytest

from corgi.base.command import encode_value
from corgi.base.errors import CorgiError
from corgi.base.ids import Ballot, GroupId, LeaderEpoch, Position, Slot, TopicId
from corgi.base.ports import FaultyRecord, LogRecord, RecordKind
from corgi.broker.values import Faulty, Values
from corgi.log.slots import Run
from corgi.state.index import Dropped, PartitionLog

G = GroupId(0)
S = Slot(1)
REJECTED = encode_value(1, [])
CHOSEN = encode_value(2, [])


class Disk:
    """Holds records by position and answers reads at once."""

    def __init__(self) -> None:
        self.bytes: dict[int, bytes] = {}

    def append(self, record: LogRecord) -> None:
        raise AssertionError

    def read(self, position: Position, length: int, done: Callable[[bytes | CorgiError], None]) -> None:
        done(self.bytes[position][:length])

    def read_many(
        self, places: Sequence[tuple[Position, int]], done: Callable[[list[bytes | CorgiError]], None]
    ) -> None:
        done([self.bytes[position][:length] for position, length in places])

    def repair(self, position: Position, payload: bytes, done: Callable[[CorgiError | None], None]) -> None:
        raise AssertionError

    def unsynced_age(self) -> float:
        return 0.0

    segment_bytes = 2**40
    segment = 0

    def segments(self) -> list[int]:
        return []

    def free(self, segments: Sequence[int]) -> None:
        raise AssertionError("nothing is freed without snapshots")


class Story:
    """A slot's records and its choice, told step by step; nothing stays in the tail."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.wanted: list[Slot] = []
        self.values = Values(1, self.disk, 0, lambda group, slot, done: self.wanted.append(slot))
        self._position = 100

    def placed(self, value: bytes, kind: RecordKind = RecordKind.ACCEPT) -> None:
        record = LogRecord(kind, G, Ballot(1), S, Slot(0), value)
        self._position += 100
        record.position = Position(self._position)
        self.disk.bytes[self._position] = value
        self.values.placed(record)

    def chosen(self, value: bytes) -> None:
        self.values.chosen(G, S, value)

    def read(self) -> bytes:
        found: list[bytes | CorgiError] = []
        value = self.values.read(G, S, found.append)
        assert value is None or not found
        result = found[0] if value is None else bytes(value)
        assert isinstance(result, bytes)
        return result


STEPS: dict[str, Callable[[Story], None]] = {
    "a vote for another value is on disk": lambda s: s.placed(REJECTED),
    "the value is on disk": lambda s: s.placed(CHOSEN),
    "it was learned": lambda s: s.placed(CHOSEN, RecordKind.LEARNED),
    "the slot is chosen": lambda s: s.chosen(CHOSEN),
}


@pytest.mark.parametrize(
    "steps",
    [
        ["the value is on disk", "the slot is chosen"],
        ["the slot is chosen", "the value is on disk"],
        ["a vote for another value is on disk", "the value is on disk", "the slot is chosen"],
        ["a vote for another value is on disk", "the slot is chosen"],
        ["a vote for another value is on disk", "the slot is chosen", "it was learned"],
        ["the slot is chosen", "a vote for another value is on disk"],
        ["the slot is chosen", "a vote for another value is on disk", "it was learned"],
        ["the slot is chosen", "it was learned", "a vote for another value is on disk"],
    ],
    ids=", ".join,
)
def test_the_chosen_value_is_read(steps: list[str]) -> None:
    story = Story()
    for step in steps:
        STEPS[step](story)
        if "the slot is chosen" in steps[: steps.index(step) + 1]:
            assert story.read() == CHOSEN, step


def test_a_value_on_disk_is_not_kept_in_memory() -> None:
    story = Story()
    story.chosen(CHOSEN)
    assert story.values.in_memory(G, S) == CHOSEN
    story.placed(CHOSEN)
    assert story.values.in_memory(G, S) is None


def test_every_bit_of_a_value_is_checked_when_it_is_read() -> None:
    """Also those of its header: a reader of the disk has nothing else to check it by."""
    for bit in range(len(CHOSEN) * 8):
        story = Story()
        story.placed(CHOSEN)
        story.chosen(CHOSEN)
        spoilt = bytearray(CHOSEN)
        spoilt[bit // 8] ^= 1 << bit % 8
        story.disk.bytes[200] = bytes(spoilt)
        assert story.values.read(G, S, lambda _: None) is None
        assert set(story.wanted) == {S}, "it is fetched from a peer"
        assert story.values.readable(G) == 0
        story.values.fetched(G, S, CHOSEN)
        assert story.values.read(G, S, lambda _: None) == CHOSEN
        story.values.restored(G, S, Position(200), len(CHOSEN))
        story.disk.bytes[200] = CHOSEN
        assert story.read() == CHOSEN
        assert story.values.readable(G) == -1


def test_a_value_on_its_way_to_the_disk_is_not_missing() -> None:
    story = Story()
    story.values.chosen(G, S, CHOSEN)
    story.values.applied(G, S, 1, [])
    assert story.values.tables[G].missing == 1
    assert story.values.on_its_way(G, S)
    assert story.values.to_come == 0
    story.placed(CHOSEN)
    assert not story.values.on_its_way(G, S)
    assert story.values.tables[G].missing == story.values.to_come == 0


def dropped(count: int) -> Dropped:
    """So many batches of slot S."""
    log = PartitionLog(TopicId(16), 0)
    for number in range(count):
        log.append(S, number * 100, 100, 1, 0, LeaderEpoch(1))
    (held,) = log.held()
    return held


def damaged_story(*, covered: Slot) -> Story:
    """The value of S is on disk, and no index is known to name it."""
    story = Story()
    story.placed(CHOSEN)
    story.chosen(CHOSEN)
    story.values.covered[G] = covered
    return story


def test_damage_of_a_value_that_nobody_can_ask_for_any_more_is_no_loss() -> None:
    """The other nodes may have let go of it: asked for, it was told as lost for ever."""
    story = damaged_story(covered=S)
    story.values.damaged(G, S, Position(200))
    assert not story.wanted
    assert not story.values.faulty[G]
    assert not story.values.tellable(G, S), "who wants to learn it gets a snapshot"


def test_a_damaged_value_that_a_restart_begins_with_is_wanted() -> None:
    story = damaged_story(covered=Slot(0))
    story.values.damaged(G, S, Position(200))
    assert story.wanted == [S]
    assert not story.values.let_go(G, S)
    assert story.values.readable(G) == 0
    story.values.covered[G] = S
    assert story.values.let_go(G, S), "a snapshot made it needless"


def test_nothing_is_let_go_before_all_that_lives_is_counted() -> None:
    """After a restart nothing is counted: a count of zero proves nothing until the whole index was gone through."""
    story = damaged_story(covered=S)
    story.values.begin_from(G, S, [dropped(3)])
    story.values.damaged(G, S, Position(200))
    assert story.wanted == [S]
    story.values.recount(2)
    assert not story.values.let_go(G, S)
    story.values.recount(1)
    assert not story.values.counting
    assert not story.values.let_go(G, S), "an index names it"
    assert story.values.tables[G].missing == 1


@pytest.mark.parametrize("covered", [Slot(0), S])
def test_a_damaged_value_goes_with_its_last_batch_if_a_restart_does_not_need_it(covered: Slot) -> None:
    story = damaged_story(covered=covered)
    part = dropped(2)
    story.values.applied(G, S, 2, [])
    story.values.damaged(G, S, Position(200))
    story.values.applied(G, Slot(2), 0, [part])
    assert S in story.values.faulty[G], "it is taken back in the next turn"
    story.values.recount(100)
    assert (S in story.values.faulty[G]) == (covered < S)


def test_a_value_that_is_not_here_is_fetched_by_whoever_meets_that() -> None:
    """A peer's question noted it as missing, and nobody asked for it then."""
    story = Story()
    story.values.begin_from(G, S, [dropped(1)])
    story.values.recount(1)
    assert isinstance(story.values.read_here(G, S, lambda _: None), CorgiError)
    assert S in story.values.faulty[G]
    assert story.wanted == [S]


def test_a_value_behind_a_snapshot_that_was_known_chosen_before_is_placed_when_it_is_fetched() -> None:
    """As long as one waits for its place on the disk, no snapshot is finished, and no peer's is taken."""
    story = Story()
    story.values.chosen_unread(G, S)
    story.values.chosen_unread(G, Slot(2))
    story.values.begin_from(G, S, [], known=Slot(2))
    story.values.fetched(G, Slot(2), CHOSEN)
    assert story.values.unplaced(G, Slot(2))
    record = LogRecord(RecordKind.LEARNED, G, Ballot(0), Slot(2), Slot(2), CHOSEN)
    record.position = Position(300)
    story.values.placed(record)
    assert not story.values.unplaced(G, Slot(2))
    assert not story.values.faulty[G]


def overtaken(vote: bytes) -> Story:
    """This node had voted in S when the state of a snapshot took the place of its own; an index names S."""
    story = Story()
    story.placed(vote)
    values = story.values
    position, length = values.tables[G].position(S), len(vote)
    values.covered[G] = S
    values.tables[G].load(Run(S, array("q", (-1,)), array("I", (len(CHOSEN),))))
    values.begin_from(G, S, [dropped(1)], {S: Faulty(position, length, Ballot(1), proven=False)})
    values.recount(100)
    return story


def test_a_vote_that_a_snapshot_overtakes_is_kept_and_is_not_the_value() -> None:
    story = overtaken(REJECTED)
    assert len(REJECTED) == len(CHOSEN)
    assert story.values.read(G, S, lambda _: None) is None
    assert story.wanted == [S], "a peer has to tell"
    assert not story.values.tellable(G, S)
    assert story.values.tables[G].missing == 1
    assert story.values.damaged_segments() == {0}, "and its segment stays"
    story.values.fetched(G, S, CHOSEN)
    story.placed(CHOSEN, RecordKind.LEARNED)
    assert story.read() == CHOSEN
    assert not story.values.faulty[G]


def test_a_vote_of_another_length_is_not_for_the_value() -> None:
    assert not overtaken(REJECTED + b"x").values.faulty[G]


def test_a_vote_is_given_up_with_the_value() -> None:
    story = overtaken(CHOSEN)
    story.values.give_up_vote(G, S)
    assert not story.values.damaged_segments()
    assert story.values.faulty[G][S].position < 0


def test_a_vote_that_reaches_the_disk_after_a_snapshot_overtook_it_is_kept() -> None:
    """Also when a restart finds it."""
    story = overtaken(REJECTED + b"x")
    story.placed(CHOSEN)
    assert story.values.faulty[G] == {S: Faulty(Position(300), len(CHOSEN), Ballot(1), proven=False)}
    story.values.tables[G].release(S, 1)
    assert story.values.let_go(G, S)


@pytest.mark.parametrize("again", [True, False])
def test_a_vote_that_was_written_again_is_read_where_it_is_whole(again: bool) -> None:
    """The second copy is damaged: the value seemed to be on its way to the disk for ever, and all snapshots waited."""
    story = Story()
    story.placed(CHOSEN if again else REJECTED)
    copy = FaultyRecord(RecordKind.ACCEPT, G, Ballot(1 if again else 2), S, Slot(0), b"")
    copy.position, copy.length = Position(900), len(CHOSEN)
    story.values.placed(copy)
    story.chosen(CHOSEN)
    assert story.values.on_its_way(G, S) == (not again)
    if again:
        assert story.read() == CHOSEN
