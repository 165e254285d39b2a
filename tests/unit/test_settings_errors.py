"""Every mistake gives one line: where it is, which field, what is wrong and what was probably meant."""

from __future__ import annotations

import pytest

from router.domain.money import GRAMMAR
from router.errors import ConfigError
from router.settings import load_snapshot
from tests.settings_help import BASE, ENVIRON, wrong

ONE_MISTAKE = [
    # The document.
    ("version: 1\nversion: 1\n", "2:1: version: is given twice; the first is on line 1"),
    ("a: [", "2:1: not valid YAML: did not find expected node content while parsing a flow node"),
    ("", "1:1: configuration: is not a mapping; the smallest begins with `version: 1`"),
    ("- 1", "1:1: configuration: is not a mapping; the smallest begins with `version: 1`"),
    ("version: 1\n---\nversion: 1", "2:1: more than one document in the file"),
    ("version: !!int 1", '1:10: YAML tags are not supported: "tag:yaml.org,2002:int"'),
    ("version: *one", "1:10: not valid YAML: no anchor &one before this alias"),
    ("version: 1\nserver:\n  ? [a]\n  : 1", "3:5: server: a key must be text"),
    (b"version: 1\nserver: \xff", "2:1: not valid YAML: the text is not UTF-8"),
    (b"version: 1\n\x00", "2:1: not valid YAML: a character that is not allowed"),
    # The top.
    ("server: {}", "1:1: version: is missing"),
    ("version: 2", "1:10: version: 2 is not 1"),
    ("version: 1\nrutes: {}", '2:1: rutes: unknown field; did you mean "routes"?'),
    (
        "version: 1\nvoodoo: {}",
        "2:1: voodoo: unknown field; known: version, server, providers, models, policies, routes, experiments, privacy, budgets, teams, "
        "keys, admins, signals, limits, guards, notify, alerts",
    ),
    # The server.
    ("version: 1\nserver: 5", "2:9: server: 5 is not a mapping"),
    ("version: 1\nserver: {prot: 1}", '2:10: server.prot: unknown field; did you mean "port"?'),
    ("version: 1\nserver: {port: 70000}", "2:16: server.port: must be at most 65535"),
    ("version: 1\nserver: {port: many}", '2:16: server.port: "many" is not a count; write 4096, 400k or 1.5M'),
    ("version: 1\nserver: {workers: true}", "2:19: server.workers: true is not a count; write 4096, 400k or 1.5M"),
    ("version: 1\nserver: {workers: 0}", "2:19: server.workers: must be at least 1"),
    ("version: 1\nserver: {lease: 20}", "2:17: server.lease: 20 has no unit; write 20s or 20ms"),
    ("version: 1\nserver: {drain: soon}", '2:17: server.drain: "soon" is not a duration; write 8s, 500ms or 1m30s'),
    ("version: 1\nserver: {max_body: 20}", "2:20: server.max_body: 20 has no unit; write 20MB or 20MiB"),
    ("version: 1\nserver: {max_body: 20XB}", '2:20: server.max_body: "20XB" is not a size; write 20MB or 20MiB'),
    ("version: 1\nserver: {log_requests: on}", '2:24: server.log_requests: "on" is neither true nor false'),
    (
        "version: 1\nserver: {when_store_is_down: shut}",
        '2:30: server.when_store_is_down: "shut" is not known here; known: closed, lease, open',
    ),
    ("version: 1\nsignals: {difficulty: {target: {share: 50}}}", "2:40: signals.difficulty.target.share: must be at most 1; write 50%"),
    ("version: 1\nserver: {lease_share: 80%}", "2:23: server.lease_share: must be at most 0.5"),
    ("version: 1\nserver: {unpriced: refsue}", '2:20: server.unpriced: "refsue" is not known here; did you mean "refuse"?'),
    ("version: 1\nserver: {unpriced: assume}", "2:20: server.unpriced: needs assumed_price, the price to count such deployments at"),
    ("version: 1\nserver: {assumed_price: {input: 1, output: 1}}", "2:10: server.assumed_price: is used with unpriced: assume only"),
    ("version: 1\nserver: {baseline: x}", '2:20: server.baseline: there is no model or deployment "x"'),
    ("version: 1\nserver: {compat: {budget_status: 400}}", "2:34: server.compat.budget_status: 400 is not one of 402, 429, 403, 422"),
    # Sections of the wrong shape.
    ("version: 1\nproviders: 5", "2:12: providers: 5 is not a mapping"),
    ("version: 1\nmodels: [a]", "2:9: models: a list is not a mapping"),
    ("version: 1\nmodels: {a: 5}", '2:13: models.a: "5" is not a deployment; write provider/model-id'),
    ("version: 1\nroutes: {a: true}", "2:13: routes.a: true is not a mapping"),
    # Providers.
    (
        "version: 1\nproviders: [opnai]",
        '2:13: providers.opnai: "opnai" is not a well-known provider: give kind and base_url; did you mean "openai"?',
    ),
    ("version: 1\nproviders: [openai, openai]", '2:12: providers: "openai" is given twice'),
    ("version: 1\nproviders: [{openai: {}}]", "2:12: providers: a list of providers holds names only; write a mapping to give options"),
    ("version: 1\nproviders: {a/b: {}}", """2:13: providers.a/b: "a/b" is not a name: letters, digits, '.', '_' and '-', at most 64"""),
    ("version: 1\nproviders: {x: {kind: vlm}}", '2:23: providers.x.kind: there is no preset "vlm"; did you mean "vllm"?'),
    (
        "version: 1\nproviders: {x: {kind: azure, api_key: $BOT_KEY}}",
        "2:13: providers.x: base_url is missing: azure has no address of its own",
    ),
    (
        "version: 1\nproviders: {x: {kind: bedrock, api_key: $BOT_KEY}}",
        "2:13: providers.x: base_url is missing; write it, or set the region in environment variable AWS_REGION",
    ),
    ("version: 1\nproviders: {x: {kind: litellm/}}", "2:23: providers.x.kind: name the provider: litellm/bedrock, litellm/cohere, ..."),
    (
        "version: 1\nproviders: {x: {kind: litellm/cohere, headers: {x-a: b}}}",
        "2:39: providers.x.headers: the adapter lane sends its own headers; use options",
    ),
    (
        "version: 1\nproviders: [mistral]",
        "2:13: providers.mistral: needs a key: environment variable MISTRAL_API_KEY is not set; set it, or write api_key",
    ),
    ("version: 1\nproviders: {openai: {api_key: $NO}}", "2:31: providers.openai.api_key: environment variable NO is not set"),
    (
        "version: 1\nproviders: {openai: {api_key: sk-live0123456789}}",
        "2:31: providers.openai.api_key: a key must not stand in the file; put it into an environment variable and write $NAME,"
        " or write file:/path",
    ),
    (
        "version: 1\nproviders: {ollama: {api_key: file:/no/such/file}}",
        "2:31: providers.ollama.api_key: file /no/such/file cannot be read: No such file or directory",
    ),
    (
        "version: 1\nproviders: {ollama: {base_url: localhost}}",
        '2:32: providers.ollama.base_url: "localhost" is not a URL; write https://host/v1',
    ),
    (
        "version: 1\nproviders: {ollama: {base_url: 'http://h:x'}}",
        '2:32: providers.ollama.base_url: "http://h:x" is not a URL; write https://host/v1',
    ),
    (
        "version: 1\nproviders: {ollama: {base_url: 'http://me:pw@h/v1'}}",
        "2:32: providers.ollama.base_url: a URL must not hold a credential; write it into api_key or headers",
    ),
    (
        "version: 1\nproviders: {ollama: {base_url: 'http://h/v1?a=b'}}",
        '2:32: providers.ollama.base_url: "http://h/v1?a=b" must end before ? and #',
    ),
    (
        "version: 1\nproviders: {ollama: {proxy: 'h:1'}}",
        '2:29: providers.ollama.proxy: "h:1" is not the URL of a proxy; write http://host:3128',
    ),
    ("version: 1\nproviders: {ollama: {http2: true}}", "2:29: providers.ollama.http2: HTTP/2 needs an https base_url"),
    ("version: 1\nproviders: {ollama: {ca_file: /no/such}}", '2:31: providers.ollama.ca_file: there is no file "/no/such"'),
    (
        "version: 1\nproviders: {ollama: {options: {a: b}}}",
        "2:22: providers.ollama.options: only providers of kind litellm/... have options",
    ),
    ("version: 1\nproviders: {ollama: {headers: {host: b}}}", "2:38: providers.ollama.headers.host: this header is set by the proxy"),
    ("version: 1\nproviders: {ollama: {headers: {a b: c}}}", '2:32: providers.ollama.headers.a b: "a b" is not a header name'),
    (
        'version: 1\nproviders: {ollama: {headers: {x: "a\\nb"}}}',
        "2:35: providers.ollama.headers.x: holds characters that a header cannot carry (the value is not shown)",
    ),
    (
        'version: 1\nproviders: {ollama: {api_key: "schlüssel"}}',
        "2:31: providers.ollama.api_key: holds characters that a header cannot carry (the value is not shown)",
    ),
    (
        "version: 1\nproviders: {ollama: {timeouts: {conect: 5s}}}",
        '2:33: providers.ollama.timeouts.conect: unknown field; did you mean "connect"?',
    ),
]


@pytest.mark.parametrize(("text", "line"), ONE_MISTAKE, ids=[line[-60:] for _, line in ONE_MISTAKE])
def test_a_mistake_in_the_frame_gives_exactly_one_line(text: str | bytes, line: str) -> None:
    """One typo must not give four errors: people read the first and lose trust in the rest."""
    assert wrong(text) == [line]


MODEL_MISTAKES = [
    ("  m: {at: openai/x, sise: small}", '7:21: models.m.sise: unknown field; did you mean "size"?'),
    ("  m: {size: small}", "7:6: models.m.at: is missing"),
    ("  m: {at: openai/x, size: smal}", '7:27: models.m.size: "smal" is not known here; did you mean "small"?'),
    ("  m: openai", '7:6: models.m: "openai" is not a deployment; write provider/model-id'),
    ("  m: opnai/x", '7:6: models.m: there is no provider "opnai"; did you mean "openai"?'),
    ("  m: groq/x", '7:6: models.m: there is no provider "groq"; add it to providers'),
    ("  m: openai/large", '7:6: models.m: openai/large already belongs to model "big"; routes can share it under that name'),
    ("  openai/small: openai/x", '7:3: models.openai/small: "openai/small" is also a deployment of model "tiny"'),
    ("  a b: openai/x", """7:3: models.a b: "a b" is not a name: letters, digits and '. _ : @ / + -', at most 128"""),
    ("  m: {at: []}", "7:11: models.m.at: is empty"),
    ("  m: [openai/x, {weight: 2}]", "7:17: models.m[1].deployment: is missing"),
    (
        "  m: {at: openai/x, price: cheap}",
        '7:28: models.m.price: "cheap" is not a price; write free, or {input: 1.25, output: 10} in USD per million tokens',
    ),
    ("  m: {at: openai/x, price: {}}", "7:28: models.m.price: says nothing; write input and output, per_hour, or free"),
    ("  m: {at: openai/x, price: {input: 1}}", "7:28: models.m.price: output is missing; write output: 0 if such tokens cost nothing"),
    ("  m: {at: openai/x, price: {free: true, input: 1, output: 1}}", "7:28: models.m.price: a free price has no other field"),
    (
        "  m: {at: openai/x, price: {input: -1, output: 1}}",
        f"7:36: models.m.price.input: -1 is not an amount of money; write $2.10: {GRAMMAR}",
    ),
    (
        "  m: {at: openai/x, price: {input: 1e300, output: 1}}",
        "7:36: models.m.price.input: 1e+300 is more than a counter can hold exactly ($9,007,199)",
    ),
    ("  m: {at: openai/x, price: {inptu: 1, output: 1, input: 1}}", '7:29: models.m.price.inptu: unknown field; did you mean "input"?'),
    ("  m: {at: openai/x, context: 4k5}", '7:30: models.m.context: "4k5" is not a count; write 4096, 400k or 1.5M'),
    ("  m: {at: openai/x, weight: -1}", "7:29: models.m.weight: -1 is not a number or a share; write 3, 0.25 or 25%"),
    ("  m: {at: openai/x, capabilities: [chat, tool]}", '7:42: models.m.capabilities[1]: "tool" is not known here; did you mean "tools"?'),
    (
        "  m: {at: openai/x, max_output: 100, default_max_output: 200}",
        "7:11: models.m.at: default_max_output 200 is more than max_output 100",
    ),
    ("  m: {at: openai/x, domain: true}", "7:29: models.m.domain: true is not text"),
]


@pytest.mark.parametrize(("extra", "line"), MODEL_MISTAKES, ids=[line[-60:] for _, line in MODEL_MISTAKES])
def test_a_mistake_in_a_model_gives_exactly_one_line(extra: str, line: str) -> None:
    """The place is that of the value as written, shorthand or not."""
    assert wrong(BASE + extra + "\n") == [line]


ROUTE_MISTAKES = [
    ("[bog]", '8:7: routes.r[0]: there is no model "bog"; did you mean "big"?'),
    ("bog", '8:6: routes.r: there is no model "bog"; did you mean "big"?'),
    ("{}", "8:6: routes.r: use is missing: which models serve it if no rule holds"),
    ("{use: big, default: tiny}", "8:6: routes.r: give either default, or use and by"),
    ("{use: {sise: small}}", '8:13: routes.r.use.sise: unknown field; did you mean "size"?'),
    ("{use: {size: tiny}}", '8:19: routes.r.use.size: "tiny" is not known here; known: small, medium, large'),
    ("{use: big, by: {kind: latency, target_ms: 0s}}", "8:48: routes.r.by.target_ms: must be more than 0"),
    ("{use: big, by: {kind: hedge, quantile: 2}}", "8:45: routes.r.by.quantile: must be less than 1"),
    ("{use: big, by: {kind: bandit, worth_usd: $0.02}}", '8:47: routes.r.by.worth_usd: "$0.02" is not a number; write 0.02'),
    ("{use: big, by: {kind: cascade, steps: [big]}}", "8:44: routes.r.by.steps: needs 2 or more: the next is asked if an answer fails"),
    (
        "{use: [big, tiny], by: {kind: cascade, steps: [ti, big]}}",
        '8:53: routes.r.by.steps[0]: "ti" is not among the models that `use` leads to; did you mean "tiny"?',
    ),
    (
        "{use: [big, tiny], by: {kind: split, branches: [{name: a, share: 60, use: big}, {name: b, share: 40%, use: tiny}]}}",
        "8:71: routes.r.by.branches[0].share: must be at most 1; write 60%",
    ),
    (
        "{use: [big, tiny], by: {kind: split, branches: [{name: a, share: 60%, use: big}, {name: b, share: 50%, use: tiny}]}}",
        "8:53: routes.r.by.branches: the shares add up to 110%; they must add up to 100%",
    ),
    (
        "{use: [big, tiny], by: {kind: canary, to: tiny, share: 10%, ramp: [{after: 1d, share: 20%}, {after: 90s, share: 5%}]}}",
        "8:72: routes.r.by.ramp: goes down: 5% after 90s is less than the 10% before it",
    ),
    ("{use: [big, tiny], by: {kind: hedge, after: 800}}", "8:50: routes.r.by.after: 800 has no unit; write 800ms or 800s"),
    ("{policy: korean}", '8:6: routes.r: no model has these classes: language: ko (rule "korean")'),
    ("{use: {size: large}}", "8:12: routes.r.use: no model has these classes: size: large"),
    ("{use: {names: big, size: small}}", "8:12: routes.r.use: give names or classes, not both"),
    ("{use: {}}", "8:12: routes.r.use: selects nothing; name a model, or a class such as {size: small}"),
    ("{use: [big, other]}", '8:18: routes.r.use[1]: there is no model "other"; known: big, tiny, home'),
    ("{use: r}", '8:12: routes.r.use: there is no model "r"; it is a route, and routes cannot lead to routes'),
    ("{use: big, by: cots}", '8:21: routes.r.by: "cots" is not a policy kind; did you mean "cost"?'),
    (
        "{use: big, by: 5}",
        "8:21: routes.r.by: 5 is not a policy kind; known: "
        "fixed, weighted, cost, latency, least_busy, quality, split, canary, cascade, hedge, shadow, bandit, pace, vendors",
    ),
    ("{use: big, by: {}}", "8:21: routes.r.by: kind is missing"),
    ("{use: big, by: {kind: cost, weights: {}}}", "8:34: routes.r.by.weights: unknown field; known: kind, max_request_usd, keep_cache"),
    (
        "{use: big, by: {kind: weighted, weights: {bigg: 1}}}",
        '8:48: routes.r.by.weights.bigg: there is no model or deployment "bigg"; did you mean "big"?',
    ),
    (
        "{use: big, fallback: {on: [99]}}",
        "8:33: routes.r.fallback.on[0]: 99 is not a cause of fallback: a status from 400 to 599; known: timeout, context_length, 4xx, 5xx",
    ),
    (
        "{use: big, fallback: {on: [timeuot]}}",
        '8:33: routes.r.fallback.on[0]: "timeuot" is not a cause of fallback: a status from 400 to 599; did you mean "timeout"?',
    ),
    ("{use: big, fallback: {tries: 0}}", "8:35: routes.r.fallback.tries: must be at least 1"),
    ("{use: big, timeout: {first_token: 0s}}", "8:40: routes.r.timeout.first_token: must be more than 0"),
    ("{use: big, max_cost: 0.5}", "8:27: routes.r.max_cost: 0.5 has no unit; write $0.5"),
    ("{use: big, rules: [{when: {team: a}}]}", "8:25: routes.r.rules[0]: use is missing: which models serve what the rule matches"),
    ("{use: big, rules: [{use: big, name: default}]}", '8:42: routes.r.rules[0].name: "default" is what the rest is called'),
    (
        "{use: big, rules: [{use: big, name: a, when: {tools: true}}, {use: tiny, name: a}]}",
        '8:85: routes.r.rules[1].name: "a" is the name of an earlier rule',
    ),
    ("{use: big, rules: [{use: big, when: {taem: a}}]}", '8:43: routes.r.rules[0].when.taem: unknown field; did you mean "team"?'),
    (
        "{use: big, rules: [{use: big, when: 'pii.fuond'}]}",
        '8:42: routes.r.rules[0].when: there is no "pii.fuond"; did you mean "pii.found"?',
    ),
    ("{use: big, rules: [{use: big, when: tools && teem}]}", '8:51: routes.r.rules[0].when: there is no "teem"; did you mean "team"?'),
    (
        """{use: big, rules: [{use: big, when: {cel: "team == \\"a\\" && tols"}}]}""",
        '8:66: routes.r.rules[0].when.cel: there is no "tols"; did you mean "tools"?',
    ),
    (
        "{use: big, rules: [{use: big, when: 'provider(\"openia\").up'}]}",
        '8:42: routes.r.rules[0].when: there is no provider "openia"; did you mean "openai"?',
    ),
    ("{use: big, rules: [{use: big, when: [tools]}]}", "8:42: routes.r.rules[0].when: a list is not a mapping"),
    ("{use: big, timezone: Seoul}", '8:27: routes.r.timezone: "Seoul" is not an IANA time zone; write Asia/Seoul'),
    ("{use: big, rules: [{use: big, when: {tools: 5}}]}", "8:50: routes.r.rules[0].when.tools: 5 is neither true nor false"),
    (
        "{use: big, rules: [{use: big, otherwise: refsue}]}",
        '8:47: routes.r.rules[0].otherwise: "refsue" is not known here; did you mean "refuse"?',
    ),
]


@pytest.mark.parametrize(("route", "line"), ROUTE_MISTAKES, ids=[line[-60:] for _, line in ROUTE_MISTAKES])
def test_a_mistake_in_a_route_gives_exactly_one_line(route: str, line: str) -> None:
    """Rules decide where money goes: a name that does not exist must never be passed over."""
    assert wrong(BASE + f"routes:\n  r: {route}\n") == [line]


def test_conditions_that_cannot_be_compiled_are_placed_inside_the_condition() -> None:
    """The matcher finds them, the file's line is ours to add."""
    text = BASE + "routes:\n  r:\n    use: big\n    rules:\n      - {use: big, when: {input_tokens: many}}\n"
    (line,) = wrong(text)
    assert line.startswith("11:41: routes.r.rules[0].when.input_tokens: ")


def test_a_route_may_not_share_its_name_with_a_model_or_deployment() -> None:
    """A client could not say which of the two it means."""
    assert wrong(BASE + "routes:\n  big: tiny\n  openai/small: big\n") == [
        '8:3: routes.big: "big" is also the name of a model; a client could not say which it means',
        '9:3: routes.openai/small: "openai/small" is also a deployment; a client could not say which it means',
    ]


BUDGET_MISTAKES = [
    ("$50/moon", '8:6: budgets.b: "moon" is not a window; did you mean "month"?'),
    ("50", "8:6: budgets.b: 50 has no unit; write $50 or $50/month"),
    ("lots", '8:6: budgets.b: "lots" is not a limit; write $50/month'),
    (
        "some tokens/hour",
        '8:6: budgets.b: "some tokens/hour" is not a limit; write 2M tokens/day, 600 requests/minute or 20 concurrent',
    ),
    ("5 concurrent/hour", '8:6: budgets.b: "5 concurrent/hour": calls under way have no window; write 5 concurrent'),
    ("$5/30s", '8:6: budgets.b: "30s" is not a window; known: minute, hour, day, week, month, lifetime, session, 24h, rolling hour'),
    ("$5/900d", '8:6: budgets.b: "900d": a rolling window lasts between a minute and 400 days'),
    ("{limit: $5/24h, carry_over: 20%}", "8:6: budgets.b: only a window of the calendar can carry something over to the next"),
    ("{limit: $5/day, carry_over: 120%}", '8:34: budgets.b.carry_over: "120%" is not a share of the limit; write true or 20%'),
    ("{limit: $5/day, each: [team, team]}", "8:28: budgets.b.each: write a name, or several different ones"),
    ("[]", "8:6: budgets.b: a list is not a limit; write $50/month"),
    ("{each: team}", "8:6: budgets.b.limit: is missing"),
    ("{limit: $5, each: taem}", '8:24: budgets.b.each: "taem" is not known here; did you mean "team"?'),
    ("{limit: $5/day, window: week}", "8:6: budgets.b: limit says day, window says week; give one"),
    ("{limit: $5/session, each: team}", "8:6: budgets.b: a limit per session cannot be split by team"),
    ("{limit: $0, mode: soft}", "8:6: budgets.b: a soft budget of $0 would alert always"),
    ("{limit: $99999999/month}", '8:14: budgets.b.limit: "$99999999" is more than a counter can hold exactly ($9,007,199)'),
    ("{limit: $5, timezone: Asia/Seul}", '8:28: budgets.b.timezone: "Asia/Seul" is not an IANA time zone; write Asia/Seoul'),
    (
        "{limit: $5, upto: {80%: notify}}",
        "8:18: budgets.b.upto: unknown field; known: limit, window, each, timezone, mode, carry_over, max_scopes, "
        "over_max_scopes, "
        "on_short, when_store_is_down, owner, strict, at, when, shared",
    ),
    ("{limit: $5, when: {model: bgi}}", '8:32: budgets.b.when.model: there is no model "bgi"; did you mean "big"?'),
    ("{limit: $5, when: {provider: [openai, x]}}", '8:44: budgets.b.when.provider[1]: there is no provider "x"; known: openai, ollama'),
    ("{limit: $5, on_short: [wait, wait]}", '8:28: budgets.b.on_short: "wait" is given twice'),
    ("{limit: $5, on_short: [refuse, wait]}", "8:28: budgets.b.on_short: what comes after refuse is never tried; write refuse last"),
    ("{limit: $5, on_short: []}", "8:28: budgets.b.on_short: is empty; write refuse"),
    ("{limit: $5, when: 'tag(1)'}", '8:24: budgets.b.when: tag() takes the name of a tag, as in tag("x")'),
]


@pytest.mark.parametrize(("budget", "line"), BUDGET_MISTAKES, ids=[line[-60:] for _, line in BUDGET_MISTAKES])
def test_a_mistake_in_a_budget_gives_exactly_one_line(budget: str, line: str) -> None:
    """A budget that is not understood would be no budget."""
    assert wrong(BASE + f"budgets:\n  b: {budget}\n") == [line]


KEY_MISTAKES = [
    ("{}", "8:6: keys.k: give either secret or secret_hash"),
    ("{secret: $BOT_KEY, team: serach}", '8:31: keys.k.team: there is no team "serach"; did you mean "search"?'),
    (
        "{secret: my-own-words}",
        "8:15: keys.k.secret: a key must not stand in the file; put it into an environment variable and write $NAME, or write file:/path",
    ),
    ("{secret: $UNSET}", "8:15: keys.k.secret: environment variable UNSET is not set"),
    (
        "{secret_hash: $BOT_KEY, id: abcdefgh}",
        "8:20: keys.k.secret_hash: is not a hash: 64 hexadecimal digits, as `faregate keys hash` prints it",
    ),
    (
        "{secret: $BOT_KEY, expires: tomorrow}",
        '8:34: keys.k.expires: "tomorrow" is not a date; write 2027-01-31 or 2027-01-31T18:00:00+09:00',
    ),
    ("{secret: $BOT_KEY, models: [bgi]}", '8:34: keys.k.models[0]: there is no route or model "bgi"; did you mean "big"?'),
    ("{secret: $BOT_KEY, budget: 5}", "8:33: keys.k.budget: 5 has no unit; write $5 or $5/month"),
    (
        "{secret: $BOT_KEY, budget: {limit: $5, when: {}}}",
        "8:45: keys.k.budget.when: unknown field; known: limit, window, each, timezone, mode, carry_over, max_scopes, "
        "over_max_scopes, "
        "on_short, when_store_is_down, owner, strict, at",
    ),
    ("{secret: $BOT_KEY, tags: [a]}", "8:31: keys.k.tags: a list is not a mapping"),
]


@pytest.mark.parametrize(("key", "line"), KEY_MISTAKES, ids=[line[-60:] for _, line in KEY_MISTAKES])
def test_a_mistake_in_a_key_gives_exactly_one_line(key: str, line: str) -> None:
    """A key that is not understood would open too much or nothing."""
    assert wrong(BASE + f"keys:\n  k: {key}\nteams: {{search: {{}}}}\n") == [line]


def test_two_keys_may_not_have_the_same_id() -> None:
    """Whose request is it?"""
    text = BASE + "keys:\n  a: {secret: $BOT_KEY, id: x}\n  b: {secret: $OPENAI_API_KEY, id: x}\n"
    assert wrong(text) == ['9:36: keys.b.id: "x" is also the id of key "a"']


def test_two_keys_may_not_be_the_same_secret() -> None:
    """The second could never be told from the first."""
    text = BASE + "keys:\n  a: {secret: $BOT_KEY}\n  b: {secret: $BOT_KEY}\n"
    assert wrong(text) == ['9:15: keys.b.secret: is the same secret as that of key "a"']


def test_all_errors_of_all_sections_come_at_once_in_the_order_of_the_file() -> None:
    """Ten errors must not take ten runs. An entry with an error of its own is not reported as unknown elsewhere."""
    text = """\
        version: 1
        server: {port: 99999}
        providers: {openai: {}, ollama: {verfy: true}}
        models:
          big: {at: openai/large, sise: large}
          home: ollama/qwen3
        routes:
          auto: [big, home, hoome]
        budgets: {b: $5/dya}
        keys: {k: {secret: $NOT_THERE, team: x}}
    """
    assert wrong(text) == [
        "2:16: server.port: must be at most 65535",
        '3:34: providers.ollama.verfy: unknown field; did you mean "verify"?',
        '5:27: models.big.sise: unknown field; did you mean "size"?',
        '8:21: routes.auto[2]: there is no model "hoome"; did you mean "home"?',
        '9:14: budgets.b: "dya" is not a window; did you mean "day"?',
        "10:20: keys.k.secret: environment variable NOT_THERE is not set",
        '10:38: keys.k.team: there is no team "x"',
    ]


def test_a_file_that_is_not_there_is_an_error_without_a_traceback() -> None:
    """The most usual mistake of all."""
    with pytest.raises(ConfigError, match=r"^/no/such\.yaml: cannot be read: No such file or directory$"):
        load_snapshot("/no/such.yaml", environ={})


def test_aliases_cannot_make_a_document_that_fills_memory() -> None:
    """Nine lines of aliases can stand for a billion values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (line,) = wrong("\n".join(lines))
    assert line.endswith("aliases make more than 200,000 values or 32 levels")


def test_depth_and_size_are_bounded() -> None:
    """Neither may take the process down before the file is refused."""
    assert wrong("[" * 100_000) == ["1:34: nested deeper than 32 levels"]
    assert wrong(b"#" * 4_194_305) == ["1:1: 4,194,305 bytes are more than a configuration may have (4,194,304)"]


def test_very_many_errors_are_cut() -> None:
    """A wrong file must not flood the terminal."""
    text = "version: 1\n" + "".join(f"x{n}: 1\n" for n in range(300))
    lines = wrong(text)
    assert len(lines) == 101
    assert lines[-1] == " and 200 more"


SEVERAL = """version: 1
server: {prot: 1}
providers: [openai]
models:
  small: {at: openai/gpt-5.4-mini, sise: small}
  large: opnai/gpt-5.6
routes:
  auto:
    use: [smal, large]
    fallback: {tries: 400}
    rules: [{when: {team: search}, use: lrge, otherwise: no}]
budgets:
  all: {limit: $5/day, mode: hrad, when: {route: aut}}
teams:
  search: {models: [smal], tags: 5}
keys:
  alice: {secret: $TEAM_KEY, team: serch, expires: soon}
"""


def test_a_wrong_field_hides_no_wrong_name_beside_it() -> None:
    """A person who mends all that is shown should be done."""
    found = wrong(SEVERAL, ENVIRON | {"TEAM_KEY": "0123456789abcdef"})
    assert [line.partition(": ")[2].partition(": ")[0] for line in found] == [
        "server.prot",
        "models.small.sise",
        "models.large",
        "routes.auto.use[0]",
        "routes.auto.fallback.tries",
        "routes.auto.rules[0].use",
        "routes.auto.rules[0].otherwise",
        "budgets.all.mode",
        "budgets.all.when.route",
        "teams.search.models[0]",
        "teams.search.tags",
        "keys.alice.team",
        "keys.alice.expires",
    ]


def test_what_follows_from_a_wrong_field_alone_is_not_reported() -> None:
    """One mistake, one line: without `at` nothing is left of a model."""
    assert len(wrong("version: 1\nproviders: [openai]\nmodels:\n  m: {at: 5, domain: code}\nroutes: {auto: m}\n")) == 1


def test_what_does_not_follow_from_a_wrong_field_is_reported_with_it() -> None:
    """Otherwise one object with two mistakes takes two rounds. What names the wrong field may come from it, and waits."""
    text = """version: 1
providers: [openai]
models:
  m: {at: openai/x, price: {input: 1}, default_max_output: 9, max_output: 8}
budgets:
  b: {limit: $5/month, window: 24h, on_short: [never]}
routes: {auto: m}
"""
    said = wrong(text)
    for part in ("default_max_output 9 is more than max_output 8", "price: output is missing", "limit says month", "budgets.b.on_short"):
        assert sum(part in line for line in said) == 1, said
    assert len(said) == 4
