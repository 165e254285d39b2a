"""Calendar windows and the buckets of an attempt."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.budgets import NEVER_MS, Budget, WindowKind
from router.domain.windows import MAX_SCOPE_LENGTH, bucket_id, bucket_set, budget_of, escape_scope, window_at

HOUR_MS = 3_600_000


def ms(text: str, zone: str = "UTC", fold: int = 0) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp() * 1000)


@pytest.mark.parametrize(
    ("kind", "label", "starts", "ends"),
    [
        ("minute", "2026-11-22T14:59+0900", "2026-11-22T14:59", "2026-11-22T15:00"),
        ("hour", "2026-11-22T14", "2026-11-22T14:00", "2026-11-22T15:00"),
        ("day", "2026-11-22", "2026-11-22T00:00", "2026-11-23T00:00"),
        ("week", "2026-W47", "2026-11-16T00:00", "2026-11-23T00:00"),
        ("month", "2026-11", "2026-11-01T00:00", "2026-12-01T00:00"),
    ],
)
def test_windows_begin_by_the_clock_on_the_wall(kind: WindowKind, label: str, starts: str, ends: str) -> None:
    """A monthly budget of a team in Seoul starts anew at midnight there."""
    zone = "Asia/Seoul"
    assert window_at(kind, zone, ms("2026-11-22T14:59:59.999", zone)) == (label, ms(starts, zone), ms(ends, zone))


def test_a_lifetime_does_not_end() -> None:
    """One window, for ever."""
    assert window_at("lifetime", "UTC", 5) == ("all", 0, NEVER_MS)


@pytest.mark.parametrize(
    ("day", "hours"),
    [("2026-03-08", 23), ("2026-11-01", 25), ("2026-11-02", 24)],
)
def test_a_day_on_which_clocks_change_has_23_or_25_hours(day: str, hours: int) -> None:
    """New York, 2026: forward on March 8, back on November 1."""
    _, starts, ends = window_at("day", "America/New_York", ms(f"{day}T12:00", "America/New_York"))
    assert ends - starts == hours * HOUR_MS


@pytest.mark.parametrize("fold", [0, 1])
def test_the_hour_that_occurs_twice_is_one_window(fold: int) -> None:
    """Two windows with one label would be counted together, but end at different times."""
    zone = "America/New_York"
    now = ms("2026-11-01T01:30", zone, fold)
    label, starts, ends = window_at("hour", zone, now)
    assert (label, ends - starts) == ("2026-11-01T01", 2 * HOUR_MS)
    assert starts <= now < ends


def test_minutes_of_the_hour_that_occurs_twice_are_told_apart() -> None:
    """They are an hour apart: counted together, the second would find what the first has spent."""
    zone = "America/New_York"
    windows = [window_at("minute", zone, ms("2026-11-01T01:30:59.999", zone, fold)) for fold in (0, 1)]
    first, again = ms("2026-11-01T01:30", zone, 0), ms("2026-11-01T01:30", zone, 1)
    assert windows == [("2026-11-01T01:30-0400", first, first + 60_000), ("2026-11-01T01:30-0500", again, again + 60_000)]


def test_a_day_whose_midnight_does_not_exist_starts_at_the_change() -> None:
    """Cairo puts its clocks forward at midnight: April 24, 2026 begins at 01:00."""
    _, starts, ends = window_at("day", "Africa/Cairo", ms("2026-04-24T12:00", "Africa/Cairo"))
    assert (starts, ends - starts) == (ms("2026-04-24T01:00", "Africa/Cairo"), 23 * HOUR_MS)


@given(
    now=st.integers(min_value=ms("2020-01-01"), max_value=ms("2040-01-01")),
    kind=st.sampled_from(["minute", "hour", "day", "week", "month"]),
    zone=st.sampled_from(
        ["UTC", "Asia/Seoul", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Santiago", "Africa/Cairo"]
    ),
)
def test_windows_cover_all_time_without_overlap(now: int, kind: WindowKind, zone: str) -> None:
    """Every moment lies in its window, and the next one begins where it ends under another label."""
    label, starts, ends = window_at(kind, zone, now)
    assert starts <= now < ends
    assert window_at(kind, zone, starts) == (label, starts, ends)
    assert window_at(kind, zone, ends - 1) == (label, starts, ends)
    following = window_at(kind, zone, ends)
    assert following[1] == ends
    assert following[0] != label


def test_a_request_falls_under_every_budget_that_matches_it() -> None:
    """Global, per team and per key at once; conditions must all hold; a missing dimension is no dimension."""
    budgets = [
        Budget(name="all", limit_nusd=1, window="month"),
        Budget(name="per-team", limit_nusd=2, window="day", each="team"),
        Budget(name="per-user", limit_nusd=3, window="day", each="user"),
        Budget(name="agents", limit_nusd=4, window="lifetime", each="session", when=(("tag:kind", frozenset({"agent"})),), hard=False),
        Budget(name="others", limit_nusd=5, window="lifetime", when=(("tag:kind", frozenset({"person"})),)),
        Budget(name="gpt", limit_nusd=6, window="lifetime", when=(("model", frozenset({"gpt"})), ("team", frozenset({"search"})))),
        Budget(name="other-model", limit_nusd=7, window="lifetime", when=(("provider", frozenset({"x"})),)),
    ]
    dims = {"team": "search", "user": "", "session": "s|1", "model": "gpt"}
    made = bucket_set(budgets, dims=dims, tags={"kind": "agent"}, now_ms=ms("2026-11-22T10:00"))
    assert [bucket_id(b) for b in made.buckets] == [
        "all||2026-11",
        "per-team|team=search|2026-11-22",
        "agents|session=s%7C1|all",
        "gpt||all",
    ]
    assert [(b.limit_nusd, b.hard) for b in made.buckets] == [(1, True), (2, True), (4, False), (6, True)]
    assert made.valid_until_ms == ms("2026-11-23")


def test_no_budget_is_an_empty_set_that_stays_valid() -> None:
    """Without budgets there is nothing to build anew."""
    assert bucket_set([], dims={}, tags={}, now_ms=0).valid_until_ms == NEVER_MS


@given(st.text())
def test_scope_values_are_safe_in_a_key_and_bounded(value: str) -> None:
    """Clients invent sessions and users; none may break a key or make it endless."""
    text = escape_scope(value)
    assert len(text) <= MAX_SCOPE_LENGTH
    assert text.isascii()
    assert text.isprintable()
    assert not set(text) & set("|\n={}")


def test_different_long_values_stay_different() -> None:
    """Cut off alone, they would share one budget."""
    assert escape_scope("x" * 500 + "a") != escape_scope("x" * 500 + "b")


def test_a_budgets_name_can_be_read_back_from_a_bucket_id() -> None:
    """Reports name the budget as the configuration does."""
    made = bucket_set([Budget(name="a|b 100%", limit_nusd=1, window="day")], dims={}, tags={}, now_ms=0)
    assert budget_of(bucket_id(made.buckets[0])) == "a|b 100%"
