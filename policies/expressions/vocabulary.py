"""The names that an expression can use: what each means, its type, and what it costs to look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final

from policies.expressions.tree import Call, ExpressionError, Ident, Literal, Node, Select
from policies.figures import FIGURES, fields_of, read_state
from policies.readers import WEEKDAYS as WEEKDAYS
from policies.readers import Getter, read_signal
from policies.signals.names import PII_CLASSES, TASKS
from policies.types import RequestFacts, SignalName
from policies.words import did_you_mean

CHEAP: Final = 0
ENGINE: Final = 10
"""What the expression engine must be called for."""
SIGNAL_COSTS: Final[Mapping[SignalName, int]] = MappingProxyType({"language": 100, "pii": 200, "task": 300, "difficulty": 400})
"""Rough order of what signals cost; the cheaper is looked at first."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that is known of a request, or can be found out."""

    type: str
    get: Getter
    """Gives None for what cannot be told. Raises MissingSignal for a signal that has not been worked out yet."""
    sure: bool = True
    """Whether it is never None."""
    cost: int = CHEAP
    reads: str = ""
    """What must be filled in before the rule is looked at: `time`, `budget`, `provider:openai`, `in_flight@model:large`."""
    header: str = ""
    """The request header that it is."""
    signal: SignalName | None = None


def _signal(name: SignalName, type_: str, shape: Callable[[Any], Any] | None = None) -> Fact:
    plain = read_signal(name)
    if shape is None:
        get = plain
    else:

        def get(facts: RequestFacts) -> Any:
            value = plain(facts)
            return None if value is None else shape(value)

    return Fact(type_, get, sure=False, cost=SIGNAL_COSTS[name], signal=name)


def _budget_left_usd(facts: RequestFacts) -> float | None:
    left = facts.moment.budget_left_nusd
    return None if left is None else left / 1_000_000_000


NAMES: Final[Mapping[str, Fact]] = MappingProxyType(
    {
        "route": Fact("string", attrgetter("route")),
        "org": Fact("string", attrgetter("org")),
        "team": Fact("string", attrgetter("team")),
        "key": Fact("string", attrgetter("key_id")),
        "user": Fact("string", attrgetter("user")),
        "session": Fact("string", attrgetter("session")),
        "operation": Fact("string", attrgetter("operation")),
        "tokens.input": Fact("int", attrgetter("input_tokens")),
        "tokens.output_cap": Fact("int", attrgetter("output_cap"), sure=False),
        "deadline_ms": Fact("double", attrgetter("deadline_ms"), sure=False),
        "tools": Fact("bool", attrgetter("tools")),
        "stream": Fact("bool", attrgetter("stream")),
        "json_schema": Fact("bool", attrgetter("json_schema")),
        "modality": Fact("list<string>", lambda facts: sorted(facts.modalities)),
        "language": _signal("language", "string"),
        "task.domain": _signal("task", "string"),
        "task.difficulty": _signal("difficulty", "double"),
        "pii.found": _signal("pii", "bool", bool),
        "pii.classes": _signal("pii", "list<string>", sorted),
        "time.hour": Fact("int", attrgetter("moment.hour"), reads="time"),
        "time.weekday": Fact("string", attrgetter("moment.weekday"), reads="time"),
        "time.month": Fact("int", attrgetter("moment.month"), reads="time"),
        "budget.used": Fact("double", attrgetter("moment.budget_used"), sure=False, reads="budget"),
        "budget.left_usd": Fact("double", _budget_left_usd, sure=False, reads="budget"),
    }
)

LOOKUPS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "tag": "takes the name of a tag",
        "header": "takes the name of a header",
        "budget": "takes the name of a budget, and is followed by .used or .left_usd",
        "provider": "takes the name of a provider, and is followed by .up or .error_rate",
        "model": "takes the name of a model, and is followed by .up or .error_rate",
        "deployment": "takes the name of a deployment, and is followed by .up or .error_rate",
    }
)
"""Functions of one text that stands in the expression, and how they are used."""
KNOWN_WORDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "time.weekday": WEEKDAYS,
        "operation": ("chat", "completions", "embeddings"),
        "modality": ("text", "image", "audio", "file", "video"),
        "task.domain": TASKS,
        "pii.classes": PII_CLASSES,
    }
)
"""Texts that a name can be. Another one compared with it is a mistake."""
HIGHEST: Final[Mapping[str, float]] = MappingProxyType(
    {"task.difficulty": 1.0, "budget.used": 10.0, "used": 10.0, "passed": 1.0, "error_rate": 1.0}
)
"""The highest number that a share can be compared with; above it, a percentage was meant. A debt may use up more than all."""


def _tag(name: str) -> Fact:
    return Fact("string", lambda facts: facts.tags.get(name, ""))


def _header(name: str) -> Fact:
    lower = name.lower()
    return Fact("string", lambda facts: facts.headers.get(lower, ""), header=lower)


def fact_of(node: Node) -> Fact | None:
    """The fact that a part of an expression names; None if it is something else.

    Raises:
        ExpressionError: it is a look-up that is used in a wrong way.
    """
    match node:
        case Ident(name=name):
            return NAMES.get(name)
        case Call(name="tag" | "header" as name, target=None):
            return (_tag if name == "tag" else _header)(_only_text(node))
        case Select(base=Call(name="budget" | "provider" | "model" | "deployment" as name, target=None) as call, field=field):
            return _of_one(name, field, call, node.at)
        case _:
            return None


def _of_one(section: str, field: str, call: Call, at: int) -> Fact:
    """What is known of a budget, a provider, a model or a deployment."""
    known = fields_of(section)
    if field not in known:
        raise ExpressionError(f'{section}() has no "{field}"{did_you_mean(field, known)}', at)
    reads, get = read_state(section, _only_text(call), field)
    return Fact(FIGURES[section].get(field, "bool"), get, sure=False, reads=reads)


def _only_text(call: Call) -> str:
    match call.args:
        case (Literal(value=str() as text),) if text:
            return text
        case _:
            raise ExpressionError(f'{call.name}() {LOOKUPS[call.name]}, as in {call.name}("x")', call.at)
