"""Runs policy tests: each request is decided by the code that serves, in a world that the test describes."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from router.admission import fresh, principal_of_entry
from router.call import Principal
from router.domain.budgets import BucketState, Budget
from router.domain.money import format_usd
from router.domain.windows import bucket_at
from router.edge.headers import TAGS
from router.errors import RouterError
from router.explain import CandidateLine, Explanation, explain
from router.explain_budgets import BudgetLine, Spent
from router.fleet import Closed, Fleet
from router.memory import Memory
from router.moment_figures import FEWEST_OF_TAIL
from router.policy_test_names import STATUS
from router.settings.model_tests import Ask, Case, Expect, Given, GivenDeployment, TestFile
from router.snapshot import Deployment, KeyEntry, Snapshot

CALLS: Final = 10_000
"""So many are taken for the last ones where a share of failures is given."""
BYTES_PER_TOKEN: Final = 4
GREETING: Final = "Hello, how are you?"
_IMAGE: Final = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 64).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one test."""

    file: str
    line: int
    name: str
    failures: tuple[str, ...]
    """What was expected and what was found; empty: it passed."""
    rule: tuple[str, str] | None
    """(Route, rule) that decided; None: it was refused before."""
    seconds: float


@dataclass(slots=True)
class Coverage:
    """Which rules some test has reached."""

    all: list[tuple[str, str]] = field(default_factory=list)
    reached: set[tuple[str, str]] = field(default_factory=set)

    def add(self, snapshot: Snapshot) -> None:
        """Count the rules of a configuration. Routes that are only the name of a model have none."""
        for name, route in snapshot.routes.items():
            if name == route.name and not route.aliases_model:
                rules = [*(rule.name for rule in route.policy.rules), route.policy.default.rule]
                self.all += [(name, rule) for rule in rules if (name, rule) not in self.all]

    @property
    def missed(self) -> list[tuple[str, str]]:
        """Rules that no test has reached."""
        return [rule for rule in self.all if rule not in self.reached]

    @property
    def share(self) -> float:
        """Reached rules, of all."""
        return 1.0 if not self.all else 1 - len(self.missed) / len(self.all)


def run_file(snapshot: Snapshot, path: str, tests: TestFile, lines: list[int], coverage: Coverage) -> list[Result]:
    """All tests of a file. What they name is there: `unknown_names` was asked before."""
    coverage.add(snapshot)
    found = []
    for case, line in zip(tests.tests, lines, strict=True):
        began = time.perf_counter()
        rule, failures = _run(snapshot, case, tests.given)
        if rule is not None:
            coverage.reached.add(rule)
        took = time.perf_counter() - began
        found.append(Result(file=path, line=line, name=case.name, failures=tuple(failures), rule=rule, seconds=took))
    return found


def _run(snapshot: Snapshot, case: Case, common: Given) -> tuple[tuple[str, str] | None, list[str]]:
    given = merged(common, case.given)
    try:
        told = decided(snapshot, case.ask, given)
    except _Wrong as error:
        return None, [str(error)]
    except RouterError as error:
        return None, _refusal(error.spec.http_status, error.spec.code, str(error), case.expect)
    return (told.route, told.rule), differences(snapshot, told, case.expect)


def merged(common: Given, own: Given) -> Given:
    """What a file says for all tests, and what one test says; the test wins."""
    changed = {name: getattr(own, name) for name in own.model_fields_set}
    changed |= {"fleet": {**common.fleet, **own.fleet}, "budgets": {**common.budgets, **own.budgets}}
    return common.model_copy(update=changed)


class _Wrong(Exception):
    """The test asks for what cannot be."""


def decided(snapshot: Snapshot, ask: Ask, given: Given) -> Explanation:
    """Decide as the server would.

    Raises:
        RouterError: it is refused before a decision.
    """
    now_ms = time.time_ns() // 1_000_000 if given.at is None else int(given.at.timestamp() * 1000)
    headers = {name.lower().encode(): value.encode() for name, value in ask.headers.items()}
    if ask.tags:
        headers[TAGS] = ",".join(f"{name}={value}" for name, value in ask.tags.items()).encode()
    principal = _principal(snapshot, ask, now_ms)
    body = body_of(ask)

    def once(spent: Spent | None) -> Explanation:
        fleet = _fleet(snapshot, given.fleet, now_ms)
        return explain(
            snapshot, body, principal=principal, headers=headers, fleet=fleet, draw=given.draw, spent=spent, clock_ms=lambda: now_ms
        )

    told = once(Spent(states=(), now_ms=now_ms))
    if not given.budgets:
        return told
    lines = [line for candidate in told.candidates for line in candidate.budgets]
    return once(Spent(states=_states(snapshot, lines, given.budgets, now_ms), now_ms=now_ms))


def body_of(ask: Ask) -> bytes:
    """The body that a client would send."""
    text = ask.text or GREETING
    if ask.input_tokens is not None:
        # Words, so that no detector takes it for something else than text; the frame of the body counts, too.
        text = ("word " * (ask.input_tokens * BYTES_PER_TOKEN // 5 + 1))[: max(1, ask.input_tokens * BYTES_PER_TOKEN - 80)]
    content: Any = text
    if ask.image:
        content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": _IMAGE}}]
    body: dict[str, Any] = {"model": ask.model, "messages": [{"role": "user", "content": content}]}
    if ask.stream:
        body["stream"] = True
    if ask.tools:
        body["tools"] = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
    if ask.json_schema:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
    if ask.max_tokens is not None:
        body["max_tokens"] = ask.max_tokens
    if ask.user is not None:
        body["user"] = ask.user
    if ask.session is not None:
        body["metadata"] = {"session_id": ask.session}
    if "prompt" in ask.body or "input" in ask.body:
        del body["messages"]
    # Numbers of the file remember how they were written; the encoder wants plain ones.
    return msgspec.json.encode(body | ask.body, enc_hook=float)


def _principal(snapshot: Snapshot, ask: Ask, now_ms: int) -> Principal:
    if ask.key is None:
        entry = KeyEntry(key_id="", name="anonymous", team=ask.team or "", secret_hmac=None, secret_digest=None)
        return principal_of_entry(entry, snapshot.teams)
    found = next(entry for entry in snapshot.keys.values() if ask.key in (entry.key_id, entry.name))
    if ask.team is not None and ask.team != found.team:
        raise _Wrong(f"ask.team: key {ask.key!r} is not of team {ask.team!r}, but of {found.team!r}")
    return fresh(principal_of_entry(found, snapshot.teams), now_ms / 1000)


def _fleet(snapshot: Snapshot, states: Mapping[str, GivenDeployment], now_ms: int) -> Fleet:
    fleet = Fleet(lambda: 0.0)
    fleet.memory = Memory(clock=lambda: now_ms / 1000, quantile=fleet.first_token_quantile)
    closed: dict[str, Closed] = {}
    for name, state in states.items():
        for deployment in [one for one in snapshot.deployments.values() if name in _names(one)]:
            _set_up(fleet, deployment, state, closed)
    fleet.close_deployments(closed)
    return fleet


def _set_up(fleet: Fleet, deployment: Deployment, state: GivenDeployment, closed: dict[str, Closed]) -> None:
    name = deployment.name
    if state.first_token is not None or state.total is not None or state.output_tokens is not None:
        total = state.total if state.total is not None else state.first_token or 0.0
        first = None if state.first_token is None else state.first_token * 1000
        for _ in range(FEWEST_OF_TAIL):
            fleet.succeeded(name, first_token_ms=first, total_ms=total * 1000, output_tokens=state.output_tokens)
    for _ in range(max(state.in_flight, (deployment.max_in_flight or 0) if state.state == "busy" else 0)):
        fleet.began(name)
    if state.state == "down":
        # Cools down at once.
        fleet.failed(name, cause="auth")
    elif state.state in ("drained", "frozen"):
        closed[name] = ("drained" if state.state == "drained" else "frozen", "as the test says")
    if state.error_rate is not None:
        fleet.assume_failures(name, calls=CALLS, failures=round(state.error_rate * CALLS))


def _states(snapshot: Snapshot, lines: list[BudgetLine], shares: Mapping[str, float], now_ms: int) -> list[BucketState]:
    budgets: dict[str, Budget] = {budget.name: budget for budget in snapshot.budgets}
    found = {}
    for line in lines:
        share = shares.get(line.name)
        if share is None or (line.name, line.scope) in found:
            continue
        bucket = bucket_at(budgets[line.name], line.scope, now_ms)
        found[(line.name, line.scope)] = BucketState(
            budget=line.name,
            scope=line.scope,
            window=bucket.window,
            limit_nusd=None,
            spent_nusd=round(line.limit_nusd * share),
            held_nusd=0,
            debt_nusd=0,
            ends_ms=bucket.ends_ms,
            unit=line.unit,
        )
    return list(found.values())


def _names(deployment: Deployment) -> tuple[str, str, str]:
    return deployment.name, deployment.model, deployment.provider.name


def differences(snapshot: Snapshot, told: Explanation, expect: Expect) -> list[str]:
    """What is not as it is expected."""
    tried = [line for line in told.candidates if line.place is not None]
    fitting = [line for line in tried if all(budget.fits for budget in line.budgets)]
    found = _refusal(told.error_status, told.error_code, told.error, expect)
    if found or expect.refused is not None:
        return found + _plain(told, expect)
    first = fitting[0]
    provider = snapshot.deployments[first.deployment].provider.name
    for word, wanted, got in (
        ("model", expect.model, first.model),
        ("deployment", expect.deployment, first.deployment),
        ("provider", expect.provider, provider),
    ):
        if wanted is not None and wanted != got:
            found.append(f"{word}: expected {wanted!r}, found {got!r}{_why(told, wanted)}")
    if expect.max_cost is not None and (first.worst_case_nusd is None or first.worst_case_nusd > expect.max_cost):
        cost = "an unknown amount" if first.worst_case_nusd is None else f"{format_usd(first.worst_case_nusd)} USD"
        found.append(f"max_cost: expected at most {format_usd(expect.max_cost)} USD, {first.deployment} could cost {cost}")
    return found + _plain(told, expect) + _order(snapshot, tried, expect)


def _refusal(status: int | None, code: str, message: str, expect: Expect) -> list[str]:
    """What is wrong with being served (`status` is None) or refused so."""
    wanted = expect.refused
    if status is None:
        return [] if wanted is None else [f"refused: expected {wanted!r}, but it is served"]
    told = f"{status} {code}: {message.removeprefix(f'{status}: ')}"
    if wanted is None:
        return [f"it is refused: {told}"]
    good = wanted == str(status) if STATUS.fullmatch(wanted) else wanted == code or wanted in message
    return [] if good else [f"refused: expected {wanted!r}, found {told}"]


def _plain(told: Explanation, expect: Expect) -> list[str]:
    found = []
    for word, wanted, got in (("rule", expect.rule, told.rule), ("kind", expect.kind, told.kind)):
        if wanted is not None and wanted != got:
            found.append(f"{word}: expected {wanted!r}, found {got!r}")
    for name, value in expect.signals.items():
        seen = getattr(told.facts.signals, name, None)
        seen = sorted(seen) if isinstance(seen, frozenset) else None if seen is msgspec.UNSET else seen
        if seen != (sorted(value) if isinstance(value, list) else value):
            found.append(f"signals.{name}: expected {value!r}, found {seen!r}")
    out = [line for line in told.candidates if line.place is None]
    for name, reason in expect.rejected.items():
        mine = [line for line in out if name in (line.deployment, line.model)]
        if not mine:
            found.append(f"rejected: expected {name!r} to be out ({reason}), but it is tried")
        elif not any(line.reason == reason for line in mine):
            found.append(f"rejected: expected {name!r} for {reason!r}, found {mine[0].reason!r}")
    return found


def _order(snapshot: Snapshot, tried: list[CandidateLine], expect: Expect) -> list[str]:
    found = []
    if expect.order is not None:
        got = [line.deployment for line in tried]
        matches = len(got) == len(expect.order) and all(
            name in (line.deployment, line.model) for name, line in zip(expect.order, tried, strict=True)
        )
        if not matches:
            found.append(f"order: expected {', '.join(expect.order)}; found {', '.join(got)}")
    for name in expect.never or ():
        hits = [line.deployment for line in tried if name in _names(snapshot.deployments[line.deployment])]
        if hits:
            found.append(f"never: {name!r} would be tried: {', '.join(hits)}")
    return found


def _why(told: Explanation, wanted: str) -> str:
    """Why what was expected did not come first."""
    for line in told.candidates:
        if wanted in (line.deployment, line.model):
            if line.place is None:
                return f" ({wanted} is out: {line.reason}{f', {line.detail}' if line.detail else ''})"
            return f" ({wanted} is number {line.place})"
    return f" ({wanted} is none of the route's)"
