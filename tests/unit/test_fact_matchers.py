"""Short conditions on what is worked out or watched, and how full conditions treat what cannot be told."""

from __future__ import annotations

from typing import Any

import pytest

from policies.matchers import MatcherError, compile_matcher
from policies.types import MissingSignal, Moment, RequestFacts, Signals

REQUEST = RequestFacts(
    operation="chat",
    route="auto",
    team="search",
    signals=Signals(language="ko", task="code", difficulty=0.4, pii=frozenset({"email", "card"})),
    moment=Moment(hour=23, weekday="sat", month=11, budget_used=0.9, budget_left_nusd=4_000_000_000),
)
UNKNOWN = RequestFacts(operation="chat", route="auto", team="search", signals=Signals(language=None, task=None, difficulty=None, pii=None))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"language": "ko"}, True),
        ({"language": ["ja", "zh"]}, False),
        ({"task": ["code", "math"]}, True),
        ({"task": "chat"}, False),
        ({"difficulty": "<0.4"}, False),
        ({"difficulty": "<= 40%"}, True),
        ({"difficulty": ["<0.1", "0.3..0.5"]}, True),
        ({"pii": True}, True),
        ({"pii": False}, False),
        ({"pii": ["phone", "card"]}, True),
        ({"pii": "iban"}, False),
        ({"hour": "22..5"}, True),
        ({"hour": ["9..17", 23]}, True),
        ({"hour": "9..17"}, False),
        ({"weekday": "mon..fri"}, False),
        ({"weekday": ["sat", "Sun"]}, True),
        ({"weekday": "fri..mon"}, True),
        ({"budget_used": ">= 90%"}, True),
        ({"budget_used": ">0.9"}, False),
        ({"budget_left": "<$5"}, True),
        ({"budget_left": "<4"}, False),
        ({"cel": "task.difficulty > 0.3"}, True),
        ({"cel": "task.difficulty > 0.3", "team": "ads"}, False),
        ({"team": "search", "language": "ko", "pii": True}, True),
    ],
)
def test_a_fact_is_matched_as_written(spec: dict[str, Any], expected: bool) -> None:
    """Rules decide where money and data go."""
    assert compile_matcher(spec).matches(REQUEST) is expected


def test_what_cannot_be_told_holds_for_no_condition() -> None:
    """Not even for the opposite one."""
    for spec in ({"language": "ko"}, {"task": "code"}, {"difficulty": "<=1"}, {"pii": True}, {"pii": False}, {"pii": "card"}):
        assert compile_matcher(spec).matches(UNKNOWN) is None
        assert compile_matcher({**spec, "team": "search"}).matches(UNKNOWN) is None
        assert compile_matcher({**spec, "team": "ads"}).matches(UNKNOWN) is False
    assert compile_matcher({"budget_used": ">0"}).matches(UNKNOWN) is None
    assert compile_matcher({"budget_left": ">0"}).matches(UNKNOWN) is None


def test_signals_are_looked_at_last() -> None:
    """They cost a hundred times what the rest does; what stands first in the file does not matter."""
    blank = RequestFacts(operation="chat", route="auto", team="search")
    assert compile_matcher({"pii": True, "team": "ads"}).matches(blank) is False
    with pytest.raises(MissingSignal, match="language"):
        compile_matcher({"difficulty": "<1", "language": "ko", "team": "search"}).matches(blank)


def test_it_is_known_what_a_condition_reads() -> None:
    """Only that is filled in."""
    matcher = compile_matcher({"hour": "9", "budget_used": ">0.5", "cel": 'header("x-a") == "b" && provider("p").up'})
    assert matcher.reads == {"time", "budget", "provider:p"}
    assert matcher.headers == {"x-a"}
    assert compile_matcher({"team": "a"}).reads == frozenset()


@pytest.mark.parametrize(
    ("spec", "path", "message"),
    [
        ({"task": "cod"}, ("task",), "unknown task 'cod'; did you mean 'code'?"),
        ({"language": "korean"}, ("language",), "unknown language 'korean': write its code of ISO 639-1, such as 'ko'"),
        ({"pii": ["emial"]}, ("pii",), "unknown class of personal data 'emial'; did you mean 'email'?"),
        ({"pii": "yes"}, ("pii",), "pii is true, false, or a list of classes, not 'yes'; write true"),
        ({"difficulty": "<2"}, ("difficulty",), "difficulty cannot be '<2': it is a share, of which 1 is all; write '<0.4' or '0.4..0.7'"),
        ({"pii": [True, "email"]}, ("pii",), "pii is true, false, or a list of classes"),
        ({"difficulty": 0.4}, ("difficulty",), "difficulty cannot be 0.4: it is no range; write '<0.4' or '0.4..0.7'"),
        (
            {"difficulty": ">60"},
            ("difficulty",),
            "difficulty cannot be '>60': it is a share, of which 1 is all, and 60% is 0.6; write '<0.4' or '0.4..0.7'",
        ),
        (
            {"budget_used": ">90"},
            ("budget_used",),
            "budget_used cannot be '>90': it is a share, of which 1 is all, and 90% is 0.9; write '>0.9' or '>90%'",
        ),
        ({"budget_left": "<-5"}, ("budget_left",), "budget_left cannot be '<-5': it is no number; write '<$5'"),
        ({"hour": "24"}, ("hour",), "hour cannot be '24': write '9..17' for 9:00 to 17:59, or '22..5' over midnight"),
        ({"hour": "nine"}, ("hour",), "hour cannot be 'nine': write '9..17' for 9:00 to 17:59, or '22..5' over midnight"),
        ({"weekday": "mon..fry"}, ("weekday",), "unknown weekday 'fry'; did you mean 'fri'?"),
        ({"cel": "tem == 'x'"}, ("cel",), 'there is no "tem"; did you mean "team"?'),
        ({"cel": 3}, ("cel",), "cel takes an expression, as in 'tokens.input > 4000'"),
    ],
)
def test_a_mistake_names_what_may_stand_there(spec: dict[str, Any], path: tuple[str, ...], message: str) -> None:
    """It is told when the file is loaded."""
    with pytest.raises(MatcherError) as caught:
        compile_matcher(spec)
    assert (caught.value.path, str(caught.value)) == (path, message)
