"""The parts of the demonstration that its own run does not show: the live view, odd answers, failures of the script."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
from rich.console import Console

from router.demo.client import Reply, post
from router.demo.closing import closing
from router.demo.live import LiveScreen
from router.demo.plain import PlainScreen
from router.demo.run import Options
from router.demo.show import Outcome
from router.demo.traffic import TEAMS, Traffic
from router.demo.watch import Seen, Watch, count_refused, models_of
from router.domain.budgets import NEVER_MS, BucketState
from router.domain.records import SpendRecord
from router.ports import Drift
from router.sim.bill import Bill, BilledCall


class FakeBooks:
    """A ledger that holds what it is given."""

    def __init__(self, *records: SpendRecord, buckets: Sequence[BucketState] = (), drifts: Sequence[Drift] = ()) -> None:
        self._records, self._buckets, self._drifts = records, buckets, drifts

    async def publish_limits(self, limits: object, *, version: str) -> None:
        """Not asked for here."""

    async def bucket_states(self, *, budget: str | None = None, current_only: bool = True) -> Sequence[BucketState]:
        return self._buckets

    async def records(self, *, since_ms: int = 0, until_ms: int | None = None) -> AsyncIterator[bytes]:
        for record in self._records:
            yield msgspec.json.encode(record)

    async def verify(self) -> Sequence[Drift]:
        return self._drifts

    async def ping(self) -> None:
        """Always there."""


def _record(request_id: str, nusd: int, *, evidence: str = "exact", attempt: int = 1) -> SpendRecord:
    return SpendRecord(
        attempt_id=f"{request_id}.{attempt}",
        request_id=request_id,
        at_ms=1,
        team="search",
        model="mid",
        charge_nusd=nusd,
        baseline_nusd=10 * nusd,
        evidence=evidence,
    )


def _bucket(budget: str, scope: str, spent: int) -> BucketState:
    return BucketState(
        budget=budget, scope=scope, window="all", limit_nusd=100, spent_nusd=spent, held_nusd=5, debt_nusd=0, ends_ms=NEVER_MS
    )  # fmt: skip


def _answered(watch: Watch, *, status: int = 200, model: str = "mid", error: dict[str, str] | None = None) -> Seen:
    one = watch.note("Normal", Traffic(1).ask("search"))
    headers = {"x-faregate-request-id": f"r{one.number}", "x-faregate-model": model, "x-faregate-rule": "code", "x-faregate-reason": "cost"}
    one.answered(Reply(status, headers, msgspec.json.encode({"error": error} if error else {})), 0.1)
    return one


async def test_a_request_costs_what_all_its_attempts_cost() -> None:
    """A fallback may leave two records behind; both were paid."""
    watch = Watch(FakeBooks(_record("r1", 30), _record("r1", 12, attempt=2)))
    one = _answered(watch)
    await watch.refresh()
    assert (one.charge_nusd, one.baseline_nusd) == (42, 420)
    assert watch.totals().avoided_nusd == 378


@pytest.mark.parametrize("width", [60, 80, 160])
async def test_the_live_view_shows_requests_budgets_and_totals(width: int) -> None:
    """It must not break on narrow terminals, nor with nothing to show yet."""
    out = io.StringIO()
    budgets = [_bucket("company", "", 95), _bucket("per-team", "team=search", 75), _bucket("session", "session=run-1", 3)]
    watch = Watch(FakeBooks(_record("r1", 42), buckets=budgets))
    with LiveScreen(Console(file=out, force_terminal=True, width=width, height=24)) as screen:
        screen.begin("Normal", "Watch.")
        screen.draw(watch, {})
        screen.saw(_answered(watch))
        screen.saw(_answered(watch, status=402, error={"code": "budget_exceeded", "budget": "support"}))
        await watch.refresh()
        screen.draw(watch, {"gpu-room/x": "up", "edge-box/y": "cooldown", "closed-cloud/z": "probe"})
        screen.end(Outcome(title="Normal", lines=["2 requests."]))
    text = out.getvalue()
    for shown in ("mid", "refused 402", "company", "search", "run-1", "cooldown", "Act 1: Normal", "2 requests."):
        assert shown in text


def test_plain_lines_tell_every_kind_of_answer() -> None:
    """Streams have no cost yet, refusals have none at all, and a lost connection is no answer."""
    out = io.StringIO()
    screen = PlainScreen(out)
    watch = Watch(FakeBooks())
    screen.saw(_answered(watch))
    screen.saw(_answered(watch, status=402, error={"code": "budget_exceeded", "budget": "support"}))
    lost = watch.note("Normal", Traffic(1).ask("support"))
    lost.error = {"code": "ConnectionResetError"}
    screen.saw(lost)
    lines = out.getvalue().splitlines()
    assert "code/cost" in lines[0]
    assert "refused (402)" in lines[1]
    assert "budget_exceeded: support" in lines[1]
    assert "no answer" in lines[2]
    assert "ConnectionResetError" in lines[2]
    assert models_of(watch.seen) == {"mid": 1}
    assert count_refused(watch.seen) == count_refused(watch.seen, "support") == 1


async def test_a_difference_between_books_and_bill_is_stated_and_explained() -> None:
    """The demonstration must not hide it if the router books something else than was billed."""
    bill = Bill()
    bill.add(BilledCall(id="x", model="mid-closed", input_tokens=1, cached_tokens=0, output_tokens=1, nusd=50, complete=False))
    books = FakeBooks(_record("r1", 42, evidence="partial"), drifts=[Drift("company||all", 42, 41, "spent")])
    outcome = await closing(Watch(books), books, bill)
    assert (outcome.figures["difference_nusd"], outcome.figures["drift"], outcome.figures["estimated_records"]) == (-8, 1, 1)
    assert "Difference -0.000000008 USD. 1 records (0.000000042 USD) rest on an estimate, 1 answers did not end" in outcome.lines[-1]


async def test_an_empty_run_spends_nothing() -> None:
    """No division by zero, no claim."""
    books = FakeBooks()
    outcome = await closing(Watch(books), books, Bill())
    assert outcome.figures["booked_nusd"] == 0
    assert "By team:  nothing." in outcome.lines


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Reply(200, {}, b'data: {"x": 1}\n\ndata: [DONE]\n\n'), None),
        (Reply(200, {}, b'data: {"error": {}}\n\n'), "stream_failed"),
        (Reply(502, {}, b"<html>"), "not_json"),
        (Reply(502, {}, b"[]"), "not_json"),
        (Reply(402, {}, b'{"error": {"code": "budget_exceeded"}}'), "budget_exceeded"),
    ],
)
def test_errors_are_found_in_every_form(reply: Reply, code: str | None) -> None:
    """A stream that ends in an error has status 200 and is a failure all the same."""
    assert (reply.error or {}).get("code") == code


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1\r\n!\r\n0\r\n\r\n", b"ok!"),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", b"to the end"),
    ],
)
async def test_the_client_reads_all_framings(raw: bytes, body: bytes) -> None:
    """Length, chunks, or the end of the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        reply = await post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/x", b"{}", {"a": "b"})
    assert (reply.status, reply.body) == (200, body)


def test_the_same_seed_asks_the_same() -> None:
    """Otherwise no run could be repeated."""
    first, second, other = Traffic(1), Traffic(1), Traffic(2)
    teams = [team for team in TEAMS for _ in range(10)]
    bodies = [[traffic.ask(team).body() for team in teams] for traffic in (first, second, other)]
    assert bodies[0] == bodies[1] != bodies[2]


def test_minutes_scale_the_script() -> None:
    """`--fast` wins over `--minutes`."""
    assert Options().scale == 1.0
    assert Options(minutes=5).scale == 0.5
    assert Options(minutes=5, fast=True).scale == 50.0
