"""Conditions in CEL: what they mean, what they cost, and how their mistakes are told before they are in force."""

from __future__ import annotations

from typing import Any

import cel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.expressions.compiled import compile_expression
from policies.expressions.syntax import MOST_CHARACTERS, parse
from policies.expressions.tree import ExpressionError, written
from policies.types import MissingSignal, Moment, RequestFacts, Signals

REQUEST = RequestFacts(
    operation="chat",
    route="auto",
    org="acme",
    team="search",
    deadline_ms=800.0,
    key_id="ci-bot",
    user="ann",
    tags={"data": "restricted"},
    headers={"x-tier": "gold"},
    input_tokens=5000,
    stream=True,
    tools=True,
    modalities=frozenset({"text", "image"}),
    signals=Signals(language="ko", task="code", difficulty=0.3, pii=frozenset({"email"})),
    moment=Moment(
        hour=14,
        weekday="sat",
        month=11,
        budget_used=0.95,
        budget_left_nusd=2_500_000_000,
        up={"provider:openai": True, "model:big": False},
        error_rate={"provider:openai": 0.25},
    ),
)


def holds(text: str, facts: RequestFacts = REQUEST) -> bool | None:
    return compile_expression(text).matches(facts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('pii.found || tag("data") == "restricted"', True),
        ('task.domain == "code"', True),
        ("task.difficulty < 0.4 && tokens.input < 4000", False),
        ("budget.used > 0.9", True),
        ("budget.left_usd <= 2.5", True),
        ('team == "search" && !stream', False),
        ('org == "acme" && deadline_ms < 1000.0', True),
        ('team != "ads" && key == "ci-bot" && user == "ann" && session == ""', True),
        ('route in ["auto", "fast"]', True),
        ('"image" in modality', True),
        ('"email" in pii.classes', True),
        ('header("X-Tier") == "gold" && tag("absent") == ""', True),
        ('user.startsWith("an") && user.endsWith("nn") && !user.contains("x")', True),
        ('time.hour in [9, 14] && time.weekday in ["sat", "sun"] && time.month == 11', True),
        ('provider("openai").up && provider("openai").error_rate < 0.5 && !model("big").up', True),
        ("tokens.input > tokens.output_cap", None),
        ('!(language == "ja")', True),
        ("json_schema || tools && false", False),
        ("tokens.input >= 5000 && tokens.input <= 5000 && tokens.input == 5000.0", True),
        # By the engine:
        ('team.matches("^s[a-z]+h$")', True),
        ("size(team) * 2 - 2 == 10 && team.size() > 3", True),
        ("double(tokens.input) / 2.0 > 2499.5", True),
        ('tools ? team == "search" : false', True),
        ('modality.exists(m, m == "image") && modality.all(m, size(m) > 3)', True),
        ('pii.classes.filter(c, c.startsWith("e")).size() == 1', True),
        ('modality.map(m, m + "s")[0] == "images"', True),
        ('["a", team].exists_one(t, t == "search")', True),
        ('int("12") == 12 && string(time.hour) == "14"', True),
        ('int(tag("data")) > 1', None),
        ("tokens.input / (time.hour - 14) > 1", None),
        ("modality[7] == team", None),
        ("size(team) in [5, 6]", True),
        ("size(team + user) in [9]", True),
        ('size([team]) == 1 && size("가나") == 2', True),
        ('(tokens.output_cap > 1 ? team : user) == "x"', None),
        ("-tokens.input < 0 && -5 < tokens.input % 7", True),
        ('team in [user, "search"]', True),
        ('team.startsWith(user) || user in modality.filter(fact, fact != "x")', False),
        (r"""team == 's\x65arch' && "\"" != r'\d' // why""", True),
    ],
)
def test_an_expression_means_what_cel_says(text: str, expected: bool | None) -> None:
    """Operators know CEL from elsewhere. What cannot be worked out for a request makes a condition not hold."""
    assert holds(text) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('task.domian == "code"', '0: there is no "task.domian"; did you mean "task.domain"?'),
        ('task == "code"', '0: "task" has parts: task.domain, task.difficulty'),
        ("tokens.input", "0: is a whole number, not a condition"),
        ('tokens.input > "4000"', "13: a whole number is compared with text"),
        ("tools > stream", "6: true or false is neither more nor less than another"),
        ("tokens.input + 0.5 > 1.0", "13: a whole number and a number beside + do not fit; write double(...) around the whole one"),
        ('team * 2 == "x"', "0: text cannot stand beside *"),
        ("tools && team", "9: what stands beside && must be true or false, not text"),
        ("!team", "1: what follows ! must be true or false, not text"),
        ('-"a" == team', "1: what follows - must be a number, not text"),
        ("-team == 1", "1: what follows - must be a number, not text"),
        ('operation == "chta"', '13: operation is never "chta"; did you mean "chat"?'),
        ('"picture" in modality', '0: modality is never "picture"; known: text, image, audio, file, video'),
        ("budget.used > 90", "14: budget.used is a share, of which 1 is all; write 0.9"),
        ("task.difficulty < 2", "18: task.difficulty is a share, of which 1 is all, so it is never above 1"),
        ("task.difficulty > 60.0", "18: task.difficulty is a share, of which 1 is all; write 0.6"),
        ('language == "korean"', '12: language is never "korean"; write its code of ISO 639-1, such as "ko"'),
        ('task.domain in ["cod"]', '16: task.domain is never "cod"; did you mean "code"?'),
        ("team in tools", "8: what follows in must be a list, not true or false"),
        ("1 in modality", "2: a whole number is never in a list of text"),
        ("user == null", "8: null is of no use: what cannot be told makes no condition hold"),
        ('tools ? "a" : 1', "0: gives text or a whole number"),
        ('["a", 1] == ["a"]', "6: text and a whole number in one list"),
        ("[1, 2] < [3]", "7: a list is neither more nor less than another"),
        ('team[0] == "s"', "0: text has no elements"),
        ('modality["x"] == "s"', "9: the place in a list must be a whole number, not text"),
        ("tag", '0: tag takes the name of a tag, as in tag("x")'),
        ("tag(team) == user", '0: tag() takes the name of a tag, as in tag("x")'),
        ('provider("openai")', "0: provider() takes the name of a provider, and is followed by .up or .error_rate"),
        ('provider("openai").upp', '0: provider() has no "upp"; did you mean "up"?'),
        ('budget("b").limit > 1.0', '0: budget() has no "limit"; known: used, left_usd, left_tokens, passed'),
        ('budget("b").used > 90', "19: used is a share, of which 1 is all; write 0.9"),
        ('deployment("a/b").in_flight > "3"', "28: a whole number is compared with text"),
        ("budget(team).used > 1.0", '0: budget() takes the name of a budget, and is followed by .used or .left_usd, as in budget("x")'),
        ('size(team).up == "x"', '0: nothing has a "up" here'),
        ("sise(team) > 1", '0: there is no "sise"; did you mean "size"?'),
        ("size(team, user) > 1", "0: size() takes 1 argument, not 2"),
        ("size(tools) > 1", "0: true or false has no size"),
        ("int(modality) > 1", "0: a list cannot be made a whole number"),
        ('team.startWith("s")', '5: there is no "startWith"; did you mean "startsWith"?'),
        ('tools.startsWith("s")', "6: startsWith is asked of text, not of true or false"),
        ("team.startsWith(1)", "16: what startsWith looks for must be text, not a whole number"),
        ("team.matches(user)", "13: a pattern must stand in the expression itself"),
        ("team.exists(x, true)", "5: exists is asked of a list, not of text"),
        ("modality.all(m, 1)", "16: what all asks of each element must be true or false, not a whole number"),
        ('modality.all("x", true)', "9: all takes a name and what is asked of each element, as in all(x, x > 1)"),
        ("modality.all(team, true)", '13: "team" is a name already; take another one for the elements'),
        ("a = b", '2: "=" cannot stand here; "==" compares'),
        ('team == "x', '8: """ cannot stand here; the text has no end'),
        ("team ==", "7: ends too early"),
        ("(tools", '6: ")" is missing'),
        ("tools stream", '6: "stream" cannot stand here'),
        ("[tools", '6: "]" is missing'),
        ("tools ? stream", '14: ":" is missing'),
        ("team.1", '4: ".1" cannot stand here'),
        ("team . 1", '7: a name is missing after "."'),
        ("tools && )", '9: ")" cannot stand here'),
        ("  ", "0: is empty"),
        ('team == "\\q"', '9: "\\q" is no escape; for a plain backslash write it twice'),
        ("tokens.input > 99999999999999999999", "15: 99999999999999999999 is too large"),
        ("(" * 50 + "tools" + ")" * 50, "40: is nested deeper than 40 levels"),
        ("!" * 50 + "tools", "39: is nested deeper than 40 levels"),
        ("t" * (MOST_CHARACTERS + 1), "0: is longer than 4,000 characters"),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, message: str) -> None:
    """It would come to light at the first request that reaches the rule, at night."""
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text)
    assert f"{caught.value.at}: {caught.value}" == message


def test_what_the_engine_does_not_take_is_told_too() -> None:
    """Each part is tried out once when it is loaded."""
    with pytest.raises(ExpressionError, match="not a valid regex"):
        compile_expression('team.matches("(")')


def test_a_signal_is_asked_for_only_if_nothing_else_decides() -> None:
    """They cost a hundred times what a rule does."""
    blank = RequestFacts(operation="chat", route="auto", tags={"data": "restricted"})
    assert holds('pii.found || tag("data") == "restricted"', blank) is True
    assert holds("task.difficulty < 0.4 && tokens.input > 4000", blank) is False
    assert holds('[team + "x"].exists(t, t == "x") || size(task.domain + "x") == 1', blank) is True
    assert holds('stream ? task.domain == "code" : true', blank) is True
    assert holds('size(language) == 2 && team == "x"', blank) is False
    for text, name in (
        ('task.domain == "code" && language == "ko"', "language"),
        ("size(task.domain) > 1 || tools", "task"),
        ('!stream ? pii.found : language == "ko"', "pii"),
        ('language.matches("k.") || tools', "language"),
    ):
        with pytest.raises(MissingSignal, match=name):
            holds(text, blank)


def test_what_cannot_be_told_makes_no_condition_hold_whatever_it_is_compared_with() -> None:
    """A request without text is neither Korean nor not Korean."""
    nothing = RequestFacts(operation="chat", route="auto", signals=Signals(language=None, pii=None, difficulty=None, task=None))
    for text in ('language == "ko"', 'language != "ko"', "!pii.found", '!("email" in pii.classes)', "!(task.difficulty > 0.1)"):
        assert holds(text, nothing) is None
        assert holds(f"{text} || tools", nothing) is None
        assert holds(f"{text} && tools", nothing) is False
        assert holds(f"{text} || !tools", nothing) is True
    assert holds('language.matches("k.") || size(task.domain) > 9', nothing) is None


@pytest.mark.parametrize(
    ("text", "constant"),
    [
        ("1 > 2", False),
        ("tools && 1 > 2", False),
        ("tools || !(1 > 2)", True),
        ("true && true", True),
        ("tools || false", None),
        ('team == "a" && tools && team == "b"', False),
        ('team == "a" && user == "b"', None),
        ("!tools", None),
        ('size("abc") == 3', True),
    ],
)
def test_what_is_always_the_same_is_known(text: str, constant: bool | None) -> None:
    """Such a rule is a mistake."""
    assert compile_expression(text).constant is constant


def test_it_is_known_what_an_expression_reads() -> None:
    """The rest is not filled in."""
    made = compile_expression('header("X-Tier") == "a" && time.hour > 8 && budget.used < 0.5 && provider("p").up && model("m").up')
    assert made.headers == {"x-tier"}
    assert made.reads == {"time", "budget", "provider:p", "model:m"}


def conditions() -> st.SearchStrategy[str]:
    numbers = st.sampled_from(["tokens.input", "4000", "5000", "5000.0", "7.5"])
    texts = st.sampled_from(["team", "user", '"search"', '"ann"', '"x"'])
    compared = st.tuples(numbers, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), numbers).map(" ".join)
    words = st.tuples(texts, st.sampled_from(["==", "!=", "<", ">="]), texts).map(" ".join)
    listed = st.tuples(texts, texts, texts).map(lambda t: f"{t[0]} in [{t[1]}, {t[2]}]")
    asked = st.tuples(texts, st.sampled_from(["startsWith", "endsWith", "contains"]), texts).map(lambda t: f"{t[0]}.{t[1]}({t[2]})")
    plain = st.one_of(st.just("tools"), compared, words, listed, asked)

    def joined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        pair = st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
        return st.one_of(
            pair, inner.map(lambda text: f"!({text})"), st.tuples(inner, inner, inner).map(lambda t: f"({t[0]} ? {t[1]} : {t[2]})")
        )

    return st.recursive(plain, joined, max_leaves=6)


@settings(max_examples=150, deadline=None)
@given(conditions())
def test_it_never_differs_from_the_engine(text: str) -> None:
    """Most of an expression is worked out without the engine, and must mean the same."""
    values: dict[str, Any] = {"tokens": {"input": 5000}, "tools": True, "team": "search", "user": "ann"}
    assert holds(text) is cel.evaluate(text, values)


@settings(max_examples=50, deadline=None)
@given(conditions())
def test_an_expression_written_out_is_the_same_expression(text: str) -> None:
    """Rules are compared by what they are written as."""
    once = written(parse(text))
    assert written(parse(once)) == once


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab.()[]\"'!&|=<>?:,+-*/% \\0159xtools\n", max_size=40))
def test_no_text_breaks_the_reader(text: str) -> None:
    """Whatever stands in a file, the answer is a place and a reason."""
    place = 0
    try:
        compile_expression(text)
    except ExpressionError as error:
        place = error.at
    assert 0 <= place <= len(text)
