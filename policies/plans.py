"""What a kind may ask for beside trying one candidate after the other. Plain data: the router carries it out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

VerifierName = Literal["finish", "refusal", "schema", "agree", "logprob", "judge"]


class Agree(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Ask a second cheap model too, and compare what both answer."""

    model: str
    """Its name; that of the step itself: it is asked twice."""
    extract: Literal["auto", "json", "choice", "number", "text"]


class Judge(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Have another model say whether an answer is good enough."""

    model: str
    at_least: float
    """From 0 to 1."""
    instruction: str


class Verify(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an answer of a cheap step must pass to be the client's."""

    finish: bool = True
    refusal: bool = True
    schema: bool = True
    logprob: float | None = None
    """Least mean log probability of a token; None: not looked at."""
    agree: Agree | None = None
    judge: Judge | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Deployments of one step of a cascade, in the order to try."""

    name: str
    deployments: tuple[str, ...]


class Cascade(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Ask the cheap first; go on to the next step if its answer does not pass."""

    name: str
    steps: tuple[Step, ...]
    """At least two; the last one is not verified."""
    verify: Verify
    judges: tuple[str, ...] = ()
    """Deployments of the judge that may see this request, in the order to try."""
    seconds: tuple[str, ...] = ()
    """The same of the second model that must agree."""


class Hedge(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Call the next candidate too if the first one takes too long to begin; the first to begin is the answer."""

    name: str
    after_ms: float


class Shadow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Send a copy elsewhere once the client has its answer, and compare."""

    name: str
    deployments: tuple[str, ...]
    team: str
    """Whose budgets pay for it."""
    at_most: int
    """Copies under way at a time, per process."""


class Arm(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """To which part of an experiment the request belongs."""

    experiment: str
    arm: str
    propensity: float
    """The chance with which it was chosen."""


class Stop(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """By how much an arm may be worse than the others before it is stopped."""

    experiment: str
    arm: str
    errors: float | None = None
    """Failed calls, as a difference of shares."""
    first_token: float | None = None
    """Time to the first token, as a share of the others'."""
    cost: float | None = None
    """Charge of a call, as a share of the others'."""
    rating: float | None = None
    """What clients say of the answers, 0 to 1, as a difference of means."""
    alpha: float = 0.05
    least: int = 50
    """Calls (ratings) of each arm before times, charges, ratings and small differences of failures are looked at."""


class Full(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A provider that has had more than its share of the money."""

    cap: str
    """Name of the cap."""
    provider: str
    share: float
    """What it has had, from 0 to 1."""
    most: float


class Plan(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """All of it. Kinds that stand inside one another add to each other's plan."""

    cascade: Cascade | None = None
    hedge: Hedge | None = None
    shadow: Shadow | None = None
    arms: tuple[Arm, ...] = ()
    stops: tuple[Stop, ...] = ()
    rewards: tuple[tuple[str, int], ...] = ()
    """Bandits that learn from the answer: name, and what a good answer is worth, nano-USD."""
    spends: tuple[str, ...] = ()
    """Caps on the shares of providers that count what this request costs."""
    full: tuple[Full, ...] = ()
    """Providers among the candidates that are beyond such a cap."""
    keeps_cache: bool = False
    """Remember where the session's prompt is cached now."""


class Live(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a kind reads of the moment; it comes as numbers in `RequestFacts.live`."""

    what: Literal["experiment", "bandit", "cascade", "hedge", "cache", "pace", "vendors"]
    name: str = ""
    since: float | None = None
    """When it began, Unix seconds; None: when it was first read."""
    number: float = 0.0
    """Of a bandit: how many answers count; of a hedge: the most second calls, as a share; of a cap on providers: seconds after which
    money counts half."""
    version: str = ""
    """Tells it from an earlier one of the same name."""
    rule: str = ""
    """What it is counted under in place of the rule's name, for all rules together; empty: each rule by itself."""
    quantile: float | None = None
    """Of a hedge: of the time to the first token, after which there is a second call."""
    cost_at_most: float = 0.0
    """Of a hedge: so many times what the first call is expected to cost may the second one."""


EMPTY = Plan()


def added(plan: Plan | None, **more: object) -> Plan:
    """The plan with more in it; tuples are put together."""
    base = plan or EMPTY
    changes: dict[str, object] = {}
    for name, value in more.items():
        before = getattr(base, name)
        changes[name] = (*before, *value) if isinstance(before, tuple) and isinstance(value, tuple) else value
    made: Plan = msgspec.structs.replace(base, **changes)
    return made


def _checks(cascade: Cascade) -> str:
    verify = cascade.verify
    words = [name for name in ("finish", "refusal", "schema") if getattr(verify, name)]
    if verify.logprob is not None:
        words.append(f"logprob of at least {verify.logprob:g}")
    if verify.agree is not None:
        words.append(f"agree with {', '.join(cascade.seconds) or 'nobody'}")
    if verify.judge is not None:
        words.append(f"judge {', '.join(cascade.judges) or 'nobody'}")
    return ", ".join(words) or "none"


def no_second_call(hedge: Live, first: str, second: str, charges: Mapping[str, int], live: Mapping[str, float]) -> str:
    """Why a hedge makes no second call for a request with this order. `charges`: expected ones, nano-USD; unknown counts as nothing."""
    low, high = charges.get(first, 0), charges.get(second, 0)
    begin = f"hedge {hedge.name}: no second call:"
    if high > low * hedge.cost_at_most:
        ratio = f"{high / low:.1f} times as much as {first}" if low else f"something and {first} nothing"
        return f"{begin} {second} is expected to cost {ratio}, and cost_at_most is {hedge.cost_at_most:g}"
    if not live.get(f"allowed/{hedge.name}"):
        return f"{begin} as many requests as `most` allows have had one"
    return f"{begin} too few times to the first token of {first} are known for `quantile`"


def described(plan: Plan | None, live: Mapping[str, float], *, when: str = "now") -> list[str]:
    """The plan for people, and the numbers that it was made by, known `when`; a line each."""
    plan = plan or EMPTY
    lines = [f"experiment {arm.experiment}: arm {arm.arm}, drawn with chance {arm.propensity:.3g}" for arm in plan.arms]
    if plan.cascade is not None:
        steps = " -> ".join(f"{step.name} ({', '.join(step.deployments)})" for step in plan.cascade.steps)
        lines.append(f"cascade {plan.cascade.name}: {steps}; checks: {_checks(plan.cascade)}")
    if plan.hedge is not None:
        lines.append(f"hedge: the second is called too if the first has not begun after {plan.hedge.after_ms:.0f} ms")
    if plan.shadow is not None:
        lines.append(f"shadow: a copy to {', '.join(plan.shadow.deployments)} on the budgets of team {plan.shadow.team}")
    lines += [f"cap {name}: providers that have had their share of the money come last, or not at all" for name in plan.spends]
    lines += [f"cap {one.cap}: {one.provider} has had {one.share:.1%} of the money, more than {one.most:.1%}" for one in plan.full]
    if plan.keeps_cache:
        lines.append("the deployment that has the session's prompt in its cache is preferred by what that saves")
    lines += [f"known {when}: {name} {value:g}" for name, value in sorted(live.items())]
    return lines
