"""What a provider's answer means for the next step."""

from __future__ import annotations

import email.utils
import json
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from router import dispatch
from router.dispatch import Dispatcher, invalid_answer, is_event_stream, is_json, of_status, of_upstream_error, retry_after, says_error
from router.errors import RouterError
from router.ports import Endpoint, Timeouts, UpstreamError, UpstreamResponse
from router.snapshot import Fallback, Provider
from tests.pipeline_fakes import FakeResponse, FakeUpstream, Script, World, ask, json_answer, lost, snapshot

FALLBACK = Fallback()


def attempt() -> Any:
    """An attempt, as far as this stage looks at it."""
    return SimpleNamespace(deployment=snapshot().deployments["one/m"], status=0)


def answer(status: int, body: object, **headers: str) -> FakeResponse:
    encoded = body if isinstance(body, bytes) else msgspec.json.encode(body)
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return FakeResponse(Script([encoded] if encoded else [], status=status, headers=named))


def error(message: str = "No.", code: str | None = None) -> dict[str, object]:
    return {"error": {"message": message, "type": "t", "param": None, "code": code}}


@pytest.mark.parametrize(
    ("status", "cause", "fall_back", "retry_same"),
    [
        (400, "client", False, False),
        (401, "auth", True, False),
        (402, "payment", True, False),
        (403, "forbidden", True, False),
        (404, "client", False, False),
        (408, "408", True, True),
        (429, "429", True, True),
        (500, "5xx", True, True),
        (529, "5xx", True, True),
    ],
)
async def test_the_status_says_what_may_be_tried_next(status: int, cause: str, fall_back: bool, retry_same: bool) -> None:
    """A client's own mistake is the same everywhere; what is about the provider may work elsewhere."""
    failure = await of_status(answer(status, error()), attempt(), FALLBACK)
    assert (failure.cause, failure.fall_back, failure.retry_same) == (cause, fall_back, retry_same)


async def test_an_error_in_the_known_shape_is_kept_as_it_came() -> None:
    """Clients act on code, type and Retry-After."""
    given = answer(429, error(code="slow_down"), retry_after="7", x_request_id="up-1", set_cookie="no")
    failure = await of_status(given, attempt(), FALLBACK)
    assert failure.reply is not None
    assert msgspec.json.decode(failure.reply.body) == error(code="slow_down")
    assert failure.headers == [(b"retry-after", b"7")]
    assert (failure.upstream_id, failure.retry_after_seconds) == (b"up-1", 7.0)


async def test_a_message_alone_becomes_an_error_object() -> None:
    """Some servers send a string."""
    failure = await of_status(answer(500, {"error": "out of memory"}), attempt(), FALLBACK)
    assert failure.reply is not None
    assert msgspec.json.decode(failure.reply.body)["error"]["message"] == "out of memory"


@pytest.mark.parametrize(
    ("status", "shown", "code"),
    [
        (302, 502, "upstream_failed"),
        (404, 404, "upstream_refused"),
        (429, 429, "rate_limit_exceeded"),
        (500, 502, "upstream_failed"),
        (503, 503, "upstream_failed"),
        (504, 504, "upstream_failed"),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"error": 5}', b'{"detail": "x"}'])
async def test_a_status_without_an_error_object_becomes_ours(status: int, shown: int, code: str, body: bytes) -> None:
    """HTML of a balancer is nothing that a client library can read."""
    failure = await of_status(answer(status, body), attempt(), FALLBACK)
    assert failure.error is not None
    assert (failure.error.spec.http_status, failure.error.spec.code) == (shown, code)


async def test_an_error_whose_body_breaks_off_is_still_an_error() -> None:
    """The status has come; the rest is not needed."""
    broken = FakeResponse(Script([lost("truncated")], status=503))
    failure = await of_status(broken, attempt(), FALLBACK)
    assert (failure.status, failure.fall_back) == (503, True)
    assert broken.aborted


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_prompt_that_is_too_long_may_go_to_a_longer_context(wanted: bool) -> None:
    """400 in general is the client's mistake; this one another model may take."""
    fallback = replace(FALLBACK, on_context_length=wanted)
    failure = await of_status(answer(400, error(code="context_length_exceeded")), attempt(), fallback)
    assert (failure.cause, failure.fall_back) == ("context_length_exceeded", wanted)


async def test_a_refused_credential_is_told_without_the_credential() -> None:
    """It is the operator's, and providers quote it."""
    told = error("Incorrect API key provided: sk-abcdefghijklmnop1234. Also k.")
    failure = await of_status(answer(401, told), attempt(), FALLBACK)
    assert failure.error is not None
    assert "sk-abc" not in failure.error.message
    assert failure.error.spec.http_status == 502
    silent = await of_status(answer(403, b""), attempt(), FALLBACK)
    assert silent.error is not None
    assert "no reason given" in silent.error.message


@pytest.mark.parametrize(
    ("fault", "status", "retry_same"),
    [
        ("connect", 502, True),
        ("reset", 502, True),
        ("protocol", 502, True),
        ("first_byte_timeout", 504, False),
        ("connect_timeout", 504, False),
    ],
)
def test_a_failure_below_http_has_a_status_of_its_own(fault: str, status: int, retry_same: bool) -> None:
    """A timeout is not tried again at the same place: it took its time already."""
    failure = of_upstream_error(lost(fault), attempt(), replace(FALLBACK, on_timeout=False))
    assert failure.error is not None
    assert (failure.error.spec.http_status, failure.retry_same) == (status, retry_same)
    assert failure.fall_back is (status == 502)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([(b"retry-after", b"7")], 7.0),
        ([(b"retry-after", b"1.5")], 1.5),
        ([(b"retry-after-ms", b"250"), (b"retry-after", b"9")], 0.25),
        ([(b"retry-after-ms", b"soon"), (b"retry-after", b"9")], 9.0),
        ([(b"retry-after", b"-3")], 0.0),
        ([(b"retry-after", b"nan")], None),
        ([(b"retry-after", b"inf")], None),
        ([(b"retry-after", b"whenever")], None),
        ([], None),
    ],
)
def test_a_wait_is_read_in_all_its_forms(headers: list[tuple[bytes, bytes]], seconds: float | None) -> None:
    """Garbage is no wait at all."""
    assert retry_after(headers) == seconds


def test_a_wait_until_a_date_is_the_time_until_then() -> None:
    """HTTP allows both forms."""
    date = email.utils.formatdate(time.time() + 120, usegmt=True).encode()
    found = retry_after([(b"retry-after", date)])
    assert found is not None
    assert 60 < found <= 121


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error": {"message": "x"}}', True),
        (b'{"error": "x"}', True),
        (b'{"error": null, "choices": []}', False),
        (b'{"choices": [{"message": {"content": "\\"error\\""}}]}', False),
        (b'{"choices": [], "error": {"m": 1}}', False),
        (b'{"data": [], "error": {"m": 1}}', False),
        (b'{"error": ', False),
        (b'["error"]', False),
    ],
)
def test_an_error_with_status_200_is_seen(body: bytes, expected: bool) -> None:
    """And an answer that speaks of errors is none."""
    assert says_error(body) is expected


def test_content_types_are_told_apart() -> None:
    """Names differ in case and parameters."""
    assert is_event_stream([(b"content-type", b"Text/Event-Stream; charset=utf-8")])
    assert not is_event_stream([])
    assert is_json([(b"content-type", b"application/json")])
    assert not is_json([(b"content-type", b"text/html")])


def test_a_200_that_is_no_answer_may_be_tried_again() -> None:
    """It names what came instead."""
    failure = invalid_answer(attempt(), "a poem")
    assert failure.error is not None
    assert "a poem" in failure.error.message
    assert failure.retry_same


async def test_an_endpoint_with_http2_or_a_proxy_goes_over_the_second_client() -> None:
    """The quick one speaks neither."""
    world = World(snapshot())
    first, second = FakeUpstream(), FakeUpstream(json_answer())
    world.pipeline._dispatcher = Dispatcher(wire=first, second_wire=second)
    world.snapshot.providers["one"].endpoint.http2 = True
    exchange = await world.ask(ask())
    assert exchange.status == 200
    assert (first.called, second.called) == ([], ["one"])


class Adapter:
    """The lane for other wires."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def call(self, provider: Provider, upstream_id: str, operation: str, body: bytes, *, timeouts: Timeouts) -> UpstreamResponse:
        self.bodies.append(body)
        return FakeResponse(json_answer())


@pytest.mark.parametrize("installed", [True, False])
async def test_a_provider_with_a_wire_of_its_own_goes_over_the_adapter(installed: bool) -> None:
    """Without the extra the answer says what to install; nothing is held for a call that cannot be made."""
    world = World(snapshot())
    adapter = Adapter()
    world.pipeline._dispatcher = Dispatcher(wire=world.upstream, adapter=adapter if installed else None)
    for name, deployment in list(world.snapshot.deployments.items()):
        changed = replace(deployment, provider=replace(deployment.provider, lane="litellm"))
        # A plain dict behind a Mapping.
        world.snapshot.deployments[name] = changed  # type: ignore[index]
    exchange = await world.ask(ask())
    assert exchange.status == (200 if installed else 502)
    assert len(adapter.bodies) == int(installed)
    assert not world.ledger.open_holds
    if not installed:
        assert b"faregate[litellm]" in exchange.sent
        assert world.ledger.records == []


def test_the_stage_raises_only_what_it_says() -> None:
    """Types that the pipeline catches by name."""
    assert issubclass(UpstreamError, Exception)
    assert issubclass(RouterError, Exception)
    assert dispatch.PATHS["chat"] == "/chat/completions"
    assert Endpoint.__dataclass_fields__["headers"].repr is False


@pytest.mark.parametrize("said", ["key sk-upstream-secret-1234567890 is bad", "key sk-upstream-secret-12345 is bad"])
@pytest.mark.parametrize("escaped", [False, True])
async def test_no_part_of_our_key_is_told(said: str, escaped: bool) -> None:
    """Providers quote it whole, cut, or with letters escaped."""
    asked = attempt()
    endpoint = replace(asked.deployment.provider.endpoint, headers=(("authorization", "Bearer sk-upstream-secret-1234567890"),))
    asked.deployment = replace(asked.deployment, provider=replace(asked.deployment.provider, endpoint=endpoint))
    body = json.dumps(error(said)).encode()
    if escaped:
        body = body.replace(b"-", b"\\u002d")
    failure = await of_status(answer(400, body), asked, FALLBACK)
    assert failure.reply is not None
    assert "secret" not in msgspec.json.decode(failure.reply.body)["error"]["message"]
    assert "[key]" in msgspec.json.decode(failure.reply.body)["error"]["message"]


@pytest.mark.parametrize(
    "value", ["9" * 400, "9" * 5000, "99999999999999999999 jan 2020 00:00:00", "Mon, 01 Jan 2020 00:00:00 +99999999999999999999"]
)
@pytest.mark.parametrize("name", ["retry-after", "retry-after-ms"])
def test_a_wait_that_makes_no_sense_is_none(name: str, value: str) -> None:
    """A provider's mistake must not become ours."""
    assert retry_after([(name.encode(), value.encode())]) is None
