"""Feedback: who made a request may say what its answer was worth, and nobody else."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from router.admin import feedback as module
from router.cli import load
from router.domain.feedback import Answered, Feedback, FeedbackError, Lesson, latest, parse_feedback, read_lessons
from router.errors import StoreUnavailable
from router.memory import Memory
from router.metrics import Metrics
from router.ports import FeedbackStore
from router.ratings import Ratings
from tests.contract.stores import RedisStore, SqliteStore
from tests.gateway import KEY
from tests.running import running
from tests.scripted_behaviours import Json, usage
from tests.scripted_upstream import ScriptedUpstream
from tests.unit.test_export import book
from tests.unit.test_spend import record

LESSON = Lesson(("auto", "default", "new", ""), "canary")
OTHER = "sk-other-0123456789abcdefghijklmnopqrstuv"
CONFIG = """
version: 1
server: {store: "STORE"}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 1, output: 10}}
keys:
  tester: {secret: $TEST_KEY}
  other: {secret: $OTHER_KEY}
"""


def said(*words: str) -> dict[str, Any]:
    result = CliRunner().invoke(load(words[0]), [*words[1:], "--json"])
    assert result.exit_code == 0, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    return told


async def test_ratings_join_the_records_of_the_key_that_made_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over HTTP and back: a second word replaces the first, another key's counts for nothing, a plan reads the rest as quality."""
    up = ScriptedUpstream()
    up.on("m", Json(usage=usage(100, 20)))
    async with running(tmp_path, CONFIG, up=up, environment={"OTHER_KEY": OTHER}) as run:
        ids = [(await run.ask()).headers["x-faregate-request-id"] for _ in range(3)]

        async def rate(key: str = KEY, **body: object) -> int:
            answer = await run.client.post("feedback", json=body, headers={"authorization": f"Bearer {key}"})
            return answer.status_code

        assert await rate(request_id=ids[0], rating=0.2) == 202
        assert await rate(request_id=ids[0], rating="up", label="right") == 202
        assert await rate(request_id=ids[1], rating=False) == 202
        assert await rate(OTHER, request_id=ids[2], rating=1) == 202
        assert await rate("sk-wrong", request_id=ids[2], rating=1) == 401
        assert await rate(request_id=ids[2], rating=7) == 400
        assert await rate(request_id="chatcmpl-123", rating=1) == 404
        assert await rate(request_id=ids[2], label="x" * 5000) == 413
        assert (await run.client.get("feedback")).status_code == 405
        metrics = (await run.client.get("../metrics")).text
        await run.settled()
        store = run.store
        address = run.up.base_url
    assert 'faregate_feedback_total{outcome="stored"} 4' in metrics
    assert 'faregate_feedback_total{outcome="refused"} 4' in metrics
    told = await asyncio.to_thread(said, "feedback", "--store", store, "--by", "model,key")
    assert told["unmatched"] == 1
    (row,) = told["rows"]
    assert (row["model"], row["requests"], row["rated"], row["mean"], row["labels"]) == ("m", 3, 2, 0.5, {"right": 1})
    for name, value in (("PROVIDER_KEY", "p"), ("TEST_KEY", KEY), ("OTHER_KEY", OTHER)):
        monkeypatch.setenv(name, value)
    config = tmp_path / "router.yaml"
    config.write_text(CONFIG.replace("UP", address).replace("STORE", store))
    plan = await asyncio.to_thread(said, "plan", str(config), str(config))
    assert plan["plan"]["total"]["quality"]["new"] == pytest.approx(0.5)

    def write(*words: str) -> Result:
        return CliRunner().invoke(load("feedback"), ["--store", store, "--write", str(config), *words])

    assert (await asyncio.to_thread(write, "--by", "model,key")).exit_code == 2
    few = await asyncio.to_thread(write)
    assert (few.exit_code, "of 0 models was written" in few.stderr, "quality" in config.read_text()) == (0, True, False)
    assert (await asyncio.to_thread(write, "--least", "2")).exit_code == 0
    assert "m: {quality: 0.500, at: up/m" in config.read_text()


async def test_what_answers_cost_is_as_it_was_corrected(tmp_path: Path) -> None:
    """Prices were changed and `ledger rerate --apply` was run: what models are worth must not be told by the old ones."""
    store, prices = str(tmp_path / "ledger.sqlite"), tmp_path / "prices.yaml"
    made = {"request_id": "r", "deployment": "one/small", "input_tokens": 10, "charge_nusd": 5}
    await book(store, [record(**made, attempt_id="r.0", outcome="upstream_lost"), record(**made, attempt_id="r.1")])
    prices.write_text("one/small: {input: 0.003, output: 0.006}\n")
    since = ("--since", "2026-11-01")
    words = ("ledger", "rerate", "--store", store, "--prices", str(prices), *since, "--apply", "--reason", "dearer")
    assert (await asyncio.to_thread(said, *words))["booked"] == 2
    told = await asyncio.to_thread(said, "feedback", "--store", store, *since)
    assert [(row["model"], row["requests"], row["cost_nusd"]) for row in told["rows"]] == [("small", 1, 30)]


async def test_both_stores_keep_the_last_word(tmp_path: Path, redis_url: str) -> None:
    """Sent again by a client that is not sure, it is counted once."""
    for store in (SqliteStore(tmp_path), RedisStore(redis_url)):
        ledger = await store.replica("one")
        kept = ledger.feedback_store()
        for number in range(3):
            await kept.put(Feedback(request_id="r", key_id="k", at_ms=number + 1, rating=number / 2))
        await kept.put(Feedback(request_id="r", key_id="l", at_ms=2, label="bad"))
        found = latest([one async for one in kept.all()])
        assert {who: (one.rating, one.label) for who, one in found.items()} == {("r", "k"): (1.0, ""), ("r", "l"): (None, "bad")}
        assert [one.key_id async for one in kept.all(since_ms=3)] == ["k"]
        await store.close()


class Away:
    """A store that does not answer for a while."""

    def __init__(self, store: FeedbackStore) -> None:
        self.store = store
        self.away = False
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        self.asked += 1
        if self.away:
            raise StoreUnavailable("away")
        return getattr(self.store, name)


async def test_a_rating_that_comes_before_its_answer_is_known_waits_for_it(tmp_path: Path) -> None:
    """The process that answered tells the store a moment later; without anything to tell or to learn the store is not asked."""
    store = SqliteStore(tmp_path)
    away, now = Away((await store.replica("one")).feedback_store()), [0.0]
    one, two = Memory(lambda: 0.0), Memory(lambda: 0.0)
    told = Ratings(away, one, Metrics(), clock=lambda: now[0])
    asked = Ratings(away, two, Metrics(), clock=lambda: now[0])
    await told.look()
    await asked.look()
    assert away.asked == 0
    one.give_back([Answered("fg-1", "k", (LESSON,))])
    await asked.put(Feedback(request_id="fg-1", key_id="k", at_ms=5, rating=0.5))
    await asked.put(Feedback(request_id="fg-1", key_id="k", at_ms=6, label="only a label"))
    await asked.look()
    away.away = True
    with pytest.raises(StoreUnavailable):
        await told.look()
    now[0] = 1.0
    with pytest.raises(StoreUnavailable):
        await asked.look()
    away.away = False
    await told.look()
    assert not two.experiments.known
    await asked.look()
    rated = two.experiments.known[LESSON.key].arms["canary"].ratings
    assert (rated.count, rated.mean) == (1, 0.5)
    at = away.asked
    await asked.look()
    assert away.asked == at


@pytest.mark.parametrize("row", [b"{}", b"[[1]]", b'[[["a","b","c","d"],"arm",0,-1.0]]', b"\xff"])
def test_a_row_of_another_form_teaches_nothing(row: bytes) -> None:
    """Or all ratings behind it would wait for it for ever."""
    assert read_lessons(row) == ()
    assert read_lessons(msgspec.json.encode((LESSON,))) == (LESSON,)


async def test_ratings_of_answers_that_nobody_remembers_are_given_up(tmp_path: Path) -> None:
    """Most answers are chosen by nothing that learns: their ratings are for people."""
    store = SqliteStore(tmp_path)
    away, now = Away((await store.replica("one")).feedback_store()), [0.0]
    ratings = Ratings(away, Memory(lambda: 0.0), Metrics(), clock=lambda: now[0])
    await ratings.put(Feedback(request_id="fg-1", key_id="k", at_ms=5, rating=0.5))
    looks = []
    for _ in range(200):
        before = away.asked
        await ratings.look()
        looks.append(away.asked > before)
        now[0] += 1.0
    assert [second for second, looked in enumerate(looks) if looked] == [0, 1, 3, 7, 15, 31, 63]
    await ratings.put(Feedback(request_id="fg-1", key_id="k", at_ms=5, rating=0.5))
    away.away = True
    await ratings.close()
    await store.close()


async def test_a_key_cannot_flood_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Feedback costs a write; more than people can give is refused."""
    monkeypatch.setattr(module, "BURST", 2.0)
    monkeypatch.setattr(module, "PER_SECOND", 0.0)
    async with running(tmp_path, CONFIG, environment={"OTHER_KEY": OTHER}) as run:
        codes = [(await run.client.post("feedback", json={"request_id": "fg-01234567-1", "rating": 1})).status_code for _ in range(3)]
        assert codes == [202, 202, 429]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", ""),
        (b'{"request_id":"a b","rating":1}', "request_id"),
        (b'{"request_id":"fg-01234567-1","rating":"great"}', "rating"),
        (b'{"request_id":"fg-01234567-1","rating":-0.1}', "rating"),
        (b'{"request_id":"fg-01234567-1"}', "rating"),
        (b'{"request_id":"fg-01234567-1","label":"a\\u0007"}', "label"),
        (b'{"request_id":"fg-01234567-1","rating":1,"comment":"a whole prompt"}', ""),
    ],
)
def test_what_is_no_feedback_says_what_is(body: bytes, param: str) -> None:
    """Nothing is kept that was not asked for: no comment, no text of unknown length."""
    with pytest.raises(FeedbackError) as caught:
        parse_feedback(body, key_id="k", at_ms=1)
    assert caught.value.param == param


def test_a_label_alone_is_feedback_and_the_last_word_counts_in_any_order() -> None:
    """Two workers may write at once; what was said later wins, whichever comes first."""
    late = parse_feedback(b'{"request_id":"fg-01234567-1","label":"too long"}', key_id="k", at_ms=2)
    early = parse_feedback(b'{"request_id":"fg-01234567-1","rating":true}', key_id="k", at_ms=1)
    assert (late.rating, late.label, early.rating) == (None, "too long", 1.0)
    assert latest([late, early]) == latest([early, late]) == {("fg-01234567-1", "k"): late}
