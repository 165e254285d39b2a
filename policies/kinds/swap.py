"""Models in the place of others: an order in which some stand where others did, for a canary that changes nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from policies.engine import Order
from policies.kinds.fields import Path, Pick, Problem
from policies.plans import Arm, Plan, Step, Stop, added
from policies.types import Candidate, Ranked, Ranking, Rejection, RequestFacts, Traits

_NOWHERE: Final[Mapping[str, tuple[Ranked, ...]]] = {}


class Swap:
    """Which models come in the place of which: names of models or deployments."""

    def __init__(self, swap: Mapping[str, str]) -> None:
        self._new = [(frozenset([old]), frozenset([new])) for old, new in swap.items()]
        self._come = frozenset(swap.values())

    def comes(self, traits: Traits) -> bool:
        """Whether a deployment is one of the new ones."""
        return traits.deployment in self._come or traits.model in self._come

    def order(
        self,
        by: Order,
        facts: RequestFacts,
        kept: Sequence[Candidate],
        draw: float,
        arm: Arm,
        *,
        new: bool,
        stops: tuple[Stop, ...],
        fall_back: bool,
    ) -> Ranking:
        """As `by` orders the others; where one that is replaced would be called first, the new ones are, if `new`.

        A request that would not begin with one that is replaced is in no arm, nor one that no new one can take: it says nothing of either.
        """
        others = [c for c in kept if not self.comes(c.traits)]
        comers = [c for c in kept if self.comes(c.traits)]
        ranking = by(facts, others, draw)
        # What the kind's own options exclude stays out, as if it had been there all along.
        trial = by(facts, comers, draw) if comers else Ranking(())
        places = self._places(_heads(ranking), kept, trial)
        plan = ranking.plan
        put_in = places if new else _NOWHERE
        if places:
            plan = added(_put_into(plan, put_in), arms=(arm,), stops=stops)
        order = _with(ranking.order, put_in)
        rejected = ranking.rejected + trial.rejected
        rest = tuple([ranked for ranked in trial.order if ranked not in order])
        if not fall_back:
            out = tuple([Rejection(ranked.deployment, "not_selected", f"the request is in arm {arm.arm}") for ranked in rest])
            return Ranking(order, rejected + out, ranking.measure, plan)
        return Ranking(order + rest, rejected, ranking.measure, plan)

    def _places(self, heads: Sequence[str], kept: Sequence[Candidate], trial: Ranking) -> dict[str, tuple[Ranked, ...]]:
        """By deployment that would be called first and is replaced: those that can be called in its place."""
        names = {c.traits.deployment: frozenset((c.traits.deployment, c.traits.model)) for c in kept}
        found: dict[str, tuple[Ranked, ...]] = {}
        for head in heads:
            for old, new in self._new:
                comers = tuple([each for each in trial.order if not new.isdisjoint(names[each.deployment])])
                if comers and not old.isdisjoint(names[head]):
                    found[head] = comers
        return found


def _heads(ranking: Ranking) -> list[str]:
    """The deployments that are called if all goes well: the first, and of a cascade the first of each step."""
    cascade = None if ranking.plan is None else ranking.plan.cascade
    if cascade is not None:
        return [step.deployments[0] for step in cascade.steps if step.deployments]
    return [ranked.deployment for ranked in ranking.order[:1]]


def _with(order: Sequence[Ranked], put_in: Mapping[str, tuple[Ranked, ...]]) -> tuple[Ranked, ...]:
    return tuple([each for ranked in order for each in (*put_in.get(ranked.deployment, ()), ranked)])


def _put_into(plan: Plan | None, put_in: Mapping[str, tuple[Ranked, ...]]) -> Plan | None:
    """The plan with the new ones in the steps of a cascade, and without the arms of bandits: what these chose is not what is called."""
    if plan is None or not put_in:
        return plan
    learning = {name for name, _ in plan.rewards}
    cascade = plan.cascade
    if cascade is not None:
        steps = tuple([Step(name=step.name, deployments=_with_names(step.deployments, put_in)) for step in cascade.steps])
        cascade = msgspec.structs.replace(cascade, steps=steps)
    arms = tuple([arm for arm in plan.arms if arm.experiment not in learning])
    changed: Plan = msgspec.structs.replace(plan, cascade=cascade, arms=arms, rewards=())
    return changed


def _with_names(names: Sequence[str], put_in: Mapping[str, tuple[Ranked, ...]]) -> tuple[str, ...]:
    return tuple([each for name in names for each in (*[ranked.deployment for ranked in put_in.get(name, ())], name)])


def swap_problems(swap: Mapping[str, str], path: Path, offered: Sequence[Traits], *, all_of_it: bool) -> list[Problem]:
    """Names that nothing in `use` has, and models that come in their own place. Not `all_of_it`: one pair that is there will do."""
    missing = [[((*path, old), message) for _, message in (*_named(old, offered), *_named(new, offered))] for old, new in swap.items()]
    found = [problem for each in missing for problem in each] if all_of_it or all(missing) else []
    return found + [((*path, old), f'"{new}" cannot both come and be replaced') for old, new in swap.items() if new in swap]


def _named(name: str, offered: Sequence[Traits]) -> list[Problem]:
    return list(Pick(names=(name,)).problems((), offered))
