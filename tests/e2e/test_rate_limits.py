"""Rate limits as clients meet them, over a real store: what is refused, what the headers say, where calls go instead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest

from tests.running import Running, running
from tests.scripted_behaviours import Gate, Json, Stream, usage
from tests.scripted_upstream import ScriptedUpstream

OTHER = "sk-test-other-0123456789abcdefghijklmno"
CONFIG = """
version: 1
server: {{store: "{store}"}}
providers:
  up: {{kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}}
models:
  m: {{at: up/m, price: {{input: 1, output: 1}}, default_max_output: 100}}
  two: {{at: [{{deployment: up/a, rpm: 1}}, {{deployment: up/b, rpm: 2}}], price: {{input: 1, output: 1}}, default_max_output: 100}}
routes:
  pair: {{default: {{use: two, by: fixed}}}}
budgets: {{everyone: $10}}
limits: {{each_session: {{concurrent: 2}}}}
teams:
  search: {{{limits}}}
keys:
  tester: {{team: search, secret: $TEST_KEY}}
  other: {{secret: $OTHER}}
"""


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "ledger.sqlite")
    url: str = request.getfixturevalue("redis_url")
    return url


@asynccontextmanager
async def limited(tmp_path: Path, limits: str, store: str = "STORE", up: ScriptedUpstream | None = None) -> AsyncIterator[Running]:
    async with running(tmp_path, CONFIG.format(limits=limits, store=store), up=up, environment={"OTHER": OTHER}) as app:
        yield app


async def test_what_has_no_room_is_refused_with_the_time_to_wait(tmp_path: Path, store: str) -> None:
    """Clients back off by these headers; one key's limit is not another's."""
    async with limited(tmp_path, "rpm: 3", store) as app:
        good = await asyncio.gather(*(app.ask() for _ in range(3)))
        assert [answer.status_code for answer in good] == [200] * 3
        assert {answer.headers["x-ratelimit-limit-requests"] for answer in good} == {"3"}
        assert sorted(answer.headers["x-ratelimit-remaining-requests"] for answer in good) == ["0", "1", "2"]
        assert {answer.headers["x-ratelimit-reset-requests"] for answer in good} == {"1m0s"}
        refused = await app.ask()
        assert refused.status_code == 429
        error = refused.json()["error"]
        assert (error["code"], error["type"], error["limit_name"]) == ("rate_limit_exceeded", "requests", "team:search:rpm")
        assert (error["limit"], error["used"], error["needed"]) == (3, 3, 1)
        assert "3 requests per minute" in error["message"]
        wait = int(refused.headers["retry-after"])
        assert 50 <= wait <= 60
        # Sixty slots of a little more than a second: the longest wait is a slot longer than the header may say.
        assert wait - 1 <= error["retry_after_ms"] / 1000 <= wait + 1.1
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert "x-should-retry" not in refused.headers
        other = await app.ask(headers={"authorization": f"Bearer {OTHER}"})
        assert other.status_code == 200
        assert "x-ratelimit-limit-requests" not in other.headers
        metrics = (await app.client.get(f"{app.root}/metrics")).text
        assert 'faregate_rate_limited_total{kind="team",limit="rpm",action="refuse"} 1' in metrics
        assert len(app.up.requests) == 4


async def test_tokens_count_as_the_most_there_can_be_and_then_as_what_was_used(tmp_path: Path, store: str) -> None:
    """A limit on tokens must not be overrun by calls under way, nor used up by caps that were never reached."""
    async with limited(tmp_path, "tpm: 1000", store) as app:
        app.up.on("m", Json(usage=usage(prompt=11, completion=9)))
        for left in (980, 960):
            assert (await app.ask(max_tokens=500)).status_code == 200
            await app.settled()
            shown = await app.ask(max_tokens=1)
            assert int(shown.headers["x-ratelimit-remaining-tokens"]) <= left
            assert shown.headers["x-ratelimit-limit-tokens"] == "1000"
            await app.settled()
        refused = await app.ask(max_tokens=990)
        assert refused.status_code == 429
        assert refused.json()["error"]["type"] == "tokens"
        assert refused.headers["x-should-retry"] == "false"
        waits = await app.ask(max_tokens=860)
        assert waits.status_code == 429
        assert "retry-after" in waits.headers


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_under_way_are_bounded_and_free_their_place_when_they_end(tmp_path: Path, store: str, stream: bool) -> None:
    """A session that fans out is held to two at a time, and goes on as soon as one has ended."""
    gate = Gate()
    async with limited(tmp_path, "", store) as app:
        app.up.on("m", Stream(before=gate) if stream else Json(before=gate))
        session = {"x-faregate-session": "run-1"}
        first = [asyncio.ensure_future(app.ask(headers=session, stream=stream)) for _ in range(2)]
        await app.up.until_seen(2)
        third = await app.ask(headers=session, stream=stream)
        assert third.status_code == 429
        assert "2 calls at a time" in third.json()["error"]["message"]
        gate.open()
        assert [answer.status_code for answer in await asyncio.gather(*first)] == [200, 200]
        await app.settled()
        assert (await app.ask(headers=session, stream=stream)).status_code == 200


async def test_each_user_of_a_team_has_the_limit_for_himself(tmp_path: Path) -> None:
    """One user who sends in a loop must not stop the others of the team."""
    async with limited(tmp_path, "users: {rpm: 1}") as app:
        statuses = [(await app.ask(user=name)).status_code for name in ("ann", "ann", "bob")]
        assert statuses == [200, 429, 200]


async def test_a_candidate_at_its_providers_limit_is_passed_over(tmp_path: Path, store: str) -> None:
    """The provider would refuse the call; the next candidate has room. Only when none has is the client told."""
    async with limited(tmp_path, "", store) as app:
        answers = [await app.ask("pair") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers.get("x-faregate-deployment") for answer in answers[:3]] == ["up/a", "up/b", "up/b"]
        assert answers[1].headers["x-faregate-reason"] == "fallback:rate_limited"
        assert "x-ratelimit-limit-requests" not in answers[0].headers
        assert "provider's rate limit" in answers[3].json()["error"]["message"]
        assert 1 <= int(answers[3].headers["retry-after"]) <= 60
        metrics = (await app.client.get(f"{app.root}/metrics")).text
        assert 'faregate_rejections_total{deployment="up/a",reason="rate_limited"} 3' in metrics


async def test_our_own_limits_are_shown_instead_of_the_providers(tmp_path: Path) -> None:
    """The provider's numbers are about this service's account and would mislead a client that has limits here."""
    told = {"x-ratelimit-limit-requests": "9999", "x-ratelimit-remaining-tokens": "77"}
    async with limited(tmp_path, "rpm: 100") as app:
        app.up.on("m", Json(headers=told))
        ours = await app.ask()
        assert ours.headers["x-ratelimit-limit-requests"] == "100"
        assert "x-ratelimit-remaining-tokens" not in ours.headers
        theirs = await app.ask(headers={"authorization": f"Bearer {OTHER}"})
        assert theirs.headers["x-ratelimit-limit-requests"] == "9999"


async def test_the_official_library_sees_a_rate_limit(tmp_path: Path) -> None:
    """Programs catch this class by name."""
    async with limited(tmp_path, "rpm: 1") as app, openai.AsyncOpenAI(base_url=app.base_url, api_key=OTHER, max_retries=0) as client:
        mine = client.with_options(api_key=app.client.headers["authorization"].split()[1])
        await mine.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
        with pytest.raises(openai.RateLimitError) as caught:
            await mine.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
        assert caught.value.code == "rate_limit_exceeded"
        assert caught.value.type == "requests"
