"""Policies with names of their own: they are what they stand for, wherever a kind may stand."""

from __future__ import annotations

import pytest

from router.errors import ConfigError
from router.settings.load import Loaded, load_text, price_book

BASE = """version: 1
providers: {up: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: none}}
models:
  small: {at: up/small, price: {input: 1, output: 1}, size: small}
  large: {at: up/large, price: {input: 9, output: 9}, size: large}
"""
CAREFUL = "{kind: cascade, steps: [small, large]}"


def load(text: str) -> Loaded:
    return load_text(BASE + text, source="r.yaml", environ={}, price_book=price_book())


HEDGE = f"{{kind: hedge, after: 1s, by: {CAREFUL}}}"
SPLIT = (
    "by: {kind: split, name: s, branches: [{name: a, share: 50%, use: [small, large], by: A},"
    " {name: b, share: 50%, use: [small, large], by: B}]}"
)
RULE = "rules: [{when: {tags: {by: careful}}, use: [small, large], by: A}]"


@pytest.mark.parametrize(
    ("named", "inline"),
    [
        ("by: careful", f"by: {CAREFUL}"),
        ("by: same", f"by: {CAREFUL}"),
        ("by: both", f"by: {HEDGE}"),
        ("by: {kind: hedge, after: 1s, by: careful}", f"by: {HEDGE}"),
        (RULE.replace("A}", "careful}"), RULE.replace("A}", f"{CAREFUL}}}")),
        (SPLIT.replace("A}", "careful}").replace("B}", "both}"), SPLIT.replace("A}", f"{CAREFUL}}}").replace("B}", f"{HEDGE}}}")),
    ],
)
def test_a_name_means_what_it_stands_for(named: str, inline: str) -> None:
    """Also inside of other kinds, and where one name stands for another."""
    policies = f"policies: {{careful: {CAREFUL}, both: {{kind: hedge, after: 1s, by: careful}}, same: careful}}\n"
    route = "routes: {auto: {use: [small, large], ROUTE}}\n"
    assert load(policies + route.replace("ROUTE", named)).settings.routes == load(route.replace("ROUTE", inline)).settings.routes


@pytest.mark.parametrize(
    ("policies", "by", "said"),
    [
        (f"{{careful: {CAREFUL}}}", "carefull", '7:42: routes.auto.by: there is no policy "carefull"; did you mean "careful"?'),
        ("{a: {kind: hedge, by: b}, b: {kind: hedge, by: a}}", "a", "leads back to itself: a -> b -> a"),
        ("{a: a}", "a", "leads back to itself: a -> a"),
        ("{cost: {kind: fixed}}", "cost", '6:12: policies.cost: "cost" is a policy kind; give the policy another name'),
        ("{a: {kind: cascade, stepps: [small]}}", "cost", "policies.a.stepps: unknown field"),
        ("[careful]", "cost", "6:11: policies: "),
    ],
)
def test_what_is_wrong_with_names_is_said(policies: str, by: str, said: str) -> None:
    """With its place, and the way round in a circle."""
    with pytest.raises(ConfigError) as raised:
        load(f"policies: {policies}\nroutes: {{auto: {{use: [small, large], by: {by}}}}}\n")
    assert said in str(raised.value)


def test_names_of_names_are_bounded() -> None:
    """Twenty lines could stand for a million policies."""
    branches = "{{name: a, share: 50%, use: small, by: p{0}}}, {{name: b, share: 50%, use: large, by: p{0}}}"
    twice = "{{kind: split, name: s, branches: [" + branches + "]}}"
    policies = ", ".join(["p0: cost", *(f"p{n}: {twice.format(n - 1)}" for n in range(1, 20))])
    with pytest.raises(ConfigError, match="names stand for more than 1,000 policies in all"):
        load(f"policies: {{{policies}}}\nroutes: {{auto: {{use: [small, large], by: p19}}}}\n")


def test_a_policy_that_nothing_uses_is_doubtful() -> None:
    """It was forgotten, or its name misspelt where it is used."""
    policies = f"policies: {{careful: {CAREFUL}, idle: latency, twin: {CAREFUL}, inner: cost}}\n"
    made = load(f"{policies}routes: {{auto: {{use: [small, large], by: careful}}}}\n")
    told = [w.partition(": ")[2] for w in made.snapshot.warnings if "no route uses the policy" in w]
    assert told == [f'policies.{name}: no route uses the policy "{name}"' for name in ("idle", "twin", "inner")]
