"""Canaries and splits between policies: which side goes by what, what is said of a file, and what explains it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from policies.registry import KINDS
from router.cli import load
from router.errors import ConfigError
from router.settings.load import load_text, price_book
from tests.unit.test_policies_plans import LARGE, NEW, SMALL, facts, order, rank

BASE = """version: 1
providers: {up: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: none}}
models:
  small: {at: up/small, price: {input: 1, output: 1}, size: small}
  large: {at: up/large, price: {input: 9, output: 9}, size: large}
policies:
  careful: {kind: cascade, name: careful, steps: [small, large], verify: {agree: true}}
  cheap: {kind: cascade, name: cheap, steps: [small, large]}
  other: {kind: cascade, name: cheap, steps: [large, small]}
routes:
  auto: {use: [small, large], by: BY}
"""
BETWEEN = "{kind: canary, name: trial, by: careful, to_by: cheap, share: 20%}"
ALL = [LARGE, SMALL, NEW]


def wrong(by: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_text(BASE.replace("BY", by), source="r.yaml", environ={}, price_book=price_book())
    return str(caught.value).splitlines()


def test_a_side_goes_by_its_policy() -> None:
    """Both over all models, unless the new policy is for new models; taken back, the old policy has all."""
    options: dict[str, Any] = {"by": "fixed", "to_by": "cost", "share": 0.5}
    assert order(rank("canary", ALL, 0.2, **options)) == ["small", "new", "large"]
    assert order(rank("canary", ALL, 0.7, **options)) == ["large", "small", "new"]
    assert order(rank("canary", ALL, 0.2, facts(live={"stopped/canary": 1.0}), **options)) == ["large", "small", "new"]
    assert order(rank("canary", ALL, 0.2, to=["large", "new"], **options)) == ["new", "large", "small"]
    assert order(rank("canary", ALL, 0.7, to=["large", "new"], **options)) == ["small", "large", "new"]
    plan = rank("canary", ALL, 0.2, **options).plan
    assert plan is not None
    assert [(arm.experiment, arm.arm, arm.propensity) for arm in plan.arms] == [("canary", "canary", 0.5)]


def test_a_branch_without_models_of_its_own_has_all() -> None:
    """What differs between branches may be the policy alone."""
    branches = [{"name": "a", "share": "50%", "by": "fixed"}, {"name": "b", "share": "50%", "by": "cost"}]
    assert order(rank("split", ALL, 0.2, branches=branches)) == ["large", "small", "new"]
    assert order(rank("split", ALL, 0.7, branches=branches)) == ["small", "new", "large"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give `to`, the new models, `to_by`, a new policy, or else `swap`"),
        ({"to_by": "latency", "swap": {"a": "b"}}, "give `to`, the new models, `to_by`, a new policy, or else `swap`"),
        ({"to_by": "cost"}, "`to_by` is the same policy as `by`"),
    ],
)
def test_a_canary_without_anything_new_is_refused(options: dict[str, Any], said: str) -> None:
    """Or with two kinds of news at once, that no order could follow."""
    with pytest.raises(ValidationError, match=said.replace(".", "[.]")):
        KINDS["canary"].options(**options)


def test_what_was_taken_back_stays_so_until_the_policy_is_another() -> None:
    """By what it does, not by its name."""

    def version(**options: Any) -> str:
        kind = KINDS["canary"]
        return kind.live(kind.options(**options))[0].version

    new = {"kind": "cascade", "steps": ["small", "large"]}
    assert version(to_by=new) == version(to_by=dict(new), by="latency")
    assert (
        len({version(to_by=new), version(to_by={**new, "steps": ["new", "large"]}), version(to_by=new, to="new"), version(to="new")}) == 4
    )


def test_names_of_policies_stand_on_both_sides() -> None:
    """And what is wrong with them is said where they stand."""
    loaded = load_text(BASE.replace("BY", BETWEEN), source="r.yaml", environ={}, price_book=price_book())
    by = loaded.settings.routes["auto"].model_dump(mode="json")["by"]
    assert (by["by"]["name"], by["to_by"]["name"], by["to_by"]["steps"][0]["names"]) == ("careful", "cheap", ["small"])
    (said,) = wrong(BETWEEN.replace("to_by: cheap", "to_by: cheep"))
    assert 'routes.auto.by.to_by: there is no policy "cheep"; did you mean "cheap"?' in said
    (said,) = wrong(BETWEEN.replace("by: careful", "by: other"))
    assert 'routes.auto.by: two different policies in it have the name "cheap"; give one of them another `name`' in said


def test_explain_names_the_arm_and_its_chance(tmp_path: Path) -> None:
    """A session falls into the same one each time; check --effective writes both policies out."""
    config, body = tmp_path / "router.yaml", tmp_path / "body.json"
    config.write_text(BASE.replace("BY", BETWEEN))
    body.write_text(json.dumps({"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}))
    told = set()
    for number in range(20):
        words = [str(body), "--config", str(config), "--no-store", "--header", f"x-faregate-session=s{number}"]
        out = CliRunner().invoke(load("explain"), words).output
        arm = "canary" if "experiment trial: arm canary, drawn with chance 0.2" in out else "control"
        assert f"cascade {'cheap' if arm == 'canary' else 'careful'}:" in out
        told.add(arm)
    assert told == {"canary", "control"}
    effective = CliRunner().invoke(load("check"), [str(config), "--effective"]).stdout
    assert "to_by:" in effective
    again = tmp_path / "again.yaml"
    again.write_text(effective)
    assert CliRunner().invoke(load("check"), [str(again)]).exit_code == 0
