"""`split` and `canary`: shares of traffic to branches, each with a policy of its own; who is in a branch stays in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from policies.engine import Order
from policies.kinds.fields import (
    Excess,
    InnerEntry,
    Pick,
    PickEntry,
    Problem,
    Seconds,
    Share,
    StickyBy,
    Word,
    bound,
    in_order,
    point_of,
    written_seconds,
)
from policies.kinds.swap import Swap, swap_problems
from policies.plans import Arm, Live, Stop, added
from policies.types import Candidate, Ranking, Rejection, RequestFacts, Traits

CONTROL: Final = "control"
CANARY: Final = "canary"
ALL_RULES: Final = "*"
"""Stands for the rule of an experiment that spans several; no rule is called so."""
ROUNDING: Final = 0.0015
"""Shares may add up to so much more or less than 1: three times 33.3 %."""


class SplitBranch(BaseModel):
    """A part of the traffic, and how it is routed."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: Word = Field(description="Name in records and metrics.")
    share: Share = Field(
        description="Share of the requests; all branches together have 100 %, but for rounding. Unit: 0 to 1 or a percentage."
    )
    use: PickEntry = Field(
        default=Pick(),
        description="Which of the models that the rule's `use` leads to: names, or classes such as `{size: small}`. Default: all of them.",
    )
    by: InnerEntry = Field(default="cost", validate_default=True, description="How they are ordered: any policy kind. Default: `cost`.")


class SplitOptions(BaseModel):
    """Shares of traffic to branches. The same session, user, key or team always goes to the same branch."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: Literal["split"] = "split"
    name: Word = Field(default="split", description="Name of the experiment in records and metrics. Default: `split`.")
    branches: tuple[SplitBranch, ...] = Field(min_length=2, max_length=16, description="The parts.")
    sticky: StickyBy = Field(
        default="session",
        description=(
            "Who stays in a branch: `session`, `user`, `key`, `team` or `none`. A request that names none is drawn. Default: `session`."
        ),
    )
    fall_back: bool = Field(
        default=True, description="Whether models of the other branches are tried if all of its own fail. Default: true."
    )

    @field_validator("branches")
    @classmethod
    def _apart(cls, branches: tuple[SplitBranch, ...]) -> tuple[SplitBranch, ...]:
        names = [branch.name for branch in branches]
        if len(set(names)) < len(names):
            raise ValueError("two branches have one name")
        total = sum(branch.share for branch in branches)
        if abs(total - 1) > ROUNDING:
            raise ValueError(f"the shares add up to {_percent(total)}; they must add up to 100%")
        return branches


def _percent(share: float) -> str:
    return f"{share * 100:.6g}%"


class RampStep(BaseModel):
    """A share from some time on."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    after: Seconds = Field(description="Since the beginning. Unit: a duration, `1h`.")
    share: Share = Field(description="Share from then on. Unit: 0 to 1 or a percentage.")


class StopIf(BaseModel):
    """By how much the canary may be worse. Each is tested all the time; together they stop a good one with a chance below `alpha`."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    errors: Share | None = Field(default=None, description="Share of failed calls above the others', `2%`. Default: not looked at.")
    first_token: Excess | None = Field(
        default=None, description="Time to the first token above the others' (typical: geometric mean), `30%`. Default: not looked at."
    )
    cost: Excess | None = Field(
        default=None, description="Charge of a call above the others' (typical: geometric mean), `20%`. Default: not looked at."
    )
    rating: Share | None = Field(
        default=None,
        description="Mean of the ratings sent to `POST /v1/feedback`, 0 to 1, below the others', `10%` for 0.1. Default: not looked at.",
    )
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="Chance to stop one that is not worse. Unit: 0 to 0.5. Default: 0.05.")
    least: int = Field(
        default=50,
        ge=10,
        le=1_000_000,
        description=(
            "Calls of each side before times and costs are compared, and ratings of each before these are; errors are from the first on."
            " Default: 50."
        ),
    )


def rising(ramp: tuple[RampStep, ...], info: ValidationInfo) -> tuple[RampStep, ...]:
    """Shares that grow from `share` on.

    Raises:
        ValueError: one is less than the one before.
    """
    share, after = info.data.get("share", 0.0), -1.0
    for step in sorted(ramp, key=lambda step: step.after):
        if step.after == after:
            raise ValueError(f"two shares after {written_seconds(after)}")
        if step.share < share:
            now = f"{_percent(step.share)} after {written_seconds(step.after)}"
            raise ValueError(f"goes down: {now} is less than the {_percent(share)} before it")
        share, after = step.share, step.after
    return ramp


class CanaryOptions(BaseModel):
    """A small, growing share of traffic to new models, or to a new policy, until they turn out to be worse: then none."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: Literal["canary"] = "canary"
    name: Word = Field(default="canary", description="Name of the experiment in records and metrics. Default: `canary`.")
    to: PickEntry | None = Field(
        default=None,
        description=(
            "The new models: names or classes, of those that the rule's `use` leads to. The others are the control. Default: by `to_by` or "
            "`swap`."
        ),
    )
    to_by: InnerEntry | None = Field(
        default=None,
        description=(
            "The new policy: any policy kind, or the name of a policy, for the canary's share; the rest goes `by` the old one. "
            "With `to`, it orders the new models. Default: the same as `by`."
        ),
    )
    swap: dict[str, str] = Field(
        default_factory=dict,
        description=(
            "In place of `to`: new models by those in whose place they come, where the order of the others has these first: "
            "`{now: next}`. All other requests go as they would, and are in no arm. Default: none."
        ),
    )
    share: Share = Field(default=0.05, description="Share of the requests. Unit: 0 to 1 or a percentage. Default: 5%.")
    ramp: tuple[RampStep, ...] = Field(default=(), description="Larger shares later on: `[{after: 1h, share: 10%}]`. Default: none.")
    begins: datetime | None = Field(
        default=None,
        description="Beginning of the ramp. Unit: a date or moment, UTC unless it says so. Default: when a process first goes by it.",
    )
    sticky: StickyBy = Field(
        default="session",
        description=(
            "Who stays on a side: `session`, `user`, `key`, `team` or `none`. A request that names none is drawn. Default: `session`."
        ),
    )
    by: InnerEntry = Field(
        default="cost", validate_default=True, description="How the models of either side are ordered: any policy kind. Default: `cost`."
    )
    stop_if: StopIf | None = Field(default=None, description="When it is taken back. Default: never.")
    across_rules: bool = Field(
        default=False,
        description="Whether all rules of the route that have it under this name are counted, and taken back, as one. Default: false.",
    )

    _rises = field_validator("ramp")(rising)

    @model_validator(mode="after")
    def _one_way(self) -> CanaryOptions:
        if (self.to is None and self.to_by is None) == (not self.swap):
            raise ValueError("give `to`, the new models, `to_by`, a new policy, or else `swap`, new models by those that they replace")
        if self.to is None and self.to_by == self.by:
            raise ValueError("`to_by` is the same policy as `by`")
        return self


def bind_split(options: SplitOptions) -> Order:
    """The order function of these options."""
    total = sum(branch.share for branch in options.branches)
    arms = [(branch.name, branch.share / total, branch.use, bound(branch.by)) for branch in options.branches]
    experiment, sticky, fall_back = options.name, options.sticky, options.fall_back

    def order(facts: RequestFacts, kept: Sequence[Candidate], draw: float) -> Ranking:
        point = point_of(facts, sticky, experiment)
        place = draw if point is None else point
        index = 0
        while index < len(arms) - 1 and place >= arms[index][1]:
            place -= arms[index][1]
            index += 1
        name, share, pick, by = arms[index]
        if point is None:
            # Within the share that it fell into the draw is again uniform.
            draw = min(place / share, 1.0 - 2.0**-53) if share else 0.0
        return _arm(by, facts, kept, draw, pick.fits, Arm(experiment=experiment, arm=name, propensity=share), fall_back=fall_back)

    return order


def bind_canary(options: CanaryOptions) -> Order:
    """The order function of these options."""
    experiment, sticky, pick, by = options.name, options.sticky, options.to, bound(options.by)
    to_by = by if options.to_by is None else bound(options.to_by)
    swap = Swap(options.swap) if options.swap else None
    ramp = sorted(((step.after, step.share) for step in options.ramp), reverse=True)
    stop = options.stop_if
    stops = () if stop is None else (Stop(experiment=experiment, arm=CANARY, **stop.model_dump()),)

    def order(facts: RequestFacts, kept: Sequence[Candidate], draw: float) -> Ranking:
        live = facts.live
        age = live.get(f"age/{experiment}", 0.0)
        share = next((share for after, share in ramp if age >= after), options.share)
        if f"stopped/{experiment}" in live:
            share = 0.0
        point = point_of(facts, sticky, experiment)
        place = draw if point is None else point
        new = place < share
        if point is None:
            draw = min(place / share if new else (place - share) / (1.0 - share), 1.0 - 2.0**-53)
        arm = Arm(experiment=experiment, arm=CANARY if new else CONTROL, propensity=share if new else 1.0 - share)
        fall_back = new or share > 0
        if swap is not None:
            return swap.order(by, facts, kept, draw, arm, new=new, stops=stops, fall_back=fall_back)
        ordered_by = to_by if new else by
        return _arm(
            ordered_by, facts, kept, draw, lambda traits: pick is None or pick.fits(traits) == new, arm, stops=stops, fall_back=fall_back
        )

    return order


def _arm(
    by: Order,
    facts: RequestFacts,
    kept: Sequence[Candidate],
    draw: float,
    fits: Callable[[Traits], bool],
    arm: Arm,
    *,
    fall_back: bool,
    stops: tuple[Stop, ...] = (),
) -> Ranking:
    """The order of an arm's own candidates, and the others behind them."""
    own = [c for c in kept if fits(c.traits)]
    others = [c for c in kept if not fits(c.traits)]
    ranking = by(facts, own, draw)
    # Without one to try, the request says nothing of the arm.
    plan = added(ranking.plan, arms=(arm,), stops=stops) if own else ranking.plan
    if not fall_back:
        out = tuple([Rejection(c.traits.deployment, "not_selected", f"the request is in arm {arm.arm}") for c in others])
        return Ranking(ranking.order, ranking.rejected + out, ranking.measure, plan)
    return Ranking(ranking.order + in_order(others), ranking.rejected, ranking.measure, plan)


def split_problems(options: SplitOptions, offered: Sequence[Traits]) -> Sequence[Problem]:
    """Branches that nothing is in."""
    found: list[Problem] = []
    for index, branch in enumerate(options.branches):
        found += branch.use.problems(("branches", index, "use"), offered)
    return found


def canary_problems(options: CanaryOptions, offered: Sequence[Traits]) -> Sequence[Problem]:
    """A canary without models, or without any to compare with."""
    if options.to is None:
        return swap_problems(options.swap, ("swap",), offered, all_of_it=not options.across_rules) if options.swap else []
    found = list(options.to.problems(("to",), offered))
    if not found and all(options.to.fits(one) for one in offered):
        found.append((("to",), "are all models that `use` leads to: none is left to compare with"))
    return found


def canary_live(options: CanaryOptions) -> tuple[Live, ...]:
    """Its age, if it grows, and whether it was stopped."""
    begins = options.begins if options.begins is None or options.begins.tzinfo is not None else options.begins.replace(tzinfo=UTC)
    since = None if begins is None else begins.timestamp()
    # What was taken back stays so until there is something new to try.
    new = options.to.model_dump_json() if options.to is not None else str(options.swap) if options.swap else ""
    if options.to_by is not None:
        # It may be long, and stands in the row of each answer that can be rated.
        new += f" by {blake2b(options.to_by.model_dump_json().encode(), digest_size=8).hexdigest()}"
    rule = ALL_RULES if options.across_rules else ""
    return (Live(what="experiment", name=options.name, since=since, version=f"{new} {since}", rule=rule),)
