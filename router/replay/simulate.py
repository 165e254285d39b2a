"""The requests of a log under a configuration: where each goes, what it costs, how long it takes, what refuses it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from policies.engine import Branch, choose, decide
from policies.expressions.vocabulary import WEEKDAYS
from policies.types import Candidate, Decision, MissingSignal, Moment, RequestFacts, SignalName
from router.domain.extras import price_at_tier, with_search
from router.domain.money import MAX_NUSD
from router.domain.prices import Price, price_at
from router.domain.pricing import charge, dearest_input, dearest_output, expected
from router.moment_figures import of_budget
from router.replay.budgets import LedgerModel
from router.replay.figures import numbers_of
from router.replay.observed import Observed
from router.replay.reading import Reading
from router.replay.requests import PLANNED, Asked, Part
from router.routing import may_ask
from router.scopes import NO_KEY, NO_TEAM
from router.snapshot import Deployment, Route, Snapshot, Watch

STATE: Final = ("health", "in_flight", "available_in_seconds", "closed_for")
"""Of what is known of a deployment, what the log's own moment says."""
CHANCES: Final = frozenset({"share", "chance"})
"""Measures of kinds whose scores are the chances of their choices."""
CLOSED: Final = frozenset({"cooldown", "drained", "frozen"})
MOST_SHARES: Final = 64
TINY: Final = 1e-9


class Served(msgspec.Struct, kw_only=True, gc=False):
    """One request under a configuration."""

    rule: str = ""
    deployment: str = ""
    """Where it goes; empty: nowhere."""
    model: str = ""
    provider: str = ""
    refused: str = ""
    """Why it is refused: `budget:<name>`, `no_deployment`, `no_route`, or `not_allowed`."""
    cost_nusd: int | None = None
    """None: no price is known."""
    total_ms: float | None = None
    first_ms: float | None = None
    quality: float | None = None
    """From 0 to 1; None: unknown."""
    order: tuple[str, ...] = ()
    plan: tuple[Any, ...] | None = None
    """What is done beside the first answer: a cascade, a hedge, a copy; None: nothing."""
    estimated: bool = False
    """Whether the log's own cascades say how often a plan that it has not seen would go on, so that its cost is known on average."""
    spent: tuple[tuple[str, str, int], ...] = ()
    """(Model, provider, nano-USD) of each record of a plan."""


class World:
    """A configuration, and what a log says of its deployments."""

    def __init__(
        self, snapshot: Snapshot, observed: Observed, *, without: frozenset[str] = frozenset(), reading: Reading | None = None
    ) -> None:
        """`without`: providers, models or deployments that are gone. `reading`: of prompts that were kept."""
        self.snapshot = snapshot
        self.unread: dict[str, set[str]] = {}
        """Requests by the signal that a rule asked for and nobody has read."""
        self._reading = reading
        self.observed = observed
        self._teams = snapshot.teams
        self._gone = frozenset(
            name
            for name, deployment in snapshot.deployments.items()
            if not without.isdisjoint((name, deployment.model, deployment.provider.name, deployment.provider.kind))
        )
        self._times = {name: (observed.first_ms(name), observed.usual_ms(name)) for name in snapshot.deployments}
        self._views = {name: Candidate(deployment.traits) for name, deployment in snapshot.deployments.items()}

    @property
    def gone(self) -> frozenset[str]:
        """Deployments that are gone."""
        return self._gone

    def route_of(self, asked: Asked) -> Route | None:
        """The route that was asked for."""
        return self.snapshot.routes.get(asked.facts.route)

    def branch_of(self, asked: Asked, route: Route, ledger: LedgerModel | None = None) -> tuple[Branch, RequestFacts]:
        """The branch of the first rule that matches. What was never read from a prompt, and cannot be read now, counts as what most
        prompts are: nothing personal in it, all else unknown. Without a ledger, nothing is taken for spent."""
        facts = asked.facts
        if route.watch is not None:
            facts = msgspec.structs.replace(facts, moment=self._moment(asked, route.watch, ledger))
        while True:
            try:
                return choose(route.policy, facts), facts
            except MissingSignal as missing:
                known: Any = {missing.name: self._read(asked, missing.name)}
                facts = msgspec.structs.replace(facts, signals=msgspec.structs.replace(facts.signals, **known))

    def _read(self, asked: Asked, name: SignalName) -> Any:
        found = msgspec.UNSET if self._reading is None else self._reading.value(asked, name)
        if found is not msgspec.UNSET:
            return found
        self.unread.setdefault(name, set()).add(asked.request_id)
        return frozenset() if name == "pii" else None

    def _moment(self, asked: Asked, watch: Watch, ledger: LedgerModel | None) -> Moment:
        """What rules read of the moment: by the log's own time, the simulated budgets, and what was known of the providers."""
        hour, weekday, month = 0, "", 0
        if watch.timezone is not None:
            local = datetime.fromtimestamp(asked.starts_ms / 1000, watch.timezone)
            hour, weekday, month = local.hour, WEEKDAYS[local.weekday()], local.month
        used, left = 0.0, None
        if watch.budgets and ledger is not None:
            used, left = ledger.fullest(self._dims(asked), asked.facts.tags, asked.starts_ms)
        known = asked.health or {}
        closed = {name for name, state in known.items() if state["health"] in CLOSED} | self._gone
        return Moment(
            hour=hour,
            weekday=weekday,
            month=month,
            budget_used=used,
            budget_left_nusd=left,
            up={key: not closed.issuperset(names) for key, names in watch.states.items()},
            error_rate={key: asked.facts.moment.error_rate.get(key) for key in watch.states},
            numbers=numbers_of(asked, watch, ledger, self._dims(asked), self.snapshot) if watch.figures else {},
        )

    def candidates(self, asked: Asked, branch: Branch, facts: RequestFacts) -> list[Candidate]:
        """What the branch has to offer, as the log knows it at that moment. Read it at once: the next request reuses it."""
        found = []
        known = asked.health or {}
        by_worst = branch.reads_worst_case or (asked.restrict is not None and asked.restrict.max_cost_nusd is not None)
        for name in branch.deployments:
            view, deployment = self._views[name], self.snapshot.deployments[name]
            state = known.get(name)
            if state is None:
                view.health, view.in_flight, view.available_in_seconds, view.closed_for = "up", 0, None, ""
                view.first_token_ms, view.total_ms = self._times[name]
            else:
                for field in STATE:
                    setattr(view, field, state[field])
                view.first_token_ms, view.total_ms = state["first_token_ms"], state["total_ms"]
            if name in self._gone:
                view.health, view.closed_for = "drained", "taken out"
            price = price_now(deployment, asked.ends_ms)
            view.expected_nusd = None if price is None else self._expected(facts, deployment, price)
            view.worst_case_nusd = _worst(facts, deployment, price) if by_worst and price is not None else None
            found.append(view)
        return found

    def _expected(self, facts: RequestFacts, deployment: Deployment, price: Price) -> int:
        length = min(self.observed.length(deployment.name, facts.input_tokens), facts.output_cap or deployment.default_max_output_tokens)
        output = 0 if facts.operation == "embeddings" else length * facts.choices
        return int(expected(price, input_tokens=facts.input_tokens, output_tokens=output))

    def decide(self, asked: Asked, route: Route, ledger: LedgerModel | None = None, *, steered: str = "") -> Decision:
        """Where the request goes. `steered`: what a budget that fills does."""
        branch, facts = self.branch_of(asked, route, ledger)
        if ledger is not None and branch.live:
            facts = self._paced(asked, facts, branch, ledger)
        offered = self.candidates(asked, branch, facts)
        if steered == "downgrade":
            offered = [view for view in offered if view.traits.size == "small"]
        return decide(branch, facts, offered, asked.draw, asked.restrict)

    def _paced(self, asked: Asked, facts: RequestFacts, branch: Branch, ledger: LedgerModel) -> RequestFacts:
        """With the pace of budgets that nobody noted then: as they are simulated."""
        budgets = {budget.name: budget for budget in self.snapshot.budgets}
        numbers: dict[str, float] = {}
        for live in branch.live:
            budget = budgets.get(live.name) if live.what == "pace" else None
            found = None if budget is None else ledger.used_of(budget, self._dims(asked), asked.facts.tags, asked.starts_ms)
            if budget is None or found is None:
                continue
            spent, passed = (of_budget(field, budget, *found, asked.starts_ms) for field in ("used", "passed"))
            if spent is not None and passed is not None:
                numbers |= {f"spent/{live.name}": spent, f"passed/{live.name}": passed}
        return msgspec.structs.replace(facts, live={**numbers, **facts.live})

    def interval_of(self, asked: Asked, deployment: str) -> tuple[float, float] | None:
        """(Where it begins, how long it is) of the draws that send a request to a deployment first; None if none does.

        The intervals are walked along: where scores are chances, that of what comes first is the length of its interval.
        """
        route = self.route_of(asked)
        if route is None:
            return None
        branch, facts = self.branch_of(asked, route)
        offered = self.candidates(asked, branch, facts)
        draw = 0.0
        for _ in range(MOST_SHARES):
            decision = decide(branch, facts, offered, draw, asked.restrict)
            if not decision.order:
                return None
            first = decision.order[0]
            drawn = decision.measure in CHANCES and first.score is not None
            if first.deployment == deployment:
                return draw, first.score if drawn and first.score is not None else 1.0
            if not drawn or not first.score:
                return None
            draw += first.score
            if draw >= 1.0 - TINY:
                return None
        return None

    def share_of(self, asked: Asked, deployment: str) -> float:
        """The chance with which a request goes to a deployment first."""
        found = self.interval_of(asked, deployment)
        return 0.0 if found is None else found[1]

    def remember(self, asked: Asked) -> None:
        """Give a request whose draw was not kept one that leads to where it went, so that it goes there again."""
        if asked.exact:
            return
        found = self.interval_of(asked, asked.first)
        if found is None:
            return
        asked.draw = min(found[0] + asked.draw * found[1], 1.0 - TINY)
        if asked.config_version == self.snapshot.version:
            asked.share = found[1]

    def serve(self, asked: Asked, ledger: LedgerModel) -> Served:
        """The request under this configuration, with its budgets as they are by then."""
        dims = self._dims(asked)
        ledger.until(asked.starts_ms)
        route = self.route_of(asked)
        allowed = self._allowed(asked)
        if route is None or (allowed is not None and not may_ask(route, allowed, self.snapshot)):
            return Served(refused="no_route" if route is None else "not_allowed")
        step = ledger.step(dims, asked.facts.tags, asked.starts_ms) if ledger.steers else None
        if step is not None and step[1] == "refuse":
            return Served(refused=f"budget:{step[0]}")
        decision = self.decide(asked, route, ledger, steered="" if step is None else step[1])
        if not decision.order:
            return Served(rule=decision.rule, refused="no_deployment" if step is None else f"budget:{step[0]}")
        refused = ""
        for ranked in decision.order:
            served = self._served(asked, decision, ranked.deployment)
            deployment = self.snapshot.deployments[ranked.deployment]
            dims["model"], dims["provider"], dims["deployment"] = deployment.model, deployment.provider.name, deployment.name
            out = self._reserve(asked, served, deployment, ledger, dims)
            if out is None:
                return served
            refused = refused or f"budget:{out}"
        return Served(rule=decision.rule, refused=refused, order=tuple(ranked.deployment for ranked in decision.order))

    def _dims(self, asked: Asked) -> dict[str, str]:
        facts = asked.facts
        return {
            "org": self._org(asked),
            "team": facts.team or NO_TEAM,
            "key": facts.key_id or NO_KEY,
            "user": facts.user,
            "session": facts.session,
            "route": facts.route,
            "model": "",
            "provider": "",
            "deployment": "",
        }

    def _allowed(self, asked: Asked) -> frozenset[str] | None:
        """What the team and the key may ask for, as far as this configuration says; minted keys stand in the store."""
        team, key = self._teams.get(asked.facts.team), self.snapshot.keys.get(asked.facts.key_id)
        limits = [one.models for one in (team, key) if one is not None and one.models is not None]
        return None if not limits else limits[0] if len(limits) == 1 else limits[0] & limits[1]

    def _org(self, asked: Asked) -> str:
        team = self._teams.get(asked.facts.team)
        return asked.org if team is None else team.org

    def _reserve(self, asked: Asked, served: Served, deployment: Deployment, ledger: LedgerModel, dims: dict[str, str]) -> str | None:
        cost = served.cost_nusd or 0
        hold = asked.hold_nusd
        if deployment.name != asked.deployment:
            was, price = self.snapshot.deployments.get(asked.deployment), price_now(deployment, asked.ends_ms)
            before = None if was is None else price_now(was, asked.ends_ms)
            # The hold of the log was made for another price: what it covers in tokens is held at this one.
            if was is not None and before is not None and price is not None and (worst := _worst(asked.facts, was, before)):
                hold = hold * _worst(asked.facts, deployment, price) // worst
        tokens = asked.usage.input_tokens + asked.usage.output_tokens
        duration_ms = asked.duration_ms if served.total_ms is None else int(served.total_ms)
        return ledger.reserve(
            dims,
            asked.facts.tags,
            asked.starts_ms,
            asked.starts_ms + duration_ms,
            nusd=max(hold, cost),
            tokens=tokens,
            charge=(cost, tokens),
        )

    def _served(self, asked: Asked, decision: Decision, name: str) -> Served:
        deployment = self.snapshot.deployments[name]
        same = name == asked.deployment
        plan = self._plan(asked, decision)
        if name == decision.order[0].deployment and self._repeats(asked, decision):
            return self._by_parts(asked, decision, deployment, plan)
        if plan is not None and name == decision.order[0].deployment and (steps := self._by_steps(asked, decision)) is not None:
            return steps
        stretch = 1.0 if same else self.observed.stretch(asked.model, deployment.model)
        total_ms: float | None = asked.duration_ms if same else self.observed.total_ms(name, asked.usage.output_tokens * stretch)
        return Served(
            rule=decision.rule,
            deployment=name,
            model=deployment.model,
            provider=deployment.provider.name,
            cost_nusd=cost_on(asked, deployment, stretch=stretch),
            total_ms=total_ms,
            first_ms=asked.first_byte_ms if same else self.observed.first_ms(name),
            quality=asked.rating if same and asked.rating is not None else self.observed.rating(deployment.traits),
            plan=plan,
        )

    def _repeats(self, asked: Asked, decision: Decision) -> bool:
        """Whether all that the log tells of the request would come about again: retries, fallbacks, steps, judges, copies."""
        names = {ranked.deployment for ranked in decision.order}
        plan = decision.plan
        if plan is None or (plan.cascade is None and plan.hedge is None and plan.shadow is None):
            plain = len(asked.parts) > 1 and not any(part.reason.startswith(PLANNED) for part in asked.parts)
            return plain and asked.first == decision.order[0].deployment and asked.deployment in names
        if plan.cascade is None or self._gone:
            return asked.first in names
        asides = {part.deployment for part in asked.asides}
        steps = {part.deployment for part in asked.parts if part not in asked.asides}
        known = {*plan.cascade.judges, *plan.cascade.seconds, *(() if plan.shadow is None else plan.shadow.deployments)}
        return asked.cascaded and asked.first in names and steps <= names and asides <= known

    def _by_steps(self, asked: Asked, decision: Decision) -> Served | None:
        """A cascade of two steps that the log has not seen so; its cost by how often the log's own cascades went on from that model."""
        cascade = None if decision.plan is None else decision.plan.cascade
        if cascade is None or decision.plan is None or len(cascade.steps) != 2 or self._gone:
            return None
        small, large = (self.snapshot.deployments[step.deployments[0]] for step in cascade.steps)
        # Of this very request it is known whether its answer passed, if the same model began.
        began = asked.cascaded and any(part.deployment == asked.first and part.model == small.model for part in asked.parts)
        goes_on = float(asked.escalated) if began else self.observed.escalation(small.model)
        asked_too = [names[0] for names in (cascade.judges, cascade.seconds) if names]
        asides = [(self.snapshot.deployments[name], self.observed.aside_nusd(self.snapshot.deployments[name].model)) for name in asked_too]
        costs = [cost_on(asked, each, stretch=self.observed.stretch(asked.model, each.model)) for each in (small, large)]
        if goes_on is None or None in costs or any(cost is None for _, cost in asides):
            return None
        spent = [(small, costs[0] or 0), *((each, int(cost or 0)) for each, cost in asides)]
        spent += [(large, int(goes_on * (costs[1] or 0)))] if goes_on else []
        answer = large if goes_on >= 0.5 else small
        return Served(
            rule=decision.rule,
            deployment=answer.name,
            model=answer.model,
            provider=answer.provider.name,
            cost_nusd=sum(cost for _, cost in spent),
            plan=self._plan(asked, decision),
            estimated=True,
            spent=tuple((each.model, each.provider.name, cost) for each, cost in spent),
        )

    def _plan(self, asked: Asked, decision: Decision) -> tuple[Any, ...] | None:
        plan = decision.plan
        if plan is None or (plan.cascade is None and plan.hedge is None and plan.shadow is None):
            return None
        gone = tuple(sorted({part.deployment for part in asked.parts} & self._gone))
        return tuple(ranked.deployment for ranked in decision.order), plan.cascade, plan.hedge, plan.shadow, gone

    def _by_parts(self, asked: Asked, decision: Decision, first: Deployment, plan: tuple[Any, ...] | None) -> Served:
        """As the log tells it, step by step, without those that are gone."""
        answer = self.snapshot.deployments.get(asked.deployment, first)
        if answer.name in self._gone:
            answer = first
        spent: dict[tuple[str, str], int] = {}
        for part in asked.parts:
            cost = self._cost_of(part)
            # A call that failed and cost nothing is no use of its model.
            if part.deployment not in self._gone and (cost or part.usage.input_tokens or part.usage.output_tokens):
                spent[part.model, part.provider] = spent.get((part.model, part.provider), 0) + cost
        return Served(
            rule=decision.rule,
            deployment=answer.name,
            model=answer.model,
            provider=answer.provider.name,
            cost_nusd=sum(spent.values()),
            total_ms=asked.duration_ms,
            first_ms=asked.first_byte_ms,
            quality=self.observed.rating(answer.traits) if asked.rating is None else asked.rating,
            plan=plan,
            spent=tuple((model, provider, cost) for (model, provider), cost in spent.items()),
        )

    def _cost_of(self, part: Part) -> int:
        deployment = self.snapshot.deployments.get(part.deployment)
        cost = None if deployment is None or part.as_charged else cost_on(part, deployment)
        return part.charge_nusd if cost is None else cost


def price_now(deployment: Deployment, at_ms: int) -> Price | None:
    """The price in force at a moment."""
    return price_at(deployment.prices, at_ms) if deployment.prices else deployment.price


def cost_on(asked: Asked | Part, deployment: Deployment, *, stretch: float = 1.0) -> int | None:
    """What the request would have cost on a deployment, nano-USD; None if no price is known.

    The same input; output `stretch` times as long. What was bought beside tokens is bought again.
    """
    price = price_now(deployment, asked.ends_ms)
    if price is None:
        return None
    usage = asked.usage
    if stretch != 1.0:
        usage = msgspec.structs.replace(
            usage, output_tokens=int(usage.output_tokens * stretch), reasoning_tokens=int(usage.reasoning_tokens * stretch)
        )
    if asked.service_tier or asked.web_search:
        price = with_search(price_at_tier(price, asked.service_tier) or price, price, asked.web_search)
    return min(charge(price, usage, images=asked.images, duration_ms=asked.duration_ms), MAX_NUSD)


def _worst(facts: RequestFacts, deployment: Deployment, price: Price) -> int:
    """The most that the request can cost, by the rates of its shortest tier."""
    cap = 0 if facts.operation == "embeddings" else (facts.output_cap or deployment.default_max_output_tokens) * facts.choices
    rates = price.rates
    return price.per_request_nusd - (-(facts.input_tokens_bound * dearest_input(rates) + cap * dearest_output(rates)) // 1_000_000)


def simulate(world: World, requests: Sequence[Asked]) -> list[Served]:
    """All requests, in the order in which they began."""
    ledger = LedgerModel((*world.snapshot.budgets, *world.snapshot.limits))
    return [world.serve(asked, ledger) for asked in requests]


def reproduced(worlds: Iterable[World], requests: Iterable[Asked]) -> tuple[int, int]:
    """Of the requests whose decision was kept, under a configuration that is given: (how many begin at the same deployment, all)."""
    by_version = {world.snapshot.version: world for world in worlds}
    same = known = 0
    for asked in requests:
        world = by_version.get(asked.config_version)
        route = None if world is None else world.route_of(asked)
        if world is None or route is None or not asked.exact:
            continue
        order = world.decide(asked, route).order
        known += 1
        same += bool(order) and order[0].deployment == asked.first
    return same, known
