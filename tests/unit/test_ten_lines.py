"""The configuration that the routing page begins with does what the page says of it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from policies.engine import Branch, choose
from policies.types import Moment, RequestFacts, Signals
from router.settings.load import load_text, price_book
from router.snapshot import Snapshot
from tests.house.source import ROOT


def snapshot() -> Snapshot:
    page = (ROOT / "docs" / "routing.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"<!-- ten-lines -->\n```yaml\n(.*?)```", page, re.DOTALL)
    keys = {"OPENAI_API_KEY": "o" * 8, "UPSTAGE_API_KEY": "u" * 8}
    loaded = load_text(text, source="routing.md", environ=keys, price_book=price_book())
    assert [line for line in loaded.snapshot.warnings if "price" not in line] == []
    return loaded.snapshot


def branch(used: float = 0.1, **signals: Any) -> Branch:
    known = {"language": "en", "task": "chat", "difficulty": 0.1, "pii": frozenset(), **signals}
    facts = RequestFacts(operation="chat", route="auto", signals=Signals(**known), moment=Moment(budget_used=used))
    return choose(snapshot().routes["auto"].policy, facts)


@pytest.mark.parametrize(
    ("request_is", "rule", "models"),
    [
        ({}, "default", ["pocket"]),
        ({"task": "code"}, "code", ["coder"]),
        ({"language": "ko"}, "korean", ["solar", "pocket"]),
        ({"difficulty": 0.9}, "hard", ["frontier", "solar", "pocket"]),
        ({"difficulty": 0.9, "used": 0.95}, "broke", ["solar", "pocket"]),
        ({"pii": frozenset({"email"})}, "default", ["pocket"]),
        ({"pii": frozenset({"email"}), "language": "ko"}, "korean", ["pocket"]),
        ({"pii": frozenset({"email"}), "difficulty": 0.9}, "hard", ["pocket"]),
        ({"pii": None, "difficulty": 0.9, "used": 0.95}, "broke", ["pocket"]),
    ],
)
def test_each_line_means_what_the_page_says(request_is: dict[str, Any], rule: str, models: list[str]) -> None:
    """It is what is copied first."""
    chosen = branch(**request_is)
    deployments = snapshot().deployments
    assert (chosen.rule, [deployments[name].model for name in chosen.deployments]) == (rule, models)
    assert chosen.kind == {"hard": "pace", "default": "latency", "korean": "fixed"}.get(rule, "cost")
    assert (chosen.private != ()) is (request_is.get("pii", frozenset()) != frozenset())
