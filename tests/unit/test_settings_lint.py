"""Warnings: what loads but is probably a mistake."""

from __future__ import annotations

import pytest

from router.settings.findings import described
from router.settings.lint import notes
from tests.settings_help import BASE, load, warnings


def test_a_plain_configuration_has_no_warnings() -> None:
    """Warnings that come always are not read."""
    assert warnings(BASE) == []


PRICES = [
    (
        "{input: 0.00000125, output: 0.00001}",
        [
            "input is 0.00000125 USD per million tokens; was it written per token?",
            "output is 0.00001 USD per million tokens; was it written per token?",
        ],
    ),
    (
        "{input: 1500, output: 6000}",
        [
            "input is 1500.00 USD per million tokens; was it meant per token, or in another currency?",
            "output is 6000.00 USD per million tokens; was it meant per token, or in another currency?",
        ],
    ),
    ("free", ["is zero, at a provider that charges for tokens"]),
    ("{input: 10, output: 1}", ["output is cheaper than input; were they swapped?"]),
    ("{input: 1, output: 2, cached_input: 3}", ["cached_input is dearer than input"]),
    ("{input: 0.02, output: 0}", []),
    ("{per_request: $0.01}", []),
]


@pytest.mark.parametrize(("price", "messages"), PRICES, ids=[price for price, _ in PRICES])
def test_a_price_that_is_odd_for_a_paid_provider_is_pointed_out(price: str, messages: list[str]) -> None:
    """A slip of six digits in a price makes every budget worthless."""
    assert warnings(BASE + f"  m: {{at: openai/x, price: {price}}}\n") == [f"7:{29 - 1}: models.m.price: {message}" for message in messages]


def test_the_price_of_a_machine_of_ones_own_is_not_judged() -> None:
    """Free is right there."""
    assert warnings(BASE + "  m: {at: ollama/x, price: free}\n") == []


def test_the_price_of_one_deployment_is_pointed_out_where_it_stands() -> None:
    """A model may have several."""
    assert warnings(BASE + "  m: [{deployment: openai/x, price: free}]\n") == [
        "7:37: models.m[0].price: is zero, at a provider that charges for tokens"
    ]


def test_an_unpriced_deployment_is_pointed_out() -> None:
    """It would be refused at every request, which is easily overlooked."""
    assert warnings(BASE + "  m: openai/new\n") == ["7:6: models.m: no price is known for openai/new: it is never called; give it a price"]
    assert warnings(BASE + "  m: openai/new\nserver: {unpriced: assume, assumed_price: {input: 1, output: 1}}\n") == []
    (line,) = warnings(BASE + "server: {unpriced: free}\n")
    assert line == "7:20: server.unpriced: calls of deployments without a price are not counted against any budget"


@pytest.mark.parametrize(
    ("budgets", "lines"),
    [
        ("{d: $10/day, m: $10/month}", ['7:14: budgets.d: never bites: "m" allows 10.00 USD in a month, and has the same scope']),
        ("{d: $9/day, m: $10/month}", []),
        ("{d: {limit: $10/day, each: team}, m: $10/month}", []),
        ("{d: $10/day, m: {limit: $10/month, mode: soft}}", []),
        (
            "{d: $0.0001/day}",
            [
                "7:14: budgets.d: 0.0001 USD is less than one call of the cheapest model can cost (0.0009 USD):"
                " nothing can be served without a lower max_tokens"
            ],
        ),
    ],
)
def test_budgets_that_cannot_mean_what_they_say_are_pointed_out(budgets: str, lines: list[str]) -> None:
    """One that never bites gives false comfort, one below a single call refuses everything."""
    base = BASE.replace("  home: {at: ollama/qwen3, size: small}\n", "").replace(", ollama", "")
    assert warnings(base + f"budgets: {budgets}\n") == [line.replace("7:", "6:", 1) for line in lines]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            "[{use: big}, {use: tiny, when: {tools: true}}]",
            'routes.r.rules[1]: is never reached: rule "rule-1" matches all that it matches',
        ),
        (
            "[{name: a, use: big, when: {team: [x, y]}}, {use: tiny, when: {team: x, tools: true}}]",
            'routes.r.rules[1]: is never reached: rule "a" matches all that it matches',
        ),
        (
            "[{name: a, use: big, when: {tags: {k: v}}}, {use: tiny, when: {tags: {k: v, l: w}}}]",
            'routes.r.rules[1]: is never reached: rule "a" matches all that it matches',
        ),
        ("[{name: a, use: big, when: {team: x}}, {use: tiny, when: {team: y}}]", None),
        ("[{name: a, use: big, when: {team: x, tools: true}}, {use: tiny, when: {team: x}}]", None),
        ("[{use: tiny}]", "routes.r.rules[0]: has no condition, so the default of the route is never reached"),
    ],
)
def test_a_rule_behind_a_wider_one_is_pointed_out(rules: str, message: str | None) -> None:
    """The first rule wins; people write the exception after the rule."""
    lines = [line.split(": ", 1)[1] for line in warnings(BASE + f"routes:\n  r: {{use: [big, tiny, home], rules: {rules}}}\n")]
    assert lines == ([] if message is None else [message])


def test_what_nothing_uses_is_pointed_out() -> None:
    """Usually a name that was changed in one place only."""
    assert warnings(BASE.replace("[openai, ollama]", "[openai, ollama, vllm]") + "routes: {r: [big, home]}\n") == [
        "2:29: providers.vllm: no model uses this provider",
        "5:3: models.tiny: no route leads to this model; clients reach it by its own name only",
    ]


def test_keys_that_are_past_or_short_are_pointed_out() -> None:
    """Both are found by the people who use them, at the wrong time."""
    text = BASE + "keys: {k: {secret: $SHORT, expires: 2020-05-01}}\n"
    assert warnings(text, {"OPENAI_API_KEY": "x", "SHORT": "abc"}) == [
        "7:20: keys.k.secret: is shorter than 16 characters and can be guessed",
        "7:37: keys.k.expires: this key has expired on 2020-05-01",
    ]


def test_an_open_address_without_keys_is_pointed_out() -> None:
    """Whoever finds it spends the money."""
    (line,) = warnings(BASE + "server: {host: 0.0.0.0}\n")
    assert line.startswith("7:16: server.host: 0.0.0.0 can be reached by others, and there are no keys: it will not be served;")
    assert warnings(BASE + "server: {host: router.local, allow_anonymous: true}\n") == [
        "7:47: server.allow_anonymous: anyone who reaches router.local can spend: there are no keys"
    ]
    assert warnings(BASE + "server: {host: localhost}\n") == warnings(BASE + "server: {host: '::1'}\n") == []


def test_an_unknown_team_in_a_budget_is_pointed_out() -> None:
    """Minted keys may have teams that the file does not know, so it is no error."""
    text = BASE + "teams: {search: {}}\nbudgets: {b: {limit: $5, when: {team: serach}}}\n"
    assert warnings(text) == ['8:39: budgets.b.when.team: there is no team "serach" in this file; did you mean "search"?']


def test_an_unchecked_certificate_is_pointed_out() -> None:
    """It is meant for a test, and forgotten."""
    text = BASE.replace("[openai, ollama]", "{openai: {verify: false}, ollama: {}}")
    assert warnings(text) == ["2:30: providers.openai.verify: the certificate is not checked: whoever is on the way can read the key"]


def test_local_servers_are_noted_as_free() -> None:
    """Not a mistake, but worth knowing when the bill for the machine comes."""
    from router.settings.lint import notes

    loaded = load(BASE)
    assert [finding.message for finding in notes(loaded.settings, loaded.snapshot)] == [
        "ollama/qwen3 runs on a machine of one's own and is counted as free"
    ]


OWNERS = """version: 1
providers: [openai]
models: {m: {at: openai/x, price: {input: 1, output: 2}}}
budgets:
  a: {limit: $5, when: {key: alcie}}
  b: {limit: $5, when: {key: [alice, Ab3dEf7h], team: search}}
  c: {limit: $5, when: {key: nobody-we-know, team: serch}}
teams: {search: {}}
keys: {alice: {secret: $KEY}}
"""


def test_a_budget_of_nobody_is_pointed_out() -> None:
    """It would never hold anything back. The ids of keys that are kept in the ledger are not known here."""
    assert warnings(OWNERS, {"OPENAI_API_KEY": "k", "KEY": "0123456789abcdef"}) == [
        '5:30: budgets.a.when.key: there is no key "alcie" in this file; did you mean "alice"?',
        '7:30: budgets.c.when.key: there is no key "nobody-we-know" in this file; known: alice',
        '7:52: budgets.c.when.team: there is no team "serch" in this file; did you mean "search"?',
    ]


SHADOWED = [
    ('{input_tokens: "<8000"}', '{input_tokens: "1000..4000", team: a}', True),
    ('{input_tokens: "<8000"}', '{input_tokens: ["<4000", ">9000"]}', False),
    ('{difficulty: "<0.5"}', '{difficulty: "<= 0.4"}', True),
    ('{difficulty: "<0.4"}', '{difficulty: "<= 0.4"}', False),
    ("{tools: true}", "{tools: false}", False),
    ("{pii: true}", "{pii: [email, card]}", True),
    ("{pii: true}", "{pii: false}", False),
    ("{pii: [email]}", "{pii: true}", False),
    ('{tags: {a: [x, "y"]}}', "{tags: {a: x, b: z}}", True),
    ("tools && stream", 'stream && (tools && team == "a")', True),
    ("tools || stream", "stream", True),
    ("tools || stream", "stream || json_schema", False),
    ("tools || true", "{team: a}", True),
    ("{team: a, cel: tools}", "tools", False),
    ("{cel: tools}", "{team: a, cel: tools}", True),
]


@pytest.mark.parametrize(("first", "second", "shadowed"), SHADOWED, ids=[f"{first} then {second}" for first, second, _ in SHADOWED])
def test_a_rule_that_an_earlier_one_covers_is_pointed_out(first: str, second: str, shadowed: bool) -> None:
    """It looks as if it did something."""
    quoted = [one if one.startswith("{") else f"'{one}'" for one in (first, second)]
    text = (
        BASE
        + f"routes:\n  r:\n    rules:\n      - {{when: {quoted[0]}, use: big}}\n      - {{when: {quoted[1]}, use: tiny}}\n    use: home\n"
    )
    expected = ['11:9: routes.r.rules[1]: is never reached: rule "rule-1" matches all that it matches']
    assert warnings(text) == (expected if shadowed else [])


def test_an_expression_that_never_holds_is_pointed_out() -> None:
    """A rule, or a class of private requests, that does nothing."""
    text = BASE + 'privacy: {when: "1 > 2", only: home}\nroutes:\n  r: {use: [big, tiny], rules: [{use: home, when: tools && 1 > 2}]}\n'
    assert warnings(text) == [
        "9:51: routes.r.rules[0].when: never holds: the rule is never reached",
        "7:17: privacy.when: never holds: no request is in this class",
    ]


def noted(text: str) -> list[str]:
    """What `check` notes beside deployments that are free."""
    loaded = load(text)
    return [described(each) for each in notes(loaded.settings, loaded.snapshot) if "counted as free" not in each.message]


PRIVATE = BASE + "privacy: {when: {pii: true}, only: home}\nroutes:\n  r:\n    use: [tiny, home]\n    rules:\n"


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ("- {name: a, when: {language: ko}, use: [big, home]}", ""),
        (
            "- {name: a, when: {language: ko}, use: big}",
            'routes.r.rules[0]: rule "a" leads to no model that may see "private" requests, and',
        ),
        ("- {name: a, when: {pii: true}, use: home}\n    - {name: b, when: {tools: true}, use: big}", ""),
        ("- {name: a, when: {pii: [email], tools: true}, use: home}\n    - {name: b, use: big}", 'routes.r.rules[1]: rule "b" leads'),
        ("- {name: a, when: {pii: false}, use: big}", ""),
        ("- {name: a, when: {tools: true}, use: big, otherwise: refuse}", ""),
        (
            "- {name: a, when: {tools: true}, use: big}\n    - {when: {stream: true}, use: tiny}",
            'rules[0]: rule "a" and rule "rule-2" lead',
        ),
    ],
)
def test_rules_that_contradict_privacy_are_noted(rules: str, found: str) -> None:
    """A language that only a cloud model is strong in, and personal data: such requests would be refused without a word before."""
    lines = noted(f"{PRIVATE}    {rules}\n")
    assert (len(lines), found in "".join(lines)) == (bool(found), True), lines


def test_a_difficulty_without_a_target_is_noted_once() -> None:
    """How many requests are difficult is then up to the traffic."""
    rules = "routes: {r: {use: tiny, rules: [{when: {difficulty: '>0.6'}, use: big}, {when: 'task.difficulty < 0.2', use: home}]}}\n"
    (line,) = noted(BASE + rules)
    assert line.startswith("routes.r.rules[0].when: goes by the difficulty without signals.difficulty.target")
    assert not noted(BASE + rules + "signals: {difficulty: {target: {share: 30%}}}\n")


def test_second_calls_that_cost_too_much_are_noted() -> None:
    """A hedge would else look as if it were on."""
    by = "{kind: hedge, after: 800ms, by: fixed, cost_at_most: 3}"
    assert noted(BASE + f"routes: {{r: {{use: [tiny, big, home], by: {by}}}}}\n") == [
        "routes.r.by: after ollama/qwen3 there is no second call to openai/small: it costs something and ollama/qwen3 nothing, "
        "and cost_at_most is 3",
        "routes.r.by: after openai/small there is no second call to openai/large: it costs about 64 times as much as openai/small, "
        "and cost_at_most is 3",
    ]
    dearer = by.replace("most: 3", "most: 100")
    assert not noted(BASE + f"routes: {{r: {{default: {{use: [tiny, big], by: {dearer}}}}}}}\n")


@pytest.mark.parametrize(
    ("caps", "listed"),
    [
        ("most: 40%", "openai 40%, ollama 40%) are 80%"),
        ("most: 30%, each: {openai: 20%}, beyond: never", "openai 20%, ollama 30%) are 50%"),
        ("most: 0%", "openai 0%, ollama 0%) are 0%"),
        ("most: 40%, each: {ollama: 60%}", ""),
        ("most: 60%", ""),
    ],
)
def test_shares_that_nothing_can_hold_are_noted(caps: str, listed: str) -> None:
    """Somebody has to answer: caps below everything together say less than they seem to."""
    lines = noted(
        BASE + f"routes: {{r: {{use: [tiny, home], rules: [{{use: big}}], by: {{kind: hedge, by: {{kind: vendors, {caps}}}}}}}}}\n"
    )
    found = [line for line in lines if "shares of providers" in line]
    assert (len(found), all(f"routes.r.by: the shares of providers ({listed} of the money" in line for line in found)) == (
        bool(listed),
        True,
    )


RULE = BASE + "  m: {at: openai/x, price: {input: 1, output: 2}}\nroutes: {r: {rules: [{when: WHEN, use: m}], use: m}}\n"


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("{language: kr}", ['8:40: routes.r.rules[0].when.language: no text is ever told to be in "kr"; did you mean "ko"?']),
        (
            "{language: [ko, eo]}",
            ['8:40: routes.r.rules[0].when.language: no text is ever told to be in "eo"; see signals.language.plugin'],
        ),
        ("'stream && language == \"jp\"'", ['8:29: routes.r.rules[0].when: no text is ever told to be in "jp"; did you mean "ja"?']),
        ("{language: [ko, ja, zh]}", []),
    ],
)
def test_a_language_that_no_text_is_told_to_be_in_is_pointed_out(when: str, said: list[str]) -> None:
    """South Korea is kr, Korean is ko: such a rule would never hold, and nobody would see it."""
    assert [line for line in warnings(RULE.replace("WHEN", when)) if "ever told" in line] == said
    plugged = RULE.replace("WHEN", when) + 'signals: {language: {plugin: "builtins:len"}}\n'
    assert [line for line in warnings(plugged) if "ever told" in line] == []


@pytest.mark.parametrize(("use", "told"), [("m", 1), ("[m, n]", 0)])
def test_a_target_of_time_without_a_choice_is_pointed_out(use: str, told: int) -> None:
    """It reads as a promise, and one model alone is called however slow it is."""
    models = "  m: {at: openai/x, price: {input: 1, output: 2}}\n  n: {at: openai/y, price: {input: 1, output: 2}}\n"
    loaded = load(BASE + models + f"routes: {{r: {{use: {use}, by: {{kind: latency, target_ms: 800}}}}}}\n")
    said = [each.message for each in notes(loaded.settings, loaded.snapshot) if "target_ms" in each.message]
    assert len(said) == told
    assert all("openai/x is all that this leads to" in line for line in said)
