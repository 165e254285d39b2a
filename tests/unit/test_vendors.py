"""The cap on what one provider gets of the money."""

from __future__ import annotations

import pytest

from policies.registry import KINDS
from policies.types import Candidate, Traits
from router.memory import VendorSpend
from tests.unit.test_policies_plans import facts, order, rank


def at(provider: str, nusd: int) -> Candidate:
    return Candidate(traits=Traits(deployment=f"p/{provider}", model=provider, provider=provider), expected_nusd=nusd)


def test_a_provider_that_has_had_its_share_of_the_money_comes_last_or_never() -> None:
    """However cheap it is; and with nobody else there, it answers all the same."""
    kept = [at("dear", 900), at("cheap", 10), at("mid", 50)]
    had = facts(live={"share/vendors/cheap": 0.61, "share/vendors/dear": 0.3})
    assert order(rank("vendors", kept)) == ["cheap", "mid", "dear"]
    ranking = rank("vendors", kept, about=had)
    assert order(ranking) == ["mid", "dear", "cheap"]
    assert ranking.plan is not None
    assert ranking.plan.spends == ("vendors",)
    assert [(one.provider, one.share, one.most) for one in ranking.plan.full] == [("cheap", 0.61, 0.6)]
    assert order(rank("vendors", kept, about=had, each={"cheap": "70%", "dear": 0.2})) == ["cheap", "mid", "dear"]
    never = rank("vendors", kept, about=had, beyond="never")
    assert order(never) == ["mid", "dear"]
    assert never.rejected[0].detail == "cheap has 61% of what was spent, at most 60%"
    assert order(rank("vendors", [kept[1]], about=had, beyond="never")) == ["cheap"]


def test_a_cap_that_can_do_nothing_is_told() -> None:
    """One provider alone, or a name that is not there."""
    entry = KINDS["vendors"]
    told = entry.problems(entry.options(each={"other": 0.5}), [at("p", 1).traits])
    assert [path for path, _ in told] == [("each", "other"), ("most",)]


def test_money_of_providers_counts_half_after_a_time() -> None:
    """What was spent last month says nothing of today; and a few calls say nothing at all."""
    spend = VendorSpend(half_seconds=100.0)
    for _ in range(19):
        spend.add("a", 10, 0.0)
    assert spend.shares() == {}
    spend.add("b", 95, 100.0)
    assert spend.shares() == pytest.approx({"a": 0.5, "b": 0.5})
