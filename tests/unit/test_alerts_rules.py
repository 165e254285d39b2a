"""What is told, decided from numbers alone: thresholds, forecasts, unusual hours."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import replace
from typing import Any

import pytest

from router.alerts.anomaly import HOUR_MS, WEEK_HOURS, anomaly
from router.alerts.forecast import Burn, Profile, budget_forecast, forecast
from router.alerts.local import Local, StoreAlarm, config_rejected, drifted
from router.alerts.statistics import Statistics, decode, encode
from router.alerts.thresholds import crossings, event_of, grouped, is_told, keep_ms, mark_name, rearmed
from router.domain.budgets import NEVER_MS, BucketState, Budget
from router.domain.money import from_usd
from router.ports import Drift

DAY_MS = 24 * HOUR_MS
NOW = 1_800_000_000_000 // DAY_MS * DAY_MS
BUDGET = Budget(name="all", limit_nusd=from_usd(100), window="day")
BUDGETS = {"all": BUDGET}


def state(spent: float, *, limit: float | None = 100, scope: str = "", ends_ms: int = NOW + DAY_MS) -> BucketState:
    return BucketState(
        budget="all",
        scope=scope,
        window="2027-01-15",
        limit_nusd=None if limit is None else int(from_usd(limit)),
        spent_nusd=int(from_usd(spent)),
        held_nusd=0,
        debt_nusd=0,
        ends_ms=ends_ms,
    )


@pytest.mark.parametrize(
    ("spent", "reached"), [(0, None), (49.99, None), (50, 0.5), (79, 0.5), (80, 0.8), (94, 0.8), (95, 0.95), (100, 1.0), (250, 1.0)]
)
def test_the_highest_share_that_is_reached_is_told(spent: float, reached: float | None) -> None:
    """From 40 % to 97 % at once is one message, not three."""
    found = crossings([state(spent)], BUDGETS, {})
    assert [crossing.at for crossing in found] == ([] if reached is None else [reached])
    if found:
        told = dict.fromkeys(found[0].names, 1)
        assert crossings([state(spent)], BUDGETS, told) == []
        assert len(told) == (0.5, 0.8, 0.95, 1.0).index(found[0].at) + 1


def test_a_raised_limit_makes_shares_news_again_that_are_not_reached_any_more() -> None:
    """85 of 100 USD; then the limit is 105: 80 % stay told. Then it is 200: 80 % can be reached anew, and will be told."""
    told = {mark_name(state(85), at): 1 for at in (0.5, 0.8)}
    assert rearmed([state(85, limit=105)], BUDGETS, told) == []
    assert rearmed([state(85, limit=200)], BUDGETS, told) == [mark_name(state(85), 0.5), mark_name(state(85), 0.8)]


def test_budgets_in_other_units_say_which() -> None:
    """Tokens a day are news as dollars are; what is counted must not look like money."""
    budget = Budget(name="all", limit_nusd=2_000_000, window="day", unit="tokens")
    full = replace(state(0), limit_nusd=2_000_000, spent_nusd=1_700_000, held_nusd=5_000, unit="tokens")
    (group,) = grouped(crossings([full], {"all": budget}, {}))
    event = event_of(group, budget)
    assert event.subject == "Budget 'all' has reached 80 %: 1,700,000 of 2,000,000 tokens"
    assert "Set aside for calls under way: 5,000 tokens." in event.text
    assert (event.fields["limit"], event.fields["spent"], event.fields["held"], event.fields["unit"]) == (
        2_000_000,
        1_700_000,
        5_000,
        "tokens",
    )
    assert "limit_nusd" not in event.fields


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"window": "minute"}, True),
        ({"window": "day", "unit": "requests"}, True),
        ({"window": "minute", "unit": "requests"}, False),
        ({"window": "rolling", "rolling_ms": 60_000, "unit": "tokens"}, False),
        ({"window": "rolling", "rolling_ms": 3_600_000, "unit": "tokens"}, True),
        ({"window": "lifetime", "unit": "concurrent"}, False),
    ],
)
def test_rates_are_no_news(more: dict[str, Any], told: bool) -> None:
    """They reach their limits all the time."""
    assert is_told(Budget(name="x", limit_nusd=1, **more)) == told


def test_the_limit_in_the_store_decides() -> None:
    """It may have been raised for a night."""
    assert crossings([state(60, limit=200)], BUDGETS, {}) == []
    assert crossings([state(60, limit=None)], BUDGETS, {})[0].limit_nusd == from_usd(100)


def test_many_instances_are_told_together_few_one_by_one() -> None:
    """Ten thousand users at 80 % are one message."""
    few = crossings([state(85, scope=f"user={n}") for n in range(3)], BUDGETS, {})
    assert [len(group) for group in grouped(few)] == [1, 1, 1]
    (many,) = grouped(crossings([state(85, scope=f"user={n}") for n in range(30)], BUDGETS, {}))
    event = event_of(many, BUDGET)
    assert "30 instances have reached 80 %" in event.subject
    assert event.fields["instances"] == 30


def test_a_message_says_what_follows() -> None:
    """Whoever gets it decides by it."""
    (hard,) = crossings([state(100)], BUDGETS, {})
    event = event_of([hard], BUDGET)
    assert event.severity == "critical"
    assert event.subject == "Budget 'all' has reached 100 %: 100.00 of 100.00 USD"
    assert "Further requests are refused. It starts anew at 2027-01-16T00:00:00Z." in event.text
    soft = Budget(name="all", limit_nusd=1, window="lifetime", hard=False)
    (crossing,) = crossings([state(100, ends_ms=NEVER_MS)], {"all": soft}, {})
    assert "nothing is refused. It never starts anew." in event_of([crossing], soft).text
    (session,) = crossings([dataclasses.replace(state(100), window="all")], {"all": soft}, {})
    assert "It never starts anew." in event_of([session], soft).text, "when the store forgets an idle session is no reset"
    assert event_of([session], soft).fields["resets_at_ms"] is None
    assert keep_ms(state(1), NOW) == DAY_MS + HOUR_MS
    assert keep_ms(state(1, ends_ms=NEVER_MS), NOW) > 365 * DAY_MS


def burning(per_bin: int, *, bins: int = 60, bin_ms: int = 15 * 60_000, until_ms: int = NOW) -> Burn:
    burn = Burn(bin_ms=bin_ms, half_life_ms=4 * HOUR_MS, bin=until_ms // bin_ms - bins)
    rng = random.Random(7)
    for number in range(bins):
        burn.add(round(per_bin * rng.uniform(0.8, 1.2)), until_ms - (bins - number) * bin_ms)
    burn.advance(until_ms)
    return burn


def test_a_budget_that_will_not_last_is_told_of_with_an_interval() -> None:
    """1 USD every 15 minutes, 48 USD left, 24 hours to go: it lasts for 12."""
    burn = burning(int(from_usd(1)))
    found = forecast(burn, left_nusd=from_usd(48), spent_nusd=0, now_ms=NOW, ends_ms=NOW + DAY_MS)
    assert found is not None
    assert found.likely_ms == pytest.approx(NOW + 12 * HOUR_MS, abs=HOUR_MS)
    assert found.earliest_ms <= found.likely_ms <= found.latest_ms <= NOW + DAY_MS
    assert found.total_nusd == pytest.approx(from_usd(96), rel=0.05)
    assert forecast(burn, left_nusd=from_usd(110), spent_nusd=0, now_ms=NOW, ends_ms=NOW + DAY_MS) is None
    assert forecast(burn, left_nusd=0, spent_nusd=0, now_ms=NOW, ends_ms=NOW + DAY_MS) is None


def test_a_forecast_needs_to_know_something() -> None:
    """Ten minutes say nothing of a day."""
    burn = burning(int(from_usd(1)), bins=11)
    assert forecast(burn, left_nusd=1, spent_nusd=0, now_ms=NOW, ends_ms=NOW + DAY_MS) is None
    assert budget_forecast(state(5), BUDGET, burning(int(from_usd(1))), now_ms=NOW) is None
    event = budget_forecast(state(52), BUDGET, burning(int(from_usd(1))), now_ms=NOW)
    assert event is not None
    assert event.about == f"all||2027-01-15|{from_usd(100)}"
    assert event.fields["burn_nusd_per_hour"] == pytest.approx(from_usd(4), rel=0.1)


def test_nights_are_not_taken_for_days() -> None:
    """At five in the afternoon most of an office's money is spent: going on like this all night is not what happens."""
    hours = {NOW // HOUR_MS - 168 + hour: (100 if 9 <= hour % 24 < 17 else 1) for hour in range(168)}
    profile = Profile(hours, first_hour=NOW // HOUR_MS - 168, now_hour=NOW // HOUR_MS)
    assert profile.at(NOW + 12 * HOUR_MS) > 20 * profile.at(NOW + 3 * HOUR_MS)
    burn = Burn(bin_ms=HOUR_MS, half_life_ms=24 * HOUR_MS, bin=(NOW - 2 * DAY_MS) // HOUR_MS)
    evening = NOW + 17 * HOUR_MS
    for at in range(NOW - 2 * DAY_MS, evening, HOUR_MS):
        burn.add(100 if 9 <= at // HOUR_MS % 24 < 17 else 1, at, profile)
    burn.advance(evening, profile)
    assert forecast(burn, left_nusd=100, spent_nusd=0, now_ms=evening, ends_ms=NOW + DAY_MS) is not None
    assert forecast(burn, left_nusd=100, spent_nusd=0, now_ms=evening, ends_ms=NOW + DAY_MS, profile=profile) is None


def test_a_burn_that_ended_long_ago_is_forgotten() -> None:
    """A batch of last month is no rate."""
    burn = burning(int(from_usd(1)))
    burn.advance(NOW + 90 * DAY_MS)
    assert burn.bins == 0
    assert burn.rate == 0
    assert burn.ahead(10) == (0.0, 0.0)


def usual_weeks(*spends: int) -> dict[int, int]:
    hour = NOW // HOUR_MS
    return {hour - WEEK_HOURS * (week + 1): int(from_usd(usd)) for week, usd in enumerate(spends)}


def look(hours: dict[int, int], **more: Any) -> bool:
    given: dict[str, Any] = {
        "first_hour": NOW // HOUR_MS - 5 * WEEK_HOURS,
        "least_samples": 4,
        "factor": 6.0,
        "least_nusd": from_usd(1),
    } | more
    return anomaly("", hours, now_ms=NOW + 5 * 60_000, **given) is not None


@pytest.mark.parametrize(
    ("now", "weeks", "told"),
    [
        (30, (10, 11, 9, 10, 10), True),
        (15, (10, 11, 9, 10, 10), False),
        # One odd week must neither hide the next one nor be what is usual.
        (30, (10, 500, 9, 10, 10), True),
        # Hours that differ much are not unusual when they differ again.
        (30, (2, 30, 10, 25, 18), False),
        # Less than a dollar more is nothing, however many times the usual it is.
        (0.9, (0.01, 0.01, 0.01, 0.01, 0.01), False),
        (5, (), True),
    ],
)
def test_an_hour_is_unusual_against_the_same_hour_of_the_weeks_before(now: float, weeks: tuple[int, ...], told: bool) -> None:
    """Monday morning is not Sunday night."""
    assert look({NOW // HOUR_MS: int(from_usd(now))} | usual_weeks(*weeks)) is told


def test_nothing_is_unusual_before_enough_weeks_are_known() -> None:
    """The first expensive hour of a new service is not news."""
    assert not look({NOW // HOUR_MS: int(from_usd(500))}, first_hour=NOW // HOUR_MS - 3 * WEEK_HOURS)


def record(at_ms: int, nusd: int, **more: object) -> bytes:
    import msgspec

    return msgspec.json.encode({"at_ms": at_ms, "charge_nusd": nusd, **more})


def test_statistics_survive_a_restart_and_stay_small() -> None:
    """They are kept in the store, and names come from clients."""
    found = Statistics()
    for n in range(2_100):
        found.add(record(NOW, 5, team="a", buckets=[f"all|user={n}|2027-01-15", "gone||x"]), budgets=BUDGETS, is_team={"a"}.__contains__)
    found.add(
        record(NOW - 100 * DAY_MS, 7, team="made up", deployment="p/m", price_source="assumed"), budgets=BUDGETS, is_team={"a"}.__contains__
    )
    found.add(b"not JSON", budgets=BUDGETS, is_team={"a"}.__contains__)
    assert len(found.burns) == 2_000
    assert set(found.hours) == {"", "a"}
    assert found.assumed == ["p/m"]
    found.forget(NOW)
    assert found.hours == {"": {NOW // HOUR_MS: 10_500}, "a": {NOW // HOUR_MS: 10_500}}
    again = decode(encode(found))
    assert again.burns == found.burns
    assert again.hours == found.hours
    assert decode(b"of another release") == Statistics()


class Seen:
    """What a process has counted."""

    def __init__(self) -> None:
        self.counters: dict[str, dict[tuple[str, ...], float]] = {"faregate_rejections_total": {}, "faregate_budget_refusals_total": {}}
        self.health: dict[str, str] = {}
        self.troubles: dict[str, tuple[str, float]] = {}
        self.local = Local(counted=lambda name: self.counters[name], health=lambda: self.health, troubles=self.troubles)

    def look(self) -> list[tuple[str, str]]:
        return [(event.kind, event.about) for event in self.local.look(provider_seconds=300)]


def test_a_provider_that_refuses_us_is_told_at_once_one_that_fails_after_a_while() -> None:
    """A wrong key mends itself never, an outage mostly."""
    seen = Seen()
    seen.troubles["p/a"] = ("auth", 10.0)
    seen.troubles["p/b"] = ("5xx", 10.0)
    assert seen.look() == []
    seen.health = {"p/a": "cooldown", "p/b": "cooldown"}
    assert seen.look() == [("provider_refusing", "p/a|auth")]
    # Nobody has asked it since: that is no failure.
    assert seen.look() == [("provider_refusing", "p/a|auth")]
    seen.troubles["p/b"] = ("5xx", 310.0)
    assert seen.look() == [("provider_refusing", "p/a|auth"), ("provider_refusing", "p/b|failing")]
    seen.health = {"p/a": "up", "p/b": "up"}
    assert seen.look() == []
    seen.health = {"p/b": "cooldown"}
    assert seen.look() == []


def test_refusals_and_models_without_a_price_are_told_when_they_occur() -> None:
    """Counters that were there before are not news with every look."""
    seen = Seen()
    seen.counters["faregate_budget_refusals_total"][("all", "refuse")] = 0
    assert seen.look() == []
    seen.counters["faregate_budget_refusals_total"] |= {("all", "refuse"): 2, ("all", "cheaper"): 9}
    seen.counters["faregate_rejections_total"] |= {("p/a", "unpriced"): 1, ("p/b", "cooldown"): 5}
    assert seen.look() == [("unpriced_model", "p/a"), ("budget_refusing", "all")]
    assert seen.look() == []


def test_a_store_that_blinks_is_not_told_one_that_stays_away_is_and_when_it_is_back() -> None:
    """A slow answer would page somebody."""
    alarm = StoreAlarm()

    def at(seconds: float, *, up: bool) -> str | None:
        event = alarm.look(up=up, now_ms=int(seconds * 1000), after_seconds=10)
        return None if event is None else event.kind

    assert [at(0, up=True), at(1, up=False), at(9, up=False), at(10, up=True), at(11, up=False), at(20, up=False)] == [None] * 6
    assert [at(21, up=False), at(22, up=False), at(60, up=True), at(61, up=True)] == ["store_away", None, "store_back", None]


def test_drift_and_a_rejected_configuration_say_what_is_wrong() -> None:
    """Both are for people who were asleep."""
    event = drifted([Drift("a||all", 5, 7, "spent"), Drift("b||all", int(from_usd(3)), 0, "held")])
    assert "2 fields, at most by 3.00 USD" in event.subject
    assert event.fields["bucket"] == "b||all"
    event = config_rejected("router.yaml", "router.yaml:1:1: a\nrouter.yaml:2:1: b")
    assert event.fields == {"source": "router.yaml", "errors": 2}
    assert "router.yaml:2:1: b" in event.text
