"""Where slots lie, against a dict."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corgi.base.errors import InvariantError
from corgi.base.ids import Position, Slot
from corgi.log.slots import SlotTable
from corgi.log.space import Space


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(-1, 2**62), st.integers(0, 2**32 - 1))))
def test_a_table_is_a_dict_of_slots(puts: list[tuple[int, int, int]]) -> None:
    table, model = SlotTable(), dict[int, tuple[int, int]]()
    for slot, position, length in puts:
        table.put(Slot(slot), Position(position), length)
        model[slot] = (position, length)
    for slot in range(302):
        found = (table.position(Slot(slot)), table.length(Slot(slot)))
        assert found == model.get(slot, (-1, 0))
    assert table.last == max(model, default=0)


def test_a_slot_costs_sixteen_bytes() -> None:
    table = SlotTable()
    for slot in range(1024, 3000):
        table.put(Slot(slot), Position(slot * 100), 100)
    assert table.memory_bytes == (3000 - 1024) * 16


def test_a_position_that_comes_later_takes_the_place() -> None:
    table = SlotTable()
    table.put(Slot(7), Position(-1), 10)
    table.put(Slot(8), Position(500), 20)
    assert table.position(Slot(7)) == -1
    table.put(Slot(7), Position(900), 11)
    assert (table.position(Slot(7)), table.length(Slot(7))) == (900, 11)
    assert (table.position(Slot(8)), table.length(Slot(8))) == (500, 20)


@pytest.mark.parametrize("slot", [0, -1])
def test_there_is_no_slot_below_one(slot: int) -> None:
    with pytest.raises(InvariantError):
        SlotTable().put(Slot(slot), Position(1), 1)


SEGMENT = 1000


class Model:
    """A table as a dict, with what its space must tell."""

    def __init__(self) -> None:
        self.cells: dict[int, list[int]] = {}  # slot to position, length, count

    def live(self) -> dict[int, tuple[int, int]]:
        """Segment to live values and bytes."""
        found: dict[int, tuple[int, int]] = {}
        for position, length, count in self.cells.values():
            if count and position >= 0:
                values, size = found.get(position // SEGMENT, (0, 0))
                found[position // SEGMENT] = (values + 1, size + length)
        return found


@pytest.mark.parametrize("seed", range(20))
def test_what_lives_where(seed: int) -> None:
    """Random lives of slots; now and then old blocks shrink, and the whole is loaded into another table."""
    random = Random(seed)
    space = Space(SEGMENT)
    table, model, last = SlotTable(space), Model(), 0
    for _ in range(6000):
        choice = random.random()
        if choice < 0.5 or not model.cells:
            last += random.choice((1, 1, 1, 2))
            model.cells[last] = [last * 10 if random.random() < 0.9 else -1, 8, random.choice((0, 1, 3))]
            table.put(Slot(last), Position(model.cells[last][0]), 8)
            table.hold(Slot(last), model.cells[last][2])
        elif choice < 0.95:
            slot = random.choice([s for s in range(max(1, last - 800), last + 1) if s in model.cells])
            if model.cells[slot][2]:
                model.cells[slot][2] -= 1
                table.release(Slot(slot), 1)
        elif choice < 0.99:
            slot = random.randrange(1, last + 1)
            if model.cells.get(slot, [0, 0, 0])[2]:
                model.cells[slot][:2] = [last * 10 + 5, 7]
                table.put(Slot(slot), Position(last * 10 + 5), 7)
        else:
            below = random.randrange(last * 10)
            table.forget(Position(below), Slot(last))
            for slot in [s for s in model.cells if table.position(Slot(s)) == -1 and not model.cells[s][2]]:
                del model.cells[slot]
    check(table, space, model, last)
    twin_space = Space(SEGMENT)
    twin = SlotTable(twin_space)
    for run in table.runs(Slot(last)):
        twin.load(run)
    for slot, (_, _, count) in model.cells.items():
        twin.hold(Slot(slot), count)
    check(twin, twin_space, model, last)


def check(table: SlotTable, space: Space, model: Model, last: int) -> None:
    for slot, cell in model.cells.items():
        if cell[2]:
            assert [table.position(Slot(slot)), table.length(Slot(slot)), table.count(Slot(slot))] == cell
    live = model.live()
    assert live == {
        segment: (space.values_in(segment), space.bytes_in(segment))
        for segment in range(last)
        if space.values_in(segment) or space.bytes_in(segment)
    }
    missing = [slot for slot, (position, _, count) in model.cells.items() if count and position < 0]
    assert table.missing == len(missing)
    assert sorted(table.without_position(10_000)) == sorted(missing)
    for segment in list(live)[:5]:
        found = set(table.live_within(Position(segment * SEGMENT), Position((segment + 1) * SEGMENT)))
        wanted = {s for s, (position, _, count) in model.cells.items() if count and position // SEGMENT == segment}
        assert found - {0} == wanted


def test_which_segments_are_there() -> None:
    space = Space(SEGMENT)
    space.present([3, 4, 7, 8])
    assert [segment for segment in range(12) if space.has(segment)] == [3, 4, 7, 8, 9, 10, 11]
    space.freed(3)
    assert space.oldest == 4
    space.freed(7)
    space.freed(4)
    assert space.oldest == 8
    assert not space.holds(Position(7_999))
    assert space.holds(Position(8_000))
    assert not space.holds(Position(-1))
    space.add(Position(9_500), 10)
    with pytest.raises(InvariantError):
        space.freed(9)
