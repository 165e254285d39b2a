"""A provider that quotes our credential, in an event of a stream or in a header: no client may see it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from router.quoted import QuotedInStream
from tests.running import PROVIDER_KEY, compiled, running
from tests.scripted_behaviours import Fail, Json, Stream
from tests.scripted_upstream import ScriptedUpstream

CONFIG = """
version: 1
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 0, output: 10}}
keys:
  tester: {secret: $TEST_KEY}
"""
ERROR = {"message": f"Incorrect API key {PROVIDER_KEY}; {PROVIDER_KEY[:15]}*** was used.", "type": "server_error", "code": "boom"}


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}], ids=["plain", "usage"])
@pytest.mark.parametrize("pieces", ["events", "bytes", "whole"])
async def test_a_later_error_event_does_not_show_our_key(
    tmp_path: Path, options: dict[str, Any], pieces: Literal["events", "bytes", "whole"]
) -> None:
    """Wherever the reads cut it. What a model writes passes as it is, whatever words are in it."""
    up, text = ScriptedUpstream(), " error sk-provider-01234 "
    up.on("m", Stream(tokens=3, text=text, end="error_event", error=ERROR, pieces=pieces))
    async with running(tmp_path, CONFIG, up=up) as run:
        answer = await run.ask(stream=True, **options)
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert [event["choices"][0]["delta"].get("content") for event in events[1:4]] == [text] * 3
    assert events[4]["error"] == {**ERROR, "message": "Incorrect API key [key]; [key]*** was used."}


async def test_headers_do_not_show_our_key(tmp_path: Path) -> None:
    """Of an answer, of a stream and of an error."""
    headers = {"x-request-id": f"for-{PROVIDER_KEY}", "openai-version": PROVIDER_KEY, "x-ratelimit-limit-requests": "5"}
    up = ScriptedUpstream()
    async with running(tmp_path, CONFIG, up=up) as run:
        for behaviour, stream in (
            (Json(headers=headers), False),
            (Stream(headers=headers), True),
            (Fail(status=400, headers=headers), False),
        ):
            up.on("m", behaviour)
            answer = await run.ask(stream=stream)
            assert PROVIDER_KEY not in str(answer.headers)
            assert (answer.headers["x-request-id"], answer.headers["x-ratelimit-limit-requests"]) == ("for-[key]", "5")


def test_what_is_kept_back_of_an_event_is_not_lost() -> None:
    """It only looked like the beginning of a credential."""
    snapshot = compiled(CONFIG.replace('"UP"', '"http://127.0.0.1:1/v1"'))
    quoted = QuotedInStream(snapshot.providers["up"])
    assert quoted.clean(b'data: {"message": "sk-pro') == b'data: {"message": "'
    assert quoted.clean(b'of"}') == b'sk-proof"}'
    assert quoted.clean(b" s") == b" "
    assert quoted.flush() == b"s"
