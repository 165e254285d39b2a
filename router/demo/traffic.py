"""What the four teams ask: seeded, so that a demonstration can be repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

import msgspec

KEYS: Final[Mapping[str, str]] = {
    "search": "demo-key-of-search-team",
    "support": "demo-key-of-support-team",
    "finance": "demo-key-of-finance-team",
    "research": "demo-key-of-research-team",
}
"""The public keys of `config/demo.yaml`, by team."""
TEAMS: Final = tuple(KEYS)

_CHAT: Final = (
    "What is the difference between a refund and a chargeback?",
    "Which plan includes single sign-on?",
    "Write a friendly reply: the parcel is two days late.",
    "Translate 'out of stock' into French and German.",
    "How do I change the billing address of a past order?",
)
_CODE: Final = (
    "Why does this Python function miss the last item? def chunks(a, n): return [a[i:i+n] for i in range(0, len(a)-n, n)]",
    "Write a SQL query for the ten customers with the most returns this year.",
    "Refactor this function to stop copying the list at each step.",
)
_KOREAN: Final = (
    "3분기 영업이익 변동의 주요 원인을 세 문장으로 정리해 주세요.",
    "환율이 5% 오르면 수입 원가에 어떤 영향이 있는지 설명해 주세요.",
    "다음 달 현금 흐름에서 주의할 점을 알려 주세요.",
)
_PARAGRAPH: Final = "The warehouse move is two weeks late, the new racks arrive on Monday, and nobody has signed for the second lift. "
_SEARCH_DOCS: Final[Mapping[str, object]] = {
    "type": "function",
    "function": {
        "name": "search_docs",
        "description": "Search the internal documents.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request, before it is sent."""

    team: str
    route: str
    messages: Sequence[Mapping[str, Any]]
    max_tokens: int
    stream: bool = False
    tags: str = ""
    session: str = ""
    tools: bool = False

    def body(self) -> bytes:
        """The JSON of a chat completion."""
        fields: dict[str, Any] = {"model": self.route, "messages": self.messages, "max_tokens": self.max_tokens}
        if self.stream:
            fields |= {"stream": True}
        if self.tools:
            fields |= {"tools": [_SEARCH_DOCS]}
        return msgspec.json.encode(fields)

    def headers(self) -> dict[str, str]:
        """Credential, tags and session."""
        found = {"authorization": f"Bearer {KEYS[self.team]}"}
        if self.tags:
            found["x-faregate-tags"] = self.tags
        if self.session:
            found["x-faregate-session"] = self.session
        return found


class Traffic:
    """Makes requests. The same seed makes the same ones in the same order."""

    def __init__(self, seed: int) -> None:
        # Repeatable on purpose: this is scenery, not a secret.
        self.draw = Random(seed)  # noqa: S311
        self._run = 0

    def ask(self, team: str) -> Ask:
        """An ordinary request of a team."""
        return {"search": self._search, "support": self._support, "finance": self._finance, "research": self._research}[team]()

    def _user(self, text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": text}]

    def _search(self) -> Ask:
        stream = self.draw.random() < 0.5
        kind = self.draw.choices(("chat", "code", "long", "best"), (5, 3, 2, 2))[0]
        if kind == "code":
            return Ask(
                team="search", route="auto", messages=self._user(self.draw.choice(_CODE)), max_tokens=300, stream=stream, tags="task=code"
            )
        if kind == "long":
            text = "Summarise these minutes. " + _PARAGRAPH * self.draw.randint(45, 80)
            return Ask(team="search", route="auto", messages=self._user(text), max_tokens=300, stream=stream)
        route = "best" if kind == "best" else "auto"
        return replace(self.question(route), stream=stream)

    def question(self, route: str) -> Ask:
        """A short question of team search to a given route."""
        return Ask(team="search", route=route, messages=self._user(self.draw.choice(_CHAT)), max_tokens=300)

    def _support(self) -> Ask:
        return Ask(team="support", route="best", messages=self._user(self.draw.choice(_CHAT)), max_tokens=300)

    def _finance(self) -> Ask:
        return Ask(team="finance", route="graceful", messages=self._user(self.draw.choice(_KOREAN)), max_tokens=300)

    def _research(self) -> Ask:
        self._run += 1
        return self.turn(f"run-{self._run}", self._user("Use search_docs to find the lift contract."))

    def turn(self, session: str, messages: Sequence[Mapping[str, Any]]) -> Ask:
        """One step of an agent."""
        return Ask(team="research", route="auto", messages=messages, max_tokens=200, session=session, tools=True)

    def stuck_agent(self, step: int) -> list[dict[str, Any]]:
        """The messages of an agent that will not find what it looks for; it keeps its last three steps in mind."""
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": "You are a careful research agent. Keep looking until you find the page."},
            {"role": "user", "content": "Use search_docs until you find page 12 of the lift contract."},
        ]
        for number in range(max(1, step - 2), step + 1):
            arguments = msgspec.json.encode({"query": f"lift contract page 12, attempt {number}"}).decode()
            call = {"id": f"call_{number}", "type": "function", "function": {"name": "search_docs", "arguments": arguments}}
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": f"call_{number}", "content": "Nothing found."})
        return messages
