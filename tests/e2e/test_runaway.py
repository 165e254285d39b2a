"""Sessions that run away, over real HTTP and a real store: slowed, downgraded, refused, paused and approved."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from pathlib import Path

import httpx2 as httpx
import msgspec
import pytest

from router.adapters.choose import visiting
from router.domain.controls import AuditEntry
from tests.running import Running, running
from tests.scripted_behaviours import Json, usage
from tests.verbs import run, said

CONFIG = """
version: 1
server: {{store: "{store}"}}
providers:
  up: {{kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}}
models:
  large: {{at: up/large, price: {{input: 0, output: 1000}}, size: large, default_max_output: 100}}
  small: {{at: up/small, price: {{input: 0, output: 1000}}, size: small, default_max_output: 100}}
routes:
  auto: {{use: [large, small], by: fixed}}
guards: {{runaway: {{{rules}}}}}
keys:
  tester: {{secret: $TEST_KEY}}
"""


OTHER = "sk-other-0123456789abcdefghijklmnopqrst"


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "ledger.sqlite")
    url: str = request.getfixturevalue("redis_url")
    return url


async def ask(app: Running, session: str = "run-1", text: str = "Hello") -> httpx.Response:
    return await app.ask("auto", headers={"x-faregate-session": session}, messages=[{"role": "user", "content": text}])


async def counted(app: Running) -> list[str]:
    metrics = (await app.client.get(f"{app.root}/metrics")).text
    return [line for line in metrics.splitlines() if line.startswith("faregate_runaway_total{")]


async def test_a_paused_session_goes_on_when_somebody_approves_it(tmp_path: Path, store: str) -> None:
    """Nothing of it reaches a provider meanwhile, also after a restart; other sessions are not touched."""
    config = CONFIG.format(store=store, rules="same_prompt: 3")
    async with running(tmp_path, config) as app:
        assert [(await ask(app)).status_code for _ in range(3)] == [200, 200, 403]
        error = (await ask(app, text="Another")).json()["error"]
        assert error["code"] == "session_paused"
        assert error["approval"] in error["message"]
        assert (await ask(app, "run-2")).status_code == 200
        assert await counted(app) == ['faregate_runaway_total{signal="same_prompt",action="pause"} 1']
        await app.app.service._sync_pauses()
    async with running(tmp_path, config) as app:
        await app.app.service._sync_pauses()
        again = (await ask(app)).json()["error"]
        assert (again["code"], again["approval"]) == ("session_paused", error["approval"])
        command = ["approve", error["approval"], "--store", store]
        assert await said(*command) == "session run-1 of key tester goes on\n"
        assert (await asyncio.to_thread(run, *command)).exit_code == 1
        await app.app.service._sync_pauses()
        assert (await ask(app)).status_code == 200
    async with visiting(store) as ledger:
        assert not await ledger.alert_store().marks()
        told = [msgspec.json.decode(entry, type=AuditEntry) async for _, entry in ledger.control_store().history()]
    assert [(each.via, each.target) for each in told if each.action == "session.approve"] == [("command", "run-1")]


async def test_any_token_of_a_session_lets_it_go_on(tmp_path: Path, store: str) -> None:
    """Workers that pause it at the same moment each make a token: who was told either one need not find the other."""
    config = CONFIG.format(store=store, rules="same_prompt: 2")
    async with running(tmp_path, config) as app, visiting(store) as ledger:
        told = [await ask(app) for _ in range(2)][1].json()["error"]["approval"]
        marks = ledger.alert_store()
        for token in ("0000000000000000", "ffffffffffffffff"):
            await marks.mark(f"session_paused|{token}|tester|run-1", keep_ms=60_000, event=b"")
        await app.app.service._sync_pauses()
        assert (await ask(app)).status_code == 403
        assert await said("approve", told, "--store", store) == "session run-1 of key tester goes on\n"
        assert not await marks.marks()
        await app.app.service._sync_pauses()
        assert (await ask(app)).status_code == 200


async def test_a_key_can_have_so_many_sessions_paused_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients invent their names, and need not pay for it: no worker remembers them all, nor does the store. The others are refused."""
    monkeypatch.setattr("router.runaway.MOST_PAUSED", 2)
    config = CONFIG.format(store="STORE", rules="same_prompt: 2") + "  other: {secret: $OTHER_KEY}\n"
    async with running(tmp_path, config, environment={"OTHER_KEY": OTHER}) as app:

        async def code(session: str, **more: str) -> str:
            headers = {"x-faregate-session": session, **more}
            return [await app.ask("unknown", headers=headers) for _ in range(2)][1].json()["error"]["code"]

        assert [await code(f"run-{i}") for i in range(4)] == ["session_paused", "session_paused", "session_refused", "session_refused"]
        assert await code("run-1", authorization=f"Bearer {OTHER}") == "session_paused"
        await app.app.service._sync_pauses()
        assert await code("run-4") == "session_refused"
        assert (await ask(app, "run-4", "Another")).status_code == 200
        async with visiting(app.store) as ledger:
            marks = ledger.alert_store()
            assert len(await marks.marks()) == 3
            await marks.clear([name for name in await marks.marks() if name.endswith("|tester|run-0")])
        await app.app.service._sync_pauses()
        assert await code("run-5") == "session_paused"


async def test_a_key_that_invents_sessions_does_not_hide_those_of_others(tmp_path: Path) -> None:
    """Its own are forgotten for it: names cost nothing, and a worker remembers only so many."""
    config = CONFIG.format(store="STORE", rules="same_prompt: 2, then: refuse, max_sessions: 3") + "  other: {secret: $OTHER_KEY}\n"
    async with running(tmp_path, config, environment={"OTHER_KEY": OTHER}) as app:
        assert (await ask(app)).status_code == 200
        for session in "abcdef":
            headers = {"x-faregate-session": session, "authorization": f"Bearer {OTHER}"}
            assert (await app.ask("auto", headers=headers)).status_code == 200
        assert (await ask(app)).status_code == 403
        assert (await app.ask("auto", headers=headers)).status_code == 403
        assert (await app.ask("auto", headers={**headers, "x-faregate-session": "a"})).status_code == 200


async def test_a_reload_forgets_neither_what_is_paused_nor_what_runs(tmp_path: Path) -> None:
    """Also what the store does not know yet; and a configuration without the rule forgets it."""
    config = CONFIG.format(store="STORE", rules="same_prompt: 2")
    async with running(tmp_path, config) as app:
        service = app.app.service
        assert [(await ask(app)).status_code for _ in range(2)] == [200, 403]
        assert (await ask(app, "run-2")).status_code == 200
        await service.swap(service.snapshot)
        assert [(await ask(app, session)).status_code for session in ("run-1", "run-2")] == [403, 403]
        await service.swap(dataclasses.replace(service.snapshot, runaway=None))
        assert (await ask(app)).status_code == 200


async def test_a_session_that_spends_too_fast_is_led_to_small_models(tmp_path: Path) -> None:
    """The agent goes on, cheaper."""
    async with running(tmp_path, CONFIG.format(store="STORE", rules="spend_per_minute: $0.15, then: downgrade")) as app:
        for model in ("large", "small"):
            app.up.on(model, Json(usage=usage(prompt=1, completion=100)))
        went = [(await ask(app, text=str(i))).headers["x-faregate-deployment"] for i in range(3)]
        # Each costs 0.10 USD.
        assert went == ["up/large", "up/large", "up/small"]
        assert (await ask(app, "other")).headers["x-faregate-deployment"] == "up/large"


async def test_a_session_is_refused_as_long_as_it_runs_in_circles(tmp_path: Path) -> None:
    """Another message, and it goes on by itself."""
    async with running(tmp_path, CONFIG.format(store="STORE", rules="same_prompt: 2, then: refuse, max_sessions: 1")) as app:
        answers = [await ask(app, text=text) for text in ("a", "a", "a", "b")]
        assert [answer.status_code for answer in answers] == [200, 403, 403, 200]
        assert answers[1].json()["error"]["code"] == "session_refused"
        assert (await app.ask("auto")).status_code == 200
        # Only one session is remembered: this one begins anew after another was there.
        assert [(await ask(app, session, "a")).status_code for session in ("x", "y", "x", "y")] == [200] * 4


async def test_a_slowed_session_waits_before_each_call(tmp_path: Path) -> None:
    """A loop that is slow costs little until somebody looks."""
    async with running(tmp_path, CONFIG.format(store="STORE", rules="same_prompt: 2, then: slow, delay: 200ms")) as app:
        await ask(app)
        began = time.monotonic()
        assert (await ask(app)).status_code == 200
        assert time.monotonic() - began >= 0.2
