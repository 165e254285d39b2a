"""Reading a body: the few fields that matter, the same for us as for the provider."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.types import Traits
from router.domain.labels import MAX_LABEL_LENGTH, MAX_TAGS, read_max_cost
from router.domain.request import Operation, ParsedRequest, parse_request, upstream_body
from router.errors import RouterError
from router.ports import Endpoint
from router.snapshot import Deployment, Provider, Quirks

MESSAGES = [{"role": "user", "content": "Hello"}]
ENDPOINT = Endpoint(name="p", scheme="http", host="localhost", port=1, base_path="/v1")


KNOWN: frozenset[str] = frozenset(
    {
        "model",
        "messages",
        "stream",
        "max_tokens",
        "max_completion_tokens",
        "n_predict",
        "n",
        "tools",
        "functions",
        "response_format",
        "reasoning_effort",
        "reasoning",
        "thinking",
        "user",
        "safety_identifier",
        "metadata",
        "faregate",
        "provider",
        "stream_options",
        "models",
        "plugins",
        "preset",
        "route",
        "service_tier",
        "web_search_options",
        "search_parameters",
    }
)


def parsed(operation: Operation = "chat", **more: object) -> ParsedRequest:
    inputs: dict[str, dict[str, Any]] = {
        "chat": {"messages": MESSAGES},
        "completions": {"prompt": "Hello"},
        "embeddings": {"input": "Hello"},
    }
    return parse_request(json.dumps({"model": "m", **inputs[operation], **more}).encode(), operation)


def refused(body: bytes, operation: Operation = "chat") -> RouterError:
    with pytest.raises(RouterError) as caught:
        parse_request(body, operation)
    return caught.value


def sent(request: ParsedRequest, *, cap: int | None = None, field: str = "max_tokens", usage: bool = True) -> dict[str, Any]:
    # The field is one of the two that are known.
    quirks = Quirks(output_cap_field=field, stream_usage=usage)  # type: ignore[arg-type]
    provider = Provider(name="p", kind="openai", lane="wire", endpoint=ENDPOINT, quirks=quirks)
    traits = Traits(deployment="p/theirs", model="m", provider="p")
    deployment = Deployment(name="p/theirs", model="m", upstream_id="theirs", provider=provider, traits=traits, price=None)
    body: dict[str, Any] = json.loads(upstream_body(request, deployment, cap))
    return body


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"5", b'"x"', b"null", b"{", b"{} {}", b"\xff{}", b'{"a":NaN}', b'{"model":"\\ud800"}', b"{'a':1}", b"[" * 65 + b"]" * 65],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    """With the place of the fault, before anything is looked up."""
    error = refused(body)
    assert (error.spec.http_status, error.spec.code) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("body", "operation", "param"),
    [
        (b"{}", "chat", "model"),
        (b'{"model":5}', "chat", "model"),
        (b'{"model":null,"messages":[{}]}', "chat", "model"),
        (b'{"model":"m"}', "chat", "messages"),
        (b'{"model":"m","messages":[]}', "chat", "messages"),
        (b'{"model":"m","messages":"x"}', "chat", "messages"),
        (b'{"model":"m"}', "completions", "prompt"),
        (b'{"model":"m","prompt":[]}', "completions", "prompt"),
        (b'{"model":"m","input":{}}', "embeddings", "input"),
        (b'{"model":"m","messages":[{}],"stream":1}', "chat", "stream"),
        (b'{"model":"m","messages":[{}],"stream":"true"}', "chat", "stream"),
        (b'{"model":"m","messages":[{}],"stream":true,"stream_options":5}', "chat", "stream_options"),
        (b'{"model":"m","messages":[{}],"max_tokens":-1}', "chat", "max_tokens"),
        (b'{"model":"m","messages":[{}],"max_tokens":10000001}', "chat", "max_tokens"),
        (b'{"model":"m","messages":[{}],"max_completion_tokens":1.0}', "chat", "max_completion_tokens"),
        (b'{"model":"m","messages":[{}],"n_predict":-1}', "chat", "n_predict"),
        (b'{"model":"m","messages":[{}],"n":0}', "chat", "n"),
        (b'{"model":"m","messages":[{}],"n":129}', "chat", "n"),
        (b'{"model":"m","prompt":"x","best_of":-1}', "completions", "best_of"),
        (b'{"model":"m","messages":[{}],"user":1e999}', "chat", "user"),
    ],
)
def test_a_field_that_cannot_be_served_is_named(body: bytes, operation: Operation, param: str) -> None:
    """Whoever wrote the client needs the name of the field, not a traceback."""
    error = refused(body, operation)
    assert error.spec.http_status == 400
    assert error.param == param
    assert param in error.message


def test_the_defaults() -> None:
    """What is absent or null is not set."""
    for request in (parsed(), parsed(stream=None, max_tokens=None, n=None, tools=None, tool_choice=None)):
        assert (request.stream, request.output_cap, request.choices, request.tools, request.json_schema) == (False, None, 1, False, False)
        assert (request.user, request.session, dict(request.tags), request.only, request.max_cost_nusd) == ("", "", {}, None, None)
        assert request.modalities == {"text"}
        assert request.shape.tokens_likely <= request.input_tokens_bound


@pytest.mark.parametrize(
    ("more", "cap"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 5),
        ({"max_tokens": 7, "max_completion_tokens": 6}, 6),
        ({"max_tokens": None, "max_completion_tokens": 6}, 6),
        ({"max_tokens": 0}, 0),
        ({"n_predict": 4, "max_tokens": 9}, 4),
    ],
)
def test_the_lowest_cap_counts(more: dict[str, object], cap: int) -> None:
    """Of several the strictest was meant, or is safe to assume."""
    # None of them is the operation.
    assert parsed(**more).output_cap == cap  # type: ignore[arg-type]


def test_choices_multiply() -> None:
    """Every prompt is answered so many times, and tried so often for each."""
    assert parsed(n=8).choices == 8
    assert parsed("completions", n=2, best_of=5).choices == 5
    assert parsed("completions", n=5, best_of=2).choices == 5
    assert parsed("completions", best_of=0).choices == 1
    assert parsed("completions", prompt=["a", "b", "c"], n=2).choices == 6


def test_features_are_recognised() -> None:
    """Models without them are left out."""
    assert parsed(tools=[{}]).tools
    assert parsed(functions=[{}]).tools
    assert not parsed(tools=[]).tools
    assert parsed(response_format={"type": "json_schema"}).json_schema
    assert not parsed(response_format={"type": "json_object"}).json_schema
    for name in ("reasoning_effort", "reasoning", "thinking"):
        # None of them is the operation.
        assert parsed(**{name: "low"}).reasoning  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "wants"), [({"include_usage": True}, True), ({"include_usage": False}, False), ({}, False), (None, False)]
)
def test_whether_usage_is_wanted(options: object, wants: bool) -> None:
    """Only `true` is a wish."""
    assert parsed(stream=True, stream_options=options).wants_usage is wants
    assert parsed(stream=False, stream_options=options).wants_usage is False


def test_who_asks() -> None:
    """The newer field wins; what is no text is not a name; names are cut."""
    assert parsed(user="a").user == "a"
    assert parsed(user="a", safety_identifier="b").user == "b"
    assert parsed(user=5).user == ""
    assert parsed(user="x" * 1000).user == "x" * MAX_LABEL_LENGTH
    assert parsed(metadata={"session_id": "s" * 1000}).session == "s" * MAX_LABEL_LENGTH
    assert parsed(metadata={"session_id": 5, "tags": "x"}).session == ""
    assert parsed(metadata="text").session == ""
    assert parsed(metadata=None).session == ""


def test_tags_are_as_they_were_sent() -> None:
    """Budgets and rules go by them: one that went missing would be counted elsewhere."""
    tags = {f"t{number}": "v" * MAX_LABEL_LENGTH for number in range(MAX_TAGS)}
    assert parsed(metadata={"tags": tags}).tags == tags
    assert parsed(metadata={"tags": ["of", "another", "kind"]}).tags == {}
    assert parsed(metadata={"tags": {"a": "1", "b": "1"}}, faregate={"tags": {"b": "2"}}).tags == {"a": "1", "b": "2"}


def test_what_is_read_whole_is_bounded() -> None:
    """Time of the loop is everybody's: neither a huge option nor millions of tiny objects may take it."""
    assert refused(json.dumps({"model": "m", "messages": MESSAGES, "metadata": {"a": "x" * 70_000}}).encode()).param == "metadata"
    many = b'{"model":"m","messages":[' + b"{}," * 150_000 + b"{}]}"
    assert refused(many).spec.code == "invalid_json"
    assert refused(b'{"model":"m","prompt":[' + b"1," * 1_000_000 + b"1]}", "completions").param == "prompt"


def test_our_own_member_is_read_and_taken_out() -> None:
    """It tightens what else was said."""
    request = parsed(
        metadata={"tags": {"a": "1", "b": "1"}, "session_id": "old"},
        faregate={"use": ["x", "y"], "max_cost_usd": 0.05, "tags": {"b": "2"}, "session": "new", "explain": True},
        provider={"only": ["y", "z"]},
    )
    assert request.only == frozenset({"y"})
    assert request.max_cost_nusd == 50_000_000
    assert dict(request.tags) == {"a": "1", "b": "2"}
    assert request.session == "new"
    assert request.explain
    assert "faregate" not in request.fields
    assert parsed(faregate={"use": "x"}).only == frozenset({"x"})
    assert parsed(faregate={"max_cost_usd": "0.000000001"}).max_cost_nusd == 1
    assert parsed(faregate={}).only is None


@pytest.mark.parametrize("amount", [-1, "-0.01", "NaN", "Infinity", "x", "", 1e300])
def test_a_limit_that_is_no_amount_is_refused(amount: object) -> None:
    """A limit that is misread is no limit."""
    error = refused(json.dumps({"model": "m", "messages": MESSAGES, "faregate": {"max_cost_usd": amount}}).encode())
    assert "faregate.max_cost_usd" in error.message


@pytest.mark.parametrize("own", ["x", 5, [], {"typo": 1}, {"use": 5}, {"tags": {"a": 5}}])
def test_our_own_member_must_be_right(own: object) -> None:
    """A wish with a typing error must not be dropped without a word."""
    assert refused(json.dumps({"model": "m", "messages": MESSAGES, "faregate": own}).encode()).param == "faregate"


def test_preferences_of_openrouter() -> None:
    """Known parts are obeyed, all of it is passed on, odd forms are the provider's to refuse."""
    request = parsed(provider={"only": ["a", 5], "ignore": ["b"], "order": ["c", "a"], "sort": "price"})
    assert (request.only, request.ignore, request.order) == (frozenset({"a"}), frozenset({"b"}), ("c", "a"))
    assert parsed(provider={"only": "a"}).only is None
    assert parsed(provider="x").only is None
    assert (request.sort, parsed(provider={"sort": "exotic"}).sort, parsed(provider={"sort": {"by": "price"}}).sort) == ("price", "", "")
    priced = parsed(provider={"max_price": {"prompt": "0.5", "completion": 2, "image": 1}})
    assert (priced.most_input_nusd, priced.most_output_nusd) == (500_000_000, 2_000_000_000)
    assert (parsed(provider={"max_price": {}}).most_input_nusd, parsed(provider={"max_price": 3}).most_output_nusd) == (None, None)
    for wrong in ("cheap", -1, True, [1]):
        body = {"model": "m", "messages": MESSAGES, "provider": {"max_price": {"completion": wrong}}}
        assert refused(json.dumps(body).encode()).param == "provider.max_price.completion"
    assert sent(request)["provider"]["sort"] == "price"


def test_what_becomes_input_is_counted() -> None:
    """Tools, schemas, documents, predictions and suffixes are billed like the prompt."""
    plain = parsed().input_tokens_bound
    for name in ("tools", "functions", "response_format", "prediction", "documents"):
        # None is the operation.
        assert parsed(**{name: ["x" * 1000]}).input_tokens_bound >= plain + 1000, name  # type: ignore[arg-type]
    assert parsed("completions", suffix="x" * 1000).input_tokens_bound >= 1000


# What leaves


def test_the_body_that_leaves() -> None:
    """The provider's name for the model, one cap, the wish for usage; the rest in its order."""
    request = parsed(stream=True, temperature=0.5, max_tokens=9, max_completion_tokens=8)
    body = sent(request, cap=8)
    assert list(body) == ["model", "messages", "stream", "temperature", "max_tokens", "stream_options"]
    assert (body["model"], body["max_tokens"], body["stream_options"]) == ("theirs", 8, {"include_usage": True})


@pytest.mark.parametrize(
    ("more", "field", "expected"),
    [
        ({}, "max_tokens", {"max_tokens": 3}),
        ({}, "max_completion_tokens", {"max_completion_tokens": 3}),
        ({"max_tokens": 9}, "max_completion_tokens", {"max_completion_tokens": 3}),
        ({"max_completion_tokens": 9}, "max_tokens", {"max_tokens": 3}),
        ({"max_completion_tokens": 9, "max_tokens": 9}, "max_tokens", {"max_tokens": 3}),
        ({"n_predict": 9}, "max_tokens", {"max_tokens": 3, "n_predict": 3}),
    ],
)
def test_the_cap_leaves_under_the_name_that_the_provider_obeys(more: dict[str, object], field: str, expected: dict[str, int]) -> None:
    """A cap under a name that it does not know would bound nothing."""
    # None of them is the operation.
    body = sent(parsed(**more), cap=3, field=field)  # type: ignore[arg-type]
    assert {name: body[name] for name in body if name in ("max_tokens", "max_completion_tokens", "n_predict")} == expected


@pytest.mark.parametrize("name", ["models", "plugins", "preset", "route"])
def test_a_request_cannot_have_the_provider_call_another_model(name: str) -> None:
    """OpenRouter obeys these; the key may not use that model, and no budget holds its price."""
    error = refused(json.dumps({"model": "m", "messages": MESSAGES, name: ["other/dear"]}).encode())
    assert (error.spec.code, error.param) == ("invalid_request", name)
    for empty in (b"null", b"[]"):
        assert parse_request(b'{"model":"m","messages":[{}],"%b":%b}' % (name.encode(), empty), "chat").model == "m"
    assert refused(json.dumps({"model": "m", "input": "x", name: "y"}).encode(), "embeddings").param == name


@pytest.mark.parametrize(
    ("more", "extra"),
    [
        ({"service_tier": "priority"}, "service_tier"),
        ({"service_tier": {"tier": "priority"}}, "service_tier"),
        ({"service_tier": "flex"}, ""),
        ({"service_tier": "auto"}, ""),
        ({"service_tier": None}, ""),
        ({"web_search_options": {}}, "web_search_options"),
        ({"web_search_options": None}, ""),
        ({"search_parameters": {"mode": "on"}}, "search_parameters"),
        ({"search_parameters": None, "service_tier": "priority"}, "service_tier"),
    ],
)
def test_what_has_no_known_price_is_named(more: dict[str, object], extra: str) -> None:
    """A dearer tier, or a search billed beside the tokens, is in no price; a cheaper tier is within it."""
    # None of them is the operation.
    extras = parsed(**more).extras  # type: ignore[arg-type]
    assert ("" if extras is None else extras.member) == extra


def test_a_cap_as_the_provider_wants_it_leaves_as_it_came() -> None:
    """Only where the text differs from what the hold assumes is it written anew; null is not a cap."""
    assert sent(parsed(max_tokens=5), cap=5) == {"model": "theirs", "messages": MESSAGES, "max_tokens": 5}
    assert sent(parsed(max_tokens=5, max_completion_tokens=None), cap=5)["max_tokens"] == 5
    assert "max_completion_tokens" not in sent(parsed(max_tokens=5, max_completion_tokens=None), cap=5)
    assert sent(parsed(max_tokens=None), cap=7)["max_tokens"] == 7
    assert sent(parsed("completions", max_tokens=5), cap=5, field="max_completion_tokens")["max_tokens"] == 5
    assert refused(b'{"model":"m","messages":[{}],"max_tokens":-0}').param == "max_tokens"


def test_what_needs_no_change_is_not_changed() -> None:
    """No cap for embeddings, no wish where the provider does not understand it or the client has it already."""
    assert set(sent(parsed("embeddings"))) == {"model", "input"}
    assert "stream_options" not in sent(parsed(stream=True), usage=False)
    asked = {"include_usage": True, "x": 1}
    assert sent(parsed(stream=True, stream_options=asked))["stream_options"] == asked
    assert sent(parsed(stream=True, stream_options=None))["stream_options"] == {"include_usage": True}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=50)
@given(st.dictionaries(st.text(min_size=1).filter(lambda name: name.casefold() not in KNOWN), VALUES, max_size=5))
def test_unknown_members_leave_as_they_came(more: dict[str, object]) -> None:
    """Whatever a provider invents next."""
    body = sent(parse_request(json.dumps({"model": "m", "messages": MESSAGES, **more}).encode(), "chat"))
    assert {name: body[name] for name in more} == more


@pytest.mark.parametrize("name", ["MODEL", "Max_Tokens", "N", "Stream", "\u017ftream", "Faregate"])
def test_a_member_that_only_looks_like_one_we_read_is_refused(name: str) -> None:
    """Servers in Go obey `MODEL` as `model`: it would choose what was neither routed nor held."""
    body = {"model": "m", "messages": MESSAGES, name: "x"}
    if name.casefold() == name:
        assert parse_request(json.dumps(body).encode(), "chat").model == "m"
        return
    error = refused(json.dumps(body).encode())
    assert name.casefold() in error.message


@pytest.mark.parametrize("amount", ["1e400000", "1e99999", "-1e400000", "9007200", "NaN", "9" * 4000])
def test_a_limit_of_many_digits_costs_no_time(amount: str) -> None:
    """Thirty bytes must not keep a worker busy for half a minute."""
    with pytest.raises(RouterError, match=r"9,007,199"):
        read_max_cost(amount, "x")


@pytest.mark.parametrize(
    ("tools", "hosted"),
    [
        ([{"type": "function", "function": {}}], False),
        ([{"type": "web_search"}], True),
        ([{"type": "custom"}, {"type": "mcp"}], True),
        ([], False),
    ],
)
def test_tools_that_the_provider_runs_and_bills_are_extras(tools: list[object], hosted: bool) -> None:
    """How often it searches is not known before, so no price covers it."""
    extras = parsed(tools=tools).extras
    assert (extras is not None and extras.member == "tools") is hosted
