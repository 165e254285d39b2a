"""Numbers that rules read by a name: of one budget, provider, model or deployment."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from policies.matchers import compile_matcher
from policies.types import Moment, RequestFacts
from router.call import Call, Principal
from router.cli import load as command
from router.domain.budgets import BucketState
from router.explain import as_text, explain
from router.explain_budgets import Spent
from router.fleet import Fleet
from router.moments import Moments
from router.replay.budgets import LedgerModel
from router.replay.figures import numbers_of
from router.replay.observed import Observed
from router.replay.requests import Asked, read_requests
from router.replay.simulate import World, simulate
from router.replay.trace import read_trace, recall
from router.routing import find_route
from router.snapshot import Snapshot
from tests.books import typed
from tests.replay_logs import made_up
from tests.running import compiled, running
from tests.scripted_behaviours import Json, usage
from tests.scripted_upstream import ScriptedUpstream
from tests.settings_help import BASE, load, wrong

CONFIG = (
    BASE.replace("tiny: openai/small", "tiny: {at: openai/small, max_in_flight: 4}")
    + """\
routes:
  auto:
    rules:
      - {name: poor, when: 'budget("mine").left_usd < 0.5', use: home}
      - {name: fast-spent, when: 'budget("mine").used > budget("mine").passed', use: home}
      - {name: full, when: {budget_used: {tokens: ">90%"}, budget_left: {mine: "<$1.5"}}, use: home}
      - name: crowded
        when: 'deployment("openai/small").headroom < 2 || provider("openai").in_flight >= 7 || model("home").error_rate > 0.5'
        use: home
      - name: slow
        when: 'provider("openai").first_token_ms > 800.0 || model("tiny").first_token_p95_ms > 900.0'
        use: home
      - name: endless
        when: 'model("big").total_ms > 9e3 || model("big").total_p95_ms > 9e4 || budget("tokens").left_tokens < 5'
        use: home
      - {name: ever, when: 'budget("ever").passed > 0.5 || budget("ads").used > 0.1 || model("big").headroom < 1', use: home}
    use: [big, tiny, home]
budgets:
  mine: {limit: $2/day, each: user}
  tokens: 100k tokens/day
  ever: $100
  ads: {limit: $1/day, when: {team: ads}}
"""
)
NOON = round(datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp() * 1000)


def moment(made: Moments, snapshot: Snapshot, fleet: Fleet | None = None) -> dict[str, Any]:
    call = Call(request_id="r", operation="chat", headers={}, snapshot=snapshot, began=0.0)
    call.principal, call.user = Principal(key_id="k"), "ann"
    call.route = find_route(snapshot, "auto", None)
    assert call.route.watch is not None
    return dict(made.at(call, call.route.watch, fleet or Fleet(lambda: 0.0)).numbers)


def state(budget: str, scope: str = "", **more: Any) -> BucketState:
    fields: dict[str, Any] = {"limit_nusd": None, "held_nusd": 0, "debt_nusd": 0, "ends_ms": 0, **more}
    return BucketState(budget=budget, scope=scope, window="w", **fields)


def holds(condition: str | dict[str, object], **numbers: float | None) -> bool | None:
    spec: dict[str, object] = {"cel": condition} if isinstance(condition, str) else condition
    known = {key.replace("__", "@").replace("_of_", ":"): value for key, value in numbers.items()}
    facts = RequestFacts(operation="chat", route="auto", moment=Moment(numbers=known))
    return compile_matcher(spec).matches(facts)


def test_a_number_is_compared_and_what_nobody_knows_makes_no_condition_hold() -> None:
    """A rule for a slow provider must not fire because nothing was ever measured."""
    assert holds('budget("b").used > 0.9', used__budget_of_b=0.95) is True
    assert holds({"budget_used": {"b": ">90%"}}, used__budget_of_b=0.95) is True
    assert holds({"budget_used": {"b": [">99%", "<50%"]}}, used__budget_of_b=0.95) is False
    assert holds({"budget_left": {"b": "<$5"}}, left_usd__budget_of_b=4.9) is True
    assert holds('provider("p").in_flight + 1 > 3', in_flight__provider_of_p=3) is True
    for condition in ('budget("b").used > 0.9', '!(budget("b").used > 0.9)', {"budget_used": {"b": "<1"}}):
        assert holds(condition) is None
        assert holds(condition, used__budget_of_b=None) is None


def test_only_the_numbers_that_rules_name_are_read() -> None:
    """The rest costs nothing."""
    watch = load(CONFIG).snapshot.routes["auto"].watch
    assert watch is not None
    assert not watch.budgets
    assert watch.states == {}
    assert len(watch.figures) == 15
    assert all(budget.watched for budget in load(CONFIG).snapshot.budgets)
    assert compile_matcher({"budget_used": {"b": ">1"}, "cel": 'model("m").in_flight > 1'}).reads == {
        "used@budget:b",
        "in_flight@model:m",
    }
    assert compile_matcher({"budget_used": {"b": ">1"}}).describe == "budget_used of b is >1"


def test_a_budget_by_its_name_is_the_instance_of_the_caller() -> None:
    """One team's spending is no reason to send another team elsewhere."""
    snapshot = load(CONFIG).snapshot
    made = Moments(snapshot, lambda: NOON)
    mine, his = state("mine", "user=ann", spent_nusd=1_500_000_000), state("mine", "user=bob", spent_nusd=2_000_000_000)
    made.read([mine, his, state("tokens", spent_nusd=80_000, held_nusd=30_000, unit="tokens")])
    numbers = moment(made, snapshot)
    assert (numbers["used@budget:mine"], numbers["left_usd@budget:mine"], numbers["passed@budget:mine"]) == (0.75, 0.5, 0.5)
    assert (numbers["used@budget:tokens"], numbers["left_tokens@budget:tokens"]) == (1.1, 0)
    assert (numbers["passed@budget:ever"], numbers["used@budget:ads"]) == (None, None)
    made.read([state("mine", "user=ann", spent_nusd=1, limit_nusd=0)])
    assert moment(made, snapshot)["used@budget:mine"] == 1.0


def test_calls_and_room_add_up_and_times_are_those_of_the_fastest() -> None:
    """A provider is as fast as the fastest that it offers, and has the room of all its deployments."""
    snapshot = load(CONFIG).snapshot
    fleet, made = Fleet(clock := Clock()), Moments(snapshot, lambda: NOON)
    unseen = moment(made, snapshot, fleet)
    assert (unseen["in_flight@provider:openai"], unseen["headroom@deployment:openai/small"]) == (0, 4)
    assert unseen["headroom@model:big"] is None
    assert {key for key, value in unseen.items() if value is None and "budget" not in key} == {
        "headroom@model:big",
        "error_rate@model:home",
        "first_token_ms@provider:openai",
        "first_token_p95_ms@model:tiny",
        "total_ms@model:big",
        "total_p95_ms@model:big",
    }
    for name in ("openai/large", "openai/small", "openai/small", "openai/small"):
        fleet.began(name)
    for index in range(20):
        fleet.succeeded("openai/small", first_token_ms=100.0 + index, total_ms=500.0, output_tokens=5)
        fleet.succeeded("openai/large", first_token_ms=700.0, total_ms=1000.0 + index, output_tokens=5)
    fleet.failed("ollama/qwen3", cause="5xx")
    clock.now = 2.0
    seen = moment(made, snapshot, fleet)
    assert (seen["in_flight@provider:openai"], seen["headroom@deployment:openai/small"]) == (4, 1)
    assert (seen["first_token_ms@provider:openai"], seen["first_token_p95_ms@model:tiny"]) == (110.0, 119.0)
    assert (seen["total_ms@model:big"], seen["total_p95_ms@model:big"], seen["error_rate@model:home"]) == (1010.0, 1019.0, 1.0)
    clock.now = 400.0
    late = moment(made, snapshot, fleet)
    assert (late["first_token_p95_ms@model:tiny"], late["total_p95_ms@model:big"]) == (None, None)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("'budget(\"mien\").used > 0.5'", '8:26: routes.auto.rules[0].when: there is no budget "mien"; did you mean "mine"?'),
        (
            "{budget_used: {mien: '>1'}}",
            '8:48: routes.auto.rules[0].when.budget_used.mien: there is no budget "mien"; did you mean "mine"?',
        ),
        (
            "{budget_left: {mine: '>5%'}}",
            '8:48: routes.auto.rules[0].when.budget_left.mine: budget_left cannot be ">5%": it is no amount; write "<$5"',
        ),
        ("{budget_left: {}}", "8:41: routes.auto.rules[0].when.budget_left: budget_left needs at least one value"),
        ("'deployment(\"openai/big\").up'", None),
        (
            "'budget(\"calls\").left_usd < 1.0'",
            '8:26: routes.auto.rules[0].when: budget "calls" counts requests and has no left_usd; it has used',
        ),
        (
            "'budget(\"tokens\").left_usd < 1.0'",
            '8:26: routes.auto.rules[0].when: budget "tokens" counts tokens and has no left_usd; it has left_tokens',
        ),
        (
            "'budget(\"one\").used > 0.5'",
            '8:26: routes.auto.rules[0].when: budget "one" depends on the model, and none is chosen yet when rules are asked',
        ),
        (
            "'budget(\"each\").used > 0.5'",
            '8:26: routes.auto.rules[0].when: budget "each" depends on the provider, and none is chosen yet when rules are asked',
        ),
        ("'budget(\"team/search\").used > 0.5'", ""),
        (
            "'budget(\"team/ads\").used > 0.5'",
            '8:26: routes.auto.rules[0].when: budget "team/ads" depends on the model, and none is chosen yet when rules are asked',
        ),
        ("'budget(\"bad\").used > 0.5'", '17:27: budgets.bad.when: there is no "modle"; did you mean "modality"?'),
    ],
)
def test_what_there_is_not_is_told_when_the_file_is_loaded(when: str, message: str | None) -> None:
    """A name with a typing error would make a rule that never holds."""
    bad = "  bad: {limit: $1, when: 'modle == \"x\"'}\n" if "bad" in when else ""
    text = (
        BASE
        + "routes:\n  auto: {use: big, rules: [{when: WHEN, use: tiny}]}\n".replace("auto: {use", "auto:\n    {use").replace("WHEN", when)
        + "teams: {search: {budget: $1/day}, ads: {budget: {limit: $1/day, each: model}}}\n"
        + "budgets:\n  mine: $2/day\n  calls: 5 requests/day\n  tokens: 5 tokens/day\n"
        + "  one: {limit: $1, when: 'model == \"big\"'}\n  each: {limit: $1, each: provider}\n"
        + bad
    )
    if message == "":
        load(text)
        return
    found = wrong(text)
    if message is None:
        assert "there is no deployment" in found[0]
        assert "openai/large" in found[0]
    else:
        assert message.split(": ", 1)[1] in found[0]


def explained(snapshot: Snapshot, fleet: Fleet, *states: BucketState) -> str:
    body = b'{"model": "auto", "user": "ann", "messages": [{"role": "user", "content": "Hello"}]}'
    spent = Spent(states=states, now_ms=NOON)
    return as_text(explain(snapshot, body, fleet=fleet, spent=spent, clock_ms=lambda: NOON))


def test_explain_tells_what_was_read_and_what_each_rule_said() -> None:
    """Whoever asks why a request went home wants the numbers."""
    snapshot = load(CONFIG).snapshot
    told = explained(snapshot, Fleet(lambda: 0.0), state("mine", "user=ann", spent_nusd=1_600_000_000))
    assert "rule poor" in told
    assert "budget mine left_usd 0.4" in told
    assert "model big total_ms unknown" in told
    crowded = Fleet(lambda: 0.0)
    for _ in range(3):
        crowded.began("openai/small")
    told = explained(snapshot, crowded)
    assert "rule crowded" in told
    assert "deployment openai/small headroom 1" in told


def outcome(folder: Path, tests: str) -> Result:
    (folder / "router.yaml").write_text(CONFIG)
    (folder / "router.test.yaml").write_text(tests)
    return CliRunner().invoke(command("test"), [str(folder / "router.test.yaml")])


def test_policy_tests_set_budgets_and_the_state_of_deployments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number that a rule can read can be given, or the rule could not be tested."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    result = outcome(
        tmp_path,
        """
given: {at: "2026-11-21T12:00:00Z"}
tests:
  - {name: poor, given: {budgets: {mine: 80%}}, ask: {model: auto, user: ann}, expect: {rule: poor}}
  - {name: ahead, given: {budgets: {mine: 60%}}, ask: {model: auto, user: ann}, expect: {rule: fast-spent}}
  - {name: both, given: {budgets: {mine: 30%, tokens: 95%}}, ask: {model: auto, user: ann}, expect: {rule: full}}
  - {name: crowded, given: {fleet: {tiny: {in_flight: 3}}}, ask: {model: auto}, expect: {rule: crowded}}
  - {name: failing, given: {fleet: {home: {error_rate: 51%}}}, ask: {model: auto}, expect: {rule: crowded, never: [big]}}
  - {name: still, given: {fleet: {home: {error_rate: 50%}}}, ask: {model: auto}, expect: {rule: default}}
  - {name: slow, given: {fleet: {openai: {first_token: 850ms}}}, ask: {model: auto}, expect: {rule: slow}}
  - {name: tail, given: {fleet: {big: {first_token: 1ms}, tiny: {first_token: 1s}}}, ask: {model: auto}, expect: {rule: slow}}
  - {name: endless, given: {fleet: {big: {total: 9100ms}}}, ask: {model: auto}, expect: {rule: endless}}
  - {name: rest, ask: {model: auto}, expect: {rule: default}}
""",
    )
    assert result.exit_code == 0, result.output
    assert "10 passed" in result.output or "10 of 10" in result.output, result.output


LIVE = """
version: 1
server: {store: STORE, record_decisions: 100%}
providers:
  one: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  big: {at: one/big, size: large, price: {input: 10, output: 30}, max_in_flight: 9}
  small: {at: one/small, size: small, price: {input: 1, output: 2}}
routes:
  auto:
    rules:
      - {name: poor, when: 'budget("everyone").left_usd < 0.01', use: small}
      - {name: warm, when: 'provider("one").total_ms > 0.0 && provider("one").headroom > 3', use: big}
      - {name: warmer, when: 'model("big").in_flight + 1 == 1 && deployment("one/big").error_rate == 0.0', use: big}
    default: {use: big}
budgets:
  everyone: {limit: $0.0125}
keys:
  tester: {secret: $TEST_KEY}
"""


async def test_numbers_are_recorded_and_give_the_same_decision_again(tmp_path: Path) -> None:
    """They are gone a moment later; a decision without them could not be made again."""
    up = ScriptedUpstream()
    up.on("big", Json(usage=usage(100, 20)))
    up.on("small", Json(usage=usage(100, 20)))
    async with running(tmp_path, LIVE, up=up) as run:
        for _ in range(3):
            assert (await run.ask("auto", max_tokens=20)).status_code == 200
            await run.settled()
        records = typed(await run.records())
        snapshot = run.app.service.snapshot
    assert [record.rule for record in records] == ["default", "warmer", "poor"]
    for record in records:
        trace = read_trace(record)
        assert trace is not None
        assert recall(snapshot, record, trace) == trace.decision
        assert b'"left_usd@budget:everyone"' in bytes(trace.facts)
        other = msgspec.structs.replace(trace, facts=msgspec.Raw(bytes(trace.facts).replace(b"budget:everyone", b"budget:nothing")))
        told = recall(snapshot, record, other)
        assert told is not None
        assert (told.rule == trace.decision.rule) is (record.rule != "poor"), "the numbers decide"


REPLAYED = """
version: 1
providers:
  one: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: "${PROVIDER_KEY:-k}"}
models:
  big: {at: one/big, max_in_flight: 5, price: {input: 10, output: 30}}
  small: {at: one/small, price: {input: 1, output: 2}}
routes:
  auto:
    rules:
      - {name: spent, when: {budget_used: {per-team: ">50%"}}, use: small}
      - {name: never, when: 'budget("of-nobody").used >= 0.0', use: small}
      - {name: crowded, when: 'model("big").in_flight > 3 || model("big").headroom < 1 || model("big").total_ms > 9e4', use: small}
    default: {use: [big]}
budgets:
  per-team: {limit: $2/day, each: team}
  of-nobody: {limit: $2/day, when: {team: nobody}}
teams: {search: {}, ads: {}, nobody: {}}
"""


def test_a_plan_spends_the_budgets_that_rules_name() -> None:
    """`faregate plan` must foretell when such a rule begins to hold."""
    snapshot = compiled(REPLAYED)
    requests = read_requests(made_up(snapshot, 400, days=1))
    served = simulate(World(snapshot, Observed(requests)), requests)
    rules = [one.rule for one in served]
    assert rules[0] == "default"
    assert "spent" in rules
    assert "never" not in rules
    first = rules.index("spent")
    team = requests[first].facts.team
    before = sum(one.cost_nusd or 0 for one, asked in zip(served[:first], requests[:first], strict=True) if asked.facts.team == team)
    assert before > 1_000_000_000, "half of the limit"


def test_a_replay_knows_what_was_read_then_or_what_the_states_of_that_time_tell() -> None:
    """A new rule on an old log goes by what the log has."""
    snapshot = compiled(REPLAYED)
    watch = snapshot.routes["auto"].watch
    assert watch is not None
    asked = read_requests(made_up(snapshot, 1))[0]

    def numbers(asked: Asked, ledger: LedgerModel | None = None) -> dict[str, Any]:
        return dict(numbers_of(asked, watch, ledger, {"team": "search"}, snapshot))

    unknown = numbers(asked)
    assert (unknown["in_flight@model:big"], unknown["used@budget:per-team"]) == (None, 0.0)
    assert numbers(asked, LedgerModel(snapshot.budgets))["used@budget:of-nobody"] is None
    asked.health = {"one/big": {"in_flight": 4, "total_ms": 70.0}}
    told = numbers(asked)
    assert (told["in_flight@model:big"], told["headroom@model:big"], told["total_ms@model:big"]) == (4, 1, 70.0)
    asked.facts = msgspec.structs.replace(asked.facts, moment=Moment(numbers={"in_flight@model:big": 2}))
    assert numbers(asked)["in_flight@model:big"] == 2
