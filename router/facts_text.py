"""What a decision was made of, for people: the facts of a request, and what each rule said of them."""

from __future__ import annotations

import json
from typing import Final

import msgspec

from policies.engine import RoutePolicy
from policies.figures import figures_text
from policies.types import Decision, MissingSignal, Moment, RequestFacts, Signals
from router.domain.money import format_usd


class RuleLine(msgspec.Struct, kw_only=True):
    """A rule that was looked at."""

    name: str
    condition: str
    matches: bool


MOST_EXPLAINED: Final = 16
"""Models of each kind that are named to a client."""


def explanation(decision: Decision) -> bytes:
    """Why a call went where it went, for the client that asked: JSON in ASCII. What its key may not use is not named."""
    left_out = [each for each in decision.rejected if each.reason != "not_allowed"]
    told = {
        "rule": decision.rule,
        "kind": decision.kind,
        "order": [
            {"deployment": each.deployment, "score": each.score, **({"parts": each.parts} if each.parts else {})}
            for each in decision.order[:MOST_EXPLAINED]
        ],
        "measure": decision.measure,
        "left_out": [{"deployment": each.deployment, "reason": each.reason, "detail": each.detail} for each in left_out[:MOST_EXPLAINED]],
    }
    return json.dumps(told, separators=(",", ":")).encode("ascii")


def rules_of(policy: RoutePolicy, facts: RequestFacts) -> list[RuleLine]:
    """What the rules said, up to the first that holds, or that asks for a signal which nobody worked out."""
    lines = []
    for rule in policy.rules:
        try:
            matches = bool(rule.matches(facts))
        except MissingSignal:
            break
        lines.append(RuleLine(name=rule.name, condition=rule.describe, matches=matches))
        if matches:
            break
    return lines


def rules_text(rules: list[RuleLine]) -> list[str]:
    """One line; none if there are no rules."""
    looked = [f"{rule.name}{f' ({rule.condition})' if rule.condition else ''}: {'yes' if rule.matches else 'no'}" for rule in rules]
    return [f"rules: {'; '.join(looked)}"] if looked else []


def facts_text(facts: RequestFacts) -> str:
    """All that is known of a request, in one line."""
    parts = [facts.operation, f"about {facts.input_tokens:,} input tokens (at most {facts.input_tokens_bound:,})"]
    parts.append("no output cap" if facts.output_cap is None else f"output cap {facts.output_cap:,}")
    if facts.choices > 1:
        parts.append(f"{facts.choices} choices")
    parts += [word for word, asked in (("stream", facts.stream), ("tools", facts.tools), ("JSON schema", facts.json_schema)) if asked]
    parts += sorted(facts.modalities - {"text"})
    named = (("org", facts.org), ("team", facts.team), ("key", facts.key_id), ("user", facts.user), ("session", facts.session))
    parts += [f"{word} {value}" for word, value in named if value]
    parts += [] if facts.deadline_ms is None else [f"deadline {facts.deadline_ms:,.0f} ms"]
    parts += _signals_text(facts.signals)
    parts += _moment_text(facts.moment)
    parts += [f"tag {name}={value}" for name, value in sorted(facts.tags.items())]
    return ", ".join(parts)


def _moment_text(moment: Moment) -> list[str]:
    """What rules read of the time, the budgets and the providers."""
    parts = [f"{moment.weekday} {moment.hour:02}:00"] if moment.weekday else []
    if moment.budget_used is not None:
        parts.append(f"budgets {moment.budget_used:.0%} used")
    if moment.budget_left_nusd is not None:
        parts.append(f"{format_usd(moment.budget_left_nusd)} USD left")
    parts += [f"{key.replace(':', ' ')} {'up' if up else 'down'}" for key, up in moment.up.items()]
    parts += [f"{key.replace(':', ' ')} error_rate {rate:g}" for key, rate in moment.error_rate.items() if rate is not None]
    return [*parts, *figures_text(moment.numbers)]


def _signals_text(signals: Signals) -> list[str]:
    """Those that were asked for."""
    found = msgspec.structs.asdict(signals)
    texts = {name: ", ".join(sorted(value)) or "none" if isinstance(value, frozenset) else value for name, value in found.items()}
    return [f"{name} {'unknown' if value is None else value}" for name, value in texts.items() if value is not msgspec.UNSET]
