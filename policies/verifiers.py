"""The cheap checks of a cascade: whether an answer ended well, is no refusal, follows a schema, was given with confidence."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from policies.answers import Said
from policies.plans import Verify

ENDED: Final = frozenset({"", "stop", "tool_calls", "function_call", "end_turn", "eos"})
LOOKED_AT: Final = 300
"""Characters at the beginning of an answer in which a refusal shows itself."""
MOST_DEPTH: Final = 32
MOST_LOOKS: Final = 100_000
"""So often a value is held against a part of a schema, or a member of an `enum`: a client writes it, and all others wait meanwhile."""

_REFUSALS: Final = re.compile(
    r"\bI(?:'m| am) (?:sorry|unable|not able)\b[^.]{0,80}\b(?:can(?:'t|not)|unable|not able|won't|assist|help|fulfill)\b"
    r"|\bI(?: can(?:'t|not)| won't| must decline| do(?:n't| not) have (?:access|the ability))\b"
    r"|\bas an AI(?: language)? model\b"
    r"|(?:도와|답변(?:해|을)?|제공(?:해|할)?|알려)\s?(?:드릴|줄|할)?\s?수\s?(?:가\s)?없"
    r"|죄송(?:하지만|합니다)|申し訳(?:ありません|ございません)|お答えできません|(?:抱歉|对不起)[，,]?\s?我(?:无法|不能)|我(?:无法|不能)(?:提供|回答|帮助)"
    r"|\b(?:es )?tut mir leid\b|\bje (?:suis désolé|ne peux pas)\b|\blo siento\b",
    re.IGNORECASE,
)


def failed_check(verify: Verify, said: Said, *, schema: Mapping[str, Any] | None, own_cap: bool) -> str:
    """The first check that an answer does not pass: `finish`, `refusal`, `schema` or `logprob`; empty if it passes all.

    `schema`: of the request, None if it has none. `own_cap`: the client set the cap on output, so that reaching it is no fault.
    """
    if verify.finish and not _ended(said, own_cap=own_cap):
        return "finish"
    if verify.refusal and (said.refused or _REFUSALS.search(said.text[:LOOKED_AT]) is not None):
        return "refusal"
    if verify.schema and schema is not None and not said.tools and not _follows(said.text, schema):
        return "schema"
    if verify.logprob is not None and (said.logprob is None or said.logprob < verify.logprob):
        return "logprob"
    return ""


def _ended(said: Said, *, own_cap: bool) -> bool:
    ended = said.finish in ENDED or (said.finish == "length" and own_cap)
    return ended and (said.tools or bool(said.text.strip()))


def _follows(text: str, schema: Mapping[str, Any]) -> bool:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return False
    try:
        return fits(value, schema)
    except TypeError:
        # A schema that says nothing sensible, such as a text as a minimum, is the provider's to refuse.
        return True


def score_of(text: str) -> float | None:
    """What a judge has said: the first number from 0 to 100, as 0 to 1; None: it has said none."""
    found = re.search(r"(?<![\d.])(\d{1,3})(?:\.\d+)?(?!\d)", text)
    return int(found[1]) / 100 if found is not None and int(found[1]) <= 100 else None


# -- JSON schemas: the keywords that structured outputs allow. Others are not looked at, `$ref` among them.

_TYPES: Final[Mapping[str, Callable[[Any], bool]]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: isinstance(value, int | float) and not isinstance(value, bool) and value == int(value),
}


class _Looks:
    """What may still be looked at."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MOST_LOOKS

    def are_used_up(self, schema: dict[str, Any]) -> bool:
        """Count one more part of a schema, with what it enumerates."""
        self.left -= 1 + sum([len(part) for name in ("type", "enum", "required") if isinstance(part := schema.get(name), list)])
        return self.left < 0


def fits(value: Any, schema: object, depth: int = 0, looks: _Looks | None = None) -> bool:
    """Whether a value follows a schema. Deeper than 32 levels, and after 100,000 looks, nothing is looked at."""
    looks = _Looks() if looks is None else looks
    if not isinstance(schema, dict) or depth > MOST_DEPTH or looks.are_used_up(schema):
        return schema is not False
    kinds = schema.get("type")
    allowed: list[Any] = kinds if isinstance(kinds, list) else [kinds]
    if kinds is not None and not any(_TYPES[kind](value) for kind in allowed if kind in _TYPES):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    return _fits_one_of(value, schema, depth, looks) and _PARTS.get(type(value), _nothing)(value, schema, depth, looks)


def _nothing(value: Any, schema: dict[str, Any], depth: int, looks: _Looks) -> bool:
    return True


def _fits_one_of(value: Any, schema: dict[str, Any], depth: int, looks: _Looks) -> bool:
    branches = schema.get("anyOf", schema.get("oneOf"))
    return not isinstance(branches, list) or any(fits(value, branch, depth + 1, looks) for branch in branches)


def _object(value: dict[str, Any], schema: dict[str, Any], depth: int, looks: _Looks) -> bool:
    known = schema.get("properties")
    known = known if isinstance(known, dict) else {}
    if any(name not in value for name in schema.get("required", ())):
        return False
    rest = schema.get("additionalProperties", True)
    return all(fits(each, known.get(name, rest), depth + 1, looks) for name, each in value.items())


def _array(value: list[Any], schema: dict[str, Any], depth: int, looks: _Looks) -> bool:
    least, most = schema.get("minItems", 0), schema.get("maxItems", len(value))
    return least <= len(value) <= most and all(fits(each, schema.get("items", True), depth + 1, looks) for each in value)


def _number(value: float, schema: dict[str, Any], depth: int, looks: _Looks) -> bool:
    return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))


def _string(value: str, schema: dict[str, Any], depth: int, looks: _Looks) -> bool:
    return bool(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)))


_PARTS: Final[Mapping[type, Callable[[Any, dict[str, Any], int, _Looks], bool]]] = {
    dict: _object,
    list: _array,
    int: _number,
    float: _number,
    str: _string,
}
