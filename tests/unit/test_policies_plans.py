"""Kinds that do more than order: what they decide, from facts and numbers alone."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pydantic import ValidationError

from policies.kinds.bandit import best_chances
from policies.kinds.fields import Pick, point_of
from policies.kinds.pace import pressure
from policies.plans import Live, Verify, added, described, no_second_call
from policies.registry import KINDS, all_inside
from policies.types import Candidate, Ranking, RequestFacts, Traits
from policies.verifiers import failed_check, fits, score_of


def candidate(name: str, **changes: Any) -> Candidate:
    fields = {"expected_nusd": 500, **changes}
    more = {key: fields.pop(key) for key in ("size", "quality", "weights", "domain", "locality") if key in fields}
    return Candidate(traits=Traits(deployment=f"p/{name}", model=name, provider="p", **more), **fields)


SMALL, LARGE, NEW = candidate("small", size="small", expected_nusd=10), candidate("large", size="large"), candidate("new", expected_nusd=50)


def facts(**more: Any) -> RequestFacts:
    return RequestFacts(operation="chat", route="auto", **more)


def rank(kind: str, kept: list[Candidate], draw: float = 0.0, about: RequestFacts | None = None, **options: Any) -> Ranking:
    entry = KINDS[kind]
    return entry.bind(entry.options(**options))(about or facts(), kept, draw)


def order(ranking: Ranking) -> list[str]:
    return [ranked.deployment.removeprefix("p/") for ranked in ranking.order]


# -- shares, sticky sessions, canaries

SPLIT: dict[str, Any] = {
    "branches": [
        {"name": "a", "share": "90%", "use": "small"},
        {"name": "b", "share": 0.1, "use": {"size": "large"}, "by": "fixed"},
    ]
}


def test_a_split_draws_by_share_and_tries_the_others_behind() -> None:
    """The arm and its chance are part of the decision."""
    low, high = rank("split", [SMALL, LARGE], 0.89, **SPLIT), rank("split", [SMALL, LARGE], 0.91, **SPLIT)
    assert (order(low), order(high)) == (["small", "large"], ["large", "small"])
    assert high.plan is not None
    assert [(arm.experiment, arm.arm, round(arm.propensity, 6)) for arm in high.plan.arms] == [("split", "b", 0.1)]
    alone = rank("split", [SMALL, LARGE], 0.91, **SPLIT, fall_back=False)
    assert (order(alone), [out.reason for out in alone.rejected]) == (["large"], ["not_selected"])


def test_a_branch_without_candidates_counts_for_nothing() -> None:
    """Its models are cooling down: what the others answer is not its merit."""
    ranking = rank("split", [SMALL], 0.95, **SPLIT)
    assert (order(ranking), ranking.plan) == (["small"], None)


def test_a_session_falls_into_the_same_place_and_places_are_spread_evenly() -> None:
    """Whatever is drawn; another experiment deals the cards anew."""
    assert {tuple(order(rank("split", [SMALL, LARGE], draw / 7, facts(session="s"), **SPLIT))) for draw in range(7)}.__len__() == 1
    points = [point_of(facts(user=f"u{n}"), "user", "x") or 0.0 for n in range(4000)]
    assert abs(sum(point < 0.1 for point in points) / 4000 - 0.1) < 0.02
    assert point_of(facts(user="u"), "user", "x") != point_of(facts(user="u"), "user", "y")
    assert point_of(facts(), "none", "x") is None


@pytest.mark.parametrize(
    ("live", "share"),
    [
        ({}, 0.01),
        ({"age/canary": 3599.0}, 0.01),
        ({"age/canary": 3600.0}, 0.05),
        ({"age/canary": 9e5}, 0.25),
        ({"stopped/canary": 1.0}, 0.0),
    ],
)
def test_a_canary_grows_with_its_age_until_it_is_stopped(live: dict[str, float], share: float) -> None:
    """The clock is a number among the facts, so that a decision can be repeated."""
    ramp = [{"after": "1d", "share": "25%"}, {"after": "1h", "share": "5%"}]
    options: dict[str, Any] = {"to": "new", "share": 0.01, "ramp": ramp, "by": "fixed", "stop_if": {"errors": "2%"}}
    took = [order(rank("canary", [SMALL, NEW], n / 1000, facts(live=live), **options)) for n in range(1000)]
    assert sum(names[0] == "new" for names in took) == share * 1000
    assert all(names == ["new", "small"] for names in took if names[0] == "new")
    # A canary that was taken back is not even a fallback.
    assert all(names == (["small", "new"] if share else ["small"]) for names in took if names[0] == "small")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("split", {"branches": [SPLIT["branches"][0], {**SPLIT["branches"][1], "name": "a"}]}),
        ("split", {"branches": [{**each, "share": 0} for each in SPLIT["branches"]]}),
        (
            "split",
            {"branches": [{**each, "share": "33.3%", "name": name} for each, name in zip(SPLIT["branches"] * 2, "abcd", strict=True)]},
        ),
        ("split", {"branches": [{**each, "by": "cots"} for each in SPLIT["branches"]]}),
        ("canary", {"to": "new", "share": "five"}),
        ("canary", {"to": "new", "ramp": [{"after": "soon", "share": 1}]}),
        ("canary", {"to": "new", "ramp": [{"after": "1h", "share": 1}, {"after": "60m", "share": 1}]}),
        ("hedge", {"by": 5}),
        ("hedge", {"after": []}),
        ("hedge", {"after": True}),
        ("hedge", {"most": True}),
        ("canary", {"to": "new", "share": True}),
    ],
)
def test_options_that_say_nothing_sensible_are_refused(kind: str, options: dict[str, Any]) -> None:
    """While a file is read, not while requests come in."""
    with pytest.raises(ValidationError):
        KINDS[kind].options(**options)


def test_durations_and_shares_are_written_as_they_are_read() -> None:
    """`check --effective` prints a file that can be loaded again; three thirds are 100 % but for rounding."""
    for text in ("90s", "1h", "800ms", "0ms", "2d", "1.5ms"):
        assert KINDS["hedge"].options(after=text).model_dump(mode="json")["after"] == text
    thirds = [{"name": name, "share": "33.3%", "use": "small"} for name in "abc"]
    assert len(KINDS["split"].options(branches=thirds).model_dump()["branches"]) == 3


@pytest.mark.parametrize(
    ("kind", "options", "wrong"),
    [
        ("split", {"branches": [SPLIT["branches"][0], {**SPLIT["branches"][1], "use": "huge"}]}, "huge"),
        ("split", {"branches": [SPLIT["branches"][0], {**SPLIT["branches"][1], "use": {"locality": "edge"}}]}, "classes"),
        ("canary", {"to": ["small", "large"]}, "all models"),
        ("shadow", {"to": ["small", "large"], "team": "lab"}, "all models"),
        ("cascade", {"steps": ["small", "large"], "verify": {"judge": "j", "agree": {"model": "k"}}}, '"j"'),
        ("quality", {}, "none of the models"),
    ],
)
def test_a_policy_that_names_what_is_not_there_is_found_at_load(kind: str, options: dict[str, Any], wrong: str) -> None:
    """A judge that no filter has seen, or a branch that nothing is in."""
    entry = KINDS[kind]
    found = entry.problems(entry.options(**options), [SMALL.traits, LARGE.traits])
    assert found
    assert wrong in found[0][1]


def test_a_pick_goes_by_names_or_by_classes() -> None:
    """Names of models, deployments and providers; classes must all fit."""
    one = Traits(deployment="p/x", model="x", provider="p", size="small", domain=frozenset({"code"}))
    assert [Pick(names=(name,)).fits(one) for name in ("x", "p/x", "p", "y")] == [True, True, True, False]
    assert Pick(size="small", domain="code").fits(one)
    assert not Pick(size="small", domain="law").fits(one)
    korean = Traits(deployment="p/k", model="k", provider="p", languages=frozenset({"ko"}), region="eu", quality=0.7)
    assert Pick(language="ko", region="eu", quality=0.7).fits(korean)
    assert [Pick(language="ja").fits(korean), Pick(region="us").fits(korean), Pick(quality=0.8).fits(korean)] == [False] * 3
    assert not Pick(quality=0.1).fits(one)
    assert not Pick(size="small", weights="open").fits(one)


# -- quality, cascade, hedge, shadow


def test_quality_prefers_the_cheapest_that_is_good_enough() -> None:
    """What is not good enough comes last or never."""
    kept = [candidate("dear", quality=0.9), candidate("good", quality=0.8, expected_nusd=20), candidate("bad", quality=0.2), SMALL]
    assert order(rank("quality", kept, target="70%")) == ["good", "dear", "bad", "small"]
    never = rank("quality", kept, below="never", unknown=0.7)
    assert order(never) == ["small", "good", "dear"]
    assert [(out.deployment, out.detail) for out in never.rejected] == [("p/bad", "quality 0.2, wanted 0.7")]
    assert KINDS["quality"].problems(KINDS["quality"].options(), [kept[0].traits]) == []


def test_a_cascade_needs_two_steps_that_can_be_asked() -> None:
    """Else it is an order like any other; embeddings and several choices cannot be compared."""
    options: dict[str, Any] = {"steps": ["small", {"size": "large"}], "verify": {"agree": "number", "judge": "new"}}
    ranking = rank("cascade", [SMALL, LARGE, NEW], **options)
    assert ranking.plan is not None
    cascade = ranking.plan.cascade
    assert cascade is not None
    assert [(step.name, step.deployments) for step in cascade.steps] == [("small", ("p/small",)), ("large", ("p/large",))]
    assert (cascade.judges, cascade.seconds) == (("p/new",), ("p/small",))
    assert order(ranking) == ["small", "large", "new"]
    for kept, about in (
        ([LARGE, NEW], facts()),
        ([], facts()),
        ([SMALL, LARGE], RequestFacts(operation="embeddings", route="auto")),
        ([SMALL, LARGE], facts(choices=2)),
    ):
        assert rank("cascade", kept, about=about, **options).plan is None
    told = described(ranking.plan, {"pays/cascade": 0.3})
    assert told == [
        "cascade cascade: small (p/small) -> large (p/large); checks: finish, refusal, schema, agree with p/small, judge p/new",
        "known now: pays/cascade 0.3",
    ]


def test_a_cascade_that_does_not_pay_goes_to_the_last_step_but_for_a_few() -> None:
    """The few show whether it would pay again."""
    options: dict[str, Any] = {"steps": ["small", "large"], "explore": "10%"}
    off = facts(live={"pays/cascade": -0.1})
    assert order(rank("cascade", [SMALL, LARGE], 0.5, off, **options)) == ["large", "small"]
    assert rank("cascade", [SMALL, LARGE], 0.5, off, **options).plan is None
    assert rank("cascade", [SMALL, LARGE], 0.05, off, **options).plan is not None
    assert rank("cascade", [SMALL, LARGE], 0.5, off, **options, always=True).plan is not None
    entry = KINDS["cascade"]
    assert (entry.live(entry.options(**options, always=True)), len(entry.live(entry.options(**options)))) == ((), 1)


def test_a_hedge_is_planned_if_it_is_allowed_known_and_not_too_dear() -> None:
    """Otherwise the order of the inner kind is all."""
    known = {"allowed/hedge": 1.0, "after/hedge/p/small": 120.0}
    made = rank("hedge", [SMALL, NEW], about=facts(live=known), by="fixed", cost_at_most=6).plan
    assert made is not None
    assert made.hedge is not None
    assert (made.hedge.after_ms, described(made, {})[0]) == (
        120.0,
        "hedge: the second is called too if the first has not begun after 120 ms",
    )
    assert rank("hedge", [SMALL, LARGE], about=facts(live=known), by="fixed").plan is None
    assert rank("hedge", [SMALL], about=facts(live=known), by="fixed").plan is None
    assert rank("hedge", [SMALL, NEW], about=facts(live={"allowed/hedge": 0.0}), by="fixed", after="1s").plan is None
    assert rank("hedge", [NEW, SMALL], about=facts(live={"allowed/hedge": 1.0}), by="fixed").plan is None
    fixed = rank("hedge", [NEW, SMALL], about=facts(live={"allowed/hedge": 1.0}), by="fixed", after="0.5s").plan
    assert fixed is not None
    assert fixed.hedge is not None
    assert fixed.hedge.after_ms == 500


@pytest.mark.parametrize(
    ("charges", "live", "why"),
    [
        ({"a": 10, "b": 50}, {"allowed/twice": 1.0}, "b is expected to cost 5.0 times as much as a, and cost_at_most is 3"),
        ({"b": 50}, {"allowed/twice": 1.0}, "b is expected to cost something and a nothing, and cost_at_most is 3"),
        ({"a": 10, "b": 30}, {"allowed/twice": 0.0}, "as many requests as `most` allows have had one"),
        ({}, {}, "as many requests as `most` allows have had one"),
        ({"a": 10, "b": 30}, {"allowed/twice": 1.0}, "too few times to the first token of a are known for `quantile`"),
    ],
)
def test_a_hedge_says_what_it_lacks_for_a_second_call(charges: dict[str, int], live: dict[str, float], why: str) -> None:
    """Each has another cure: a higher `cost_at_most`, a higher `most`, or time."""
    hedge = Live(what="hedge", name="twice", cost_at_most=3)
    assert no_second_call(hedge, "a", "b", charges, live) == f"hedge twice: no second call: {why}"


def test_a_shadow_copies_its_share_and_never_answers() -> None:
    """Even if nothing else is left."""
    options: dict[str, Any] = {"to": "new", "share": 0.25, "team": "lab", "by": "fixed"}
    plans = [rank("shadow", [SMALL, NEW], n / 100, **options).plan for n in range(100)]
    assert sum(plan is not None for plan in plans) == 25
    assert plans[0] is not None
    assert described(plans[0], {}) == ["shadow: a copy to p/new on the budgets of team lab"]
    assert order(rank("shadow", [NEW], 0.0, **options)) == []
    assert rank("shadow", [SMALL], 0.0, **options).plan is None


def test_kinds_inside_one_another_add_to_one_plan() -> None:
    """A shadow over a canary over cheapest first with a warm cache."""
    inner = {
        "kind": "canary",
        "to": "large",
        "share": 1,
        "sticky": "none",
        "by": {"kind": "cost", "keep_cache": True, "max_request_usd": 1},
    }
    options: dict[str, Any] = {"to": "new", "share": 1, "team": "lab", "by": inner}
    for each in (SMALL, LARGE, NEW):
        each.worst_case_nusd = 1000
    plan = rank("shadow", [SMALL, LARGE, NEW], 0.3, **options).plan
    assert plan is not None
    assert (plan.keeps_cache, [arm.arm for arm in plan.arms], plan.shadow is not None) == (True, ["canary"], True)
    assert "cache" in described(plan, {})[-1]
    assert [type(one).__name__ for one in all_inside(KINDS["shadow"].options(**options))] == [
        "ShadowOptions",
        "CanaryOptions",
        "CostOptions",
    ]
    assert [live.what for one in all_inside(KINDS["shadow"].options(**options)) for live in KINDS[one.kind].live(one)] == [
        "experiment",
        "cache",
    ]
    assert added(plan, arms=()).arms == plan.arms


def test_cost_with_a_cache_still_skips_what_one_request_may_not_cost() -> None:
    """The saving is likely, the limit is certain."""
    dear = candidate("dear", worst_case_nusd=2_000_000_000)
    cheap = candidate("cheap", worst_case_nusd=5)
    ranking = rank("cost", [dear, cheap], about=facts(live={"saves/p/dear": 499.0}), keep_cache=True, max_request_usd=1)
    assert (order(ranking), [out.reason for out in ranking.rejected]) == (["cheap"], ["too_expensive"])
    assert order(rank("cost", [cheap, dear], about=facts(live={"saves/p/dear": 499.0}), keep_cache=True)) == ["dear", "cheap"]


# -- bandit


def test_chances_are_those_of_being_the_best() -> None:
    """Alike beliefs share evenly, a certain leader gets nearly all, and they add up to one."""
    assert best_chances([(0.5, 0.1)] * 4) == pytest.approx([0.25] * 4)
    assert best_chances([(0.5, 0.1)]) == [1.0]
    leader = best_chances([(0.9, 0.05), (0.5, 0.05)])
    assert leader[0] > 0.999
    assert sum(best_chances([(0.6, 0.2), (0.5, 0.1), (0.2, 0.5)])) == pytest.approx(1.0)
    # Checked against drawing from the beliefs.
    chance = random.Random(5)
    beliefs = [(0.6, 0.2), (0.5, 0.1)]
    won = sum(chance.gauss(*beliefs[0]) > chance.gauss(*beliefs[1]) for _ in range(20_000)) / 20_000
    assert best_chances(beliefs)[0] == pytest.approx(won, abs=0.015)
    assert best_chances([(0.0, 1e-9), (1e9, 1e-9)]) == [0.0, 1.0]


def test_a_bandit_chooses_with_the_chance_that_it_logs() -> None:
    """Off-policy estimates divide by it: it must be what was done, not nearly so."""
    live = {"n/bandit/p/small": 40.0, "mean/bandit/p/small": 0.9, "n/bandit/p/large": 40.0, "mean/bandit/p/large": 0.8}
    counts: dict[str, int] = {}
    chances: dict[str, float] = {}
    for n in range(1000):
        ranking = rank("bandit", [SMALL, LARGE], (n + 0.5) / 1000, facts(live=live), explore=0.1)
        assert ranking.plan is not None
        (arm,) = ranking.plan.arms
        counts[arm.arm] = counts.get(arm.arm, 0) + 1
        chances[arm.arm] = arm.propensity
        assert ranking.order[0].deployment == arm.arm
    assert {name: count / 1000 for name, count in counts.items()} == pytest.approx(chances, abs=0.002)
    assert min(chances.values()) >= 0.05
    assert rank("bandit", []).order == ()


# -- pace


def test_the_pressure_of_the_price_is_smooth_and_bounded() -> None:
    """1 on the pace and while nothing is known; more as the budget runs ahead; no overflow at the very end."""
    assert pressure(None, 0.5) == pressure(0.5, None) == pressure(0.5, 0.5) == 1.0
    assert pressure(0.45, 0.5) < 1.0 < pressure(0.51, 0.5) < pressure(0.55, 0.5)
    assert pressure(5.0, 1.0) == pressure(9.0, 1.0)
    # Nearer to the end it may be ahead, and never beyond the whole budget.
    assert pressure(0.92, 0.9, 0.02) == 1.0 < pressure(0.92, 0.9, 0.01)
    assert pressure(1.0, 0.99, 0.5) == 1.0


def test_a_month_of_bursts_ends_within_a_hundredth_of_its_budget() -> None:
    """Nine tenths of the traffic come in a tenth of the hours; the mix of models keeps the pace all the same."""
    chance = random.Random(11)
    hours, budget = 720, 40_000.0
    bursts = [chance.choice([2, 2, 2, 2, 2, 2, 2, 2, 2, 160]) for _ in range(hours)]
    models = [candidate("small", size="small", expected_nusd=1), candidate("large", size="large", expected_nusd=10)]
    entry = KINDS["pace"]
    ordered = entry.bind(entry.options(budget="everyone"))
    spent = 0.0
    for hour, calls in enumerate(bursts):
        for _ in range(calls):
            live = {"spent/everyone": spent / budget, "passed/everyone": hour / hours}
            first = ordered(facts(live=live), models, 0.5).order[0].deployment
            spent += {"p/small": 1.0, "p/large": 10.0}[first] * chance.uniform(0.5, 1.5)
    assert sum(bursts) < budget < 10 * sum(bursts)
    assert abs(spent / budget - 1.0) < 0.01
    assert order(rank("pace", [LARGE], budget="b")) == ["large"]


# -- checks of a cascade


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 3}, [1, 3, 2.0], [0, 4, 1.5, True, "1"]),
        ({"type": ["string", "null"], "minLength": 1, "maxLength": 2}, ["a", None], ["", "abc", 1]),
        ({"enum": ["a", 1]}, ["a", 1], ["b"]),
        ({"const": 5}, [5], [6]),
        ({"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 2}, [[1], [1, 2.5]], [[], [1, 2, 3], ["a"]]),
        (
            {"type": "object", "required": ["a"], "properties": {"a": {"type": "boolean"}}, "additionalProperties": False},
            [{"a": True}],
            [{}, {"a": 1}, {"a": True, "b": 1}],
        ),
        ({"anyOf": [{"type": "null"}, {"type": "object", "properties": 5}]}, [None, {"x": 1}], [1]),
        ({"type": "odd"}, [], [1]),
        (True, [1], []),
        (False, [], [1]),
    ],
)
def test_a_value_follows_a_schema_or_not(schema: Any, good: list[Any], bad: list[Any]) -> None:
    """The keywords that structured outputs allow."""
    assert all(fits(value, schema) for value in good)
    assert not any(fits(value, schema) for value in bad)


def test_a_judges_answer_is_its_first_number() -> None:
    """From 0 to 100; anything else is no judgement."""
    assert [score_of(text) for text in ("85", "I say 7.", "100", "101", "none", "0")] == [0.85, 0.07, 1.0, None, None, 0.0]


def test_nothing_is_checked_that_is_switched_off() -> None:
    """An empty refusal in the wrong shape passes if nobody looks."""
    from policies.answers import Said

    nothing = Verify(finish=False, refusal=False, schema=False)
    assert failed_check(nothing, Said(refused=True), schema={"type": "object"}, own_cap=False) == ""


def test_what_a_kind_reads_of_the_moment_is_said_at_load() -> None:
    """Nothing else is worked out for it; what was begun under other models or at another time is another experiment."""

    def live(kind: str, **options: Any) -> Any:
        entry = KINDS[kind]
        return entry.live(entry.options(**options))

    assert [(each.what, each.name, each.number) for each in live("bandit", memory=50)] == [("bandit", "bandit", 50.0)]
    assert [(each.what, each.number, each.quantile) for each in live("hedge", most="10%", quantile=0.9)] == [("hedge", 0.1, 0.9)]
    assert live("pace", budget="b")[0].name == "b"
    assert (live("cost"), live("fixed"), live("split", **SPLIT)) == ((), (), ())
    begins = [live("canary", to="new", begins=when)[0].since for when in ("2026-12-01", "2026-12-01T00:00:00Z", None)]
    assert begins == [1_796_083_200.0, 1_796_083_200.0, None]
    assert live("canary", to="new")[0].version != live("canary", to="large")[0].version


def test_policies_that_fit_what_is_offered_have_no_problems() -> None:
    """And a sticky canary is drawn by nobody."""
    good: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("canary", {"to": "large"}, {"to": "no"}),
        ("shadow", {"to": "large", "team": "lab"}, {"to": "no", "team": "lab"}),
        ("cascade", {"steps": ["small", "large"]}, {"steps": ["no", "large"]}),
    ]
    for kind, options, wrong in good:
        entry = KINDS[kind]
        assert not list(entry.problems(entry.options(**options), [SMALL.traits, LARGE.traits]))
        assert list(entry.problems(entry.options(**wrong), [LARGE.traits]))
    took = {tuple(order(rank("canary", [SMALL, NEW], n / 9, facts(key_id="k"), to="new", sticky="key", share=0.5))) for n in range(9)}
    assert len(took) == 1
    inside = KINDS["hedge"].options(by=KINDS["fixed"].options(), after="1.5s")
    assert KINDS["hedge"].options(by=inside.by, after="1.5s") == inside


def test_a_plan_without_checks_says_so() -> None:
    """Whoever switches all of them off should see it."""
    verify = {"finish": False, "refusal": False, "json_schema": False}
    plan = rank("cascade", [SMALL, LARGE], steps=["small", "large"], verify=verify).plan
    assert plan is not None
    assert described(plan, {})[0].endswith("checks: none")
    plan = rank("cascade", [SMALL, LARGE], steps=["small", "large"], verify={**verify, "logprob": -1, "agree": True}).plan
    assert plan is not None
    assert described(plan, {})[0].endswith("checks: logprob of at least -1, agree with p/small")


@pytest.mark.parametrize(
    ("kind", "before", "other", "alike"),
    [
        ("cascade", {"steps": ["a", "b"]}, {"steps": ["a", "c"]}, {"steps": ["a", "b"], "by": "latency"}),
        ("cascade", {"steps": ["a", "b"]}, {"steps": ["a", "b"], "verify": {"logprob": -0.5}}, {"steps": ["a", "b"]}),
        ("bandit", {"name": "b", "worth_usd": 0.01}, {"name": "b", "worth_usd": 0.1}, {"name": "b", "worth_usd": 0.01, "explore": 0.5}),
    ],
)
def test_what_was_learned_of_another_definition_does_not_count(
    kind: str, before: dict[str, Any], other: dict[str, Any], alike: dict[str, Any]
) -> None:
    """Whether other steps pay has to be seen first; the order within a step changes nothing of that."""

    def version(options: dict[str, Any]) -> str:
        (live,) = KINDS[kind].live(KINDS[kind].options(**options))
        return str(live.version)

    assert version(before) == version(alike) != version(other)
