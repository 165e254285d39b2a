"""Evaluations: prompts with known answers over several models, scored; and the frontier of cost and quality that they draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from policies.answers import Extract, agree, extracted
from policies.verifiers import fits
from router.errors import ConfigError

Grade = Literal["exact", "choice", "number", "json", "contains", "schema", "run", "judge"]
_EXTRACTS: Final[dict[str, Extract]] = {"exact": "text", "choice": "choice", "number": "number", "json": "json"}


class Prompt(msgspec.Struct, kw_only=True):
    """One line of a file of prompts."""

    prompt: str = ""
    messages: list[dict[str, Any]] = []
    expect: str = ""
    """The right answer."""
    grade: Grade | None = None
    """How it is compared; None: as the command says."""
    json_schema: dict[str, Any] | None = None
    """What an answer that is graded by `schema` must follow."""
    task: str = ""
    max_tokens: int | None = None


class Score(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one model made of one prompt."""

    prompt: int
    """Number of the line, from 1."""
    model: str
    task: str = ""
    score: float | None = None
    """From 0 to 1; None: no answer came, or the judge gave no number."""
    cost_nusd: int = 0
    ms: float = 0.0
    error: str = ""
    kind: Literal["model", "policy"] = "model"
    """`policy`: a way to choose between models was asked, such as a cascade."""


class Point(msgspec.Struct, kw_only=True):
    """One model, or a way to choose between them."""

    name: str
    cost_nusd: float
    """Mean of a prompt."""
    quality: float
    """Mean score, 0 to 1."""
    prompts: int
    on_frontier: bool = False
    """Nothing is both cheaper and better."""
    kind: Literal["model", "policy", "oracle"] = "model"
    of_traffic: float | None = None
    """Of a policy that a log shows: the share of its requests that went to models that were evaluated, 0 to 1. The rest is left out."""


_WANTED: Final[dict[type[Any], str]] = {
    Prompt: 'a prompt, written as {"prompt": "6 x 7?", "expect": "42"}',
    Score: 'a score, which `faregate evaluate --out` writes as {"prompt": 1, "model": "small", "score": 0.5, "cost_nusd": 100}',
}
"""What a line has to be, for whoever gave another file."""


def read_lines(path: Path, kind: type[Any]) -> list[Any]:
    """The objects of a file with one JSON object a line.

    Raises:
        ConfigError: it cannot be read, or a line is something else.
    """
    decoder = msgspec.json.Decoder(kind)
    found = []
    try:
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            if line.strip():
                try:
                    found.append(decoder.decode(line))
                except msgspec.DecodeError as error:
                    raise ConfigError(f"{path}:{number}: is not {_WANTED[kind]}: {str(error).replace('`', '')}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    return found


def graded(answer: str, expect: str, grade: Grade, schema: Mapping[str, Any] | None = None) -> float:
    """1 if the answer is right, else 0. Not for `judge` and `run`.

    By `schema` it is a JSON object or list, in a fence or without, that follows the schema; `expect`, if there is one, must stand in it: an
    object's members, each equal.

    Raises:
        ConfigError: the schema says nothing sensible.
    """
    if grade == "contains":
        return float(expect.casefold() in answer.casefold())
    if grade == "schema":
        return float(_follows(answer, expect, schema or {}))
    return float(agree(answer, expect, _EXTRACTS[grade]))


def _follows(answer: str, expect: str, schema: Mapping[str, Any]) -> bool:
    body = extracted(answer, "json")
    if body is None:
        return False
    value = msgspec.json.decode(body)
    try:
        wanted = msgspec.json.decode(expect) if expect else {}
        whole = isinstance(wanted, dict) and isinstance(value, dict)
        same = all(name in value and value[name] == each for name, each in wanted.items()) if whole else not expect or value == wanted
        return fits(value, dict(schema)) and same
    except (TypeError, msgspec.DecodeError) as error:
        raise ConfigError(f"a prompt's JSON schema, or what is expected, cannot be used: {error}") from None


def judged(text: str) -> float | None:
    """The number from 0 to 10 that a judge gave, as a share; None: it gave none."""
    digits = "".join(char if char.isdigit() or char == "." else " " for char in text).split()
    try:
        value = float(digits[0])
    except (IndexError, ValueError):
        return None
    return value / 10 if 0 <= value <= 10 else None


def points_of(scores: Iterable[Score]) -> list[Point]:
    """Every model, on the prompts that all of them answered, and the oracle that knows the cheapest of the best for each prompt."""
    by_prompt: dict[int, dict[str, Score]] = {}
    for one in scores:
        if one.score is not None:
            by_prompt.setdefault(one.prompt, {})[one.model] = one
    models = list(dict.fromkeys(name for answers in by_prompt.values() for name in answers))
    common = [answers for answers in by_prompt.values() if len(answers) == len(models)]
    if not common:
        return []
    found = [_mean(name, [answers[name] for answers in common]) for name in models]
    best = [max(_by_models(answers), key=lambda one: (one.score or 0.0, -one.cost_nusd)) for answers in common]
    oracle = _mean("oracle", best)
    oracle.kind = "oracle"
    mark_frontier(found)
    return [*sorted(found, key=lambda point: point.cost_nusd), oracle]


def _by_models(answers: Mapping[str, Score]) -> list[Score]:
    """What the oracle chooses from."""
    return [one for one in answers.values() if one.kind == "model"] or list(answers.values())


def _mean(name: str, scores: Sequence[Score]) -> Point:
    count = len(scores)
    quality = sum(one.score or 0.0 for one in scores) / count
    return Point(name=name, cost_nusd=sum(one.cost_nusd for one in scores) / count, quality=quality, prompts=count, kind=scores[0].kind)


def mark_frontier(points: Sequence[Point]) -> None:
    """Mark those that nothing else beats in both."""
    for point in points:
        point.on_frontier = not any(
            (other.cost_nusd <= point.cost_nusd and other.quality > point.quality)
            or (other.cost_nusd < point.cost_nusd and other.quality >= point.quality)
            for other in points
        )


def policy_point(name: str, shares: dict[str, float], points: Sequence[Point]) -> Point | None:
    """A policy that sends these shares of requests to the models; None: to none of those that were evaluated."""
    known = [(shares[point.name], point) for point in points if point.kind == "model" and shares.get(point.name)]
    total = sum(share for share, _ in known)
    if not total:
        return None
    cost = sum(share * point.cost_nusd for share, point in known) / total
    quality = sum(share * point.quality for share, point in known) / total
    return Point(
        name=name, cost_nusd=cost, quality=quality, prompts=known[0][1].prompts, kind="policy", of_traffic=total / sum(shares.values())
    )


def by_task(scores: Iterable[Score]) -> dict[str, dict[str, float]]:
    """Mean score by model, then by task; `default` over all."""
    sums: dict[str, dict[str, list[float]]] = {}
    for one in scores:
        if one.score is not None:
            tasks = sums.setdefault(one.model, {})
            for task in {"default", one.task} - {""}:
                tasks.setdefault(task, []).append(one.score)
    return {model: {task: sum(values) / len(values) for task, values in sorted(tasks.items())} for model, tasks in sums.items()}


def as_yaml(scores: Iterable[Score]) -> str:
    """The scores as they stand in a configuration's catalogue."""
    lines = ["models:"]
    for model, tasks in by_task(scores).items():
        named = ", ".join(f"{msgspec.json.encode(task).decode()}: {value:.3f}" for task, value in tasks.items())
        lines.append(f"  {msgspec.json.encode(model).decode()}: {{quality: {{{named}}}}}")
    return "\n".join(lines)
