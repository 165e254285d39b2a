"""Budgets that say in an expression to which requests they apply, and that are split by what `metadata` names."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from policies.expressions.scopes import compile_scope
from policies.expressions.tree import ExpressionError
from router.domain.budgets import Budget
from router.domain.windows import applies
from router.replay.budgets import LedgerModel
from router.settings.model_budgets import DIMENSIONS
from tests.settings_help import BASE, ENVIRON, load, warnings, wrong

CALL = {"org": "o", "team": "search", "key": "Ab3dE6gH", "user": "", "session": "", "route": "auto", "model": "big", "provider": "openai"}


def holds(text: str, tags: Mapping[str, str] | None = None, **dims: str) -> bool:
    return compile_scope(text, {"bot": "Ab3dE6gH"}).holds(CALL | dims, tags or {})


@pytest.mark.parametrize(
    ("text", "tags", "expected"),
    [
        ('tag("kind") == "agent"', {"kind": "agent"}, True),
        ('tag("kind") == "agent"', {}, False),
        ('tag("kind") != "agent"', {}, True),
        ('key == "bot" && org == "o"', {}, True),
        ('key in ["bot"] || false', {}, True),
        ('key in [team, "bot"]', {}, True),
        ('key < "B"', {}, True),
        ('key != "bot"', {}, False),
        ('"bot" == key', {}, True),
        ('key == team || key.startsWith("Ab3")', {}, True),
        ('model in ["big", "tiny"] && provider == "openai"', {}, True),
        ('model == "big" && !(provider in ["ollama"])', {}, True),
        ('model == "big" ? tag("x") == "1" : false', {"x": "1"}, True),
        ('user == ""', {}, True),
        ('team.matches("^sea")', {}, True),
        ("size(session) > 0", {}, False),
        # What a client calls its tags makes no model of them.
        ('model != "big"', {"\0model": "tiny"}, False),
    ],
)
def test_an_expression_holds_for_the_calls_it_means(text: str, tags: dict[str, str], expected: bool) -> None:
    """By the same dimensions and tags as lists of values."""
    assert holds(text, tags) is expected


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ('tag("kind") == "agent"', {"tag:kind": {"agent"}}),
        ('"a" == team && model in ["big", "tiny"] && key == "bot"', {"team": {"a"}, "model": {"big", "tiny"}, "key": {"Ab3dE6gH"}}),
        ('team == "a" && team == "b"', None),
        ('team == "a" || team == "b"', None),
        ('team != "a"', None),
        ('user == ""', None),
        ("team in []", None),
        ("team in [user]", None),
        ("team == user", None),
        ('"a" in [team]', None),
        ("true", None),
    ],
)
def test_what_lists_of_values_can_say_becomes_such_lists(text: str, pairs: dict[str, set[str]] | None) -> None:
    """So that it costs no more, and is compared with other budgets. A list cannot say that a name is missing."""
    made = compile_scope(text, {"bot": "Ab3dE6gH"}).pairs
    assert (None if made is None else dict(made)) == pairs


def test_every_dimension_can_be_asked_for() -> None:
    """A name that can be split by and not asked for would be a riddle."""
    for name in DIMENSIONS:
        assert holds(f'{name} == "x"', **{name: "x"}), name
        assert compile_scope(f'{name} != "x"', {}).looks_at == {name}


@pytest.mark.parametrize(
    ("text", "at", "said"),
    [
        ('team == "a" && task.difficulty > 0.5', 15, 'does not know "task.difficulty" of a call; it knows org, team'),
        ('pii.found || team == "a"', 0, 'does not know "pii.found"'),
        ('header("x") == "a"', 0, 'does not know "header("x")"'),
        ("budget.used > 0.5", 0, 'does not know "budget.used"'),
        ('provider("openai").up', 0, 'does not know "provider("openai").up"'),
        ("model == 3", 6, "text is compared with a whole number"),
        ("team", 0, "is text, not a condition"),
        ('taem == "a"', 0, 'there is no "taem"'),
        ('team == "a" &&', 14, "ends too early"),
    ],
)
def test_what_a_budget_cannot_know_is_refused_with_its_place(text: str, at: int, said: str) -> None:
    """A call is counted before its prompt is read; an expression that never holds would be no budget."""
    with pytest.raises(ExpressionError) as caught:
        compile_scope(text, {})
    assert said in str(caught.value).replace("'", '"')
    assert caught.value.at == at


FILE = (
    BASE
    + """\
teams: {search: {}}
keys: {bot: {secret: $BOT_KEY, id: Ab3dE6gH, team: search}}
budgets:
  agents: {limit: $2/session, each: metadata.session_id, when: 'tag("kind") == "agent" && key == "bot"'}
  others: {limit: $9/day, when: 'tag("kind") != "agent"'}
  both: {limit: $8/day, each: metadata.tags.project, when: {team: search, cel: 'model != "home"'}}
  merged: {limit: $8/day, when: {team: search, cel: 'model == "home"'}}
  twice: {limit: $8/day, when: {team: search, cel: 'team in ["search", "x"]'}}
"""
)


def budgets() -> dict[str, Budget]:
    return {budget.name: budget for budget in load(FILE).snapshot.budgets}


def test_expressions_are_compiled_with_the_file() -> None:
    """What lists can say is lists; the rest is a condition beside them."""
    made = budgets()
    assert made["agents"].when == (("tag:kind", {"agent"}), ("key", {"Ab3dE6gH"}))
    assert (made["agents"].condition, made["agents"].each) == (None, "session")
    assert made["both"].when == (("team", {"search"}),)
    assert made["both"].condition is not None
    assert made["both"].condition.text == 'model != "home"'
    assert (made["both"].each, made["both"].looks_at) == ("tag:project", {"tag:project", "team", "model"})
    assert made["merged"].when == (("team", {"search"}), ("model", {"home"}))
    assert made["twice"].when == (("team", {"search"}),)
    assert made["twice"].condition is not None


@pytest.mark.parametrize(
    ("name", "tags", "dims", "expected"),
    [
        ("others", {}, {}, True),
        ("others", {"kind": "agent"}, {}, False),
        ("both", {"project": "x"}, {}, True),
        ("both", {"project": "x"}, {"team": "ads"}, False),
        ("both", {"project": "x"}, {"model": "home"}, False),
        ("both", {}, {}, False),
    ],
)
def test_all_that_is_said_must_hold(name: str, tags: dict[str, str], dims: dict[str, str], expected: bool) -> None:
    """Split, lists and expression."""
    assert applies(budgets()[name], dims=CALL | dims, tags=tags) is expected


def test_what_is_not_known_of_a_call_makes_no_budget_apply() -> None:
    """`/v1/me` shows what all requests of a key fall under: not what depends on a model or user that none has named yet."""
    known = {"team": "search", "key": "Ab3dE6gH"}
    assert not applies(budgets()["both"], dims=known, tags={"project": "x"})
    assert applies(budgets()["both"], dims=known | {"model": ""}, tags={"project": "x"})
    assert applies(budgets()["others"], dims=known, tags={})


def test_two_budgets_with_different_expressions_are_two() -> None:
    """`check` says of a budget that it never bites only beside one for the same requests."""
    base = BASE + "budgets:\n  month: {limit: $9/month, when: 'team != \"a\"'}\n  day: {limit: $9/day, when: 'team != \"%s\"'}\n"
    assert [line for line in warnings(base % "a") if "never bites" in line]
    assert not [line for line in warnings(base % "b") if "never bites" in line]


def test_a_plan_counts_by_the_expression() -> None:
    """What a change would have done is worked out with the same conditions: the cache of sets looks at all that they look at."""
    model = LedgerModel([budgets()["others"]])
    for tags, expected in (({"kind": "agent"}, None), ({}, "others"), ({"kind": "agent"}, None)):
        found = model.reserve(CALL, tags, 1, 2, nusd=9_000_000_001, tokens=0, charge=(0, 0))
        assert found == expected


@pytest.mark.parametrize(
    ("budget", "line"),
    [
        (
            "{limit: $5, when: 'task.domain == \"code\"'}",
            '8:24: budgets.b.when: a budget does not know "task.domain" of a call; it knows org, team, key, user, session, route, model, '
            'provider and tag("...")',
        ),
        ("{limit: $5, when: 'true && model == \"bgi\"'}", '8:42: budgets.b.when: there is no model "bgi"; did you mean "big"?'),
        ("{limit: $5, when: {cel: 'route != \"atuo\"'}}", '8:40: budgets.b.when.cel: there is no route "atuo"'),
        (
            "{limit: $5, each: metadata.project}",
            '8:24: budgets.b.each: "metadata.project" is not read; requests name a session in metadata.session_id, and tags in '
            "metadata.tags.project",
        ),
        ("{limit: $5, each: metadata.tags.}", '8:24: budgets.b.each: "tag:" is not known here; known: key, team'),
    ],
)
def test_a_mistake_has_its_place(budget: str, line: str) -> None:
    """File, line and column of the part that is wrong."""
    (found,) = wrong(BASE + f"budgets:\n  b: {budget}\n")
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("when", "line"),
    [
        ("'team == \"serach\"'", '10:37: budgets.b.when: there is no team "serach" in this file; did you mean "search"?'),
        ("'key != \"bto\"'", '10:36: budgets.b.when: there is no key "bto" in this file; did you mean "bot"?'),
        ("'team == \"search\" || true'", "10:28: budgets.b.when: always holds: leave it out"),
        ('\'team == "search" && team == "b" && org == "c"\'', "10:28: budgets.b.when: never holds: nothing falls under this budget"),
    ],
)
def test_what_is_doubtful_is_said(when: str, line: str) -> None:
    """As of lists: a team may be one of minted keys only."""
    text = BASE + "teams: {search: {}}\nkeys: {bot: {secret: $BOT_KEY}}\nbudgets:\n  b: {limit: $5/day, when: " + when + "}\n"
    assert line in warnings(text, ENVIRON)
