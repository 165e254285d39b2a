"""Experiments by name: what they make of the rules of a route, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml

from policies.engine import Branch
from policies.plans import Arm
from policies.types import Candidate, Ranking, RequestFacts
from router.settings.effective import effective_yaml
from router.settings.load import load_file
from router.snapshot import Snapshot
from tests.house.source import ROOT
from tests.settings_help import BASE, load, warnings, wrong

FILE = """\
version: 1
providers: [openai, ollama]
models:
  big: {at: openai/large, size: large, domain: code}
  tiny: {at: openai/small, size: small, languages: ko, quality: 0.6}
  home: {at: [ollama/qwen3, ollama/qwen4], size: small, locality: local}
routes:
  auto:
    rules:
      - {name: local, when: 'tag("private") == "yes"', use: {locality: local}, otherwise: refuse}
      - {name: small, when: 'tokens.input < 10', use: {size: small}, by: fixed}
      - {name: best, when: 'team == "x"', use: big}
      - {name: step, when: 'team == "y"', use: [tiny, big], by: {kind: cascade, steps: [tiny, big]}}
      - {name: draws, when: 'team == "z"', use: [tiny, big], by: {kind: bandit, explore: 1.0}}
    default: {use: [tiny, big], by: fixed}
"""


def snapshot(experiments: str) -> Snapshot:
    return load(f"{FILE}experiments:\n{experiments}\n").snapshot


def branches(made: Snapshot) -> dict[str, Branch]:
    policy = made.routes["auto"].policy
    return {branch.rule: branch for branch in (*(rule.branch for rule in policy.rules), policy.default)}


def ask(made: Snapshot, rule: str, draw: float = 0.0, but: tuple[str, ...] = (), live: dict[str, float] | None = None) -> Ranking:
    branch = branches(made)[rule]
    kept = [Candidate(made.deployments[name].traits) for name in branch.deployments if name not in but]
    return branch.order(RequestFacts("chat", "auto", live=live or {}), kept, draw)


def order(ranking: Ranking) -> list[str]:
    return [ranked.deployment for ranked in ranking.order]


def arms(ranking: Ranking) -> list[Arm]:
    return [] if ranking.plan is None else list(ranking.plan.arms)


TRIAL = "  trial: {route: auto, swap: {tiny: openai/other}, share: 10%, stop_if: {errors: +2%, first_token: +30%, cost: +20%}}"


def test_a_share_of_the_requests_goes_to_the_new_model_in_the_place_of_the_other() -> None:
    """The other stays behind it, so that a failure costs no answer; all else is as the rule says."""
    made = snapshot(TRIAL)
    new, old = ask(made, "default", 0.05), ask(made, "default", 0.15)
    assert order(new) == ["openai/other", "openai/small", "openai/large"]
    assert order(old) == ["openai/small", "openai/large", "openai/other"]
    assert [(arm.experiment, arm.arm, round(arm.propensity, 6)) for arm in (*arms(new), *arms(old))] == [
        ("trial", "canary", 0.1),
        ("trial", "control", 0.9),
    ]
    assert new.plan is not None
    (stop,) = new.plan.stops
    assert (stop.experiment, stop.errors, stop.first_token, stop.cost) == ("trial", 0.02, 0.3, 0.2)
    took = sum(order(ask(made, "default", n / 1000))[0] == "openai/other" for n in range(1000))
    assert took == 100


def test_every_rule_that_leads_to_the_model_takes_part_and_no_other() -> None:
    """A rule by classes leads to nothing that lacks them; the new model is as large as the one it replaces, and where it is itself."""
    made = branches(snapshot(TRIAL))
    assert {rule for rule, branch in made.items() if "openai/other" in branch.deployments} == {"small", "step", "draws", "default"}
    # What comes of it is counted for the route as a whole.
    assert [(live.what, live.name, live.rule) for live in made["default"].live] == [("experiment", "trial", "*")]
    assert made["default"].live == made["small"].live == made["step"].live[:1]
    assert made["best"].kind == "cost"
    assert made["default"].kind == "canary"


def test_what_only_an_experiment_names_is_chosen_by_no_class() -> None:
    """It would be everywhere at once, not a share of one route; by its full name it can be asked for, like any deployment."""
    text = FILE + "  other: {use: {size: small}}\n" + f"experiments:\n{TRIAL}\n"
    made = load(text).snapshot
    assert made.routes["other"].deployments == ("openai/small", "ollama/qwen3", "ollama/qwen4")
    traits = made.deployments["openai/other"].traits
    assert (traits.model, traits.size, traits.languages, traits.quality, traits.locality) == ("openai/other", "small", {"ko"}, 0.6, "cloud")
    assert made.routes["openai/other"].aliases_model


def test_where_the_model_stands_must_be_kept_private() -> None:
    """A model of the cloud does not come in the place of a local one where a rule asks for local ones."""
    text = FILE.replace("default: {use: [tiny, big]", "default: {use: [tiny, home]")
    made = branches(load(f"{text}experiments: {{trial: {{route: auto, swap: {{home: big}}, share: 100%}}}}\n").snapshot)
    assert "openai/large" in made["default"].deployments
    assert made["local"].deployments == ("ollama/qwen3", "ollama/qwen4")
    assert "openai/large" not in made["small"].deployments


def test_a_model_with_several_places_is_replaced_as_a_whole() -> None:
    """Left and right may be models with several deployments, or one deployment."""
    made = snapshot("  trial: {route: auto, swap: {tiny: home}, share: 100%, sticky: none}")
    assert order(ask(made, "default")) == ["ollama/qwen3", "ollama/qwen4", "openai/small", "openai/large"]
    one = snapshot("  trial: {route: auto, swap: {openai/small: ollama/qwen4}, share: 100%}")
    assert order(ask(one, "default")) == ["ollama/qwen4", "openai/small", "openai/large"]


def test_requests_that_would_go_elsewhere_are_in_no_arm() -> None:
    """Compared is what was to be compared: a request that the old model could not have served says nothing of the new one."""
    made = snapshot(TRIAL)
    elsewhere = ask(made, "default", 0.05, but=("openai/small",))
    assert (order(elsewhere), arms(elsewhere)) == (["openai/large", "openai/other"], [])
    for draw in (0.05, 0.5):
        away = ask(made, "default", draw, but=("openai/other",))
        assert (order(away), arms(away)) == (["openai/small", "openai/large"], [])
    alone = ask(made, "default", 0.05, but=("openai/small", "openai/large"))
    assert (order(alone), arms(alone)) == (["openai/other"], [])


def test_one_that_was_taken_back_is_not_even_a_fallback() -> None:
    """As any canary."""
    stopped = ask(snapshot(TRIAL), "default", 0.0, live={"stopped/trial": 1.0})
    assert order(stopped) == ["openai/small", "openai/large"]
    assert [(out.deployment, out.reason) for out in stopped.rejected] == [("openai/other", "not_selected")]


def test_it_grows() -> None:
    """By its ramp."""
    made = snapshot("  trial: {route: auto, swap: {tiny: openai/other}, share: 1%, ramp: [{after: 1h, share: 50%}], begins: 2026-12-01}")
    took = [
        sum(order(ask(made, "default", n / 100, live={"age/trial": age}))[0] == "openai/other" for n in range(100)) for age in (0, 3600)
    ]
    assert took == [1, 50]


def test_a_step_of_a_cascade_is_replaced_too() -> None:
    """First or last: what is asked is another model, what is checked is the same."""
    first = ask(snapshot(TRIAL), "step")
    assert first.plan is not None
    assert first.plan.cascade is not None
    assert [step.deployments for step in first.plan.cascade.steps] == [("openai/other", "openai/small"), ("openai/large",)]
    last = ask(snapshot("  trial: {route: auto, swap: {big: ollama/new}, share: 100%}"), "step")
    assert last.plan is not None
    assert last.plan.cascade is not None
    assert [step.deployments for step in last.plan.cascade.steps] == [("openai/small",), ("ollama/new", "openai/large")]
    assert [arm.arm for arm in arms(last)] == ["canary"]


def test_a_bandit_does_not_learn_from_what_it_did_not_choose() -> None:
    """Its belief in the old model would follow the new one's answers."""
    made = snapshot("  trial: {route: auto, swap: {tiny: openai/other}, share: 50%, sticky: none}")
    seen = [ask(made, "draws", random.Random(n).random()) for n in range(60)]
    new = [ranking for ranking in seen if order(ranking)[0] == "openai/other"]
    old = [ranking for ranking in seen if order(ranking)[0] == "openai/small"]
    assert new
    assert old
    for ranking in new:
        assert ranking.plan is not None
        assert ([arm.experiment for arm in ranking.plan.arms], ranking.plan.rewards) == (["trial"], ())
    for ranking in old:
        assert ranking.plan is not None
        assert {arm.experiment for arm in ranking.plan.arms} == {"bandit", "trial"}
        assert ranking.plan.rewards


def test_two_experiments_on_different_models_stand_in_one_route() -> None:
    """Each takes its share of what is its own."""
    made = snapshot(TRIAL.replace("10%", "100%") + "\n  other: {route: auto, swap: {big: ollama/new}, share: 100%}")
    assert order(ask(made, "default"))[:2] == ["openai/other", "openai/small"]
    assert order(ask(made, "best"))[:2] == ["ollama/new", "openai/large"]
    both = ask(made, "step")
    assert both.plan is not None
    assert both.plan.cascade is not None
    assert [step.deployments[0] for step in both.plan.cascade.steps] == ["openai/other", "ollama/new"]


def test_the_effective_configuration_has_the_experiment_and_loads_again() -> None:
    """With what it leads to in comments."""
    loaded = load(f"{FILE}experiments:\n{TRIAL}\n")
    text = effective_yaml(loaded.settings, loaded.snapshot)
    assert yaml.safe_load(text)["experiments"]["trial"]["swap"] == {"tiny": "openai/other"}
    assert "# auto, default: openai/small, openai/large, openai/other\n" in text
    assert load(text).snapshot.routes["auto"].deployments == loaded.snapshot.routes["auto"].deployments


@pytest.mark.parametrize(
    ("experiment", "line"),
    [
        ("{route: atuo, swap: {tiny: big}}", '17:14: experiments.t.route: there is no route "atuo"; did you mean "auto"?'),
        ("{route: tiny, swap: {tiny: big}}", '17:14: experiments.t.route: there is no route "tiny"; it is a model, and always itself'),
        ("{route: auto, swap: {tyni: big}}", '17:27: experiments.t.swap.tyni: there is no model "tyni"; known: big, tiny, home'),
        (
            "{route: auto, swap: {tiny: bgi}}",
            '17:33: experiments.t.swap.tiny: there is no model "bgi"; did you mean "big"?; or write provider/id',
        ),
        (
            "{route: auto, swap: {tiny: auto}}",
            '17:33: experiments.t.swap.tiny: there is no model "auto"; it is a route, and experiments are between models',
        ),
        ("{route: auto, swap: {tiny: opnai/x}}", '17:33: experiments.t.swap.tiny: there is no provider "opnai"; did you mean "openai"?'),
        ("{route: auto, swap: {tiny: openai/small}}", '17:33: experiments.t.swap.tiny: "openai/small" is no other model than "tiny"'),
        (
            "{route: plain, swap: {tiny: big}}",
            '18:28: experiments.t.swap.tiny: route "plain" never uses "tiny", or only in rules with classes that "big" lacks',
        ),
        (
            "{route: far, swap: {home: openai/x}}",
            '18:26: experiments.t.swap.home: route "far" never uses "home", or only in rules with classes that "openai/x" lacks',
        ),
        ("{route: auto, swap: {}}", "17:26: experiments.t.swap: is empty"),
        ("{route: auto}", "17:6: experiments.t.swap: is missing"),
        ("{route: auto, swap: {tiny: big}, share: 120%}", "17:46: experiments.t.share: must be at most 1"),
        (
            "{route: auto, swap: {tiny: big}, share: 5%, ramp: [{after: 1h, share: 1%}]}",
            "17:56: experiments.t.ramp: goes down: 1% after 1h is less than the 5% before it",
        ),
        ("{route: auto, swap: {tiny: big}, stop_if: {error: 2%}}", "17:49: experiments.t.stop_if.error: unknown field; did you mean"),
        ("{route: auto, swap: {tiny: openai/a, openai/small: openai/b}}", ""),
        (
            "{route: auto, swap: {tiny: big, big: openai/x}}",
            '17:26: experiments.t.swap: "big" cannot both come and be replaced',
        ),
    ],
)
def test_a_mistake_in_an_experiment_has_its_place(experiment: str, line: str) -> None:
    """One that silently does nothing would be taken for one that found nothing."""
    routes = "  plain: big\n" if "plain" in experiment else "  far: {use: {locality: local}}\n" if "far" in experiment else ""
    text = FILE.rstrip() + "\n" + routes + f"experiments:\n  t: {experiment}\n"
    if not line:
        assert load(text)
        return
    found = wrong(text)
    assert len(found) == 1, found
    assert found[0].startswith(line)


@pytest.mark.parametrize(
    ("second", "line"),
    [
        ("swap: {tiny: openai/y}", '18:27: experiments.b.swap.tiny: experiment "a" has "tiny" of route "auto" already'),
        (
            "swap: {openai/small: openai/y}",
            '18:27: experiments.b.swap.openai/small: experiment "a" has "openai/small" of route "auto" already',
        ),
        ("swap: {big: openai/x}", '18:32: experiments.b.swap.big: experiment "a" has "openai/x" of route "auto" already'),
    ],
)
def test_two_experiments_must_not_be_in_each_others_way(second: str, line: str) -> None:
    """Nobody could tell from which of them a difference comes."""
    text = f"{FILE}experiments:\n  a: {{route: auto, swap: {{tiny: openai/x}}}}\n  b: {{route: auto, {second}}}\n"
    assert line in wrong(text)


def test_a_name_that_a_policy_of_the_route_has_is_refused() -> None:
    """They would be counted together."""
    text = BASE + "routes: {auto: {use: [tiny, home], by: {kind: canary, name: t, to: home}}}\n"
    assert wrong(text + "experiments: {t: {route: auto, swap: {tiny: big}}}\n") == [
        '8:15: experiments.t: "t" is the name of a policy in route "auto", too; give it another'
    ]


def test_what_is_doubtful_is_said_at_the_experiment() -> None:
    """Of a model that stands nowhere else there is no other place."""
    found = warnings(f"{FILE}experiments:\n  t: {{route: auto, swap: {{tiny: openai/nowhere, big: tiny2}}}}\n".replace(", big: tiny2", ""))
    assert "17:33: experiments.t.swap.tiny: no price is known for openai/nowhere: it is never called; give it a price" in found
    there = warnings(f"{FILE}experiments:\n  t: {{route: auto, swap: {{tiny: big}}}}\n")
    assert [line for line in there if 'routes.auto.default leads to "big" anyway' in line]


def test_an_experiment_with_an_error_does_not_hide_the_other_errors() -> None:
    """All errors come at once."""
    found = wrong(BASE + "routes: {auto: [tiny, big]}\nexperiments: {t: {route: auto, swap: {tiny: big}, shar: 1}}\nbudgets: {b: 50}\n")
    assert [line.partition(" ")[0] for line in found] == ["8:51:", "9:14:"]


def test_a_canary_takes_a_swap_by_itself() -> None:
    """`by` of a rule can do what an experiment does for all rules of a route."""
    by = "{kind: canary, swap: {tiny: home}, share: 100%, by: fixed}"
    made = load(BASE + f"routes: {{auto: {{use: [tiny, big, home], by: {by}}}}}\n").snapshot
    assert order(ask(made, "default")) == ["ollama/qwen3", "openai/small", "openai/large"]
    said = wrong(BASE + "routes: {auto: {use: [tiny, home], by: {kind: canary}}}\n")
    wanted = "give `to`, the new models, `to_by`, a new policy, or else `swap`, new models by those that they replace"
    assert said == [f"7:40: routes.auto.by: {wanted}"]
    missing = wrong(BASE + "routes: {auto: {use: [tiny, home], by: {kind: canary, swap: {tiny: big}}}}\n")
    assert missing == ['7:68: routes.auto.by.swap.tiny: "big" is not among the models that `use` leads to; it leads to tiny, home']
    both = wrong(BASE + "routes: {auto: {use: [tiny, home], by: {kind: canary, swap: {tiny: home, home: tiny}}}}\n")
    assert both[0] == '7:68: routes.auto.by.swap.tiny: "home" cannot both come and be replaced'


def test_the_language_as_a_whole_in_one_file_passes_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every form that the first page about the language showed: what was promised there loads as it is."""
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "UPSTAGE_API_KEY"):
        monkeypatch.setenv(name, "x" * 20)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("CI_BOT_KEY_HASH", "0" * 64)
    monkeypatch.setenv("SLACK_WEBHOOK", "https://chat.example.com/hook")
    made = load_file(str(Path(ROOT) / "config" / "tour.yaml")).snapshot
    assert made.keys["ci-bot"].secret_hmac == "0" * 64
    budgets = {budget.name: budget for budget in made.budgets}
    assert (budgets["agents"].each, budgets["agents"].when) == ("session", (("tag:kind", {"agent"}),))
    assert "upstage/solar-pro5" in made.routes["auto"].policy.default.deployments
