"""The fields of a condition: when a rule holds."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from router.settings.types import Flag, Section, Text, one_or_many

OneOrMore = Annotated[tuple[Text, ...], BeforeValidator(one_or_many, json_schema_input_type=str | list[str])]


def _ranges(value: object) -> object:
    return value if isinstance(value, dict) else one_or_many(value)


Ranges = Annotated[
    dict[str, OneOrMore] | tuple[Text, ...],
    BeforeValidator(_ranges, json_schema_input_type=str | list[str] | dict[str, str | list[str]]),
]
"""Of all budgets together, or by the name of a budget."""


def _pii(value: object) -> object:
    return (value,) if isinstance(value, bool) else one_or_many(value)


FlagOrMore = Annotated[tuple[bool | Text, ...], BeforeValidator(_pii, json_schema_input_type=bool | str | list[str])]


def _figures(value: object) -> object:
    if isinstance(value, str):
        if value not in _STATES:
            raise ValueError(f'cannot be "{value}"; write up, down, or figures such as {{error_rate: ">30%"}}')
        return {"up": _STATES[value]}
    return value


_STATES = {"up": True, "down": False}
Figures = Annotated[
    dict[Text, FlagOrMore],
    BeforeValidator(_figures, json_schema_input_type=str | dict[str, bool | str | list[str]]),
]
"""Figures of one provider, model or deployment; `up` and `down` are short for `{up: true}` and `{up: false}`."""


class WhenSettings(Section):
    """Conditions of a rule. All must hold; of several values for a field, any. `*` in a text stands for any characters.
    What cannot be told, such as the language of a request without text, makes a condition not hold."""

    route: OneOrMore | None = None
    """Name that the client asked for."""
    operation: OneOrMore | None = None
    """`chat`, `completions` or `embeddings`."""
    org: OneOrMore | None = None
    """Organisation of the key's team."""
    team: OneOrMore | None = None
    """Team of the key."""
    key: OneOrMore | None = None
    """Id of the key."""
    user: OneOrMore | None = None
    """User that the request names."""
    session: OneOrMore | None = None
    """Session that the request names."""
    tags: dict[str, OneOrMore] | None = None
    """Tags of the key or the request: `{kind: agent}`."""
    header: dict[str, OneOrMore] | None = None
    """Headers of the request: `{x-tier: gold}`."""
    input_tokens: OneOrMore | None = None
    """Likely number of input tokens: `"<4000"`, `"<= 4000"`, `">4000"`, `">= 4000"` or `"1000..4000"`. Unit: tokens."""
    tools: Flag | None = None
    """Whether the request offers tools."""
    stream: Flag | None = None
    """Whether the answer is to be streamed."""
    json_schema: Flag | None = None
    """Whether the answer must follow a JSON schema."""
    modality: OneOrMore | None = None
    """Kinds of input that the request contains: `text`, `image`, `audio`, `file`, `video`."""
    language: OneOrMore | None = None
    """Language of most of the prompt: codes of ISO 639-1 such as `ko`. Worked out only if the rule is reached."""
    task: OneOrMore | None = None
    """What is asked for: `code`, `math`, `translation`, `summary`, `extraction`, `chat`, `other`. Worked out only if a rule asks."""
    difficulty: OneOrMore | None = None
    """`"<0.4"` or `"0.4..0.7"`: from 0, a small model will do, to 1. Worked out only if the rule is reached. Unit: 0 to 1."""
    pii: FlagOrMore | None = None
    """Whether the prompt has personal data: true, false, or classes such as `[email, card]`. Worked out only if the rule is reached."""
    hour: OneOrMore | None = None
    """Hours of the day in the time zone of the route: `"9..17"` is 9:00 to 17:59, `"22..5"` goes over midnight."""
    weekday: OneOrMore | None = None
    """Days of the week in the time zone of the route: `mon..fri`, or `[sat, sun]`."""
    budget_used: Ranges | None = None
    """Largest used share of the budgets that the request falls under whatever model serves it: `">0.9"`; or that of single ones by
    their names, `{company: ">0.9"}`. Unit: 0 to 1."""
    budget_left: Ranges | None = None
    """Least that is left in such a budget: `"<$5"`; or what is left in single ones, `{company: "<$5"}`. Unit: USD."""
    budget: dict[Text, dict[Text, OneOrMore]] | None = None
    """Figures of single budgets by their names: `{search: {used: ">80%", passed: "<50%"}}`; also `left_usd` and `left_tokens`."""
    provider: dict[Text, Figures] | None = None
    """Figures of single providers: `{openai: down}`, or `{openai: {error_rate: ">30%", in_flight: ">100"}}`; also `up`, `headroom`,
    `first_token_ms`, `first_token_p95_ms`, `total_ms` and `total_p95_ms`."""
    model: dict[Text, Figures] | None = None
    """The same of models: `{frontier: {headroom: "<2"}}`."""
    deployment: dict[Text, Figures] | None = None
    """The same of deployments: `{openai/gpt-5.6: {first_token_p95_ms: ">2s"}}`."""
    cel: Text | None = None
    """An expression in CEL, such as `tokens.input > 4000 && tag("kind") != "agent"`. A text in place of the whole is short for it."""

    def spec(self) -> dict[str, object]:
        """As the matcher takes it."""
        return self.model_dump(exclude_none=True)


def _when(value: object) -> object:
    if value is None:
        return {}
    if isinstance(value, str):
        from policies.expressions.syntax import MOST_CHARACTERS

        if len(value) > MOST_CHARACTERS:
            raise ValueError(f"is longer than {MOST_CHARACTERS:,} characters")
        return {"cel": value}
    return value


WhenEntry = Annotated[WhenSettings, BeforeValidator(_when, json_schema_input_type=str | WhenSettings)]
