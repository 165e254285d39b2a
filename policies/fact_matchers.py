"""The conditions of a rule on what is worked out or watched: language, task, difficulty, personal data, time, budgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from policies.figures import FIGURES, Figure, fields_of, read_figure, read_state
from policies.ranges import SURELY_PERCENT, Range, RangeError, read_count, read_milliseconds, read_range, read_share, read_usd
from policies.readers import WEEKDAYS, read_signal
from policies.signals.names import PII_CLASSES, TASKS
from policies.types import RequestFacts
from policies.words import did_you_mean

Check = Callable[[RequestFacts], bool | None]

READS: Final = {"hour": "time", "weekday": "time", "budget_used": "budget", "budget_left": "budget"}
"""What must be filled in before the rule is looked at, by field."""
OF_ONE: Final = {"budget_used": "used", "budget_left": "left_usd"}
"""What a field reads of one budget, if it names some."""
SIGNALS: Final = {"language": "language", "pii": "pii", "task": "task", "difficulty": "difficulty"}
"""The signal that a field reads, the cheap ones first."""
SECTIONS: Final = tuple(FIGURES)
"""Fields that take figures by names: of budgets, providers, models, deployments."""
UNSURE: Final = frozenset({"budget_used", "budget_left", *SECTIONS, *SIGNALS})
"""Fields whose condition may be neither true nor false, because what it reads cannot be told."""
HIGHEST: Final = {"difficulty": 1.0, "budget_used": 10.0}
"""The highest number that a field which is a share can be compared with; above it, a % was forgotten. A debt may use up more than all."""
_WRITTEN: Final = {"yes": "true", "on": "true", "no": "false", "off": "false"}
"""Words of YAML 1.1, which are texts since YAML 1.2."""


def _share_below(most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        share = read_share(text)
        if share > most:
            meant = "" if "%" in text or share < SURELY_PERCENT else f", and {share:g}% is {share / 100:g}"
            raise RangeError(f"is a share, of which 1 is all{meant}")
        return share

    return read


RANGES: Final[dict[str, tuple[Callable[[str], float], str]]] = {
    "difficulty": (_share_below(HIGHEST["difficulty"]), "'<0.4' or '0.4..0.7'"),
    "budget_used": (_share_below(HIGHEST["budget_used"]), "'>0.9' or '>90%'"),
    "budget_left": (read_usd, "'<$5'"),
}
"""Fields that take ranges, how their numbers are read, and an example."""

_MILLISECONDS: Final = (read_milliseconds, "'>800ms'")
_OF_FIGURES: Final[dict[str, tuple[Callable[[str], float], str]]] = {
    "used": RANGES["budget_used"],
    "passed": (_share_below(1.0), "'>50%'"),
    "left_usd": RANGES["budget_left"],
    "left_tokens": (read_count, "'<10k'"),
    "in_flight": (read_count, "'>100'"),
    "headroom": (read_count, "'<5'"),
    "error_rate": (_share_below(1.0), "'>30%'"),
    "first_token_ms": _MILLISECONDS,
    "first_token_p95_ms": _MILLISECONDS,
    "total_ms": _MILLISECONDS,
    "total_p95_ms": _MILLISECONDS,
}
"""The same of figures."""


def compile_fact(name: str, values: tuple[object, ...]) -> Check:
    """The check of one field.

    Raises:
        ValueError: a value that the field cannot have. The message says what may stand there.
    """
    if name in RANGES:
        return _in_ranges(_number(name), ranges_of(name, values))
    if name == "hour":
        return _hours(values)
    if name == "weekday":
        return _weekdays(values)
    if name == "pii":
        return _pii(values)
    texts = tuple(str(value) for value in values)
    for text in texts:
        if name == "task":
            _known("task", text, TASKS)
        elif not (text.isascii() and text.isalpha() and text.islower() and 2 <= len(text) <= 3):
            raise ValueError(f"unknown language {text!r}: write its code of ISO 639-1, such as 'ko'")
    return _one_of(read_signal("task" if name == "task" else "language"), frozenset(texts))


def compile_fact_of(name: str, budget: str, values: tuple[object, ...]) -> Check:
    """The check of a field of one budget.

    Raises:
        ValueError: a value that the field cannot have. The message says what may stand there.
    """
    return _in_ranges(read_figure(figure_read(name, budget)), ranges_of(name, values))


def compile_figure(section: str, name: str, field: str, values: tuple[object, ...]) -> Check:
    """The check of a figure of one budget, provider, model or deployment.

    Raises:
        ValueError: there is no such figure, or it cannot have such a value.
    """
    known = fields_of(section)
    if field not in known:
        raise ValueError(f"a {section} has no {field!r}{did_you_mean(field, known)}".replace('"', "'"))
    _, get = read_state(section, name, field)
    if field != "up":
        return _in_ranges(get, _read_ranges(field, values, *_OF_FIGURES[field]))
    if not all(isinstance(value, bool) for value in values):
        raise ValueError(f"up is true or false, not {values[0]!r}")
    return _one_of(get, frozenset(values))


def figure_read(name: str, budget: str) -> Figure:
    """What a field reads of one budget."""
    return Figure("budget", budget, OF_ONE[name])


def ranges_of(name: str, values: tuple[object, ...]) -> tuple[Range, ...]:
    """The ranges of a field that takes some."""
    return _read_ranges(name, values, *RANGES[name])


def _read_ranges(name: str, values: tuple[object, ...], read: Callable[[str], float], example: str) -> tuple[Range, ...]:
    try:
        return tuple(read_range(str(value), read) for value in values)
    except RangeError as error:
        raise ValueError(f"{name} cannot be {values[0]!r}: it {error}; write {example}") from None


def _number(name: str) -> Callable[[RequestFacts], float | None]:
    if name == "difficulty":
        return read_signal("difficulty")
    if name == "budget_used":
        return lambda facts: facts.moment.budget_used

    def left(facts: RequestFacts) -> float | None:
        nusd = facts.moment.budget_left_nusd
        return None if nusd is None else nusd / 1_000_000_000

    return left


def _in_ranges(get: Callable[[RequestFacts], float | None], ranges: tuple[Range, ...]) -> Check:
    def check(facts: RequestFacts) -> bool | None:
        value = get(facts)
        return None if value is None else any(one.holds(value) for one in ranges)

    return check


def _one_of(get: Callable[[RequestFacts], Any], known: frozenset[object]) -> Check:
    def check(facts: RequestFacts) -> bool | None:
        value = get(facts)
        return None if value is None else value in known

    return check


def _known(name: str, text: str, known: tuple[str, ...]) -> None:
    if text not in known:
        raise ValueError(f"unknown {name} {text!r}{did_you_mean(text, known)}".replace('"', "'"))


def _pii(values: tuple[object, ...]) -> Check:
    get = read_signal("pii")
    if any(isinstance(value, bool) for value in values):
        if len(values) > 1:
            raise ValueError("pii is true, false, or a list of classes")
        wanted = bool(values[0])

        def found(facts: RequestFacts) -> bool | None:
            classes = get(facts)
            return None if classes is None else bool(classes) is wanted

        return found
    if len(values) == 1 and str(values[0]).lower() in _WRITTEN:
        raise ValueError(f"pii is true, false, or a list of classes, not {values[0]!r}; write {_WRITTEN[str(values[0]).lower()]}")
    for value in values:
        _known("class of personal data", str(value), PII_CLASSES)
    named = frozenset(str(value) for value in values)

    def found_of(facts: RequestFacts) -> bool | None:
        classes = get(facts)
        return None if classes is None else not named.isdisjoint(classes)

    return found_of


def _hours(values: tuple[object, ...]) -> Check:
    hours: set[int] = set()
    for value in values:
        try:
            hours |= _hour_span(str(value))
        except RangeError:
            raise ValueError(f"hour cannot be {value!r}: write '9..17' for 9:00 to 17:59, or '22..5' over midnight") from None
    return lambda facts: facts.moment.hour in hours


def _hour_span(text: str) -> set[int]:
    first, dots, last = text.replace(" ", "").partition("..")
    low, high = int(read_count(first)), int(read_count(last if dots else first))
    if low > 23 or high > 23:
        raise RangeError("is no hour of the day")
    return set(range(low, high + 1)) if low <= high else {*range(low, 24), *range(high + 1)}


def _weekdays(values: tuple[object, ...]) -> Check:
    days: set[str] = set()
    for value in values:
        first, dots, last = str(value).replace(" ", "").lower().partition("..")
        for day in (first, last) if dots else (first,):
            _known("weekday", day, WEEKDAYS)
        low, high = WEEKDAYS.index(first), WEEKDAYS.index(last if dots else first)
        days.update(WEEKDAYS[low : high + 1] if low <= high else (*WEEKDAYS[low:], *WEEKDAYS[: high + 1]))
    return lambda facts: facts.moment.weekday in days
