"""The world around the pipeline, faked: a ledger in memory, scripted providers, a client. Every call suspends before
and after it takes effect, so that a test can stop the pipeline at each of these points.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import msgspec

from router.admission import Admission
from router.call import Attempt
from router.dispatch import Dispatcher
from router.domain.budgets import BucketSet, Refusal, Reservation, WindowMoved
from router.domain.records import SpendRecord
from router.domain.shortage import OnShort
from router.errors import StoreUnavailable
from router.fleet import Fleet
from router.live_controls import LiveControls
from router.metrics import Metrics
from router.metrics_ledger import MeteredStore
from router.pipeline import Pipeline
from router.ports import Endpoint, StoredKey, Timeouts, UpstreamError, UpstreamResponse
from router.reservation import Reservations
from router.settings.load import load_text, price_book
from router.settlement import Settlements
from router.snapshot import Snapshot
from tests.control_fakes import MemoryControls

NOW_MS = 1_790_000_000_000
PRICE = 10_000
"""Nano-USD per token in the configurations below."""

CONFIG = """
version: 1
server: {{slice_tokens: {slice_tokens}, log_requests: false}}
providers:
  one: {{kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: k}}
  two: {{kind: openai, base_url: "http://127.0.0.1:2/v1", api_key: k}}
models:
  m: {{at: [one/m, two/m], price: {{input: 10, output: 10}}, default_max_output: 200}}
routes:
  auto: {{default: {{use: [m], by: fixed}}, fallback: {{tries: 4, retries: {retries}}}}}
budgets:
  everyone: {{limit: ${limit}}}
"""


def snapshot(*, limit: str = "1.00", slice_tokens: int = 2048, retries: int = 1) -> Snapshot:
    """Two deployments of one model, tried in their order, under one budget."""
    text = CONFIG.format(limit=limit, slice_tokens=slice_tokens, retries=retries)
    return load_text(text, source="test.yaml", environ={}, price_book=price_book()).snapshot


KINDS = """
version: 1
server: {{log_requests: false}}
providers:
  one: {{kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: k}}
  two: {{kind: openai, base_url: "http://127.0.0.1:2/v1", api_key: k}}
models:
  m: {{at: one/m, price: {{input: 10, output: 10}}, default_max_output: 200}}
  n: {{at: two/n, price: {{input: 10, output: 10}}, default_max_output: 200}}
routes:
  auto: {{use: [m, n], by: {by}, fallback: {{tries: 4, retries: 0}}}}
budgets:
  everyone: {{limit: $1.00}}
teams: {{lab: {{budget: $1.00}}}}
"""


def by_kind(by: str) -> Snapshot:
    """Two models under a policy kind."""
    return load_text(KINDS.format(by=by), source="test.yaml", environ={}, price_book=price_book()).snapshot


def with_ways(*ways: OnShort, wait: float = 5.0, least: int = 16, **more: Any) -> Snapshot:
    """One budget that does this when it is short."""
    made = snapshot(limit="1.00")
    server = replace(made.server, short_wait_seconds=wait, least_output_tokens=least, **more)
    return replace(made, budgets=tuple(replace(budget, on_short=ways) for budget in made.budgets), server=server)


class Stepped:
    """Awaits a coroutine and cancels the task that awaits it at the given suspensions, counted from 0."""

    def __init__(self, work: Coroutine[Any, Any, None], cancel_at: frozenset[int] = frozenset()) -> None:
        self._work = work
        self._cancel_at = cancel_at
        self.suspensions = 0

    def __await__(self) -> Generator[Any, Any, None]:
        task = asyncio.current_task()
        assert task is not None
        error: BaseException | None = None
        while True:
            try:
                waiting_for = self._work.send(None) if error is None else self._work.throw(error)
            except StopIteration:
                return
            if self.suspensions in self._cancel_at:
                task.cancel()
            self.suspensions += 1
            error = None
            try:
                yield waiting_for
            # A cancellation too: it is handed on to the coroutine.
            except BaseException as exc:  # noqa: BLE001
                error = exc


@dataclass(slots=True)
class Hold:
    amount_nusd: int
    state: str = "held"
    charge_nusd: int = 0
    ends: int = 0
    """How often the hold was ended, repetitions of the same call left out."""


class MemoryLedger:
    """A budget of one limit. Keeps the contract of `BudgetStore`: what is cancelled holds nothing."""

    def __init__(self, limit_nusd: int) -> None:
        self.limit_nusd = limit_nusd
        self.holds: dict[str, Hold] = {}
        self.records: list[SpendRecord] = []
        self.calls: Counter[str] = Counter()
        self.away = False
        """Every call fails."""
        self.moves = 0
        """So many reserves find that their window has ended."""

    @property
    def open_holds(self) -> dict[str, Hold]:
        return {attempt: hold for attempt, hold in self.holds.items() if hold.state == "held"}

    @property
    def spent_nusd(self) -> int:
        return sum(hold.charge_nusd for hold in self.holds.values())

    @property
    def held_nusd(self) -> int:
        return sum(hold.amount_nusd for hold in self.open_holds.values())

    async def _step(self, name: str) -> None:
        self.calls[name] += 1
        await asyncio.sleep(0)
        if self.away:
            raise StoreUnavailable("it is away")

    async def reserve(
        self, *, attempt_id: str, amount_nusd: int, buckets: BucketSet, note: bytes = b"", tokens: int = 0
    ) -> Reservation | Refusal | WindowMoved:
        await self._step("reserve")
        msgspec.json.decode(note)
        if self.moves:
            self.moves -= 1
            return WindowMoved(now_ms=NOW_MS)
        if self.spent_nusd + self.held_nusd + amount_nusd > self.limit_nusd:
            await asyncio.sleep(0)
            return self._refusal(buckets, amount_nusd)
        self.holds[attempt_id] = Hold(amount_nusd)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            del self.holds[attempt_id]
            raise
        tightest = buckets.buckets[0]
        left = self.limit_nusd - self.spent_nusd - self.held_nusd
        return Reservation(attempt_id=attempt_id, amount_nusd=amount_nusd, buckets=buckets, tightest=tightest, tightest_left_nusd=left)

    def _refusal(self, buckets: BucketSet, needed: int) -> Refusal:
        return Refusal(
            bucket=buckets.buckets[0],
            limit_nusd=self.limit_nusd,
            spent_nusd=self.spent_nusd,
            held_nusd=self.held_nusd,
            needed_nusd=needed,
        )

    async def extend(self, held: Reservation, *, by_nusd: int) -> Reservation | Refusal:
        await self._step("extend")
        hold = self.holds[held.attempt_id]
        assert hold.state == "held"
        if self.spent_nusd + self.held_nusd + by_nusd > self.limit_nusd:
            await asyncio.sleep(0)
            return self._refusal(held.buckets, by_nusd)
        hold.amount_nusd += by_nusd
        await asyncio.sleep(0)
        return msgspec.structs.replace(held, amount_nusd=hold.amount_nusd)

    async def settle(self, held: Reservation, *, charge_nusd: int, record: bytes, tokens: int | None = None) -> bool:
        await self._step("settle")
        hold = self.holds[held.attempt_id]
        changed = hold.state == "held"
        if changed:
            hold.state, hold.charge_nusd = "settled", charge_nusd
            hold.ends += 1
            self.records.append(msgspec.json.decode(record, type=SpendRecord))
        else:
            assert (hold.state, hold.charge_nusd) == ("settled", charge_nusd), "ended in another way before"
        await asyncio.sleep(0)
        return changed

    async def void(self, held: Reservation) -> bool:
        await self._step("void")
        hold = self.holds[held.attempt_id]
        changed = hold.state == "held"
        if changed:
            hold.state = "void"
            hold.ends += 1
        else:
            assert hold.state == "void", "settled before"
        await asyncio.sleep(0)
        return changed


class Delivering:
    """Settles through a ledger that is always there. See `router.settlement.SettleStore`."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    async def settle(self, held: Reservation, *, charge_nusd: int, record: bytes, tokens: int | None = None) -> None:
        await self._ledger.settle(held, charge_nusd=charge_nusd, record=record, tokens=tokens)

    async def void(self, held: Reservation) -> None:
        await self._ledger.void(held)


@dataclass(slots=True)
class Script:
    """One answer of a provider: a status and chunks, one of which may be a fault."""

    chunks: Sequence[bytes | UpstreamError] = ()
    status: int = 200
    headers: Mapping[bytes, bytes] = field(default_factory=lambda: {b"content-type": b"application/json"})
    fault: UpstreamError | None = None
    """Instead of an answer."""
    ahead: int = 0
    """Bytes that it has written and nobody reads."""


class FakeResponse(UpstreamResponse):
    """A scripted answer. See `router.ports.UpstreamResponse`."""

    def __init__(self, script: Script) -> None:
        self.status = script.status
        self.headers: Sequence[tuple[bytes, bytes]] = list(script.headers.items())
        self._chunks = list(script.chunks)
        self._ahead = script.ahead
        self.open = True
        self.aborted = False
        self.buffered = b""
        """Has come, and nobody has asked for it."""

    def pending(self) -> bytes:
        taken, self.buffered = self.buffered, b""
        return taken

    def ahead(self) -> int:
        return self._ahead

    async def read(self, limit: int) -> bytes:
        parts = []
        while part := await self.chunk():
            parts.append(part)
        return b"".join(parts)[:limit]

    async def chunk(self) -> bytes:
        await asyncio.sleep(0)
        if not self._chunks:
            self.open = False
            return b""
        found = self._chunks.pop(0)
        if isinstance(found, UpstreamError):
            self.open = False
            raise found
        return found

    def abort(self) -> None:
        self.open = False
        self.aborted = True


class FakeUpstream:
    """Providers that answer from a script, one entry per call. See `router.ports.Upstream`."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self.responses: list[FakeResponse] = []
        self.called: list[str] = []
        self.bodies: list[bytes] = []

    async def post(
        self, endpoint: Endpoint, path: str, body: bytes, *, headers: Sequence[tuple[bytes, bytes]] = (), timeouts: Timeouts
    ) -> UpstreamResponse:
        self.called.append(endpoint.name)
        self.bodies.append(body)
        script = self._scripts.pop(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if script.fault is not None:
            raise script.fault
        made = FakeResponse(script)
        self.responses.append(made)
        return made

    async def close(self) -> None:
        return


class FakeExchange:
    """A client that is as slow as it can be: every write waits. See `router.edge.exchange.Exchange`."""

    def __init__(self, body: dict[str, object] | bytes, headers: Mapping[bytes, bytes] | None = None, *, gone: bool = False) -> None:
        self._body = body if isinstance(body, bytes) else msgspec.json.encode(body)
        self.method = "POST"
        self.path = "/v1/chat/completions"
        self.headers: Mapping[bytes, bytes] = headers or {b"authorization": b"Bearer any"}
        self.gone = gone
        """Set beforehand: what a cancellation will mean."""
        self.started = False
        self.finished = False
        self.aborted = False
        self.status = 0
        self.head = b""
        self.sent = b""

    async def body(self) -> bytes:
        await asyncio.sleep(0)
        return self._body

    async def respond(self, status: int, headers: bytes, body: bytes) -> None:
        self.started = self.finished = True
        self.status, self.head, self.sent = status, headers, body
        await asyncio.sleep(0)

    async def start(self, status: int, headers: bytes) -> None:
        self.started = True
        self.status, self.head = status, headers
        await asyncio.sleep(0)

    def write(self, data: bytes) -> Awaitable[None] | None:
        self.sent += data
        return asyncio.ensure_future(asyncio.sleep(0))

    async def finish(self) -> None:
        self.finished = True
        await asyncio.sleep(0)

    def abort(self) -> None:
        self.aborted = self.gone = True


class NoKeys:
    """A store without minted keys. See `router.ports.KeyStore`."""

    async def pepper(self) -> bytes:
        return b"pepper"

    async def get_key(self, key_id: str) -> StoredKey | None:
        return None

    async def put_key(self, key: StoredKey) -> None:
        return

    async def list_keys(self) -> Sequence[StoredKey]:
        return ()


class Clock:
    """Goes on by a millisecond each time it is read."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


class World:
    """A pipeline with everything around it."""

    def __init__(self, config: Snapshot, *scripts: Script, limit_nusd: int | None = None) -> None:
        self.snapshot = config
        self.ledger = MemoryLedger(config.budgets[0].limit_nusd if limit_nusd is None else limit_nusd)
        self.upstream = FakeUpstream(*scripts)
        self.clock = Clock()
        self.fleet = Fleet(self.clock)
        self.metrics = Metrics()
        self.metrics.configure(config)
        self.live: dict[str, Attempt] = {}
        self.controls = LiveControls(MemoryControls(), self.fleet, keys_changed=lambda: None)
        ids = itertools.count(1)
        metered = MeteredStore(self.ledger, self.metrics, clock=self.clock)
        self.pipeline = Pipeline(
            snapshot=config,
            admission=Admission(config, NoKeys(), pepper=b"pepper", clock=self.clock),
            fleet=self.fleet,
            reservations=Reservations(config, metered, lambda: NOW_MS),
            store=metered,
            dispatcher=Dispatcher(wire=self.upstream),
            settlements=Settlements(Delivering(self.ledger), self.metrics, clock=self.clock, clock_ms=lambda: NOW_MS),
            metrics=self.metrics,
            log=None,
            controls=self.controls,
            live=self.live,
            clock=self.clock,
            clock_ms=lambda: NOW_MS,
            random=lambda: 0.0,
            new_id=lambda: f"r{next(ids)}",
        )

    async def ask(self, body: dict[str, object]) -> FakeExchange:
        """Serve one chat call to its end."""
        exchange = FakeExchange(body)
        await self.pipeline.serve(exchange, "chat")
        return exchange

    def metric(self, name: str) -> float:
        """The sum over all series of a counter or gauge."""
        return sum(float(point) for _, point in self.metrics.state().get(name, []) if isinstance(point, int | float))

    def with_budget_status(self, status: int) -> Self:
        """Refuse for money with another HTTP status."""
        self.pipeline.snapshot = replace(self.snapshot, server=replace(self.snapshot.server, budget_status=status))
        return self


def ask(*, stream: bool = False, **more: object) -> dict[str, object]:
    """The body of a chat call on the route with both deployments."""
    return {"model": "auto", "stream": stream, "messages": [{"role": "user", "content": "Hello"}], **more}


def json_answer(completion: int = 5, *, text: str = "Hi.", **more: object) -> Script:
    """A JSON answer whose provider says how many tokens it was."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    told = {"prompt_tokens": 7, "completion_tokens": completion, "total_tokens": 7 + completion}
    return Script([msgspec.json.encode({"model": "m-1", "choices": [choice], "usage": told, **more})])


def event(data: object) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def piece(text: str = "word ", *, finish: str | None = None, index: int = 0) -> bytes:
    """One event of a chat stream."""
    delta = {"content": text} if text else {}
    return event({"id": "c", "object": "chat.completion.chunk", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]})


SSE = {b"content-type": b"text/event-stream"}
DONE = b"data: [DONE]\n\n"


def stream_answer(*chunks: bytes | UpstreamError, told: int | None = 5) -> Script:
    """A stream that ends well, unless one of its chunks is a fault."""
    if any(isinstance(chunk, UpstreamError) for chunk in chunks):
        return Script(chunks, headers=SSE)
    usage = [] if told is None else [event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": told}})]
    return Script([*chunks, piece("", finish="stop"), *usage, DONE], headers=SSE)


def failing(status: int = 500, **headers: str) -> Script:
    """An error in OpenAI's shape."""
    body = msgspec.json.encode({"error": {"message": "No.", "type": "server_error", "param": None, "code": None}})
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return Script([body], status=status, headers={b"content-type": b"application/json", **named})


def lost(fault: str = "reset", *, sent: bool = True) -> UpstreamError:
    """A call that failed below HTTP."""
    # One of UpstreamFault.
    return UpstreamError(fault, f"made up: {fault}", sent=sent)  # type: ignore[arg-type]
