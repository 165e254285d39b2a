"""Ready-made routes: each loads as part of a configuration and does what it says."""

from __future__ import annotations

import re
import textwrap
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from policies.engine import choose, decide
from policies.types import Candidate, RequestFacts, Signals, Traits
from router.errors import ConfigError
from router.settings import load_snapshot
from router.snapshot import Route

PRESETS = {
    file.name.removesuffix(".yaml"): file
    for file in resources.files("policies").joinpath("presets").iterdir()
    if file.name.endswith(".yaml")
}
CONFIG: dict[str, Any] = {
    "version": 1,
    "providers": {name: {"kind": "sim", "base_url": "http://127.0.0.1:9/v1"} for name in ("cloud", "room", "edge")},
    "budgets": {"everyone": "$50/month"},
    "models": {
        "frontier": {"at": "cloud/frontier-closed", "size": "large", "weights": "closed", "locality": "cloud", "weight": 3, "quality": 0.9},
        "mid": {"at": "cloud/mid-closed", "size": "medium", "weights": "closed", "locality": "cloud", "languages": ["ko"], "quality": 0.75},
        "open": {
            "at": "room/large-open-local",
            "size": "large",
            "weights": "open",
            "locality": "local",
            "weight": 1,
            "domain": "code",
            "quality": {"code": 0.85},
        },
        "pocket": {"at": "edge/small-edge", "size": "small", "weights": "open", "locality": "edge"},
    },
}
UNREMARKABLE = Signals(language="en", task="chat", difficulty=0.5, pii=frozenset())
TRAITS: dict[str, Traits] = {}
COST = {"cloud/frontier-closed": 900, "cloud/mid-closed": 300, "room/large-open-local": 60, "edge/small-edge": 10}


def preset(name: str, tmp_path: Path) -> Route:
    """The preset's route, pasted into a configuration and compiled as the server compiles it."""
    path = tmp_path / "router.yaml"
    _, _, route = PRESETS[name].read_text(encoding="utf-8").partition("\nroute:\n")
    path.write_text(f"{yaml.safe_dump(CONFIG)}routes:\n  auto:\n{textwrap.indent(route, '  ')}")
    return load_snapshot(str(path)).routes["auto"]


def test_a_preset_is_taken_by_its_name_and_the_routes_own_fields_win(tmp_path: Path) -> None:
    """Pasting and naming give the same; what stands beside the name is what the operator wants otherwise."""
    path = tmp_path / "router.yaml"
    routes: dict[str, Any] = {name: {"policy": name} for name in PRESETS}
    routes["dear"] = {"policy": "agents", "max_cost": "$9", "use": "frontier"}
    path.write_text(yaml.safe_dump({**CONFIG, "routes": routes}))
    found = load_snapshot(str(path)).routes
    for name in PRESETS:
        pasted = preset(name, tmp_path)
        assert (found[name].deployments, found[name].fallback) == (pasted.deployments, pasted.fallback)
        assert [rule.name for rule in found[name].policy.rules] == [rule.name for rule in pasted.policy.rules]
        assert found[name].policy.default.kind == pasted.policy.default.kind
    assert (found["dear"].max_cost_nusd, found["dear"].deployments) == (9_000_000_000, ("cloud/frontier-closed",))
    assert found["dear"].policy.default.kind == "cost"
    path.write_text(yaml.safe_dump({**CONFIG, "routes": {"auto": {"policy": "agent"}}}))
    with pytest.raises(ConfigError, match='"agent" is not a ready-made policy; did you mean "agents"'):
        load_snapshot(str(path))


def order(route: Route, *, draw: float = 0.5, states: dict[str, dict[str, Any]] | None = None, **facts: Any) -> tuple[str, list[str]]:
    """The rule, and the deployments to try."""
    asked = RequestFacts(**{"operation": "chat", "route": "auto", "signals": UNREMARKABLE, **facts})
    branch = choose(route.policy, asked)
    candidates = [
        Candidate(traits=TRAITS[name], worst_case_nusd=COST[name] * 10, expected_nusd=COST[name], **(states or {}).get(name, {}))
        for name in branch.deployments
    ]
    decision = decide(branch, asked, candidates, draw)
    return decision.rule, [ranked.deployment for ranked in decision.order]


@pytest.fixture(scope="module", autouse=True)
def traits(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("models") / "router.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "routes": {"auto": {"use": list(CONFIG["models"])}}}))
    TRAITS.update({name: deployment.traits for name, deployment in load_snapshot(str(path)).deployments.items()})


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_says_what_it_is_for_and_what_it_costs(name: str, tmp_path: Path) -> None:
    """A preset is chosen by reading these two; a route with nothing else is all that is pasted."""
    text = yaml.safe_load(PRESETS[name].read_text(encoding="utf-8"))
    assert set(text) == {"purpose", "tradeoff", "measured", "route"}
    assert text["purpose"].endswith(".")
    assert text["tradeoff"].endswith(".")
    assert text["measured"].endswith(".")
    assert preset(name, tmp_path).deployments


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_in_the_documentation(name: str) -> None:
    """What is not listed is not found."""
    assert f"`{name}`" in Path(__file__).parents[2].joinpath("docs", "routing.md").read_text(encoding="utf-8")


def test_cheapest_capable_goes_by_cost_and_keeps_hard_work_large(tmp_path: Path) -> None:
    """The cheap model gets what it can do; hard work is marked by the client."""
    route = preset("cheapest-capable", tmp_path)
    assert order(route) == ("default", ["edge/small-edge", "room/large-open-local", "cloud/mid-closed", "cloud/frontier-closed"])
    assert order(route, tools=True)[1][0] == "room/large-open-local"
    assert order(route, tags={"difficulty": "hard"}) == ("hard", ["room/large-open-local", "cloud/frontier-closed"])


def test_local_first_never_sends_restricted_data_away(tmp_path: Path) -> None:
    """With the local machines full there is no candidate, and the branch refuses."""
    route = preset("local-first", tmp_path)
    full = {"room/large-open-local": {"health": "busy"}, "edge/small-edge": {"health": "busy"}}
    assert order(route)[1][0] == "edge/small-edge"
    assert order(route, states=full)[1] == ["cloud/mid-closed", "cloud/frontier-closed"]
    restricted = RequestFacts(operation="chat", route="auto", tags={"data": "restricted"})
    assert order(route, tags=restricted.tags, states=full) == ("restricted", [])
    assert choose(route.policy, restricted).refuse


def test_latency_slo_takes_the_cheapest_that_is_fast_enough(tmp_path: Path) -> None:
    """Streams only: for the others cost decides."""
    route = preset("latency-slo", tmp_path)
    seen = {
        "edge/small-edge": {"first_token_ms": 2000.0},
        "room/large-open-local": {"first_token_ms": 700.0},
        "cloud/mid-closed": {"first_token_ms": 300.0},
        "cloud/frontier-closed": {"first_token_ms": 900.0},
    }
    fast = ["room/large-open-local", "cloud/mid-closed", "cloud/frontier-closed", "edge/small-edge"]
    assert order(route, stream=True, states=seen) == ("default", fast)
    assert order(route, stream=False, states=seen)[0] == "batch"
    assert route.timeouts is not None
    assert route.timeouts.first_byte_seconds == 5


def test_balanced_weighted_shares_by_weight(tmp_path: Path) -> None:
    """Three to one, as the weights of the models say."""
    route = preset("balanced-weighted", tmp_path)
    firsts = [order(route, draw=step / 100)[1][0] for step in range(100)]
    assert firsts.count("cloud/frontier-closed") == 75
    assert firsts.count("room/large-open-local") == 25


def test_quality_per_dollar_takes_the_cheapest_that_is_good_enough_for_the_task(tmp_path: Path) -> None:
    """The open model is known to be good at code; for everything else it is taken for less."""
    route = preset("quality-per-dollar", tmp_path)
    assert order(route)[1] == ["cloud/mid-closed", "cloud/frontier-closed", "room/large-open-local", "edge/small-edge"]
    code = Signals(language="en", task="code", difficulty=0.5, pii=frozenset())
    assert order(route, signals=code)[1][0] == "room/large-open-local"


def test_small_first_cascade_asks_small_models_before_large_ones(tmp_path: Path) -> None:
    """The medium one is neither: it is left for when all else fails."""
    route = preset("small-first-cascade", tmp_path)
    assert order(route)[1] == ["edge/small-edge", "room/large-open-local", "cloud/frontier-closed", "cloud/mid-closed"]


def test_local_private_keeps_personal_data_at_home(tmp_path: Path) -> None:
    """Found in the text, or tagged."""
    route = preset("local-private", tmp_path)
    personal = Signals(language="en", task="chat", difficulty=0.5, pii=frozenset({"email"}))
    assert order(route, signals=personal)[0] == "personal"
    assert set(order(route, signals=personal)[1]) == {"edge/small-edge", "room/large-open-local"}
    assert order(route, tags={"data": "restricted"})[0] == "restricted"
    assert len(order(route)[1]) == 4


def test_korean_and_code_go_to_the_models_that_are_good_at_it(tmp_path: Path) -> None:
    """By what the text is found to be, and for code by a tag, too."""
    hangul = Signals(language="ko", task="chat", difficulty=0.5, pii=frozenset())
    assert order(preset("korean", tmp_path), signals=hangul) == ("korean", ["cloud/mid-closed"])
    program = Signals(language="en", task="code", difficulty=0.5, pii=frozenset())
    route = preset("code", tmp_path)
    assert order(route, signals=program) == ("code", ["room/large-open-local"])
    assert order(route, tags={"task": "code"}) == ("tagged", ["room/large-open-local"])


def test_budget_pacing_goes_over_to_cheap_models_as_the_budget_runs_ahead(tmp_path: Path) -> None:
    """On its pace the best comes first; a tenth ahead of it, the cheapest."""
    route = preset("budget-pacing", tmp_path)
    firsts = [order(route, live={"spent/everyone": spent, "passed/everyone": 0.5})[1][0] for spent in (0.4, 0.5, 0.6)]
    assert firsts == ["cloud/frontier-closed", "room/large-open-local", "edge/small-edge"]


def test_budget_pacing_says_how_to_pace_a_budget_of_another_name(tmp_path: Path) -> None:
    """The name stands in the preset, where nobody looks for it."""
    path = tmp_path / "router.yaml"
    text = yaml.safe_dump({**CONFIG, "budgets": {"whole": "$50/month"}})
    path.write_text(f"{text}routes: {{auto: {{policy: budget-pacing}}}}\n")
    way_out = "by: {kind: pace, budget: whole}"
    with pytest.raises(ConfigError, match=rf"no budget \"everyone\"; `policy: budget-pacing` reads it: .* `{re.escape(way_out)}`"):
        load_snapshot(str(path))
    path.write_text(f"{text}routes: {{auto: {{policy: budget-pacing, {way_out}}}}}\n")
    assert load_snapshot(str(path)).routes["auto"].policy.default.kind == "pace"


def test_vendor_neutral_shares_and_agents_stay(tmp_path: Path) -> None:
    """By weight the one, by what the session's cached prompt saves the other."""
    neutral = preset("vendor-neutral", tmp_path)
    both = {"cloud/frontier-closed", "room/large-open-local"}
    assert set(order(neutral)[1]) == both
    for vendor, first in (("cloud", "room/large-open-local"), ("room", "cloud/frontier-closed")):
        said = order(neutral, live={f"share/vendors/{vendor}": 0.61})[1]
        assert (said[0], set(said)) == (first, both)
    agents = preset("agents", tmp_path)
    assert order(agents)[1][0] == "edge/small-edge"
    assert order(agents, live={"saves/cloud/mid-closed": 295.0})[1][0] == "cloud/mid-closed"
    assert agents.max_cost_nusd == 500_000_000
