"""Policy kinds that do more than order, over real HTTP and a real ledger: what the client gets, what the books say, what is counted."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.domain.records import SpendRecord
from router.replay.trace import read_trace, recall
from tests.running import Running, running
from tests.scripted_upstream import Fail, Gate, Json, Sequence, Stream, usage

MODELS = """
version: 1
server: {{store: STORE}}
providers:
  up: {{kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}}
models:
  small: {{at: up/small, price: {{input: 1, output: 1}}, size: small, default_max_output: 100}}
  twin: {{at: up/twin, price: {{input: 1, output: 1}}, size: small, default_max_output: 100}}
  large: {{at: up/large, price: {{input: 10, output: 10}}, size: large, default_max_output: 100}}
  judge: {{at: up/judge, price: {{input: 1, output: 1}}, size: medium, default_max_output: 100}}
routes:
  auto: {{use: [small, twin, large, judge], by: {by}, fallback: {{retries: 0}}}}
budgets:
  everyone: {{limit: $1.00, at: []}}
  trial: {{limit: $0.50, when: {{team: lab}}, at: []}}
teams: {{search: {{}}, lab: {{budget: $0.20}}}}
keys:
  tester: {{team: search, secret: $TEST_KEY}}
"""
SAYS_NO = "I'm sorry, but I can't help with that."


def config(by: str) -> str:
    return MODELS.format(by=by)


def text_of(answer: Any) -> str:
    found: str = answer.json()["choices"][0]["message"]["content"]
    return found


async def books(app: Running) -> list[tuple[str, str, str]]:
    """Deployment, reason and outcome of each attempt, in the order of the books."""
    await app.settled()
    return [(r["deployment"], r["reason"], r["outcome"]) for r in await app.records()]


async def metrics(app: Running) -> str:
    return (await app.client.get(f"{app.root}/metrics")).text


async def test_a_cascade_asks_the_large_model_only_where_the_small_one_refuses(tmp_path: Path) -> None:
    """One request, a reservation for each step: the client sees the accepted answer, and pays for both."""
    async with running(tmp_path, config("{kind: cascade, steps: [small, large]}")) as app:
        app.up.on("small", Sequence([Json(text="Four.", usage=usage(10, 10)), Json(text=SAYS_NO, usage=usage(10, 10))]))
        app.up.on("large", Json(text="Here is how.", usage=usage(10, 10)))
        first, second = await app.ask("auto"), await app.ask("auto")
        assert (text_of(first), first.headers["x-faregate-reason"]) == ("Four.", "cascade:small")
        assert (text_of(second), second.headers["x-faregate-reason"]) == ("Here is how.", "cascade:large")
        assert (second.headers["x-faregate-attempts"], second.headers["x-faregate-cost-usd"]) == ("2", "0.000220000")
        told = [("up/small", "cascade:small", "ok"), ("up/small", "cascade:small", "ok"), ("up/large", "cascade:large", "ok")]
        assert await books(app) == told
        records = await app.records()
        assert records[1]["request_id"] == records[2]["request_id"]
        counted = await metrics(app)
        assert 'faregate_cascade_answers_total{cascade="cascade",step="small",verdict="accepted"} 1' in counted
        assert 'faregate_cascade_answers_total{cascade="cascade",step="small",verdict="refusal"} 1' in counted


async def test_an_accepted_step_is_replayed_as_the_stream_that_it_was(tmp_path: Path) -> None:
    """The client asked for a stream; what the provider sent reaches it unchanged, once it has passed the checks."""
    async with running(tmp_path, config("{kind: cascade, steps: [small, large]}")) as app:
        app.up.on("small", Stream(tokens=3))
        answer = await app.ask("auto", stream=True)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.text.count("data:") >= 4
        assert answer.text.rstrip().endswith("data: [DONE]")
        assert answer.headers["x-faregate-deployment"] == "up/small"


async def test_the_time_of_a_stream_that_was_kept_back_is_the_providers(tmp_path: Path) -> None:
    """The client has nothing of it: waiting for its end is no work of the proxy's, in the header as in the metric."""
    by = "{kind: cascade, steps: [small, large]}, timeout: {idle: 2s}"
    async with running(tmp_path, config(by)) as app:
        app.up.on("small", Stream(tokens=1, end="hang"))
        app.up.on("large", Stream(tokens=1))
        answer = await app.ask("auto", stream=True)
        assert (answer.status_code, answer.headers["x-faregate-deployment"]) == (200, "up/large")
        assert 0 < float(answer.headers["x-faregate-overhead-ms"]) < 1500
        assert 0 < await overhead_seconds(app) < 1.5


async def overhead_seconds(app: Running) -> float:
    found = re.search(r"^faregate_overhead_seconds_sum\{[^}]*\} (\S+)$", await metrics(app), re.MULTILINE)
    assert found is not None
    return float(found[1])


async def test_two_small_models_must_agree_and_a_judge_must_be_content(tmp_path: Path) -> None:
    """Each of these calls is in the books with money of its own."""
    by = "{kind: cascade, steps: [small, large], verify: {agree: {model: twin, extract: number}, judge: {model: judge, at_least: 70%}}}"
    async with running(tmp_path, config(by)) as app:
        app.up.on("small", Json(text="The answer is 42.", usage=usage(10, 10)))
        app.up.on("twin", Sequence([Json(text="#### 42"), Json(text="#### 41"), Json(text="It is 42")]))
        app.up.on("judge", Sequence([Json(text="90"), Json(text="20")]))
        app.up.on("large", Json(text="43"))
        answers = [text_of(await app.ask("auto")) for _ in range(3)]
        assert answers == ["The answer is 42.", "43", "43"]
        reasons = [reason for _, reason, _ in await books(app)]
        assert reasons == [
            *("cascade:small", "cascade:agree", "cascade:judge"),
            *("cascade:small", "cascade:agree", "cascade:large"),
            *("cascade:small", "cascade:agree", "cascade:judge", "cascade:large"),
        ]
        asked = next(seen.body for seen in app.up.requests if seen.model == "judge")
        assert "Hello" in asked["messages"][1]["content"]
        assert "42" in asked["messages"][1]["content"]


async def test_a_cascade_shows_what_it_has_where_the_large_model_usually_comes_too_late(tmp_path: Path) -> None:
    """The large one would be paid, and cut off by the deadline."""
    async with running(tmp_path, config("{kind: cascade, steps: [small, large]}")) as app:
        app.up.on("small", Json(text=SAYS_NO, usage=usage(10, 10)))
        app.app.service.fleet.succeeded("up/large", first_token_ms=None, total_ms=60_000.0, output_tokens=5)
        answer = await app.ask("auto", headers={"x-faregate-deadline-ms": "30000"})
        assert text_of(answer) == SAYS_NO
        assert await books(app) == [("up/small", "cascade:small", "ok")]


async def test_a_cascade_that_costs_more_than_the_large_model_alone_switches_itself_off(tmp_path: Path) -> None:
    """Small answers that never do are money lost: after twenty of them the large model is asked at once, but for a few."""
    async with running(tmp_path, config("{kind: cascade, steps: [small, large], explore: 0}")) as app:
        app.up.on("small", Json(text=SAYS_NO, usage=usage(10, 10)))
        app.up.on("large", Json(text="Yes.", usage=usage(10, 10)))
        for _ in range(22):
            assert text_of(await app.ask("auto")) == "Yes."
        assert sum(seen.model == "small" for seen in app.up.requests) == 20
        assert 'faregate_cascade_saving_ratio{cascade="cascade"} -0.1' in await metrics(app)


async def test_money_goes_to_another_provider_once_one_has_had_its_share(tmp_path: Path) -> None:
    """All calls were the cheaper one's as long as nothing was known; now the others catch up."""
    text = config("{kind: vendors, most: 50%}").replace("small: {at: up/", "small: {at: down/")
    text = text.replace("providers:\n", 'providers:\n  down: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}\n')
    async with running(tmp_path, text) as app:
        for name in ("small", "twin"):
            app.up.on(name, Json(text="Yes.", usage=usage(10, 10)))
        for _ in range(22):
            await app.ask("auto")
        assert [seen.model for seen in app.up.requests] == ["small"] * 20 + ["twin"] * 2
        assert 'faregate_vendor_spend_ratio{cap="vendors",provider="down"} 0.90' in await metrics(app)


async def test_the_small_answer_is_better_than_none(tmp_path: Path) -> None:
    """It was paid for; the large model cannot be had."""
    async with running(tmp_path, config("{kind: cascade, steps: [small, large]}")) as app:
        app.up.on("small", Json(text=SAYS_NO))
        for model in ("large", "twin", "judge"):
            app.up.on(model, Fail())
        answer = await app.ask("auto")
        assert (answer.status_code, text_of(answer)) == (200, SAYS_NO)


async def test_the_small_answer_is_shown_when_the_deadline_passes(tmp_path: Path) -> None:
    """It is there in time; the large model is given up, and charged for what it may have written."""
    async with running(tmp_path, config("{kind: cascade, steps: [small, large]}")) as app:
        app.up.on("small", Json(text=SAYS_NO))
        app.up.on("large", Json(before=Gate()))
        answer = await app.ask("auto", faregate={"deadline_ms": 2000})
        assert (answer.status_code, text_of(answer)) == (200, SAYS_NO)
        assert [outcome for _, _, outcome in await books(app)] == ["ok", "upstream_lost"]
        assert 0 < float(answer.headers["x-faregate-overhead-ms"]) < 1500
        assert 0 < await overhead_seconds(app) < 1.5


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_shown_although_nobody_has_judged_it_in_time(tmp_path: Path, stream: bool) -> None:
    """It is there and paid for; 504 in its place would help nobody."""
    by = "{kind: cascade, steps: [small, large], verify: {judge: {model: judge, at_least: 70%}}}"
    async with running(tmp_path, config(by)) as app:
        app.up.on("small", Stream(tokens=3, text="four"))
        app.up.on("judge", Json(before=Gate()))
        answer = await app.ask("auto", stream=stream, faregate={"deadline_ms": 2000})
        assert (answer.status_code, answer.text.count("four")) == (200, 3)
        assert await books(app) == [("up/small", "cascade:small", "ok"), ("up/judge", "cascade:judge", "upstream_lost")]
        assert stream or await charged(app) == usd(answer.headers["x-faregate-cost-usd"]) > 0


async def test_a_judge_who_usually_comes_too_late_is_not_asked(tmp_path: Path) -> None:
    """What it costs would be paid for nothing."""
    by = "{kind: cascade, steps: [small, large], verify: {judge: {model: judge, at_least: 70%}}}"
    async with running(tmp_path, config(by)) as app:
        app.app.service.fleet.succeeded("up/judge", first_token_ms=None, total_ms=60_000.0, output_tokens=5)
        app.up.on("large", Json(text="43"))
        answer = await app.ask("auto", headers={"x-faregate-deadline-ms": "30000"})
        assert text_of(answer) == "43"
        assert await books(app) == [("up/small", "cascade:small", "ok"), ("up/large", "cascade:large", "ok")]


async def test_a_hedge_takes_whoever_begins_first_and_charges_the_other(tmp_path: Path) -> None:
    """The slow call is cancelled; what it may have cost is booked, never nothing."""
    slow = Gate()
    by = "{kind: hedge, by: fixed, after: 20ms, most: 100%}"
    async with running(tmp_path, config(by)) as app:
        app.up.on("small", Json(text="slow", before=slow))
        app.up.on("twin", Json(text="fast"))
        answer = await app.ask("auto")
        assert (text_of(answer), answer.headers["x-faregate-reason"]) == ("fast", "hedge:hedge")
        await app.settled()
        records = {r["deployment"]: r for r in await app.records()}
        assert (records["up/small"]["outcome"], records["up/twin"]["outcome"]) == ("hedged", "ok")
        assert records["up/small"]["charge_nusd"] > 0
        assert {r["attempt_number"] for r in records.values()} == {1, 2}
        assert 'faregate_hedges_total{hedge="hedge",outcome="second"} 1' in await metrics(app)


async def test_a_shadow_gets_a_copy_on_the_money_of_its_own_team(tmp_path: Path) -> None:
    """The client's answer is there before the copy is made; a copy that fails or has no money is nobody's trouble."""
    by = "{kind: shadow, to: large, share: 100%, team: lab, by: fixed}"
    async with running(tmp_path, config(by)) as app:
        waits = Gate()
        app.up.on("small", Json(text="yes", usage=usage(10, 10)))
        app.up.on("large", Json(text="yes, of course", usage=usage(10, 20), before=waits))
        answer = await app.ask("auto")
        assert (text_of(answer), answer.headers["x-faregate-attempts"]) == ("yes", "1")
        await asyncio.wait_for(waits.arrived.wait(), 10)
        waits.open()
        await app.settled()
        copy = next(r for r in await app.records() if r["deployment"] == "up/large")
        assert (copy["team"], copy["key_id"], copy["reason"]) == ("lab", "@shadow", "shadow:shadow")
        counted = await metrics(app)
        assert 'faregate_shadows_total{shadow="shadow",outcome="same_finish"} 1' in counted
        assert 'faregate_shadow_length_ratio_sum{shadow="shadow"} 2' in counted
        assert 'faregate_shadow_answers_total{shadow="shadow",verdict="unclear"} 1' in counted
        assert 'faregate_shadow_time_ratio_count{shadow="shadow"} 1' in counted


async def test_a_shadow_is_compared_by_what_it_says(tmp_path: Path) -> None:
    """The same number in other words is the same answer."""
    by = "{kind: shadow, to: large, share: 100%, team: lab, by: fixed}"
    async with running(tmp_path, config(by)) as app:
        app.up.on("small", Json(text="The answer is 42."))
        app.up.on("large", Sequence([Json(text="So we get the answer: 42"), Json(text="The answer is 41.")]))
        for _ in range(2):
            await app.ask("auto")
            await app.settled()
            await asyncio.gather(*app.app.service.fleet.memory.copies)
        counted = await metrics(app)
        for verdict in ("same", "other"):
            assert f'faregate_shadow_answers_total{{shadow="shadow",verdict="{verdict}"}} 1' in counted


async def test_a_canary_that_fails_is_taken_back(tmp_path: Path) -> None:
    """Clients are served all the while: the control answers for it. The decision is in the books with its chance."""
    by = "{kind: canary, name: new, to: large, share: 50%, sticky: none, by: fixed, stop_if: {errors: 5%, least: 10}}"
    async with running(tmp_path, config(by)) as app:
        for model in ("small", "twin", "judge"):
            app.up.on(model, Json(text="ok"))
        app.up.on("large", Fail())
        memory = app.app.service.fleet.memory
        for _ in range(200):
            # The router's own memory of failures would keep the model out before the test can tell anything.
            app.app.service.fleet.succeeded("up/large", first_token_ms=None, total_ms=1.0, output_tokens=1)
            app.app.service.fleet._states["up/large"].cooled_until = None
            assert (await app.ask("auto")).status_code == 200
            if any(each.stopped for each in memory.experiments.known.values()):
                break
        assert [each.stopped for each in memory.experiments.known.values()] == ["errors"]
        before = sum(seen.model == "large" for seen in app.up.requests)
        for _ in range(10):
            assert (await app.ask("auto")).headers["x-faregate-model"] == "small"
        assert sum(seen.model == "large" for seen in app.up.requests) == before
        await app.settled()
        arms = {tuple(r["arms"].items()): r["propensity_ppm"] for r in await app.records()}
        assert arms[("new", "control"),] in (500_000, 1_000_000)
        assert 'faregate_experiment_stops_total{experiment="new",reason="errors"} 1' in await metrics(app)


async def test_a_session_stays_in_its_branch(tmp_path: Path) -> None:
    """A branch is a policy of its own; whoever comes again comes to the same one."""
    by = (
        "{kind: split, sticky: session, branches: [{name: a, share: 50%, use: small, by: fixed},"
        " {name: b, share: 50%, use: [large, judge], by: {kind: cascade, steps: [judge, large]}}]}"
    )
    async with running(tmp_path, config(by)) as app:
        seen: dict[str, set[str]] = {}
        for turn in range(24):
            session = f"s{turn % 8}"
            answer = await app.ask("auto", headers={"x-faregate-session": session})
            seen.setdefault(session, set()).add(answer.headers["x-faregate-reason"])
        assert all(len(each) == 1 for each in seen.values())
        assert set.union(*seen.values()) == {"split", "cascade:judge"}


async def test_a_bandit_goes_over_to_what_is_worth_more_and_logs_its_chances(tmp_path: Path) -> None:
    """The large model costs ten times as much and is no better."""
    by = "{kind: bandit, worth_usd: 0.0004, explore: 5%}"
    async with running(tmp_path, config(by)) as app:
        for model in ("small", "twin", "large", "judge"):
            app.up.on(model, Json(usage=usage(10, 10)))
        app.up.on("judge", Fail())
        went = [(await app.ask("auto")).headers["x-faregate-model"] for _ in range(120)]
        assert went[60:].count("large") < 12
        await app.settled()
        records = [r for r in await app.records() if r.get("propensity_ppm")]
        assert records
        assert all(12_500 <= r["propensity_ppm"] <= 1_000_000 for r in records)
        memory, ratings = app.app.service.fleet.memory, app.app.service.ratings
        (beliefs,) = memory.beliefs.values()
        before = beliefs["up/small"].mean
        answer = await app.ask("auto", headers={"x-faregate-use": "small"})
        rated = {"request_id": answer.headers["x-faregate-request-id"], "rating": 0}
        assert (await app.client.post("/feedback", json=rated)).status_code == 202
        await ratings.look()
        assert beliefs["up/small"].mean < before


async def test_a_canary_is_taken_back_for_what_clients_say(tmp_path: Path) -> None:
    """The last word on each answer counts, and only that of the key that asked; the store has it for all, and after a restart."""
    by = "{kind: canary, name: new, to: large, share: 50%, sticky: none, by: fixed, stop_if: {rating: 10%, least: 10}}"
    async with running(tmp_path, config(by)) as app:
        for model in ("small", "large"):
            app.up.on(model, Json(text="ok"))
        service = app.app.service
        for _ in range(200):
            answer = await app.ask("auto")
            worse = answer.headers["x-faregate-model"] == "large"
            for rating in (worse, 0.1 if worse else 0.9):
                rated = {"request_id": answer.headers["x-faregate-request-id"], "rating": rating}
                assert (await app.client.post("/feedback", json=rated)).status_code == 202
            await service.ratings.look()
            (experiment,) = service.fleet.memory.experiments.known.values()
            if experiment.stopped:
                break
        assert experiment.stopped == "rating"
        assert {name: round(arm.ratings.mean, 6) for name, arm in experiment.arms.items()} == {"control": 0.9, "canary": 0.1}
        await service.controls.poll()
        assert [(each.kind, each.target, each.reason) for each in service.controls.state.controls] == [
            ("stop", "auto/default/new", "rating")
        ]
    async with running(tmp_path, config(by)) as app:
        app.up.on("small", Json(text="ok"))
        assert {(await app.ask("auto")).headers["x-faregate-model"] for _ in range(20)} == {"small"}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_ends_the_whole_chain(tmp_path: Path, stream: bool) -> None:
    """Retries and fallbacks share it; the hold is settled all the same."""
    async with running(tmp_path, config("fixed")) as app:
        never = Gate()
        for model in ("small", "twin", "large", "judge"):
            app.up.on(model, Stream(tokens=5, before=never) if stream else Json(before=never))
        answer = await app.ask("auto", stream=stream, headers={"x-faregate-deadline-ms": "1000"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert "within 1,000 ms, and one call did not do that" in answer.json()["error"]["message"]
        wrong = await app.ask("auto", headers={"x-faregate-deadline-ms": "soon"})
        assert wrong.status_code == 400
        assert [(d, o) for d, _, o in await books(app)] == [("up/small", "upstream_lost")]
        assert await charged(app) == usd(answer.headers["x-faregate-cost-usd"]) > 0


async def charged(app: Running) -> int:
    return sum(record["charge_nusd"] for record in await app.records())


def usd(text: str) -> int:
    return int(text.replace(".", ""))


async def test_a_deadline_that_ends_a_hedge_names_both_calls_and_their_cost(tmp_path: Path) -> None:
    """Both were made, and both are in the books."""
    async with running(tmp_path, config("{kind: hedge, by: fixed, after: 20ms, most: 100%}")) as app:
        for model in ("small", "twin", "large", "judge"):
            app.up.on(model, Json(before=Gate()))
        answer = await app.ask("auto", faregate={"deadline_ms": 2000})
        assert (answer.status_code, "and 2 calls did not do that" in answer.text) == (504, True)
        assert answer.headers["x-faregate-deployment"] == "up/small, up/twin"
        assert [outcome for _, _, outcome in await books(app)] == ["upstream_lost"] * 2
        assert await charged(app) == usd(answer.headers["x-faregate-cost-usd"]) > 0
        assert await overhead_seconds(app) < 1.5


async def test_a_session_stays_where_its_prompt_is_cached(tmp_path: Path) -> None:
    """Going elsewhere would cost the cached tokens: the cheaper model waits until the cache has gone cold."""
    text = config("{kind: cost, keep_cache: true}").replace(
        "large, price: {input: 10, output: 10}", "large, price: {input: 2, output: 2, cached_input: 0.1}"
    )
    prompt = [{"role": "user", "content": "word " * 2000}]
    async with running(tmp_path, text) as app:
        for model in ("small", "twin", "large", "judge"):
            app.up.on(model, Json(usage=usage(2000, 3)))
        headers = {"x-faregate-session": "run-1"}
        first = await app.ask("auto", messages=prompt, headers={**headers, "x-faregate-use": "large"})
        second = await app.ask("auto", messages=prompt, headers=headers)
        other = await app.ask("auto", messages=prompt, headers={"x-faregate-session": "run-2"})
        assert [a.headers["x-faregate-model"] for a in (first, second, other)] == ["large", "large", "small"]


@pytest.mark.parametrize(
    "by",
    [
        "{kind: canary, to: large, share: 30%, ramp: [{after: 0s, share: 50%}], by: {kind: bandit}}",
        "{kind: shadow, to: judge, share: 50%, team: lab, by: {kind: cascade, steps: [small, large], verify: {agree: true}}}",
        "{kind: hedge, by: {kind: cost, keep_cache: true}, after: 1s, most: 100%}",
    ],
)
async def test_a_decision_with_a_plan_can_be_repeated_from_its_record(tmp_path: Path, by: str) -> None:
    """What was known at the moment is among the facts: the same record, the same plan, bit for bit."""
    text = config(by).replace("server: {", "server: {record_decisions: 100%, ")
    async with running(tmp_path, text) as app:
        for _ in range(6):
            await app.ask("auto", headers={"x-faregate-deadline-ms": "20000"})
        await app.settled()
        records = [msgspec.json.decode(msgspec.json.encode(record), type=SpendRecord) for record in await app.records()]
        traced = [(record, trace) for record in records if (trace := read_trace(record)) is not None]
        assert len(traced) == 6
        for record, trace in traced:
            assert trace.decision.plan is not None or "hedge" in by
            assert recall(app.app.service.snapshot, record, trace) == trace.decision
