"""The simulation of many shards: what it promises must hold in it at every step."""

from __future__ import annotations

import pytest

from benchmarks.scale.spread import ledgers, loads, shards_needed, spend


@pytest.mark.parametrize("shards", [1, 7])
def test_a_shared_budget_is_never_exceeded_and_spent_to_its_end(shards: int) -> None:
    """From advances alone, without asking the other shards."""
    rates = loads(ledgers(500, 100, 0.9, 50), shards)
    found = spend(rates, limit_nusd=500 * 240 * 10, hold_nusd=70, mean_charge_nusd=10, seconds=300, share=0.5, seed=1)
    assert found.overshoot_nusd <= 0
    assert found.at_first_refusal > 0.8
    assert found.at_end > 0.99
    assert 0 < found.refills < found.served / 20


def test_shards_are_enough_for_the_busiest_of_them() -> None:
    """A ledger that is too large for a part of a shard is split, and no request gets lost by that."""
    rates = ledgers(10_000, 1000, 1.0, 300)
    assert max(rates) <= 300
    assert len(rates) > 1000
    assert sum(rates) == pytest.approx(10_000)
    shards = shards_needed(rates, 1200)
    assert max(loads(rates, shards)) <= 1200 < max(loads(rates, shards - 1))
