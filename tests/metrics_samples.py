"""A configuration and calls of every kind, to be counted; and the samples read back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from policies.engine import Branch, RoutePolicy, Rule
from policies.types import Ranking, Traits
from router.domain.budgets import Budget
from router.domain.usage import Usage
from router.metrics import Metrics
from router.ports import Endpoint
from router.snapshot import Deployment, Provider, Route, ServerSettings, Snapshot, Team

USAGE = Usage(input_tokens=100, cache_read_tokens=30, output_tokens=50, reasoning_tokens=20, evidence="exact")


def snapshot() -> Snapshot:
    provider = Provider(name="sim", kind="sim", lane="wire", endpoint=Endpoint(name="sim", scheme="http", host="h", port=1, base_path=""))
    deployments = {
        name: Deployment(
            name=name,
            model="small",
            upstream_id=name.partition("/")[2],
            provider=provider,
            traits=Traits(deployment=name, model="small", provider="sim"),
            price=None,
        )
        for name in ("sim/a", "sim/b")
    }

    def order(*_: Any) -> Ranking:
        return Ranking(order=())

    def branch(rule: str) -> Branch:
        return Branch(rule=rule, deployments=tuple(deployments), kind="fixed", order=order)

    policy = RoutePolicy(rules=(Rule(name="code", matches=bool, branch=branch("code")),), default=branch("default"))
    return Snapshot(
        version="0" * 12,
        source="test",
        server=ServerSettings(),
        providers={"sim": provider},
        deployments=deployments,
        routes={"auto": Route(name="auto", policy=policy, deployments=tuple(deployments))},
        budgets=(Budget(name="everyone", limit_nusd=1, window="month"),),
        teams={"search": Team(name="search")},
    )


def configured() -> Metrics:
    made = Metrics()
    made.configure(snapshot())
    return made


def attempt(metrics: Metrics, **changes: Any) -> None:
    kind: dict[str, str] = {"route": "auto", "rule": "code", "model": "small", "deployment": "sim/a", "provider": "sim", "team": "search"}
    kind |= {"operation": "chat", "outcome": "ok"}
    values: dict[str, Any] = {"usage": USAGE, "charge_nusd": 1_500, "hold_nusd": 3_000, "baseline_nusd": 4_000}
    values |= {"upstream_seconds": 1.5, "first_token_seconds": 0.3}
    series = metrics.attempt_series(**(kind | {name: value for name, value in changes.items() if name in kind}))
    given = values | {name: value for name, value in changes.items() if name not in kind}
    usage, charge, hold, baseline, seconds, first_seconds = given.values()
    series.observe((usage, charge, hold, baseline, seconds, first_seconds))


def request(metrics: Metrics, *, decision_seconds: float | None = None, **labels: Any) -> None:
    kind: dict[str, Any] = {"route": "auto", "team": "search", "operation": "chat", "stream": False, "outcome": "ok", "status": 200}
    metrics.request_series(**(kind | labels)).observe((0.00025, 1.6, 1, decision_seconds))


def everything(metrics: Metrics) -> None:
    """Call every method, so that every metric of the hot path has a series."""
    attempt(metrics)
    attempt(metrics, baseline_nusd=1_000, usage=Usage(input_tokens=1, output_tokens=1, evidence="estimated"))
    request(metrics, decision_seconds=0.0001)
    metrics.rejected(deployment="sim/b", reason="cooldown")
    metrics.refused(budget="everyone", action="refuse")
    metrics.experimented(experiment="new", arm="canary", outcome="ok")
    metrics.experiment_stopped(experiment="new", reason="errors")
    metrics.cascaded(cascade="small-first", step="small", verdict="accepted")
    metrics.hedged(hedge="hedge", outcome="second")
    metrics.shadowed(shadow="copy", outcome="same_finish", verdict="same", cost_ratio=0.5, length_ratio=1.5, time_ratio=1.0)
    metrics.ran_away(signal="spend", action="pause")
    metrics.stepped(budget="everyone", action="downgrade")
    metrics.rate_limited(kind="team", limit="rpm", action="refuse")
    metrics.guarded(guard="max_n", action="refuse")
    metrics.feedback(outcome="stored")
    metrics.alert(kind="budget_threshold", outcome="sent")
    metrics.rejected_request(code="budget_exceeded")
    metrics.fell_back(from_deployment="sim/a", to_deployment="sim/b", reason="5xx")
    metrics.retried(deployment="sim/a", reason="timeout")
    metrics.store_call(call="reserve", seconds=0.0004, ok=True)
    metrics.store_call(call="reserve", seconds=0.25, ok=False)
    metrics.served_alone(mode="lease")
    metrics.signal_read(signal="language", outcome="ok", seconds=0.001)
    metrics.overran(cause="usage_above_cap", nusd=7)
    metrics.answer_clamped(model="m", cause="learned")
    metrics.price_lookup("found")
    metrics.swept(3)
    metrics.ledger_reset()
    metrics.reloaded(outcome="ok")
    metrics.administered(status=200)
    metrics.in_flight.value += 1


def samples(text: bytes) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def value(text: bytes, name: str, **labels: str) -> float:
    found = [v for n, have, v in samples(text) if n == name and labels.items() <= have.items()]
    assert len(found) == 1, f"{name}{labels}: {len(found)} series"
    return found[0]
