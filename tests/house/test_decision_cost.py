"""What a decision may cost, counted in opcodes: times are noise on a shared machine."""

from __future__ import annotations

from benchmarks.decision.__main__ import CANDIDATES, FACTS, RULES, cases, opcodes, policy
from policies.engine import choose, decide
from policies.types import Candidate, Traits

MOST: dict[str, int] = {"no rule": 700, "20 short rules": 1400, "20 expressions": 1400, "10 short rules, 10 expressions": 1400}
"""Measured: 558, 1181, 1148, 1146, which is 5 to 13 µs."""


def test_twenty_rules_and_ten_candidates_cost_what_they_did() -> None:
    """Expressions that are compared plainly must not go to the engine: that costs ten times as much."""
    names = tuple(f"p/m{i}" for i in range(CANDIDATES))
    offered = [Candidate(Traits(deployment=name, model=name, provider="p", context_tokens=128_000), expected_nusd=7) for name in names]
    for title, most in MOST.items():
        specs = cases()[title]
        assert len(specs) in (0, RULES)
        made = policy(specs, names)
        decide(choose(made, FACTS), FACTS, offered, 0.5)
        assert opcodes(lambda made=made: decide(choose(made, FACTS), FACTS, offered, 0.5)) <= most, title
