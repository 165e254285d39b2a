"""What a configuration means: providers, prices, routes, budgets and keys as the hot path sees them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from policies.types import RequestFacts
from router.domain.money import from_usd
from router.snapshot import Snapshot
from tests.settings_help import BASE, ENVIRON, load


def snapshot(extra: str = "", base: str = BASE) -> Snapshot:
    return load(base + extra).snapshot


def test_a_known_provider_brings_its_address_key_and_quirks() -> None:
    """`providers: [openai]` is all that a user should have to write."""
    endpoint = snapshot().providers["openai"].endpoint
    assert (endpoint.scheme, endpoint.host, endpoint.port, endpoint.base_path) == ("https", "api.openai.com", 443, "/v1")
    assert dict(endpoint.headers) == {"authorization": f"Bearer {ENVIRON['OPENAI_API_KEY']}"}
    assert snapshot().providers["openai"].quirks.output_cap_field == "max_completion_tokens"


def test_what_a_provider_says_wins_over_its_preset() -> None:
    """A server of one's own speaks a known dialect at another address, with another key."""
    text = """\
        version: 1
        providers:
          room:
            kind: vllm
            base_url: https://room:8443/llm/v1/
            api_key: ${ROOM:-none}
            headers: {X-Pool: $BOT_KEY}
            http2: true
            max_connections: 7
            timeouts: {first_byte: 1m30s}
        models: {m: room/qwen}
    """
    made = load(text).snapshot
    endpoint = made.providers["room"].endpoint
    assert (endpoint.host, endpoint.port, endpoint.base_path, endpoint.http2, endpoint.max_connections) == (
        "room",
        8443,
        "/llm/v1",
        True,
        7,
    )
    assert dict(endpoint.headers) == {"authorization": "Bearer none", "x-pool": ENVIRON["BOT_KEY"]}
    assert made.deployments["room/qwen"].timeouts.first_byte_seconds == 90.0


def test_a_secret_can_come_from_a_file_beside_the_configuration(tmp_path: Path) -> None:
    """Orchestrators mount secrets as files; the newline at the end is not part of them."""
    (tmp_path / "key").write_text("from-a-file-0123\n")
    text = f"version: 1\nproviders: {{ollama: {{api_key: 'file:{tmp_path}/key'}}}}\n"
    assert dict(load(text).snapshot.providers["ollama"].endpoint.headers) == {"authorization": "Bearer from-a-file-0123"}


@pytest.mark.parametrize("content", [b"", b"\xff", b"x" * 70_000])
def test_a_file_that_holds_no_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    """An empty file is a mount that failed."""
    from tests.settings_help import wrong

    (tmp_path / "key").write_bytes(content)
    (line,) = wrong(f"version: 1\nproviders: {{ollama: {{api_key: 'file:{tmp_path}/key'}}}}\n")
    assert line.startswith(f"2:31: providers.ollama.api_key: file {tmp_path}/key ")


def test_the_adapter_lane_gets_options_and_no_headers() -> None:
    """What litellm needs is passed as its own arguments; the wire's endpoint is not used."""
    options = "kind: litellm/bedrock, api_key: $BOT_KEY, base_url: 'http://h:1', options: {region: eu}"
    text = f"version: 1\nproviders: {{aws: {{{options}}}}}\n"
    provider = load(text + "models: {m: aws/nova}\n").snapshot.providers["aws"]
    assert (provider.lane, provider.litellm_provider) == ("litellm", "bedrock")
    assert provider.litellm_options == {"region": "eu", "api_key": ENVIRON["BOT_KEY"], "api_base": "http://h:1"}
    assert provider.endpoint.headers == ()
    price = load(text + "models: {m: aws/nova}\n").snapshot.deployments["aws/nova"].price
    assert price is not None
    assert price.rates.input == from_usd(1)


def test_bedrock_takes_its_region_from_the_environment() -> None:
    """Its address differs by region, and every account has that variable already."""
    text = "version: 1\nproviders: {bedrock: {api_key: $BOT_KEY}}\n"
    endpoint = load(text, {**ENVIRON, "AWS_REGION": "eu-west-1"}).snapshot.providers["bedrock"].endpoint
    assert endpoint.host == "bedrock-runtime.eu-west-1.amazonaws.com"


def test_azure_sends_its_key_in_a_header_of_its_own() -> None:
    """It answers 401 to a bearer key."""
    text = "version: 1\nproviders: {azure: {api_key: $BOT_KEY, base_url: 'https://r.openai.azure.com/openai/v1'}}\n"
    assert dict(load(text).snapshot.providers["azure"].endpoint.headers) == {"api-key": ENVIRON["BOT_KEY"]}


def test_a_known_dialect_at_an_own_address_needs_no_key() -> None:
    """A stand-in for a provider, such as a test server, usually has none."""
    text = "version: 1\nproviders: {openai: {base_url: 'http://127.0.0.1:9/v1'}}\n"
    assert load(text, {}).snapshot.providers["openai"].endpoint.headers == ()


def test_prices_and_limits_come_from_the_book_unless_the_file_says_otherwise() -> None:
    """The file is what the operator knows about the contract."""
    made = snapshot("  m: {at: openai/other, price: {input: 1.25, output: $10, cached_input: 0.125, per_request: $0.001}}\n")
    book = made.deployments["openai/large"]
    assert book.price is not None
    assert (book.price.rates.output, book.price.source) == (from_usd(30), "book")
    assert (book.traits.context_tokens, book.max_output_tokens, book.default_max_output_tokens) == (400_000, 128_000, 4096)
    assert book.traits.capabilities == {"chat", "tools", "stream"}
    own = made.deployments["openai/other"].price
    assert own is not None
    assert (own.rates.input, own.rates.output, own.rates.cache_read) == (from_usd("1.25"), from_usd(10), from_usd("0.125"))
    assert (own.per_request_nusd, own.source) == (from_usd("0.001"), "config")


def test_the_default_cap_is_never_above_what_the_model_accepts() -> None:
    """The provider would refuse the call."""
    assert snapshot().deployments["openai/small"].default_max_output_tokens == 2000


def test_a_local_server_without_a_price_is_free_and_a_hosted_model_is_unpriced() -> None:
    """Unknown is not zero where somebody sends a bill."""
    made = snapshot("  m: openai/unheard-of\n")
    local = made.deployments["ollama/qwen3"].price
    assert local is not None
    assert local.free
    assert made.deployments["openai/unheard-of"].price is None


def test_fields_of_a_deployment_win_over_those_of_its_model() -> None:
    """Two places that serve the same model differ in price and speed."""
    made = snapshot(
        "  m: {at: [openai/a, {deployment: ollama/b, weight: 25%, max_in_flight: 3, price: free}], weight: 2, price: {per_hour: $2}}\n"
    )
    first, second = made.deployments["openai/a"], made.deployments["ollama/b"]
    assert (first.traits.weight, second.traits.weight) == (2.0, 0.25)
    assert (first.max_in_flight, second.max_in_flight) == (None, 3)
    assert first.price is not None
    assert second.price is not None
    assert (first.price.per_hour_nusd, second.price.free) == (from_usd(2), True)


def test_a_simulated_model_brings_its_profile_and_waits_for_a_port() -> None:
    """The process that serves starts the simulator and fills in the port."""
    made = load("version: 1\nproviders: [sim]\nmodels: {f: sim/frontier-closed}\n").snapshot
    assert made.providers["sim"].endpoint.port == 0
    deployment = made.deployments["sim/frontier-closed"]
    assert deployment.price is not None
    assert (deployment.traits.size, deployment.traits.weights) == ("large", "closed")


def test_an_unknown_simulated_model_is_an_error() -> None:
    """Its price would be unknown."""
    from tests.settings_help import wrong

    assert wrong("version: 1\nproviders: [sim]\nmodels: {f: sim/frontier}\n") == [
        '3:13: models.f: there is no simulated model "frontier"; did you mean "frontier-closed"?'
    ]


def test_classes_select_deployments_in_the_order_of_the_file() -> None:
    """A model that is added later joins the routes that want its class."""
    base = BASE + "  other: {at: ollama/b, size: medium, domain: [code, korean]}\n"
    made = snapshot(
        "routes:\n  a: {use: {size: [small, medium]}}\n  b: {use: {domain: code}}\n  c: {use: {locality: local, weights: open}}\n", base
    )
    assert made.routes["a"].deployments == ("ollama/qwen3", "ollama/b")
    assert made.routes["b"].deployments == ("ollama/b",)
    assert made.routes["c"].deployments == ("ollama/qwen3", "ollama/b")


def test_rules_become_functions_with_their_headers() -> None:
    """The hot path reads only those headers that a rule looks at."""
    rules = "    rules:\n      - {name: gold, when: {header: {X-Tier: gold}}, use: big, by: fixed}\n"
    rules += "      - {when: {tools: true}, use: tiny, otherwise: refuse}\n"
    route = snapshot(f"routes:\n  r:\n    default: home\n{rules}").routes["r"]
    gold, tools = route.policy.rules
    assert route.headers_read == {"x-tier"}
    assert gold.matches(RequestFacts(operation="chat", route="r", headers={"x-tier": "gold"}))
    assert not gold.matches(RequestFacts(operation="chat", route="r"))
    assert (gold.name, gold.branch.kind, tools.name, tools.branch.refuse) == ("gold", "fixed", "rule-2", True)
    assert (route.policy.default.rule, route.policy.default.deployments) == ("default", ("ollama/qwen3",))
    assert route.deployments == ("openai/large", "openai/small", "ollama/qwen3")


def test_an_empty_class_may_be_refused_on_purpose() -> None:
    """A privacy rule must hold even before there is a local model."""
    loaded = load(BASE + "routes:\n  r: {use: big, rules: [{when: {team: x}, use: {locality: edge}, otherwise: refuse}]}\n")
    assert loaded.snapshot.routes["r"].policy.rules[0].branch.deployments == ()
    assert any("every request that comes here is refused" in line for line in loaded.snapshot.warnings)


def test_fallback_timeouts_and_ceiling_of_a_route() -> None:
    """What is not given stays as the providers have it."""
    route = snapshot(
        "routes:\n  r: {use: [big, home], fallback: {on: [429, 5xx], tries: 2, retries: 0}, timeout: {first_token: 8s}, max_cost: $0.50}\n"
    ).routes["r"]
    assert {429, 500, 599} <= route.fallback.statuses
    assert 408 not in route.fallback.statuses
    assert (route.fallback.on_timeout, route.fallback.on_context_length, route.fallback.max_attempts, route.fallback.retries) == (
        False,
        False,
        2,
        0,
    )
    assert route.timeouts is not None
    assert (route.timeouts.first_byte_seconds, route.timeouts.total_seconds) == (8.0, 600.0)
    assert route.max_cost_nusd == from_usd("0.5")


def test_every_model_and_deployment_can_be_asked_for_by_name() -> None:
    """Clients that know what they want need no route."""
    routes = snapshot("  two: [openai/a, openai/b]\n").routes
    assert routes["two"].aliases_model
    assert routes["two"].policy.default.kind == "cost"
    assert routes["openai/a"].deployments == ("openai/a",)


@pytest.mark.parametrize(
    ("written", "amount", "window", "each"),
    [
        ("$50/month", "50", "month", None),
        ("$0.50/day", "0.5", "day", None),
        ("$10", "10", "lifetime", None),
        ("$2/session", "2", "lifetime", "session"),
        ("{limit: $5, window: hour, each: team}", "5", "hour", "team"),
        ("{limit: $1_000/week, each: key}", "1000", "week", "key"),
    ],
)
def test_limits_as_people_write_them(written: str, amount: str, window: str, each: str | None) -> None:
    """One string says amount and window."""
    (budget,) = snapshot(f"budgets:\n  b: {written}\n").budgets
    assert (budget.limit_nusd, budget.window, budget.each, budget.hard) == (from_usd(amount), window, each, True)


def test_budgets_of_teams_and_keys_become_budgets_with_a_condition() -> None:
    """The store knows only one kind of budget."""
    extra = "teams: {search: {budget: $200/month}}\nkeys: {bot: {team: search, secret: $BOT_KEY, budget: {limit: $5/day, mode: soft}}}\n"
    team, key = snapshot(extra).budgets
    assert (team.name, team.when) == ("team/search", (("team", frozenset({"search"})),))
    assert (key.name, key.when, key.hard) == ("key/bot", (("key", frozenset({"bot"})),), False)


def test_the_scope_of_a_budget_names_keys_by_their_entry() -> None:
    """People know names; requests carry ids."""
    extra = (
        "budgets: {b: {limit: $5, when: {key: app, tags: {kind: [agent, batch]}, model: big}}}\n"
        "keys: {app: {id: Ab3dE6gH, secret_hash: '" + "a" * 64 + "'}}\n"
    )
    (budget,) = snapshot(extra).budgets
    assert dict(budget.when) == {"key": {"Ab3dE6gH"}, "model": {"big"}, "tag:kind": {"agent", "batch"}}


def test_a_key_is_kept_only_as_a_digest() -> None:
    """A dump of the process's configuration must not hold a key."""
    extra = "teams: {t: {models: [big], tags: {a: b}}}\n"
    extra += "keys: {bot: {team: t, secret: $BOT_KEY, expires: 2027-01-01, models: [big, openai/small], tags: {kind: agent}}}\n"
    made = snapshot(extra)
    entry = made.keys["bot"]
    assert entry.secret_digest == hashlib.sha256(ENVIRON["BOT_KEY"].encode()).digest()
    assert entry.secret_hmac is None
    assert (entry.expires_ms, entry.models, entry.tags) == (1_798_761_600_000, {"big", "openai/small"}, {"kind": "agent"})
    assert (made.teams["t"].models, made.teams["t"].tags) == ({"big"}, {"a": "b"})


def test_an_entry_that_keys_new_prints_can_be_pasted() -> None:
    """`faregate keys new --yaml` and this file must agree on what a key is."""
    from router.commands.keys import yaml_entry
    from router.ports import StoredKey

    stored = StoredKey(
        key_id="12345678", secret_hmac="0" * 64, name="app", models=["big"], tags={"kind": "agent"}, expires_ms=1_798_761_600_000
    )
    entry = snapshot(yaml_entry(stored)).keys["12345678"]
    assert (entry.name, entry.secret_hmac, entry.models, entry.tags) == ("app", "0" * 64, {"big"}, {"kind": "agent"})
    assert entry.expires_ms == 1_798_761_600_000


@pytest.mark.parametrize("preset", sorted((Path(__file__).parents[2] / "policies" / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_ready_made_policy_can_be_pasted_as_a_route(preset: Path) -> None:
    """They are written in the language of this file."""
    from router.settings.loader import parse
    from router.settings.model_routing import RouteSettings

    RouteSettings.model_validate(parse(preset.read_bytes(), preset.name).data["route"])


def test_the_store_comes_from_the_file_then_redis_then_a_path() -> None:
    """One order, the same for every command."""
    assert (
        load("version: 1\nserver: {store: x.sqlite}\n", {"REDIS_URL": "redis://h", "FAREGATE_STORE": "y"}).snapshot.server.store
        == "x.sqlite"
    )
    assert load("version: 1\n", {"REDIS_URL": "redis://h", "FAREGATE_STORE": "y"}).snapshot.server.store == "redis://h"
    assert load("version: 1\n", {"FAREGATE_STORE": "y"}).snapshot.server.store == "y"
    assert load("version: 1\n", {}).snapshot.server.store == ""


def test_the_version_changes_with_the_meaning_only() -> None:
    """Comments and shorthand are not a new configuration; a price is. A secret is in it by reference only."""
    short = load(BASE + "# note\nbudgets: {b: $5}\n").snapshot.version
    assert load(BASE + "budgets: {b: {limit: $5.00}}\n").snapshot.version == short
    assert load(BASE + "budgets: {b: $6}\n").snapshot.version != short
    assert load(BASE + "budgets: {b: $5}\n", {**ENVIRON, "OPENAI_API_KEY": "another-0123456789"}).snapshot.version == short


def test_the_baseline_is_a_deployment() -> None:
    """Avoided cost is measured against one price."""
    assert snapshot("server: {baseline: big}\n").server.baseline == "openai/large"
    assert snapshot("server: {baseline: openai/small}\n").server.baseline == "openai/small"


def test_an_assumed_price_says_so() -> None:
    """Books and metrics must show that it was not a list price."""
    price = snapshot("server: {unpriced: assume, assumed_price: {input: 20, output: 100}}\n").server.assumed_price
    assert price is not None
    assert (price.source, price.rates.output) == ("assumed", from_usd(100))


def test_values_may_be_references_everywhere() -> None:
    """One file for all environments."""
    text = "version: 1\nserver: {port: $PORT, allow_anonymous: $ANON, host: '${HOST:-127.0.0.2}'}\n"
    server = load(text, {"PORT": "4010", "ANON": "true"}).snapshot.server
    assert (server.port, server.allow_anonymous, server.host) == (4010, True, "127.0.0.2")


def test_yaml_is_read_by_its_current_version() -> None:
    """`on`, `yes` and `1:30` are text, so that no name of a team becomes true."""
    made = load(BASE + "teams: {on: {tags: {country: no, time: 1:30, n: 007, v: 1.10, x: 12}}}\n").snapshot
    assert dict(made.teams["on"].tags) == {"country": "no", "time": "1:30", "n": "007", "v": "1.10", "x": "12"}
