"""`python -m benchmarks.decision`: CPU time and opcodes of one decision, as a Markdown table."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from policies.engine import Branch, RoutePolicy, Rule, choose, decide
from policies.kinds.cost import CostOptions, bind
from policies.matchers import compile_matcher
from policies.types import Candidate, Moment, RequestFacts, Traits

RULES: Final = 20
CANDIDATES: Final = 10
FACTS: Final = RequestFacts(
    operation="chat",
    route="auto",
    team="search",
    key_id="ci-bot",
    user="ann",
    session="s-42",
    tags={"kind": "agent"},
    headers={"x-tier": "silver"},
    input_tokens=1500,
    input_tokens_bound=3000,
    stream=True,
    moment=Moment(hour=14, weekday="tue", month=11, budget_used=0.4, budget_left_nusd=10**9, up={"provider:p": True}),
)
SHORT: Final[tuple[dict[str, object], ...]] = (
    {"team": "ads"},
    {"input_tokens": ">100k"},
    {"tags": {"kind": "batch"}, "stream": False},
    {"header": {"x-tier": "gold"}},
    {"budget_used": ">0.9"},
    {"hour": "22..5", "team": ["search", "ads"]},
    {"user": "test-*"},
    {"tools": True, "json_schema": True},
)
PLAIN: Final = (
    'team == "ads"',
    "tokens.input > 100000",
    'tag("kind") == "batch" && !stream',
    'header("x-tier") == "gold"',
    "budget.used > 0.9",
    'time.hour < 6 && team in ["search", "ads"]',
    'user.startsWith("test-")',
    'tools || !provider("p").up',
)
ENGINE: Final = ('team.matches("^ads-[0-9]+$")', "tokens.input / 1000 > 100", "size(user) > 20 || size(session) > 20")


def policy(specs: list[dict[str, object]], deployments: tuple[str, ...]) -> RoutePolicy:
    """A policy of which no rule matches, so that all are looked at."""
    branch = Branch(rule="default", deployments=deployments, kind="cost", order=bind(CostOptions()), reads_worst_case=False)
    return RoutePolicy(
        rules=tuple(Rule(name=f"r{i}", matches=compile_matcher(s).matches, branch=branch) for i, s in enumerate(specs)), default=branch
    )


def cases() -> dict[str, list[dict[str, object]]]:
    """Twenty rules of each sort."""
    short = [SHORT[i % len(SHORT)] for i in range(RULES)]
    plain: list[dict[str, object]] = [{"cel": PLAIN[i % len(PLAIN)]} for i in range(RULES)]
    engine: list[dict[str, object]] = [{"cel": ENGINE[i % len(ENGINE)]} for i in range(RULES)]
    return {
        "no rule": [],
        "20 short rules": short,
        "20 expressions": plain,
        "10 short rules, 10 expressions": short[:10] + plain[:10],
        "20 expressions for the engine": engine,
    }


def cpu_us(run: Callable[[], object], rounds: int, number: int) -> float:
    """The least CPU time of a call over some rounds, in microseconds."""
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time_ns()
        for _ in range(number):
            run()
        best = min(best, (time.process_time_ns() - began) / number / 1000)
    return best


def opcodes(run: Callable[[], object]) -> int:
    """Opcodes of Python of one call; what runs inside of C counts as one."""
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    # Whoever measures coverage of this goes on afterwards.
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--number", type=int, default=500)
    given = parser.parse_args()
    names = tuple(f"p/m{i}" for i in range(CANDIDATES))
    offered = [
        Candidate(Traits(deployment=name, model=name, provider="p", context_tokens=128_000), expected_nusd=1000 * (i * 7 % 10 + 1))
        for i, name in enumerate(names)
    ]
    print(f"| {CANDIDATES} candidates, kind `cost` | CPU µs a decision | of it rules | opcodes |\n|---|---|---|---|")
    for title, specs in cases().items():
        made = policy(specs, names)

        def whole(made: RoutePolicy = made) -> object:
            return decide(choose(made, FACTS), FACTS, offered, 0.5)

        def rules(made: RoutePolicy = made) -> object:
            return choose(made, FACTS)

        assert choose(made, FACTS).rule == "default", title
        cost, part = cpu_us(whole, given.rounds, given.number), cpu_us(rules, given.rounds, given.number)
        print(f"| {title} | {cost:.1f} | {part:.1f} | {opcodes(whole)} |")


if __name__ == "__main__":
    main()
