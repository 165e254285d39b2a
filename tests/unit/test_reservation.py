"""Which buckets an attempt is held in, and what happens when their windows end."""

from __future__ import annotations

from tests.pipeline_fakes import World, ask, json_answer, snapshot


async def test_a_hold_follows_the_store_into_its_next_window() -> None:
    """The store's clock decides; ours may be behind."""
    world = World(snapshot(), json_answer())
    world.ledger.moves = 2
    exchange = await world.ask(ask())
    assert exchange.status == 200
    assert world.ledger.calls["reserve"] == 3


async def test_a_store_whose_windows_never_stand_still_is_away() -> None:
    """Trying for ever would hang the call."""
    world = World(snapshot())
    world.ledger.moves = 99
    exchange = await world.ask(ask())
    assert exchange.status == 503
    assert b"jumps" in exchange.sent
    assert not world.live


async def test_buckets_are_built_once_per_principal_and_window(monkeypatch: object) -> None:
    """They are the same for every call of a key in a month."""
    world = World(snapshot(), json_answer(), json_answer())
    await world.ask(ask())
    await world.ask(ask())
    assert len(world.pipeline.reservations._sets) == 1


async def test_sets_that_are_not_used_any_more_are_let_go() -> None:
    """Users and sessions come without end."""
    import router.reservation as module

    world = World(snapshot(), *(json_answer() for _ in range(4)))
    reservations = world.pipeline.reservations
    reservations._dimensions = ("session",)
    # Small enough for a test.
    kept, module.MOST_CACHED_SETS = module.MOST_CACHED_SETS, 2  # type: ignore[misc]
    try:
        for number in range(4):
            assert (await world.ask(ask(metadata={"session_id": f"s{number}"}))).status == 200
    finally:
        # Put back.
        module.MOST_CACHED_SETS = kept  # type: ignore[misc]
    assert len(reservations._sets) <= 2
