"""What a model has answered, as far as cheap checks look at it: JSON or a stream of events to text, finish reason, probabilities."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

Extract = Literal["auto", "json", "choice", "number", "text"]


class Said(msgspec.Struct, kw_only=True):
    """One choice of an answer."""

    text: str = ""
    finish: str = ""
    """Why it ended; empty if nobody said."""
    refused: bool = False
    """The provider itself marks it as a refusal."""
    tools: bool = False
    """It calls tools."""
    logprob: float | None = None
    """Mean log probability of its tokens; None: unknown."""


def said_in_body(body: bytes) -> Said:
    """The first choice of a JSON answer; an empty one for what cannot be read."""
    answer = _decoded(body)
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    message = message if isinstance(message, dict) else choice
    return Said(
        text=_text(message.get("content", message.get("text"))),
        finish=_text(choice.get("finish_reason")),
        refused=bool(message.get("refusal")),
        tools=bool(message.get("tool_calls") or message.get("function_call")),
        logprob=_mean(_logprobs(choice)),
    )


def said_in_events(events: Iterable[bytes]) -> Said:
    """The first choice of a stream, from the data of its events."""
    # Put together once: to add each to the text so far takes a minute of the loop for an answer of a megabyte.
    said, texts, probabilities = Said(), list[str](), list[float]()
    for event in events:
        choices = _decoded(event).get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict) or choice.get("index", 0) != 0:
                continue
            delta = choice.get("delta")
            delta = delta if isinstance(delta, dict) else choice
            texts.append(_text(delta.get("content", delta.get("text"))))
            said.finish = _text(choice.get("finish_reason")) or said.finish
            said.refused = said.refused or bool(delta.get("refusal"))
            said.tools = said.tools or bool(delta.get("tool_calls") or delta.get("function_call"))
            probabilities += _logprobs(choice)
    said.text, said.logprob = "".join(texts), _mean(probabilities)
    return said


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError):
        return {}
    return decoded if isinstance(decoded, dict) else {}


def _text(value: object) -> str:
    if isinstance(value, list):
        return "".join([_text(part.get("text")) for part in value if isinstance(part, dict)])
    return value if isinstance(value, str) else ""


def _logprobs(choice: dict[str, Any]) -> list[float]:
    found = choice.get("logprobs")
    tokens = found.get("content", found.get("token_logprobs")) if isinstance(found, dict) else None
    values = [token.get("logprob") if isinstance(token, dict) else token for token in tokens or ()] if isinstance(tokens, list) else []
    # JSON knows no bounds: what is too large to be one is none.
    return [float(value) for value in values if isinstance(value, int | float) and abs(value) < MOST_LOGPROB]


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


MOST_LOGPROB: Final = 1e9
_FENCE: Final = "```"
_NUMBER: Final = re.compile(r"-?(?:\d{1,3}(?:,\d{3}){1,12}|\d{1,30})(?:\.\d{1,30})?")
_MARKED: Final = re.compile(r"(?:####|\\boxed\{|\banswer(?: is|:)|정답은?:?|답은?:?|답:)\s*\$?\s*\(?\**", re.IGNORECASE)
_LETTER: Final = re.compile(r"[A-J](?![A-Za-z0-9])")
_ALONE: Final = re.compile(r"\W{0,4}([A-J])(?:\W{0,4}$|[).:])")


def extracted(text: str, what: Extract) -> str | None:
    """The part of an answer that two answers are compared by, in one form; None: it has none."""
    if what == "auto":
        return next((f"{name}:{found}" for name in _AUTO if (found := extracted(text, name)) is not None), None)
    return {"json": _json, "choice": _choice, "number": _number, "text": _plain}[what](text)


def agree(one: str, other: str, what: Extract) -> bool:
    """Whether two answers say the same. Answers of which nothing can be extracted do not."""
    return compared(one, other, what) or False


def compared(one: str, other: str, what: Extract) -> bool | None:
    """Whether two answers say the same; None: nothing can be extracted of either, which leaves nothing to compare."""
    for name in _AUTO if what == "auto" else (what,):
        first, second = extracted(one, name), extracted(other, name)
        if first is not None and second is not None:
            return first == second
        # One is a JSON object and the other a number: they do not say the same, and no later form makes them.
        if (first is None) != (second is None):
            return False
    return None


_AUTO: Final[tuple[Literal["json", "choice", "number"], ...]] = ("json", "choice", "number")


def _json(text: str) -> str | None:
    """The one object or list that the answer is, within a fence or without."""
    body = text.strip()
    if _FENCE in body:
        body = body.split(_FENCE)[1].removeprefix("json").strip()
    if body[:1] not in ("{", "["):
        return None
    try:
        return msgspec.json.encode(msgspec.json.decode(body), order="sorted").decode()
    except (msgspec.MsgspecError, RecursionError):
        return None


def _marked(text: str) -> str | None:
    """What follows the last mark of a final answer."""
    last = next(reversed(list(_MARKED.finditer(text))), None)
    return None if last is None else text[last.end() :].lstrip()


def _choice(text: str) -> str | None:
    marked = _marked(text)
    if marked is not None:
        found = _LETTER.match(marked)
        return None if found is None else found[0]
    alone = _ALONE.match(text.strip())
    return alone[1] if alone is not None and len(text.strip()) <= 200 else None


def _number(text: str) -> str | None:
    marked = _marked(text)
    found = _NUMBER.search(marked) if marked is not None else None
    digits = found[0] if found is not None else next(reversed(_NUMBER.findall(text)), None)
    if digits is None:
        return None
    whole, _, part = digits.replace(",", "").partition(".")
    part = part.rstrip("0")
    sign, whole = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    return f"{sign}{whole.lstrip('0') or '0'}{'.' + part if part else ''}"


def _plain(text: str) -> str | None:
    return " ".join(text.casefold().split()).strip(" .!") or None


def without_logprobs(data: bytes, *, stream: bool) -> bytes:
    """An answer without the probabilities that its client did not ask for. What cannot be read stays as it is."""
    if not stream:
        return _stripped(data)
    lines = data.split(b"\n")
    return b"\n".join([b"data: " + _stripped(line[5:].strip()) if line.startswith(b"data:") else line for line in lines])


def _stripped(data: bytes) -> bytes:
    if b'"logprobs"' not in data:
        return data
    answer = _decoded(data)
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            choice.pop("logprobs", None)
    return msgspec.json.encode(answer) if answer else data
