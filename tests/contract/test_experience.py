"""What processes have learned, in every store: a row of each, written only over what the writer knows."""

from __future__ import annotations

import asyncio

from router.ports import Ledger
from tests.contract.stores import Store


async def test_rows_are_written_in_place_of_what_was_known_only(ledger: Ledger) -> None:
    """Else a process that slept would bring back what another has taken over, and it would count twice."""
    store = ledger.experience_store()
    now_ms, rows = await store.rows()
    assert (rows, now_ms > 1_600_000_000_000) == ({}, True)
    assert await store.put("a", b"1", instead_of={})
    assert not await store.put("a", b"2", instead_of={})
    assert not await store.put("a", b"2", instead_of={"a": b"other"})
    assert await store.put("a", b"2", instead_of={"a": b"1"})
    assert await store.put("b", b"\xff\x00", instead_of={})
    # Taken over with a wrong idea of it: nothing is written, and nothing dropped.
    assert not await store.put("b", b"3", instead_of={"b": b"\xff\x00", "a": b"1"})
    assert not await store.put("b", b"3", instead_of={"b": b"\xff\x00", "c": b"1"})
    assert (await store.rows())[1] == {"a": b"2", "b": b"\xff\x00"}
    assert await store.put("b", b"3", instead_of={"b": b"\xff\x00", "a": b"2"})
    assert (await store.rows())[1] == {"b": b"3"}
    assert not await store.put("a", b"5", instead_of={"a": b"2"})
    assert await store.put("c", b"4", instead_of={"b": b"3"})
    assert (await store.rows())[1] == {"c": b"4"}


async def test_of_two_who_take_over_the_same_row_one_does(store: Store) -> None:
    """Both saw that its process was gone."""
    one, two = [(await store.replica(name)).experience_store() for name in ("one", "two")]
    assert await one.put("gone", b"0", instead_of={})
    took = await asyncio.gather(one.put("one", b"1", instead_of={"gone": b"0"}), two.put("two", b"2", instead_of={"gone": b"0"}))
    assert sorted(took) == [False, True]
    assert len((await one.rows())[1]) == 1
