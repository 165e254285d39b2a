"""Ready-made policies in rules: what they become, and that everything is still told with its place in the file."""

from __future__ import annotations

from typing import Any

import pytest

from router.settings.effective import effective_yaml
from router.settings.load import Loaded, load_text, price_book
from router.settings.preset import presets
from router.settings.rule_presets import with_rule_presets
from tests.settings_help import BASE, load, wrong

CATALOGUE = """version: 1
providers: {openai: {api_key: none}, other: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: none}}
models:
  tiny: {at: openai/small, size: small, locality: local, domain: code, languages: ko, quality: 0.5, price: {input: 1, output: 1}}
  big: {at: [openai/large, other/large], size: large, price: {input: 1, output: 1}}
budgets: {everyone: $9/month}
teams: {search: {}}
"""
ROUTE = "routes:\n  auto:\n    use: big\n    rules:\n"


def made(*rules: Any) -> list[dict[str, Any]]:
    data = {"routes": {"auto": {"rules": [*rules], "use": "big"}}}
    findings: list[Any] = []
    changed, _, _ = with_rule_presets(data, findings)
    assert findings == []
    found: list[dict[str, Any]] = changed["routes"]["auto"]["rules"]
    return found


def test_a_ready_made_route_is_its_rules_and_then_the_rest() -> None:
    """Each rule holds only where the rule that it stands in does; own fields win over where the rest goes."""
    korean = presets()["korean"]["route"]
    assert made({"name": "seoul", "when": {"team": "ads"}, "policy": "korean", "at_least": {"quality": 0.5}}, {"use": "tiny"}) == [
        {**korean["rules"][0], "name": "seoul-korean", "when": {"team": "ads", "language": "ko"}},
        {**korean["default"], "name": "seoul", "when": {"team": "ads"}, "at_least": {"quality": 0.5}},
        {"name": "rule-2", "use": "tiny"},
    ]
    short, long = made({"policy": "agents", "by": "fixed"}), made({"when": 'team == "ads"', "policy": "korean"})
    assert short == [{"name": "rule-1", "use": presets()["agents"]["route"]["use"], "by": "fixed"}]
    assert long[0]["when"] == {"cel": 'team == "ads"', "language": "ko"}
    (tagged, _) = made({"when": {"tags": {"kind": "agent"}}, "policy": "cheapest-capable"})
    assert tagged["when"] == {"tags": {"kind": "agent", "difficulty": "hard"}}


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_can_stand_in_a_rule(name: str) -> None:
    """What it became can be written out and loaded again, and says the same."""
    text = CATALOGUE + ROUTE + f"      - {{name: x, when: {{team: search}}, policy: {name}}}\n"

    def loaded(config: str) -> Loaded:
        return load_text(config, source="r.yaml", environ={}, price_book=price_book())

    first = loaded(text)
    rules = first.settings.routes["auto"].rules
    assert [rule.name for rule in rules][-1] == "x"
    assert all(rule.when.team == ("search",) and rule.policy is None for rule in rules)
    assert loaded(effective_yaml(first.settings, first.snapshot)).settings.routes["auto"].rules == rules
    beyond = sorted(presets()[name]["route"].keys() - {"use", "by", "default", "rules"})
    assert [warning for warning in first.snapshot.warnings if all(word in warning for word in beyond)] if beyond else True


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (
            "      - {when: {team: ads}, policy: koreen}\n      - {use: tiny}\n",
            ['11:37: routes.auto.rules[0].policy: "koreen" is not a ready-made policy; did you mean "korean"?'],
        ),
        ("      - {policy: [korean]}\n", ["routes.auto.rules[0].policy: a list is not a ready-made policy"]),
        (
            "      - {when: {language: en}, policy: korean}\n",
            ['11:40: routes.auto.rules[0].policy: "korean" looks at language itself, as `when` does; write its rules out'],
        ),
        (
            "      - {policy: korean}\n      - {use: tinny}\n      - {use: tiny, by: fixd}\n      - {use: tiny, whem: x}\n",
            [
                '12:15: routes.auto.rules[1].use: there is no model "tinny"',
                '13:25: routes.auto.rules[2].by: "fixd" is not a policy kind; did you mean "fixed"?',
                "14:21: routes.auto.rules[3].whem: unknown field",
            ],
        ),
        ("      - {policy: korean, when: 5}\n", ["routes.auto.rules[0].when: "]),
        ("      - {policy: agents}\n      - 5\n", ["12:9: routes.auto.rules[1]: "]),
    ],
)
def test_what_is_wrong_is_told_where_it_stands(rules: str, said: list[str]) -> None:
    """A rule that became several moves no other one."""
    found = "\n".join(wrong(BASE + ROUTE + rules))
    for each in said:
        assert each in found


def test_other_routes_stay_as_they_are() -> None:
    """Rules without names keep the names that they have by their places."""
    text = "routes:\n  a: {use: big, rules: [{when: {tools: true}, use: tiny}]}\n  b: [big]\n"
    text += "  c: {use: big, rules: [{policy: agents}, {use: tiny}]}\n"
    loaded = load(BASE.replace("routes: {auto: big}\n", "") + text)
    assert [rule.name for rule in loaded.snapshot.routes["a"].policy.rules] == ["rule-1"]
    assert [rule.name for rule in loaded.snapshot.routes["c"].policy.rules] == ["rule-1", "rule-2"]
