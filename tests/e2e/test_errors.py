"""Every error that a client can get: how it is brought about, and what it looks like."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx2 as httpx
import pytest

from router import errors
from router.adapters.sqlite.ledger import SqliteLedger
from router.errors import ErrorSpec, StoreUnavailable
from router.pipeline import Pipeline
from router.reservation import Reservations
from tests.running import Running, chat, running
from tests.scripted_behaviours import Close, Fail, Hang, Json, Raw, Stream
from tests.scripted_upstream import ScriptedUpstream

EXPIRED = "sk-test-expired-0123456789abcdefghijklm"
LIMITED = "sk-test-limited-0123456789abcdefghijklm"
POOR = "sk-test-poor-0123456789abcdefghijklmnop"

CONFIG = """
version: 1
server: {store: "STORE", max_body: 100KiB, max_header: 8KiB, max_connections: 40}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY, timeouts: {first_byte: 200ms, idle: 200ms}}
  gone: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: $PROVIDER_KEY, timeouts: {connect: 2s}}
models:
  m: {at: up/m, price: {input: 0, output: 10}, default_max_output: 100}
  other: {at: up/other, price: {input: 0, output: 10}, default_max_output: 100}
  gone: {at: gone/g, price: {input: 0, output: 10}}
  texts: {at: up/texts, price: {input: 0, output: 10}, capabilities: [chat, stream]}
  narrow: {at: up/narrow, price: {input: 0, output: 10}, context: 100}
routes:
  plain: {use: m, fallback: {tries: 1, retries: 0}}
  lonely: {use: gone, fallback: {tries: 1, retries: 0}}
  strict:
    rules: [{name: at-home, when: {tags: {data: secret}}, use: texts, otherwise: refuse}]
    default: m
  capped: {use: m, max_cost: $0.0001}
budgets:
  pennies: {limit: $0.0001, when: {key: poor}}
keys:
  tester: {secret: $TEST_KEY}
  old: {secret: $EXPIRED, expires: 2020-01-01}
  limited: {secret: $LIMITED, models: [other]}
  poor: {secret: $POOR}
"""


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, CONFIG, environment={"EXPIRED": EXPIRED, "LIMITED": LIMITED, "POOR": POOR}) as served:
        yield served


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def raw(app: Running, data: bytes) -> httpx.Response:
    """Bytes to the socket and the answer to them, read until the end of its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
    writer.write(data)
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines[1:] if line)]
    body = await reader.readexactly(int(dict(headers)["content-length"]))
    writer.close()
    return httpx.Response(int(lines[0].split()[1]), headers=headers, content=body)


# What brings each error about


async def bad_json(app: Running) -> httpx.Response:
    return await app.client.post("/chat/completions", content=b'{"model": "m", ')


async def bad_field(app: Running) -> httpx.Response:
    return await app.ask(max_tokens=-1)


async def bad_http(app: Running) -> httpx.Response:
    return await raw(app, b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")


async def no_key(app: Running) -> httpx.Response:
    return await app.ask(headers=bearer("sk-nobody-0123456789"))


async def old_key(app: Running) -> httpx.Response:
    return await app.ask(headers=bearer(EXPIRED))


async def no_money(app: Running) -> httpx.Response:
    return await app.ask(headers=bearer(POOR))


async def too_dear(app: Running) -> httpx.Response:
    return await app.ask("capped")


async def not_theirs(app: Running) -> httpx.Response:
    return await app.ask(headers=bearer(LIMITED))


async def refused_by_rule(app: Running) -> httpx.Response:
    tools = [{"type": "function", "function": {"name": "f"}}]
    return await app.ask("strict", tools=tools, headers={"x-faregate-tags": "data=secret"})


async def no_model(app: Running) -> httpx.Response:
    return await app.ask("nothing-of-that-name")


async def no_page(app: Running) -> httpx.Response:
    return await app.client.post("/chat/completion", json=chat())


async def wrong_verb(app: Running) -> httpx.Response:
    return await app.client.get("/chat/completions")


async def slow_head(app: Running) -> httpx.Response:
    """The watch over slow clients, looked at as if an hour had passed."""
    answer = asyncio.ensure_future(raw(app, b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n"))
    await sweep_when(app, "head")
    return await answer


async def sweep_when(app: Running, phase: str) -> None:
    """Wait until a connection has come that far, and let an hour pass for it."""
    now = asyncio.get_running_loop().time()
    async with asyncio.timeout(20):
        while True:
            for connection in list(app.app._server.server_state.connections):
                # Uvicorn lists its own classes only.
                if connection.phase == phase:  # type: ignore[union-attr]
                    # As above.
                    connection.sweep(now + 3600)  # type: ignore[union-attr]
                    return
            await asyncio.sleep(0.001)


async def large_body(app: Running) -> httpx.Response:
    return await app.ask(padding="x" * 200_000)


async def wrong_type(app: Running) -> httpx.Response:
    return await app.client.post("/chat/completions", content=b"model=m", headers={"content-type": "application/x-www-form-urlencoded"})


async def limited_without_words(app: Running) -> httpx.Response:
    app.up.on("m", Json(status=429, body=b"slow down", headers={"retry-after": "7"}))
    return await app.ask("plain")


async def large_head(app: Running) -> httpx.Response:
    return await app.ask(headers={"x-large": "x" * 9000})


async def defect(app: Running) -> httpx.Response:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of the test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "_try_in_order", broken)
        return await app.ask()


async def refused_connection(app: Running) -> httpx.Response:
    return await app.ask("lonely")


async def no_http(app: Running) -> httpx.Response:
    app.up.on("m", Raw([b"SSH-2.0-OpenSSH_9.9\r\n"]))
    return await app.ask("plain")


async def refused_us(app: Running) -> httpx.Response:
    app.up.on("m", Fail(status=401, type="authentication_error", code="invalid_api_key"))
    return await app.ask("plain")


async def too_long(app: Running) -> httpx.Response:
    return await app.ask("narrow", max_tokens=101)


async def nowhere_to_go(app: Running) -> httpx.Response:
    return await app.ask("texts", tools=[{"type": "function", "function": {"name": "f"}}])


async def no_store(app: Running) -> httpx.Response:
    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("gone for the test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reservations, "hold", away)
        return await app.ask()


async def too_many(app: Running) -> httpx.Response:
    peers = [await asyncio.open_connection("127.0.0.1", app.port) for _ in range(40)]
    try:
        return await raw(app, b"")
    finally:
        for _, writer in peers:
            writer.close()


async def no_answer(app: Running) -> httpx.Response:
    app.up.on("m", Hang())
    return await app.ask("plain")


Scenario = Callable[[Running], Awaitable[httpx.Response]]

SCENARIOS: dict[str, Scenario] = {
    "invalid_json": bad_json,
    "invalid_request": bad_field,
    "bad_http": bad_http,
    "invalid_api_key": no_key,
    "key_expired": old_key,
    "context_length_exceeded": too_long,
    "budget_exceeded": no_money,
    "max_cost_exceeded": too_dear,
    "model_not_allowed": not_theirs,
    "policy_refused": refused_by_rule,
    "model_not_found": no_model,
    "unknown_url": no_page,
    "method_not_allowed": wrong_verb,
    "request_timeout": slow_head,
    "body_too_large": large_body,
    "unsupported_media_type": wrong_type,
    "rate_limit_exceeded": limited_without_words,
    "headers_too_large": large_head,
    "internal_error": defect,
    "upstream_failed": refused_connection,
    "upstream_invalid_response": no_http,
    "upstream_authentication_failed": refused_us,
    "no_deployment_available": nowhere_to_go,
    "budget_store_unavailable": no_store,
    "overloaded": too_many,
    "upstream_timeout": no_answer,
}
ELSEWHERE = {
    # Nobody is there to read it.
    "client_closed_request",
    # In test_drain.py.
    "shutting_down",
    # Its status is the provider's: `test_what_is_no_answer_becomes_an_error_of_ours`.
    "upstream_refused",
    # In test_policy_kinds.py.
    "deadline_exceeded",
    # In test_admin_api.py.
    "invalid_admin_credential",
    "role_not_allowed",
    "not_found",
    # In test_guards.py, test_live_control.py and test_runaway.py.
    "request_limit_exceeded",
    "frozen",
    "session_paused",
    "session_refused",
}
FOR_GOOD = {"no_deployment_available"}
"""Scenarios here that waiting does not help, though it may help others of the same code."""


def test_every_error_of_the_table_is_provoked() -> None:
    """An entry that nothing can bring about is a promise that nobody keeps."""
    assert {spec.code for spec in errors.ALL} == set(SCENARIOS) | ELSEWHERE


@pytest.mark.parametrize(
    "spec", [spec for spec in errors.ALL if spec.code in SCENARIOS and spec is not errors.RATE_LIMIT_TOO_SMALL], ids=lambda spec: spec.code
)
async def test_an_error_has_the_shape_status_and_headers_that_clients_know(app: Running, spec: ErrorSpec) -> None:
    """Clients branch on status, type and code; the SDKs resend unless told that it is of no use."""
    answer = await SCENARIOS[spec.code](app)
    assert answer.status_code == spec.http_status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert (error["code"], error["type"]) == (spec.code, spec.openai_type)
    assert error["message"].strip()
    assert "Traceback" not in answer.text
    assert answer.headers.get("x-should-retry") == (None if spec.retryable and spec.code not in FOR_GOOD else "false")
    if not spec.retryable:
        assert "retry-after" not in answer.headers
    if spec.source == "client":
        assert app.up.requests == [] or spec.code == "rate_limit_exceeded"


async def test_a_client_that_leaves_is_a_499_in_the_log_only(app: Running) -> None:
    """Nobody reads the answer, but whoever looks at the log must see why the call has none."""
    app.up.on("other", Stream(end="hang"))
    async with app.client.stream("POST", "/chat/completions", json=chat("other", stream=True)) as answer:
        assert answer.status_code == 200
        await app.up.until_seen(1)
    await app.up.until(lambda: app.up.requests[0].gone.is_set())
    await app.settled()
    await until_logged(app, 1)
    (line,) = app.log_lines()
    assert (line["status"], line["outcome"], line["error"]) == (499, "client_left", "client_closed_request")


async def until_logged(app: Running, count: int) -> None:
    async with asyncio.timeout(20):
        while len(app.log.read_text().splitlines()) < count:
            await asyncio.sleep(0.01)


async def test_a_defect_leaves_its_traceback_in_the_log_and_nothing_in_the_answer(app: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """The client learns that it is our fault, the operator learns where."""
    answer = await defect(app)
    assert "ZeroDivisionError" not in answer.text
    assert "ZeroDivisionError" in capsys.readouterr().out


async def test_a_request_that_waits_when_the_server_drains_is_told_so(app: Running) -> None:
    """A pipelined request must not vanish: its sender needs to know that nothing was done."""
    app.up.on("other", Hang())
    body = json.dumps(chat("other")).encode()
    call = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b" % (
        app.client.headers["authorization"].removeprefix("Bearer ").encode(),
        len(body),
        body,
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
    writer.write(call + call)
    await app.up.until_seen(1)
    for connection in list(app.app._server.server_state.connections):
        connection.shutdown()
    text = (await reader.read()).decode()
    first, _, second = text.partition("HTTP/1.1 503")
    assert "504" in first.split("\r\n")[0]
    assert '"code":"shutting_down"' in second
    assert "connection: close" in second
    assert len(app.up.requests) == 1
    writer.close()


# What the proxy says of a provider's errors


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 429, 500, 503, 529])
async def test_an_error_of_the_provider_passes_as_it_is(app: Running, status: int) -> None:
    """Clients act on the provider's own code, type and param; a proxy that rewrites them breaks their handling."""
    app.up.on(
        "m", Fail(status=status, message="No.", type="their_type", code="their_code", param="their_param", headers={"retry-after": "7"})
    )
    answer = await app.ask("plain")
    assert answer.status_code == status
    assert answer.json() == {"error": {"message": "No.", "type": "their_type", "param": "their_param", "code": "their_code"}}
    assert answer.headers["retry-after"] == "7"
    assert len(app.up.requests) == 1


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_a_providers_refusal_of_our_key_never_looks_like_the_clients_fault(app: Running, status: int) -> None:
    """A client that gets the provider's 401 would throw its own good key away."""
    app.up.on("m", Fail(status=status, message="Incorrect API key provided.", type="invalid_request_error", code="invalid_api_key"))
    answer = await app.ask("plain")
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_authentication_failed"
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("behaviour", "status", "code"),
    [
        (Json(status=502, body=b"<html>Bad gateway</html>", headers={"content-type": "text/html"}), 502, "upstream_failed"),
        (Json(status=500, body=b"oops"), 502, "upstream_failed"),
        (Json(status=503, body=b""), 503, "upstream_failed"),
        (Json(status=504, body=b"[]"), 504, "upstream_failed"),
        (Json(status=418, body=b"<html>"), 418, "upstream_refused"),
        (Json(status=204, body=b""), 502, "upstream_invalid_response"),
        (Json(status=302, body=b"", headers={"location": "http://127.0.0.1:9/"}), 502, "upstream_failed"),
        (Fail(status=799), 502, "upstream_failed"),
        (Fail(status=600), 502, "upstream_failed"),
        (Json(body=b"<html>Welcome</html>", headers={"content-type": "text/html"}), 502, "upstream_invalid_response"),
        (Json(body=b""), 502, "upstream_invalid_response"),
        (Json(body={"error": {"message": "overloaded"}}), 502, "upstream_invalid_response"),
        (Close(), 502, "upstream_failed"),
        (Close(reset=True), 502, "upstream_failed"),
        (Json(end="truncate"), 502, "upstream_failed"),
        (Json(end="reset"), 502, "upstream_failed"),
    ],
    ids=lambda value: None,
)
async def test_what_is_no_answer_becomes_an_error_of_ours(app: Running, behaviour: object, status: int, code: str) -> None:
    """Whatever comes from the other side, the client gets JSON in the shape it can read, and never a broken connection."""
    # Each is a Behaviour.
    app.up.on("m", behaviour)  # type: ignore[arg-type]
    answer = await app.ask("plain")
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == code
    assert "location" not in answer.headers
    assert len(app.up.requests) == 1


async def test_an_error_in_text_form_is_put_into_the_shape(app: Running) -> None:
    """Some servers answer `{"error": "text"}`, which the SDKs cannot read."""
    app.up.on("m", Json(status=404, body={"error": "model not loaded"}))
    answer = await app.ask("plain")
    assert answer.status_code == 404
    assert answer.json()["error"] == {"message": "model not loaded", "type": "api_error", "param": None, "code": None}


async def test_a_provider_that_echoes_its_key_does_not_tell_it_to_our_clients(tmp_path: Path) -> None:
    """Providers quote the key they refuse, in whole or in part; it is not our client's."""
    key = "0f3a9c1277be4d5582a6c0ffee123456"
    async with running(tmp_path, CONFIG.replace("$PROVIDER_KEY", "$HEX_KEY"), environment=KEYS | {"HEX_KEY": key}) as app:
        app.up.on("m", Fail(status=401, message=f"Incorrect API key provided: {key}. Also sk-abcdefghijklmnop1234."))
        answer = await app.ask("plain")
        assert key not in answer.text
        assert "sk-abcdefgh" not in answer.text


KEYS = {"EXPIRED": EXPIRED, "LIMITED": LIMITED, "POOR": POOR}


async def test_a_wrong_key_is_refused_before_anything_else_is_looked_at(app: Running) -> None:
    """Whoever has no key learns nothing of the body's faults, and costs no parsing."""
    answer = await app.client.post("/chat/completions", content=b"{{{{", headers=bearer("sk-nobody-0123456789"))
    assert answer.json()["error"]["code"] == "invalid_api_key"


async def test_the_refusal_for_money_says_whose_how_much_and_until_when(app: Running) -> None:
    """A person who reads it must know whom to ask and what would fit."""
    answer = await no_money(app)
    error = answer.json()["error"]
    assert error["budget"] == "pennies"
    assert (error["limit_usd"], error["spent_usd"], error["held_usd"], error["needed_usd"]) == ("0.0001", "0.00", "0.00", "0.001")
    assert error["resets_at"] is None
    for part in ("pennies", "0.0001 USD", "0.001 USD", error["request_id"]):
        assert part in error["message"]
    assert answer.headers["x-faregate-request-id"] == error["request_id"]


async def test_refusals_of_a_store_that_is_away_say_when_to_come_back(app: Running) -> None:
    """Waiting does help, and the SDKs wait exactly as long as they are told."""
    answer = await no_store(app)
    assert answer.headers["retry-after"] == "1"
    assert isinstance(app.app.service.ledger, SqliteLedger)


async def test_a_dead_provider_is_named(app: Running) -> None:
    """Of ten deployments the operator must know which one."""
    answer = await refused_connection(app)
    assert "gone/g" in answer.json()["error"]["message"]


async def test_head_and_pages_of_others_have_our_error_shape_too(app: Running) -> None:
    """A mistyped base URL is the most common mistake of all."""
    for verb, path, status in (
        ("GET", "/", 404),
        ("PUT", "/v1/models", 405),
        ("POST", "/v1/responses", 404),
        ("OPTIONS", "/v1/models", 405),
    ):
        answer = await app.client.request(verb, f"{app.root}{path}")
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_wrong_upstream_type_is_never_the_default(app: Running) -> None:
    """The fixture's provider answers by default: what failed above failed because of the scenario."""
    assert (await app.ask("plain")).status_code == 200
    assert isinstance(app.up, ScriptedUpstream)


async def test_plain_json_where_a_stream_was_asked_for_is_passed_on(app: Running) -> None:
    """Some servers ignore `stream` for some models. The answer is whole and paid for: withholding it helps nobody."""
    app.up.on("m", Json(text="All at once."))
    answer = await app.ask("plain", stream=True)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["choices"][0]["message"]["content"] == "All at once."
    await app.settled()
    (record,) = await app.records()
    assert (record["output_tokens"], record["charge_nusd"]) == (3, 30_000)
