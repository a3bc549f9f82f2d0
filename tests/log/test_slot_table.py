"""Where slots lie, against a dict."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corgi.base.errors import InvariantError
from corgi.base.ids import Position, Slot
from corgi.log.slots import SlotTable


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


def test_a_slot_costs_twelve_bytes() -> None:
    table = SlotTable()
    for slot in range(1000, 3000):
        table.put(Slot(slot), Position(slot * 100), 100)
    assert table.memory_bytes == 2000 * 12


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
