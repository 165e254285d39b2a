"""The conditions of a rule: from a mapping in YAML to one function over the facts of a request."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from policies.fact_matchers import OF_ONE, READS, SECTIONS, SIGNALS, UNSURE, compile_fact, compile_fact_of, compile_figure, figure_read
from policies.figures import fields_of, read_state
from policies.types import RequestFacts

if TYPE_CHECKING:
    from policies.expressions.compiled import Expression

Check = Callable[[RequestFacts], bool | None]
"""None: it cannot be told, because what it reads is not known. Then it does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matcher:
    """A compiled condition."""

    matches: Check
    headers: frozenset[str]
    """Request headers that it reads, in lower case."""
    describe: str
    """The condition in words: `team is search and input_tokens > 4000`."""
    reads: frozenset[str] = frozenset()
    """What must be filled in before it is asked: `time`, `budget`, `provider:openai`, `in_flight@model:large`."""
    expression: Expression | None = None
    """Its expression, if it has one."""


class MatcherError(ValueError):
    """A condition that cannot be compiled. The message says what is wrong and what may stand there."""

    def __init__(self, path: tuple[str, ...], message: str, at: int = 0) -> None:
        super().__init__(message)
        self.path = path
        """Where in the condition: `("tags", "kind")`; empty for the whole."""
        self.at = at
        """Characters of an expression before the place."""


OPERATIONS: Final = ("chat", "completions", "embeddings")
MODALITIES: Final = ("text", "image", "audio", "file", "video")

_TEXT_FIELDS: Final = {"route": "route", "org": "org", "team": "team", "key": "key_id", "user": "user", "session": "session"}
_FLAGS: Final = ("tools", "stream", "json_schema")
_MAPS: Final = {"tags": "tags", "header": "headers"}
_EXPRESSION: Final = "cel"
_WATCHED: Final = tuple(READS)
FIELDS: Final = ("operation", *_FLAGS, "input_tokens", "modality", *_TEXT_FIELDS, *_MAPS, *_WATCHED, *SECTIONS, _EXPRESSION, *SIGNALS)
"""Every field of a condition, the cheap ones to check first."""


def compile_matcher(spec: Mapping[str, object]) -> Matcher:
    """Compile a condition. All its fields must hold; of several values for a field, any.

    | field | values |
    |---|---|
    | `operation` | `chat`, `completions`, `embeddings` |
    | `tools`, `stream`, `json_schema` | true or false |
    | `input_tokens` | likely input tokens: `"<4000"`, `"<= 4000"`, `">4000"`, `">= 4k"`, `"1000..4000"` (both ends included) |
    | `modality` | `text`, `image`, `audio`, `file`, `video`: the input contains it |
    | `route`, `org`, `team`, `key`, `user`, `session` | text; `*` stands for any characters |
    | `tags`, `header` | name: values, as text with `*`; names of headers in any case |
    | `hour`, `weekday` | `9..17`, `mon..fri`, in the time zone of the route |
    | `budget_used`, `budget_left` | `>0.9`, `<$5`: of the budgets that the request falls under; name: values, of one |
    | `budget`, `provider`, `model`, `deployment` | name: figure: ranges, as in `{openai: {error_rate: ">30%"}}`; `up` is true or false |
    | `cel` | an expression |
    | `language` | codes such as `ko` |
    | `pii` | true, false or classes of personal data |
    | `task` | `code`, `math`, ... |
    | `difficulty` | `<0.4` |

    A text pattern never matches what is absent: `user: "*"` means that there is a user. An empty condition
    always holds.

    Raises:
        MatcherError: an unknown field or a value that its field cannot have.
    """
    for name in spec:
        if name not in FIELDS:
            raise MatcherError((name,), f"unknown condition {name!r}{_did_you_mean(name, FIELDS)}")
    checks: list[Check] = []
    words: list[str] = []
    expression: Expression | None = None
    for name in FIELDS:
        if name not in spec:
            continue
        value = spec[name]
        if name in _MAPS:
            _compile_map(name, value, checks, words)
        elif name in OF_ONE and isinstance(value, Mapping):
            _compile_budgets(name, value, checks, words)
        elif name in SECTIONS:
            _compile_figures(name, value, checks, words)
        elif name == _EXPRESSION:
            expression = _compiled_expression(value)
            checks.append(expression.matches)
            words.append(str(value).strip())
        else:
            values = _values((name,), value)
            checks.append(_compile_field(name, values))
            words.append(f"{name} {_phrase(values)}")
    headers = frozenset(str(name).lower() for name in _mapping("header", spec.get("header", {})))
    reads = frozenset(read for name in spec for read in reads_of(name, spec[name]))
    if expression is not None:
        headers, reads = headers | expression.headers, reads | expression.reads
    sure = expression is None and UNSURE.isdisjoint(spec)
    return Matcher(
        matches=_all(checks) if sure else _all_told(checks),
        headers=headers,
        describe=" and ".join(words) or "always",
        reads=reads,
        expression=expression,
    )


def _compiled_expression(value: object) -> Expression:
    # Loaded by who writes one: the start of all others is shorter.
    from policies.expressions.compiled import compile_expression
    from policies.expressions.tree import ExpressionError

    if not isinstance(value, str):
        raise MatcherError((_EXPRESSION,), f"{_EXPRESSION} takes an expression, as in 'tokens.input > 4000'")
    try:
        return compile_expression(value)
    except ExpressionError as error:
        raise MatcherError((_EXPRESSION,), str(error), error.at) from None


def _all_told(checks: list[Check]) -> Check:
    """As `_all`, of conditions some of which may not be told: then neither is the whole, unless another one does not hold."""
    if len(checks) == 1:
        return checks[0]
    every = tuple(checks)

    def match(facts: RequestFacts) -> bool | None:
        told = True
        for check in every:
            holds = check(facts)
            if holds is None:
                told = False
            elif not holds:
                return False
        return True if told else None

    return match


def _all(checks: list[Check]) -> Check:
    if not checks:
        return lambda facts: True
    if len(checks) == 1:
        return checks[0]
    if len(checks) == 2:
        first, second = checks
        return lambda facts: first(facts) and second(facts)
    every = tuple(checks)

    def match(facts: RequestFacts) -> bool:
        # A generator inside all() costs twice as much as the loop.
        for check in every:  # noqa: SIM110
            if not check(facts):
                return False
        return True

    return match


def _compile_field(name: str, values: tuple[object, ...]) -> Check:
    if name in _FLAGS:
        return _flag(name, values)
    if name == "operation":
        return _text_check(attrgetter("operation"), _closed(name, values, OPERATIONS))
    if name == "modality":
        wanted = frozenset(_closed(name, values, MODALITIES))
        return lambda facts: not wanted.isdisjoint(facts.modalities)
    if name == "input_tokens":
        return _input_tokens(values)
    if name in READS or name in SIGNALS:
        try:
            return compile_fact(name, values)
        except ValueError as error:
            raise MatcherError((name,), str(error)) from None
    return _text_check(attrgetter(_TEXT_FIELDS[name]), tuple(_text(value) for value in values))


def _compile_map(name: str, value: object, checks: list[Check], words: list[str]) -> None:
    """One check per tag or header. A name that is absent never matches."""
    get_map = attrgetter(_MAPS[name])
    for raw_key, raw_values in _mapping(name, value).items():
        key = str(raw_key).lower() if name == "header" else str(raw_key)
        values = _values((name, str(raw_key)), raw_values)
        checks.append(_entry_check(get_map, key, _pattern(tuple(_text(value) for value in values))))
        words.append(f"{name}.{key} {_phrase(values)}")


def _compile_budgets(name: str, given: Mapping[object, object], checks: list[Check], words: list[str]) -> None:
    """One check per budget. What a request does not fall under cannot be told."""
    if not given:
        raise MatcherError((name,), f"{name} needs at least one value")
    for budget, raw_values in given.items():
        values = _values((name, str(budget)), raw_values)
        try:
            checks.append(compile_fact_of(name, str(budget), values))
        except ValueError as error:
            raise MatcherError((name, str(budget)), str(error)) from None
        words.append(f"{name} of {budget} {_phrase(values)}")


def _compile_figures(section: str, given: object, checks: list[Check], words: list[str]) -> None:
    """One check per figure. What nobody knows cannot be told."""
    for name, figures in _mapping(section, given).items():
        if not isinstance(figures, Mapping) or not figures:
            raise MatcherError((section, str(name)), f"{section} {name} takes figures, as in {{{fields_of(section)[0]}: ...}}")
        for field, raw_values in figures.items():
            path = (section, str(name), str(field))
            values = _values(path, raw_values)
            try:
                checks.append(compile_figure(*path, values))
            except ValueError as error:
                raise MatcherError(path, str(error)) from None
            words.append(f"{field} of {section} {name} {_phrase(values)}")


def places_of(name: str, value: object) -> Iterator[tuple[tuple[str, ...], str]]:
    """What a field reads by a name that must be there, and where in it that stands."""
    if name in OF_ONE and isinstance(value, Mapping):
        yield from (((name, str(budget)), figure_read(name, str(budget)).key) for budget in value)
    if name in SECTIONS and isinstance(value, Mapping):
        yield from (((name, str(one), str(field)), read_state(name, str(one), str(field))[0]) for one in value for field in value[one])


def reads_of(name: str, value: object) -> Iterable[str]:
    """What must be filled in before a field is asked."""
    named = [read for _, read in places_of(name, value)]
    return named if named or name not in READS else (READS[name],)


def _entry_check(get_map: Callable[[RequestFacts], Mapping[str, str]], key: str, accepts: Callable[[str], bool]) -> Check:
    def check(facts: RequestFacts) -> bool:
        value = get_map(facts).get(key)
        return value is not None and accepts(value)

    return check


def _text_check(get: Callable[[RequestFacts], str], texts: tuple[str, ...]) -> Check:
    if any("*" in text for text in texts):
        accepts = _pattern(texts)
        return lambda facts: accepts(get(facts))
    known = frozenset(texts)
    return lambda facts: get(facts) in known


def _mapping(name: str, value: object) -> Mapping[object, object]:
    if not isinstance(value, Mapping):
        raise MatcherError((name,), f"{name} takes a mapping from names to values, as in {{tier: gold}}")
    return value


def _values(path: tuple[str, ...], value: object) -> tuple[object, ...]:
    """A single value or a collection, as a tuple."""
    values = tuple(value) if isinstance(value, Collection) and not isinstance(value, (str, bytes, Mapping)) else (value,)
    if not values:
        raise MatcherError(path, f"{'.'.join(path)} needs at least one value")
    for item in values:
        if not isinstance(item, (str, bool, int, float)) or item == "":
            raise MatcherError(path, f"{'.'.join(path)} cannot be {item!r}")
    return values


def _phrase(values: Sequence[object]) -> str:
    texts = [_text(value) for value in values]
    return f"is {texts[0]}" if len(texts) == 1 else f"is one of {', '.join(texts)}"


def _text(value: object) -> str:
    """A scalar of YAML as the text that a client would send."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _flag(name: str, values: tuple[object, ...]) -> Check:
    for value in values:
        if not isinstance(value, bool):
            raise MatcherError((name,), f"{name} is true or false, not {value!r}")
    wanted = frozenset(values)
    get = attrgetter(name)
    return lambda facts: get(facts) in wanted


def _closed(name: str, values: tuple[object, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    texts = tuple(_text(value) for value in values)
    for text in texts:
        if text not in known:
            raise MatcherError((name,), f"unknown {name} {text!r}{_did_you_mean(text, known)}")
    return texts


def _pattern(texts: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a text is one of these, some of which may have a `*`."""
    known = frozenset(text for text in texts if "*" not in text)
    patterns = tuple(_glob(text) for text in texts if "*" in text)
    if not patterns:
        return known.__contains__
    return lambda value: value in known or any(pattern(value) for pattern in patterns)


def _glob(pattern: str) -> Callable[[str], bool]:
    """`*` is any characters, none included; the whole text must be there. Linear in the text, whatever the pattern.

    Not a regular expression: those backtrack, and the text may be a client's header.
    """
    head, *middle, tail = pattern.split("*")
    fixed = len(head) + len(tail)
    parts = tuple(part for part in middle if part)

    def match(value: str) -> bool:
        if not value or len(value) < fixed or not value.startswith(head) or not value.endswith(tail):
            return False
        at, end = len(head), len(value) - len(tail)
        for part in parts:
            at = value.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True

    return match


def _input_tokens(values: tuple[object, ...]) -> Check:
    ranges = tuple(_range(value) for value in values)
    if len(ranges) == 1:
        low, high = ranges[0]
        return lambda facts: low <= facts.input_tokens <= high
    return lambda facts: any(low <= facts.input_tokens <= high for low, high in ranges)


_ENDLESS: Final = 2**63
_MOST_DIGITS: Final = 12


def _range(value: object) -> tuple[int, int]:
    """Both ends included."""
    text = str(value).replace(" ", "").replace("_", "")
    low, dots, high = text.partition("..")
    if dots:
        first, last = _count(value, low), _count(value, high)
        if first > last:
            raise MatcherError(("input_tokens",), f"input_tokens {value!r} is empty: {first} is above {last}")
        return first, last
    for sign, to_range in _SIGNS:
        if text.startswith(sign):
            return to_range(_count(value, text[len(sign) :]))
    raise _bad_count(value)


_SIGNS: Final[tuple[tuple[str, Callable[[int], tuple[int, int]]], ...]] = (
    ("<=", lambda n: (0, n)),
    (">=", lambda n: (n, _ENDLESS)),
    ("<", lambda n: (0, n - 1)),
    (">", lambda n: (n + 1, _ENDLESS)),
)


def _count(value: object, digits: str) -> int:
    unit = 1_000 if digits[-1:] in ("k", "K") else 1
    digits = digits if unit == 1 else digits[:-1]
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= _MOST_DIGITS):
        raise _bad_count(value)
    return int(digits) * unit


def _bad_count(value: object) -> MatcherError:
    return MatcherError(
        ("input_tokens",), f"input_tokens cannot be {value!r}: write a number of tokens as '<4000', '<= 4000', '>4000' or '1000..4000'"
    )


def _did_you_mean(word: str, known: Collection[str]) -> str:
    # Needed for mistakes only, and slow to import.
    import difflib

    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
