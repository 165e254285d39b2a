"""What `test_budget_machine.py` is configured with, and where its clocks begin."""

from __future__ import annotations

from typing import Final

CONFIG: Final = """
version: 1
providers:
  up: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: none}
  alt: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: none}
models:
  m: {at: up/m, price: {input: 0, output: 10}}
  n: {at: alt/n, price: {input: 0, output: 10}}
routes: {auto: [m, n], fast: [n]}
teams: {a: {}, b: {}}
budgets:
"""
BUDGETS: Final = {
    "all-day": "limit: LIMIT/day, timezone: ZONE, carry_over: true",
    "all-month": "limit: LIMIT/month, timezone: ZONE",
    "all-time": "limit: LIMIT, window: lifetime, mode: shadow",
    "org": "limit: LIMIT/week, each: org, timezone: ZONE",
    "team": "limit: LIMIT/hour, each: team, timezone: ZONE, carry_over: 50%",
    "team-steps": "limit: LIMIT/day, each: team, timezone: ZONE, at: {50%: downgrade, 90%: block}",
    "team-kind": "limit: LIMIT/day, each: [team, 'tag:kind'], max_scopes: 2, over_max_scopes: other",
    "key": "limit: LIMIT/minute, each: key",
    "user": "limit: LIMIT/day, each: user, timezone: ZONE, max_scopes: 2",
    "user-rest": "limit: LIMIT/hour, each: user, max_scopes: 2, over_max_scopes: other",
    "user-soft": "limit: LIMIT/week, each: user, mode: soft, max_scopes: 1",
    "user-trial": "limit: LIMIT/day, each: user, mode: shadow, max_scopes: 1",
    "tag": "limit: LIMIT/month, each: 'tag:kind', timezone: ZONE",
    "session": "limit: LIMIT, window: lifetime, each: session, max_scopes: 2, over_max_scopes: other",
    "session-few": "limit: LIMIT, window: lifetime, each: session, max_scopes: 2",
    "route": "limit: LIMIT/hour, each: route, mode: soft, timezone: ZONE",
    "model": "limit: LIMIT/day, each: model, timezone: ZONE",
    "provider": "limit: LIMIT/7d, each: provider",
    "agents": "limit: LIMIT/week, when: {tags: {kind: agent}, team: a}",
}
ZONES: Final = {
    "Europe/Berlin": ("2026-10-25T01:00", "2027-03-28T01:00"),
    "America/Santiago": ("2026-09-06T04:00", "2027-04-04T03:00"),
    "Australia/Lord_Howe": ("2026-10-03T15:30", "2027-04-03T15:00"),
    "Asia/Kathmandu": ("2026-12-31T18:15", "2027-02-28T18:15"),
}
"""Some moments, UTC, at which their clocks are changed: by an hour, at midnight, by half an hour; at which a year or month begins."""
