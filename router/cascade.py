"""A cascade: the small model is asked first, its answer is kept back and checked; only if it does not pass, the next one is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from policies.answers import Said, agree, without_logprobs
from policies.plans import Cascade, Step
from policies.types import Decision
from policies.verifiers import failed_check, score_of
from router.call import Attempt, Call
from router.captured import Captured
from router.dispatch import Failure
from router.domain.pricing import expected
from router.domain.request import ParsedRequest, parse_request
from router.domain.usage import Usage
from router.doors import Doors, beside, following
from router.edge import headers as h
from router.edge.exchange import Exchange
from router.errors import RouterError, StoreUnavailable

MOST_SHOWN: int = 60_000
"""Bytes of a request that a judge is shown."""
JUDGE_TOKENS: int = 64
SPOKEN = frozenset({"ok", "cut"})


class Chain:
    """One request on its way through the steps."""

    def __init__(self, doors: Doors, call: Call, client: Exchange, cascade: Cascade) -> None:
        self._doors = doors
        self._call = call
        self._client = client
        self._cascade = cascade
        self._kept: tuple[Captured, Attempt, Usage | None] | None = None
        """The latest answer that did not pass, or has not passed yet: better than none."""
        decision = call.decision
        # Set by routing, or routing has raised.
        assert decision is not None  # noqa: S101
        self._decision = decision

    async def run(self) -> Failure | None:
        """Ask one step after the other. None: the client has its answer."""
        for step in self._cascade.steps[:-1]:
            if self._is_too_late(step):
                continue
            failure, verdict = await self._ask(step)
            self._doors.metrics.cascaded(cascade=self._cascade.name, step=step.name, verdict=verdict)
            if verdict == "accepted":
                self._learn(escalated=False)
                return None
            if failure is not None and not failure.fall_back:
                return failure
        return await self._ask_the_last(self._cascade.steps[-1])

    def _part(self, step: Step, *, rest: bool = False) -> Decision:
        """The decision for one step; `rest`: and for whatever no step is made of."""
        own = set(step.deployments)
        others = {name for each in self._cascade.steps for name in each.deployments} - own
        order = tuple([ranked for ranked in self._decision.order if ranked.deployment in own or (rest and ranked.deployment not in others)])
        return msgspec.structs.replace(self._decision, order=order, kind=f"cascade:{step.name}")

    async def _ask(self, step: Step) -> tuple[Failure | None, str]:
        """Ask a step and check its answer: why it failed, if it did; and what is done with the answer."""
        call, verify = self._call, self._cascade.verify
        captured, request = Captured(self._client, clock=self._doors.clock), call.request
        asks_more = verify.logprob is not None and "logprobs" not in request.fields
        if asks_more:
            call.request = _with_logprobs(request)
        try:
            failure = await following(self._doors, call, captured, self._part(step))
        except RouterError:
            # No room in a budget, or a limit: the next step may have some, and says so if it has not.
            return None, "refused"
        finally:
            call.request = request
            self._count_waiting(captured)
        winner = call.winner
        if failure is not None or winner is None or call.outcome not in SPOKEN or captured.aborted:
            return failure, "failed"
        said = captured.said()
        if asks_more:
            captured.replace(without_logprobs(captured.data, stream=not captured.whole))
        # From here on there is something to show, also if the time is over while others are asked about it.
        self._kept = captured, winner, call.usage
        call.kept = self._show_kept
        verdict = await self._verdict(said)
        if verdict:
            return None, verdict
        await self._show(captured)
        return None, "accepted"

    def _count_waiting(self, captured: Captured) -> None:
        """Nothing of it has reached the client: a stream was waited for to its end, not only until it began."""
        call = self._call
        if call.first_byte_at is not None and captured.started and not captured.whole:
            ended = self._doors.clock() if captured.ended is None else captured.ended
            call.upstream_seconds += ended - call.first_byte_at
        call.first_byte_at = None

    async def _show(self, captured: Captured) -> None:
        call = self._call
        call.first_byte_at = now = self._doors.clock()
        overhead_ms = (now - call.began - call.upstream_seconds) * 1000
        whole, part = divmod(call.charge_nusd, 1_000_000_000)
        changed = {h.ATTEMPTS: b"%d" % call.attempts, h.COST_USD: b"%d.%09d" % (whole, part), h.OVERHEAD_MS: b"%.3f" % overhead_ms}
        await captured.replay(self._client, changed)

    def _is_too_late(self, step: Step) -> bool:
        """Whether all of a step's models usually need longer than there is time, and there is an answer to be shown instead."""
        return self._kept is not None and self._come_too_late(step.deployments)

    def _come_too_late(self, names: tuple[str, ...]) -> bool:
        deadline = self._call.deadline
        if deadline is None:
            return False
        left_ms = (deadline - self._doors.clock()) * 1000
        usual = [self._doors.fleet.usual_ms(name) for name in names]
        return all(ms is not None and ms > left_ms for ms in usual)

    async def _ask_the_last(self, step: Step) -> Failure | None:
        call, client = self._call, self._client
        if self._is_too_late(step):
            await self._show_kept()
            return None
        failure: Failure | None = None
        try:
            failure = await following(self._doors, call, client, self._part(step, rest=True))
        except (RouterError, StoreUnavailable):
            if self._kept is None or client.started:
                raise
            failure = Failure(cause="refused")
        if failure is None:
            self._doors.metrics.cascaded(cascade=self._cascade.name, step=step.name, verdict="last")
            self._learn(escalated=True)
            return None
        if self._kept is None or client.started:
            return failure
        await self._show_kept()
        return None

    async def _show_kept(self) -> None:
        """The large one cannot be had in time, or at all: what the small one has said is paid for, and may do."""
        if self._kept is None:
            return
        call = self._call
        captured, call.winner, call.usage = self._kept
        call.outcome, call.status, call.error_code = "ok", 200, ""
        self._doors.metrics.cascaded(cascade=self._cascade.name, step=self._cascade.steps[-1].name, verdict="unavailable")
        await self._show(captured)

    def _learn(self, *, escalated: bool) -> None:
        """What the last step alone would have cost: what it did, or its price for an answer as long."""
        call = self._call
        alone = call.winner.charge_nusd if escalated and call.winner is not None else 0
        if not escalated and call.usage is not None:
            price = call.snapshot.deployments[self._cascade.steps[-1].deployments[0]].price
            used = call.usage
            alone = 0 if price is None else expected(price, input_tokens=used.input_tokens, output_tokens=used.output_tokens)
        if alone:
            self._doors.fleet.memory.cascaded(call, self._cascade.name, alone_nusd=alone, escalated=escalated)

    # -- checks

    async def _verdict(self, said: Said) -> str:
        """The check that an answer does not pass; empty if it passes all."""
        call, verify = self._call, self._cascade.verify
        failed = failed_check(verify, said, schema=_schema_of(call.request), own_cap=call.request.output_cap is not None)
        if failed or said.tools:
            return failed
        if verify.agree is not None:
            other = await self._second(self._cascade.seconds, _as_json(call.request), "agree")
            if other is None or not agree(said.text, other.text, verify.agree.extract):
                return "agree"
        if verify.judge is not None:
            asked = _question(call.request, said.text, verify.judge.instruction)
            told = await self._second(self._cascade.judges, asked, "judge")
            score = None if told is None else score_of(told.text)
            if score is None or score < verify.judge.at_least:
                return "judge"
        return ""

    async def _second(self, names: tuple[str, ...], request: ParsedRequest, what: str) -> Said | None:
        """What another model says; None: it cannot be asked, or not in time, or does not answer."""
        if not names or self._come_too_late(names):
            return None
        call, captured = self._call, Captured(self._client)
        operation, call.operation = call.operation, request.operation
        try:
            failure, part = await beside(self._doors, call, captured, request, names, f"cascade:{what}")
        except (RouterError, StoreUnavailable):
            return None
        finally:
            call.operation = operation
        return None if failure is not None or part.winner is None else captured.said()


def _with_logprobs(request: ParsedRequest) -> ParsedRequest:
    wish = b"true" if request.operation == "chat" else b"1"
    return msgspec.structs.replace(request, fields={**request.fields, "logprobs": msgspec.Raw(wish)})


def _as_json(request: ParsedRequest) -> ParsedRequest:
    """The same request, its answer in one piece."""
    fields = {name: raw for name, raw in request.fields.items() if name not in ("stream", "stream_options")}
    return msgspec.structs.replace(request, fields=fields, stream=False, wants_usage=False)


def _schema_of(request: ParsedRequest) -> Mapping[str, Any] | None:
    """The JSON schema that the answer must follow; None if there is none."""
    if not request.json_schema:
        return None
    try:
        found: Any = msgspec.json.decode(request.fields["response_format"])["json_schema"]["schema"]
    except (msgspec.MsgspecError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _question(request: ParsedRequest, answer: str, instruction: str) -> ParsedRequest:
    """What a judge is asked: the request as it was sent, and the answer."""
    raw = request.fields.get("messages", request.fields.get("prompt", msgspec.Raw(b"")))
    shown = bytes(raw)[:MOST_SHOWN].decode("utf-8", "replace")
    body = {
        "model": request.model,
        "messages": [
            {"role": "system", "content": instruction},
            {"role": "user", "content": f"Request:\n{shown}\n\nAnswer:\n{answer[:MOST_SHOWN]}"},
        ],
        "max_tokens": JUDGE_TOKENS,
    }
    return parse_request(msgspec.json.encode(body), "chat")
