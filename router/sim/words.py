"""Text of the simulator: its tokenizer, the canned answers and the smallest instance of a JSON schema."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Final

import msgspec

# A word of up to six letters with its blank, two Hangul syllables, three digits, a run of blanks, or one other
# character. About 4 bytes a token for English prose, and never more tokens than bytes.
_TOKEN: Final = re.compile(r" ?[A-Za-z]{1,6}|[\uac00-\ud7a3]{1,2}|\d{1,3}|\s+|[^\s]")
_HANGUL: Final = re.compile(r"[\uac00-\ud7a3]")
_CODE: Final = re.compile(r"\b(code|function|python|bug|test|refactor|compile|traceback|regex|sql)\b", re.IGNORECASE)
_SUMMARY: Final = re.compile(r"\b(summar\w+|tl;?dr|shorten|condense|minutes)\b", re.IGNORECASE)

_ANSWERS: Final[Mapping[str, tuple[str, ...]]] = {
    "chat": (
        "Short answer: yes, if the two dates do not overlap.",
        "Check the contract first, because the notice period decides which of the two rules applies.",
        "If nothing is written down, the default is thirty days.",
        "Write the request down, send it to both sides and keep the reply.",
        "After that the change takes effect on the first day of the next month.",
    ),
    "code": (
        "The loop reads past the end because the bound is inclusive; make it half-open.",
        "def chunks(items, size):\n    for start in range(0, len(items), size):\n        yield items[start : start + size]\n",
        "The empty list now gives no chunk at all, which the old version got wrong.",
        "Add one test for a size larger than the list and one for a size of one.",
        "The cost stays linear, and no copy is made of what is not asked for.",
    ),
    "summary": (
        "Three points matter.",
        "First, revenue rose while the number of orders fell, so the average order grew.",
        "Second, returns come almost entirely from one product line.",
        "Third, the warehouse move is two weeks late and has no owner.",
        "Everything else is as planned.",
    ),
    "korean": (
        "요청하신 내용을 정리해 드리겠습니다.",
        "이번 분기 영업이익은 전년 동기보다 늘었고, 환율 영향이 가장 컸습니다.",
        "다만 원자재 가격이 오르고 있어 다음 분기에는 이익률이 낮아질 수 있습니다.",
        "현금 흐름은 안정적이며 단기 차입금도 줄었습니다.",
        "세부 수치는 표로 정리해 두었습니다.",
    ),
}

Schema = Mapping[str, object]


def tokenize(text: str) -> list[str]:
    """Split text into the simulator's tokens; joined they give the text again."""
    return _TOKEN.findall(text)


def count_tokens(text: str) -> int:
    """How many tokens the simulator bills for a text."""
    return len(_TOKEN.findall(text))


def task_of(text: str) -> str:
    """Which canned answer fits: `korean`, `code`, `summary` or `chat`."""
    if _HANGUL.search(text):
        return "korean"
    if _CODE.search(text):
        return "code"
    return "summary" if _SUMMARY.search(text) else "chat"


def canned(task: str, *, tokens: int, skip: int = 0) -> str:
    """Whole sentences for a task, at least `tokens` long, beginning at sentence number `skip`."""
    sentences = _ANSWERS[task]
    turned = sentences[skip % len(sentences) :] + sentences[: skip % len(sentences)]
    picked: list[str] = []
    length = 0
    for sentence in cycle(turned):
        picked.append(sentence)
        length += count_tokens(sentence)
        if length >= tokens:
            break
    return " ".join(picked)


def smallest_instance(schema: Schema) -> object:
    """A value that fits a JSON schema, as small as it gets.

    Understands type, enum, const, properties, required, items, minItems, minLength, minimum, anyOf, oneOf,
    allOf and local `$ref`; patterns and formats are not honoured.
    """
    return _instance(schema, schema, 0)


def _instance(schema: Schema, root: Schema, depth: int) -> object:
    # Recursive schemas end here; eight levels are deeper than any that structured output accepts in practice.
    if depth > 8:
        return None
    if "const" in schema:
        return schema["const"]
    options = schema.get("enum")
    if isinstance(options, Sequence) and options:
        return options[0]
    for inner in _alternatives(schema, root):
        return _instance(inner, root, depth + 1)
    return _of_type(schema, root, depth)


def _alternatives(schema: Schema, root: Schema) -> Iterator[Schema]:
    ref = schema.get("$ref")
    if isinstance(ref, str) and ref.startswith("#/"):
        target: object = root
        for step in ref[2:].split("/"):
            target = target.get(step) if isinstance(target, Mapping) else None
        if isinstance(target, Mapping):
            yield target
    for word in ("anyOf", "oneOf", "allOf"):
        choices = schema.get(word)
        if isinstance(choices, Sequence):
            yield from (choice for choice in choices if isinstance(choice, Mapping))


def _of_type(schema: Schema, root: Schema, depth: int) -> object:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind == "object" or (kind is None and "properties" in schema):
        return _object(schema, root, depth)
    if kind == "array":
        return _array(schema, root, depth)
    if kind in ("integer", "number"):
        least = schema.get("minimum", 0)
        return least if isinstance(least, int | float) else 0
    if kind == "string":
        return "text".ljust(_whole(schema.get("minLength")), "x")
    return {"boolean": True}.get(str(kind))


def _object(schema: Schema, root: Schema, depth: int) -> object:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return {}
    required = schema.get("required")
    names = required if isinstance(required, Sequence) else tuple(properties)
    known = {name: properties[name] for name in names if isinstance(properties.get(name), Mapping)}
    return {name: _instance(inner, root, depth + 1) for name, inner in known.items()}


def _array(schema: Schema, root: Schema, depth: int) -> object:
    items = schema.get("items")
    count = max(1, _whole(schema.get("minItems")))
    return [_instance(items, root, depth + 1)] * count if isinstance(items, Mapping) else []


def _whole(value: object) -> int:
    # A client chooses the schema, so it must not be able to ask for a gigabyte.
    return min(value, 1024) if isinstance(value, int) else 0


def to_json(value: object) -> str:
    """Compact JSON text."""
    return msgspec.json.encode(value).decode()
