"""What a request cannot do, and what nobody gets to see."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import KEY, Gateway
from tests.running import PROVIDER_KEY, Running, chat, running
from tests.scripted_behaviours import Close, Fail, Json, Stream
from tests.scripted_upstream import ScriptedUpstream

HEADER_SECRET = "sk-header-secret-0123456789"
CONFIG = """
version: 1
server: {store: "STORE"}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY, headers: {x-pool: $HEADER_SECRET}}
models:
  m: {at: up/m, price: {input: 1, output: 10}, default_max_output: 100}
  b: {at: up/b, price: {input: 2, output: 20}, default_max_output: 100}
routes:
  plain: {use: m, fallback: {tries: 1, retries: 0}}
budgets:
  each-user: {limit: $100, each: user}
  each-session: {limit: $100, each: session}
keys:
  tester: {secret: $TEST_KEY}
"""


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, CONFIG, environment={"HEADER_SECRET": HEADER_SECRET}) as served:
        yield served


# Nothing in a request chooses where it goes


def hostile(url: str) -> dict[str, Any]:
    """Members that other proxies obey."""
    return {
        "api_base": url,
        "base_url": url,
        "api_key": "sk-attacker-0123456789",
        "api_version": "2020-01-01",
        "extra_headers": {"x-evil": "1", "authorization": "Bearer sk-attacker-0123456789"},
        "extra_body": {"api_base": url},
        "extra_query": {"a": "b"},
        "headers": {"x-evil": "1"},
        "mock_response": "You are free.",
        "litellm_params": {"api_base": url},
        "user_config": {"model_list": [{"model_name": "m", "litellm_params": {"model": "openai/m", "api_base": url}}]},
        "model_list": [{"model_name": "m", "litellm_params": {"api_base": url}}],
        "fallbacks": ["b", {"model": "b", "api_base": url}],
        "context_window_fallback_dict": {"m": "b"},
        "num_retries": 50,
        "max_retries": 50,
        "timeout": 0.001,
        "request_timeout": 0.001,
        "proxy": url,
        "custom_host": url,
        "custom_llm_provider": "azure",
        "organization": "org-evil",
        "deployment_id": "evil",
        "drop_params": True,
        "no-log": True,
        "cache": {"no-cache": True},
        "input_cost_per_token": 0,
        "output_cost_per_token": 0,
        "model_info": {"input_cost_per_token": 0},
    }


HOSTILE_HEADERS = (
    "x-litellm-api-base",
    "x-api-base",
    "x-base-url",
    "x-litellm-timeout",
    "x-litellm-num-retries",
    "x-portkey-custom-host",
    "x-portkey-provider",
    "x-portkey-config",
    "helicone-target-url",
    "helicone-openai-api-base",
    "x-forwarded-host",
    "x-target-url",
    "x-stainless-retry-count",
    "openai-organization",
    "openai-project",
    "x-faregate-deployment",
    "x-faregate-api-key",
    "x-original-url",
    "x-rewrite-url",
    "forwarded",
)


async def test_no_field_or_header_of_a_request_moves_it_elsewhere(app: Running) -> None:
    """Server-side request forgery and free answers: the canary hears nothing, the provider is asked once, with our key."""
    async with ScriptedUpstream() as canary:
        honest = (await app.ask()).headers
        for name, value in hostile(canary.base_url).items():
            before = len(app.up.requests)
            answer = await app.ask(**{name: value})
            assert answer.status_code == 200, (name, answer.text)
            assert "free" not in answer.text
            assert len(app.up.requests) == before + 1, name
            assert answer.headers["x-faregate-cost-usd"] == honest["x-faregate-cost-usd"], name
        for name in HOSTILE_HEADERS:
            assert (await app.ask(headers={name: canary.base_url})).status_code == 200
        app.up.on("m", Fail(status=500))
        before = len(app.up.requests)
        assert (await app.ask("plain", **hostile(canary.base_url))).status_code == 500
        assert len(app.up.requests) == before + 1, "no retries and no fallbacks by request"
        assert (canary.connections, canary.requests) == (0, [])
    assert {seen.headers["authorization"] for seen in app.up.requests} == {f"Bearer {PROVIDER_KEY}"}
    assert {seen.path for seen in app.up.requests} == {"/v1/chat/completions"}
    assert not {name for seen in app.up.requests for name in seen.headers} & {*HOSTILE_HEADERS, "x-evil"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_of_the_provider_is_not_followed(app: Running, status: int) -> None:
    """A provider that was taken over must not be able to send our key anywhere."""
    async with ScriptedUpstream() as canary:
        app.up.on("m", Json(status=status, body=b"{}", headers={"location": f"{canary.base_url}/chat/completions"}))
        answer = await app.ask("plain")
        assert answer.status_code == 502
        assert canary.connections == 0
        assert str(canary.port) not in answer.text
        assert "location" not in answer.headers


async def test_images_are_fetched_by_nobody_here(app: Running) -> None:
    """A URL inside a message is the provider's to fetch; we would fetch it from inside the network."""
    async with ScriptedUpstream() as canary:
        parts = [{"type": "image_url", "image_url": {"url": f"{canary.base_url}/a.png"}}, {"type": "text", "text": "What is it?"}]
        assert (await app.ask(messages=[{"role": "user", "content": parts}])).status_code == 200
        assert canary.connections == 0
    assert app.up.requests[-1].body["messages"][0]["content"] == parts


@pytest.mark.parametrize(
    "model", ["../../admin", "m/../../x", "up/m?x=1", "http://127.0.0.1/", "m\r\nx-evil: 1", "*", "", " ", "M", "up/", "/m"]
)
async def test_a_model_name_is_looked_up_and_nothing_else(app: Running, model: str) -> None:
    """A name that is not in the configuration reaches nothing, whatever it looks like."""
    answer = await app.ask(model)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "x-evil" not in answer.headers
    assert app.up.requests == []


# Headers


async def test_only_named_headers_reach_the_provider(app: Running) -> None:
    """Cookies, keys and addresses of clients are none of the provider's business; hop-by-hop headers end here."""
    sent = {
        "cookie": "session=1",
        "x-forwarded-for": "10.0.0.1",
        "x-real-ip": "10.0.0.1",
        "user-agent": "spy/1",
        "referer": "http://intra/",
        "proxy-authorization": "Basic eA==",
        "te": "trailers",
        "keep-alive": "timeout=5",
        "x-api-key": KEY,
        "x-custom": "1",
        "origin": "http://a",
        "openai-organization": "org-client",
        "accept-language": "ko",
        "accept-encoding": "br",
        "x-faregate-tags": "a=b",
        "x-request-id": "r-1",
    }
    passed = {"traceparent": "00-ab-cd-01", "tracestate": "a=b", "idempotency-key": "k-1", "openai-beta": "x=v2"}
    assert (await app.ask(headers={**sent, **passed})).status_code == 200
    (seen,) = app.up.requests
    expected = {"host", "user-agent", "accept", "accept-encoding", "content-type", "content-length", "authorization", "x-pool", *passed}
    assert set(seen.headers) == expected
    assert {name: seen.headers[name] for name in passed} == passed
    assert "spy" not in seen.headers["user-agent"]
    assert KEY not in str(seen.fields)


@pytest.mark.parametrize("status", [200, 400, 429])
async def test_only_named_headers_reach_the_client(app: Running, status: int) -> None:
    """Our account's organisation, the provider's cookies and infrastructure stay inside."""
    theirs = {
        "set-cookie": "__cf_bm=1",
        "openai-organization": "org-ours",
        "openai-project": "proj-ours",
        "server": "cloudflare",
        "cf-ray": "1",
        "x-ms-region": "East",
        "via": "1.1 x",
        "x-internal-url": "http://10.0.0.1",
        "alt-svc": "h3",
        "strict-transport-security": "max-age=1",
        "www-authenticate": "Bearer",
        "trailer": "x",
        "content-location": "/x",
        "refresh": "0",
    }
    kept = {"openai-processing-ms": "5", "x-ratelimit-remaining-tokens": "9", "x-request-id": "req_theirs"}
    error = {"error": {"message": "m", "type": "t", "param": None, "code": "c"}}
    app.up.on("m", Json(status=status, body=None if status == 200 else error, headers={**theirs, **kept}))
    answer = await app.ask("plain")
    assert answer.status_code == status
    assert not set(theirs) & set(answer.headers)
    assert {name: answer.headers[name] for name in kept} == kept


# Numbers and doubles: what we read is what the provider gets


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n"])
@pytest.mark.parametrize(
    "value", ["-1", "true", "1.5", "1e3", "1000000000000000000", "9" * 400, '"5"', "[5]", "{}", "-0", "NaN", "Infinity"]
)
async def test_a_number_that_is_not_a_count_is_refused(app: Running, name: str, value: str) -> None:
    """A cap that two readers understand differently is a hole in every budget."""
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"%b":%b}' % (name.encode(), value.encode())
    answer = await app.client.post("/chat/completions", content=body)
    assert answer.status_code == 400
    assert app.up.requests == []


@pytest.mark.parametrize(
    ("body", "cap"),
    [
        ('"max_tokens": 5, "max_tokens": 100000', 100000),
        ('"max_tokens": 100000, "max_tokens": 5', 5),
        ('"max_tok\\u0065ns": 7', 7),
        ('"max_tokens": 7, "max_tok\\u0065ns": 9', 9),
        ('"max_tokens": null, "n": null', 100),
        ('"max_completion_tokens": 6, "max_tokens": 9', 6),
    ],
)
async def test_what_is_said_twice_is_forwarded_once_as_it_was_read(app: Running, body: str, cap: int) -> None:
    """Which of two equal names counts differs between parsers: only one may leave us."""
    raw = r'{"model":"b","mod\u0065l":"m","messages":[{"role":"user","content":"x"}],' + body + "}"
    answer = await app.client.post("/chat/completions", content=raw.encode())
    assert answer.status_code == 200, answer.text
    (seen,) = app.up.requests
    pairs: list[tuple[str, Any]] = json.loads(seen.raw, object_pairs_hook=lambda pairs: pairs)
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names))
    assert seen.body["model"] == answer.headers["x-faregate-model"] == "m"
    assert [value for name, value in seen.body.items() if name in ("max_tokens", "max_completion_tokens")] == [cap]


@pytest.mark.parametrize("text", [b'"\\ud800"', b'"\xff"', b'"\xed\xa0\x80"', b'"a\x00b"', b'"a\nb"'])
async def test_text_that_is_no_text_is_refused_or_passed_as_it_is(app: Running, text: bytes) -> None:
    """Half a surrogate pair, broken UTF-8 and raw control characters read differently everywhere."""
    body = b'{"model":"m","messages":[{"role":"user","content":%b}]}' % text
    answer = await app.client.post("/chat/completions", content=body)
    assert answer.status_code == 400 or text in app.up.requests[-1].raw


# What is written down


EVIL = '\r\nINJECTED {"level":"error"}\n\x1b[31mred\x1b[0m\x00\u2028</script>'


async def test_nothing_of_a_request_breaks_the_log(app: Running) -> None:
    """One line per request, each of them JSON, with no control character: terminals and parsers believe what they read."""
    for body in (
        chat(EVIL),
        chat("m", user=EVIL, metadata={"session_id": EVIL, "tags": {EVIL: EVIL}}),
        chat("m", faregate={"session": EVIL}),
    ):
        await app.client.post("/chat/completions", json=body)
    answer = await app.ask(headers={"x-request-id": "a b", "x-faregate-session": "s;drop", "x-faregate-tags": "a=\t,=,b"})
    assert answer.headers["x-request-id"].startswith("fg-")
    long = "x" * 5000
    await app.ask("m", user=long, metadata={"session_id": long})
    async with asyncio.timeout(30):
        while len(app.log.read_bytes().splitlines()) < 5:
            await asyncio.sleep(0.01)
    data = app.log.read_bytes()
    assert len(app.log_lines()) == 5
    assert b"INJECTED" not in data
    assert not any(byte < 32 and byte != 10 for byte in data)
    assert all(len(line) < 2000 for line in data.splitlines())
    assert all(len(value) <= 256 for record in await app.records() for value in record.values() if isinstance(value, str))


async def test_metrics_do_not_grow_with_what_clients_invent(app: Running) -> None:
    """A label per invented name is memory for ever, here and in every system that reads the metrics."""

    async def series() -> int:
        text = (await app.client.get(f"{app.root}/metrics")).text
        assert "invented" not in text
        return sum(1 for line in text.splitlines() if line and not line.startswith("#"))

    async def one(number: int) -> None:
        name = f"invented-{number}"
        await app.ask(name)
        await app.ask("m", user=name, metadata={"session_id": name, "tags": {name: name}}, headers={"x-faregate-tags": f"{name}={name}"})

    async def some(numbers: range) -> None:
        for number in numbers:
            await one(number)

    await some(range(3))
    await app.client.get("/invented-path")
    before = await series()
    await asyncio.gather(*(some(range(start, 500, 8)) for start in range(8)))
    for number in range(20):
        await app.client.get(f"/invented-{number}")
        await app.client.request("BREW" if number % 2 else "PUT", f"/chat/completions?invented={number}")
    assert await series() <= before + 5


async def test_known_secrets_are_seen_nowhere(tmp_path: Path) -> None:
    """Keys of clients and of providers: not in an answer, a header, a metric, a log line, a record or on the screen."""
    wrong = "sk-wrong-secret-of-a-client-0123456789"
    secrets = (KEY, PROVIDER_KEY, HEADER_SECRET, wrong, "Tell-nobody-this-prompt", "The-answer-is-secret")
    seen: list[str] = []
    async with ScriptedUpstream() as up:
        config = CONFIG.replace("UP", up.base_url).replace('server: {store: "STORE"}\n', "")
        environment = {"PROVIDER_KEY": PROVIDER_KEY, "HEADER_SECRET": HEADER_SECRET}
        async with Gateway(tmp_path, config, environment=environment) as gateway, gateway.client() as client:
            messages = [{"role": "user", "content": "Tell-nobody-this-prompt"}]
            echo = Fail(status=401, message=f"Incorrect API key provided: {PROVIDER_KEY}, {HEADER_SECRET}.")
            for behaviour in (Json(text="The-answer-is-secret"), Stream(text="The-answer-is-secret"), Fail(status=500), Close(), echo):
                up.on("m", behaviour)
                for stream in (False, True):
                    answer = await client.post("/chat/completions", json=chat("plain", messages=messages, stream=stream))
                    seen.append(str(answer.headers))
                    if behaviour is not None and not isinstance(behaviour, Json | Stream):
                        seen.append(answer.text)
            for headers in ({"authorization": f"Bearer {wrong}"}, {"authorization": wrong}, {"authorization": "", "x-api-key": wrong}):
                answer = await client.post("/chat/completions", json=chat(messages=messages), headers=headers)
                seen += [answer.text, str(answer.headers)]
            answer = await client.post("/chat/completions", content=b'{"messages": "Tell-nobody-this-prompt" "api_key": ' + wrong.encode())
            seen += [answer.text, str(answer.headers)]
            for path in ("metrics", "readyz", "livez", "openapi.json", "v1/models", "v1/me"):
                seen.append((await client.get(f"{gateway.root}/{path}")).text)
            seen.append(str(await gateway.records()))
            seen.append(gateway.run("check", str(tmp_path / "router.yaml"), "--effective", check=False))
        seen += [(tmp_path / "out.log").read_text(), gateway.errors()]
    assert all(len(text) > 1 for text in seen[-2:])
    for secret in secrets:
        assert not [text for text in seen if secret in text], secret
