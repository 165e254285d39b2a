"""`faregate explain`: the server's own decision, told with every candidate, its cost and its reason."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from router.adapters.choose import visiting
from router.cli import load
from router.controls import Desk
from router.domain.budgets import Budget, Reservation
from router.domain.windows import bucket_set
from router.settings import load_snapshot
from router.versions import Versions

CONFIG = """
version: 1
providers:
  cloud: {kind: sim, base_url: "http://127.0.0.1:9/v1"}
  openai: {api_key: "${OPENAI_TEST_KEY:-not-a-key}"}
  home: {kind: sim, base_url: "http://127.0.0.1:9/v1"}
models:
  large: {at: cloud/frontier-closed, size: large}
  odd: openai/no-such-model
  small: {at: home/small-edge, size: small, context: 2000}
routes:
  auto:
    rules:
      - {name: agents, when: {tags: {kind: agent}}, use: large}
      - {name: gold, when: {header: {x-tier: gold}}, use: large, by: fixed}
    default: {use: [large, small], by: cost}
  capped: {use: large, max_cost: $0.0001}
budgets:
  company: $50/month
  homely: {limit: $1/day, when: {model: small}, mode: soft, each: team}
teams:
  search: {models: [auto]}
  ads: {models: [capped]}
keys:
  bot: {team: search, secret: "${BOT_KEY:-bot-key-for-tests}", tags: {kind: agent}}
"""


@pytest.fixture(autouse=True)
def _no_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests left in the usual place would be told, too."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "router.yaml"
    path.write_text(CONFIG)
    return path


def ask(config: Path, *options: str, body: str | None = None, **fields: Any) -> Result:
    request = {"model": "auto", "messages": [{"role": "user", "content": "Hello, who are you?"}], "max_tokens": 100, **fields}
    text = json.dumps(request) if body is None else body
    return CliRunner().invoke(load("explain"), ["-", "--config", str(config), *options], input=text)


def told(config: Path, *options: str, **fields: Any) -> dict[str, Any]:
    result = ask(config, "--json", *options, **fields)
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def order(answer: dict[str, Any]) -> list[str]:
    lines = answer["candidates"]
    assert isinstance(lines, list)
    return [line["deployment"] for line in lines if line["place"] is not None]


def test_it_says_what_would_be_tried_and_what_it_could_cost(config: Path) -> None:
    """An operator sees the decision before any money is spent."""
    result = ask(config)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "route auto, rule default, kind cost"
    assert "output cap 100" in lines[1]
    assert lines[2].startswith("rules: agents (tags.kind is agent): no; gold (header.x-tier is gold): no")
    assert lines[3] == "1. home/small-edge (model small)"
    assert "worst case" in lines[4]
    assert lines[5].startswith("   score: expected_usd ")
    assert lines[6] == "   budgets: company (50.00 USD per month), homely (1.00 USD per day and team, soft)"
    assert lines[7] == "2. cloud/frontier-closed (model large)"
    assert lines[10] == "   budgets: company (50.00 USD per month)"


def test_what_is_out_has_its_reason_its_numbers_and_its_cost(config: Path) -> None:
    """Counterfactuals: what it would have cost elsewhere."""
    result = ask(config, max_tokens=3000)
    lines = result.stdout.splitlines()
    at = lines.index("not tried:")
    assert lines[at + 1].startswith("-  home/small-edge (model small): context_too_long, needs 3,0")
    assert lines[at + 1].endswith("tokens, limit 2,000")
    assert lines[at + 2].startswith("   expected ")


def test_a_tag_of_the_request_chooses_a_rule(config: Path) -> None:
    """As the header `x-faregate-tags` would."""
    answer = told(config, "--tag", "kind=agent")
    assert answer["rule"] == "agents"
    assert answer["rules"] == [{"name": "agents", "condition": "tags.kind is agent", "matches": True}]
    assert order(answer) == ["cloud/frontier-closed"]
    reasons = {line["deployment"]: line["reason"] for line in answer["candidates"]}
    assert reasons["home/small-edge"] == "not_selected"


def test_a_header_chooses_a_rule(config: Path) -> None:
    """Names of headers in any case."""
    assert told(config, "--header", "X-Tier=gold")["rule"] == "gold"
    assert "score" not in ask(config, "--header", "X-Tier=gold").stdout


def test_a_key_brings_its_team_and_tags(config: Path) -> None:
    """The same principal that the server would see."""
    answer = told(config, "--key", "bot")
    assert answer["rule"] == "agents"
    facts = answer["facts"]
    assert isinstance(facts, dict)
    assert facts["team"] == "search"


def test_the_body_tells_the_operation(config: Path) -> None:
    """Nobody has to repeat it as an option."""
    for body, operation in (('{"model":"large","prompt":"x"}', "completions"), ('{"model":"large","input":"x"}', "embeddings")):
        result = ask(config, "--json", body=body)
        assert json.loads(result.stdout)["facts"]["operation"] == operation


def test_a_model_can_be_asked_for_in_place_of_the_bodys(config: Path) -> None:
    """One captured body, many questions."""
    assert told(config, "--model", "small")["route"] == "small"


def test_the_bodys_own_wishes_count(config: Path) -> None:
    """`faregate.use` in a body tightens, here as in the server."""
    assert order(told(config, faregate={"use": "large"})) == ["cloud/frontier-closed"]


def test_everything_that_was_asked_is_shown(config: Path) -> None:
    """The facts are what rules see; without them a surprising rule cannot be understood."""
    result = ask(
        config,
        "--team",
        "search",
        "--tag",
        "a=b",
        stream=True,
        n=2,
        user="ann",
        metadata={"session_id": "s1"},
        tools=[{"type": "function", "function": {"name": "f"}}],
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
    )
    line = result.stdout.splitlines()[1]
    assert line.endswith("output cap 100, 2 choices, stream, tools, JSON schema, team search, user ann, session s1, tag a=b")


def test_a_stream_shows_what_is_held_at_first(config: Path) -> None:
    """Streams hold their worst case in slices."""
    assert ", held at first " in ask(config, stream=True, max_tokens=8000).stdout


def test_a_model_without_a_price_is_said_to_have_none(config: Path) -> None:
    """Unknown is not zero."""
    result = ask(config, "--model", "odd")
    assert result.exit_code == 1
    assert "-  openai/no-such-model (model odd): unpriced, no price is known" in result.stdout
    assert "   no price known" in result.stdout


def test_a_request_that_nothing_can_serve_exits_1_with_every_reason(config: Path) -> None:
    """Scripts can tell it from a decision."""
    result = ask(config, "--model", "capped", "--team", "ads")
    assert result.exit_code == 1
    assert "cloud/frontier-closed (model large): too_expensive, could cost" in result.stdout
    assert "error: No deployment of 'capped'" in result.stdout


@pytest.mark.parametrize(
    ("options", "body", "message"),
    [
        (["--model", "nope"], None, "error 404 model_not_found"),
        (["--team", "ads"], None, "error 403 model_not_allowed"),
        ([], "{", "error 400 invalid_json"),
        ([], '{"messages": []}', "error 400 invalid_request"),
    ],
)
def test_what_is_refused_before_a_decision_is_told_as_to_a_client(config: Path, options: list[str], body: str | None, message: str) -> None:
    """Status and code are those of the server."""
    result = ask(config, *options, body=body)
    assert result.exit_code == 1
    assert result.stderr.startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--team", "nobody"], "there is no team 'nobody'; known: search, ads"),
        (["--key", "nobody"], "the configuration has no key 'nobody'; known: bot"),
        (["--key", "bot", "--team", "ads"], "key 'bot' is of team 'search', not 'ads'"),
        (["--tag", "kind"], "'kind' is not name=value"),
    ],
)
def test_options_that_make_no_sense_are_refused(config: Path, options: list[str], message: str) -> None:
    """Exit 2, as for every wrong use of the command."""
    result = ask(config, *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())


def test_the_body_may_stand_in_a_file(config: Path, tmp_path: Path) -> None:
    """A captured request need not be piped."""
    runner, file = CliRunner(), tmp_path / "request.json"
    file.write_text('{"model": "auto", "messages": [{"role": "user", "content": "hi"}]}')
    assert runner.invoke(load("explain"), [str(file), "--config", str(config)]).exit_code == 0
    missing = runner.invoke(load("explain"), [str(tmp_path / "none"), "--config", str(config)])
    assert missing.exit_code == 2
    assert "No such file" in missing.stderr


def test_what_the_server_refuses_is_refused(tmp_path: Path) -> None:
    """Exit 0 means that the request would be sent: a key that has run out and a budget below one call mean that it is not."""
    small = CONFIG.replace("company: $50/month", "company: $0.000001/month")
    result = asked(tmp_path, small)
    assert result.exit_code == 1
    assert "error: 402: budget 'company' allows 0.000001 USD, and the cheapest candidate, home/small-edge, needs " in result.stdout
    assert " to be held. That is more than the whole limit: its owner must raise it. A smaller max_tokens needs less." in result.stdout
    ended = CONFIG.replace("tags: {kind: agent}}\n", "tags: {kind: agent}, expires: 2026-01-31}\n")
    result = asked(tmp_path, ended, "--key", "bot")
    assert result.exit_code == 1
    assert "error 401 key_expired: The API key 'bot' expired on 2026-01-31 00:00 UTC." in result.stderr
    assert "401" in asked(tmp_path, CONFIG).stderr


def asked(folder: Path, text: str, *options: str) -> Result:
    """What is said of a small request under a configuration."""
    config = folder / "router.yaml"
    config.write_text(text)
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "Hello"}]})
    return CliRunner().invoke(load("explain"), ["-", "--config", str(config), *options], input=body)


def test_a_candidate_is_told_once(tmp_path: Path) -> None:
    """Two reasons that contradict each other help nobody."""
    private = "privacy: {when: {tags: {kind: agent}}, only: {size: small}}\n"
    shown = asked(
        tmp_path, CONFIG.replace("use: large}\n      - {name: gold", "use: small}\n      - {name: gold") + private, "--tag", "kind=agent"
    )
    assert shown.stdout.count("cloud/frontier-closed (model large)") == 1, shown.stdout


SPENT = CONFIG.replace(
    "homely: {limit: $1/day, when: {model: small}, mode: soft, each: team}",
    """
  teams: {limit: $1/month, each: team, on_short: [cheaper, ON_SHORT]}
  trial: {limit: 2 requests/month, mode: shadow}
  words: {limit: 5000 tokens/hour, when: {model: large}}""",
)


async def spend(store: str, budget: Budget, dims: dict[str, str], *, spent_nusd: int, held_nusd: int) -> None:
    """Charge and hold so much in one budget."""
    buckets = bucket_set([budget], dims=dims, tags={}, now_ms=time.time_ns() // 1_000_000)
    async with visiting(store) as ledger:
        await ledger.publish_limits({budget.name: budget.limit_nusd}, version="1")
        for attempt, amount in (("spent", spent_nusd), ("held", held_nusd)):
            held = await ledger.reserve(attempt_id=f"{attempt}{time.monotonic_ns()}", amount_nusd=amount, buckets=buckets)
            assert isinstance(held, Reservation)
            if attempt == "spent":
                await ledger.settle(held, charge_nusd=amount, record=b'{"charge_nusd":%d}' % amount)


@pytest.mark.parametrize("where", ["sqlite", "redis"])
def test_what_is_spent_is_told_and_counts(tmp_path: Path, redis_url: str, where: str) -> None:
    """An operator asks why a request was refused: the answer is what is left, and for whom."""
    store = redis_url if where == "redis" else str(tmp_path / "ledger.sqlite")
    teams = Budget(name="teams", limit_nusd=10**9, window="month", each="team")
    asyncio.run(spend(store, teams, {"team": "search"}, spent_nusd=700_000_000, held_nusd=299_999_000))
    text = SPENT.replace("ON_SHORT", "refuse")
    result = asked(tmp_path, text, "--store", store, "--team", "search")
    assert result.exit_code == 1
    # Held by a command that has ended: nobody else releases it here.
    state = "teams (1.00 USD per month and team; spent 0.70, held 0.299999, left 0.000001 USD, resets 20"
    assert result.stdout.count(state) == 2
    assert "Z, needs 0." in result.stdout
    assert "company (50.00 USD per month; spent 0.00, held 0.00, left 50.00 USD" in result.stdout
    assert "words (5,000 tokens per hour; spent 0, held 0, left 5,000 tokens" in result.stdout
    refusal = (
        "error: 402: budget 'teams' (team=search) has 0.000001 USD left of 1.00 USD (spent 0.70 USD, held 0.299999 USD), and the cheapest"
    )
    assert f"{refusal} candidate, home/small-edge, needs 0." in result.stdout
    for others in ((), ("--team", "search", "--no-store")):
        assert asked(tmp_path, text, "--store", store, *others).exit_code == 0
    assert "left" not in asked(tmp_path, text, "--store", store, "--no-store").stdout
    # What calls under way hold may be free soon; a smaller cap would not do.
    assert asked(tmp_path, SPENT.replace("ON_SHORT", "wait"), "--store", store, "--team", "search").exit_code == 0
    assert asked(tmp_path, SPENT.replace("ON_SHORT", "clamp"), "--store", store, "--team", "search").exit_code == 1


def test_a_budget_that_fills_steers_here_too(tmp_path: Path) -> None:
    """The server leaves large models out from its step on."""
    store = str(tmp_path / "ledger.sqlite")
    company = Budget(name="company", limit_nusd=50 * 10**9, window="month")
    asyncio.run(spend(store, company, {}, spent_nusd=45 * 10**9, held_nusd=1))
    text = CONFIG.replace("company: $50/month", "company: {limit: $50/month, at: {80%: downgrade}}")
    result = asked(tmp_path, text, "--store", store)
    assert "cloud/frontier-closed (model large): budget_downgrade" in result.stdout
    assert "step" not in result.stderr


def test_a_file_that_is_not_in_force_is_said_to_be_so(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a roll-back the file tells what would be, not what is: people who look for a reason need the version that is served."""
    store = str(tmp_path / "ledger.sqlite")
    monkeypatch.setenv("FAREGATE_STORE", store)
    served = load_snapshot(str(config))

    async def roll_back() -> None:
        async with visiting(store) as ledger:
            await Versions(ledger.shelf()).keep(served, now_ms=1)
            await Desk(ledger.control_store(), who="alice", via="admin").pin(served.version, reason="too dear")

    asyncio.run(roll_back())
    same = ask(config)
    assert (same.exit_code, same.stderr) == (0, ask(config, "--no-store").stderr)
    config.write_text(CONFIG.replace("default: {use: [large, small], by: cost}", "default: large"))
    changed = ask(config)
    assert f"note: the service was rolled back to version {served.version} on" in changed.stderr
    assert "by alice (too dear)" in changed.stderr
    assert "cloud/frontier-closed" in changed.stdout.splitlines()[3]
    then = ask(config, "--in-force")
    assert (then.exit_code, then.stdout, "rolled back" in then.stderr) == (0, same.stdout, False)
    assert ask(config, "--in-force", "--no-store").exit_code == 2
    checked = CliRunner().invoke(load("check"), [str(config)])
    assert f"note: the service was rolled back to version {served.version}" in checked.stderr
    assert "rolled back" not in CliRunner().invoke(load("check"), [str(config), "--no-store"]).stderr


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("by: fixed, after: 800ms", "hedge: the second is called too if the first has not begun after 800 ms"),
        ("by: cost, after: 800ms", "hedge hedge: no second call: cloud/frontier-closed is expected to cost "),
        ("by: fixed", "hedge hedge: no second call: too few times to the first token of cloud/frontier-closed are known for `quantile`"),
    ],
)
def test_a_hedge_that_makes_no_second_call_says_why(config: Path, options: str, line: str) -> None:
    """It would else look as if it were on."""
    by = f"by: {{kind: hedge, most: 100%, {options}}}"
    config.write_text(CONFIG.replace("by: cost}", f"{by}}}"))
    assert [plan.startswith(line) for plan in told(config)["plan"]].count(True) == 1, told(config)["plan"]
