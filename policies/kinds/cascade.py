"""`cascade`: the small model first; its answer is checked by cheap means, and a larger one is asked if it does not pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from policies.engine import Order
from policies.kinds.fields import InnerEntry, Pick, PickEntry, Problem, Share, Word, bound, in_order
from policies.plans import Agree, Cascade, Judge, Live, Step, Verify, added
from policies.types import Candidate, Ranked, Ranking, RequestFacts, Traits

LEAST_STEPS: Final = 2
Extract = Literal["auto", "json", "choice", "number", "text"]
QUESTION = (
    "You check answers of another assistant. Say how likely the answer is correct and complete for the request, "
    "as one whole number from 0 (certainly not) to 100 (certainly). Write the number only."
)


class AgreeOptions(BaseModel):
    """Two cheap answers must agree."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    model: str = Field(default="", description="Model or deployment that is asked too. Default: that of the step, a second time.")
    extract: Extract = Field(
        default="auto",
        description=(
            "What of the answers must be equal: `json`, `choice` (a letter from A to J), `number`, `text`; `auto`: the first of these that "
            "both have, but whole texts never. Default: `auto`."
        ),
    )


class JudgeOptions(BaseModel):
    """Another model says how good the answer is."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    model: str = Field(description="Model or deployment that judges.")
    at_least: Share = Field(default=0.6, description="Least chance that the answer is right. Unit: 0 to 1 or a percentage. Default: 60%.")
    instruction: str = Field(
        default=QUESTION, min_length=1, max_length=4000, description="What it is told. It must answer with a number from 0 to 100."
    )


def _agree(value: object) -> object:
    return AgreeOptions() if value is True else {"extract": value} if isinstance(value, str) else value


def _judge(value: object) -> object:
    return {"model": value} if isinstance(value, str) else value


class VerifyOptions(BaseModel):
    """What the answer of a step must pass. All must hold; the cheap ones are tried first."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    finish: bool = Field(default=True, description="It ended by itself: not at a cap, not by a filter, and it is not empty. Default: true.")
    refusal: bool = Field(default=True, description="It does not begin by refusing (English, Korean and others). Default: true.")
    json_schema: bool = Field(
        default=True, description="If the request has a JSON schema, the answer follows it. Only if it has one. Default: true."
    )
    logprob: float | None = Field(
        default=None,
        le=0,
        description="Least mean log probability of its tokens, asked for if the request does not. Unit: nats. Default: not looked at.",
    )
    agree: Annotated[AgreeOptions | None, BeforeValidator(_agree, json_schema_input_type=bool | Extract | AgreeOptions | None)] = Field(
        default=None, description="A second cheap answer says the same. `true` or what to extract is short for it. Default: none is asked."
    )
    judge: Annotated[JudgeOptions | None, BeforeValidator(_judge, json_schema_input_type=str | JudgeOptions | None)] = Field(
        default=None, description="Another model finds it good enough. A model's name is short for it. Default: none is asked."
    )


class CascadeOptions(BaseModel):
    """Ask the cheap first, check its answer, go on to the next step if it does not pass. The last step's answer is not checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: Literal["cascade"] = "cascade"
    name: Word = Field(default="cascade", description="Name in records and metrics. Default: `cascade`.")
    steps: tuple[PickEntry, ...] = Field(
        min_length=1,
        max_length=5,
        description="Models in the order to ask, two or more: names, or classes such as `{size: small}`.",
        json_schema_extra={"minItems": LEAST_STEPS},
    )
    verify: VerifyOptions = Field(default_factory=VerifyOptions, description="What an answer must pass.")
    by: InnerEntry = Field(
        default="cost", validate_default=True, description="How several models of one step are ordered: any policy kind. Default: `cost`."
    )
    explore: Share = Field(
        default=0.05,
        description=(
            "Where the cascade does not pay, it switches itself off; this share still goes through it, to see whether it would again. "
            "Unit: 0 to 1 or a percentage. Default: 5%."
        ),
    )
    always: bool = Field(default=False, description="Never switch it off. Default: false.")


def bind(options: CascadeOptions) -> Order:
    """The order function of these options."""
    by, picks, name = bound(options.by), options.steps, options.name
    verify = _verify(options.verify)
    explore = 1.0 if options.always else options.explore
    judge = None if options.verify.judge is None else Pick(names=(options.verify.judge.model,))
    agree = options.verify.agree
    second = Pick(names=(agree.model,)) if agree is not None and agree.model else None

    def order(facts: RequestFacts, kept: Sequence[Candidate], draw: float) -> Ranking:
        left = list(kept)
        found: list[tuple[str, Ranking]] = []
        for index, pick in enumerate(picks):
            own = [c for c in left if pick.fits(c.traits)]
            left = [c for c in left if not pick.fits(c.traits)]
            if own:
                found.append((_name(pick, index), by(facts, own, draw)))
        # What only judges or agrees is no step, but better than nothing.
        rest = in_order(left)
        off = facts.live.get(f"pays/{name}", 1.0) <= 0.0 and draw >= explore
        if len(found) < 2 or off or facts.operation == "embeddings" or facts.choices > 1:
            return _plain(found if not off else found[::-1], rest)
        steps = tuple([Step(name=step, deployments=_names(ranking.order)) for step, ranking in found])
        cascade = Cascade(
            name=name,
            steps=steps,
            verify=verify,
            judges=_fitting(judge, kept),
            seconds=_fitting(second, kept) if second is not None else steps[0].deployments if agree is not None else (),
        )
        plain = _plain(found, rest)
        return Ranking(plain.order, plain.rejected, plain.measure, added(plain.plan, cascade=cascade))

    return order


def _plain(found: Sequence[tuple[str, Ranking]], rest: tuple[Ranked, ...]) -> Ranking:
    """All steps, one after the other."""
    order = tuple([ranked for _, ranking in found for ranked in ranking.order])
    rejected = tuple([out for _, ranking in found for out in ranking.rejected])
    measure, plan = (found[0][1].measure, found[0][1].plan) if found else ("", None)
    return Ranking(order + rest, rejected, measure, plan)


def _name(pick: Pick, index: int) -> str:
    classes = (pick.size, pick.domain, pick.language, pick.locality, pick.region, pick.weights)
    return pick.names[0] if pick.names else next(filter(None, classes), f"step-{index + 1}")


def _names(order: Sequence[Ranked]) -> tuple[str, ...]:
    return tuple([ranked.deployment for ranked in order])


def _fitting(pick: Pick | None, kept: Sequence[Candidate]) -> tuple[str, ...]:
    return () if pick is None else tuple([c.traits.deployment for c in kept if pick.fits(c.traits)])


def _verify(options: VerifyOptions) -> Verify:
    agree, judge = options.agree, options.judge
    return Verify(
        finish=options.finish,
        refusal=options.refusal,
        schema=options.json_schema,
        logprob=options.logprob,
        agree=None if agree is None else Agree(model=agree.model, extract=agree.extract),
        judge=None if judge is None else Judge(model=judge.model, at_least=judge.at_least, instruction=judge.instruction),
    )


def problems(options: CascadeOptions, offered: Sequence[Traits]) -> Sequence[Problem]:
    """Steps that nothing is in; a judge that the rule does not lead to, so that no filter would hold for it."""
    found: list[Problem] = []
    # With the names that are wrong, not before anybody has looked at them.
    if len(options.steps) < LEAST_STEPS:
        found.append((("steps",), f"needs {LEAST_STEPS} or more: the next is asked if an answer fails"))
    for index, pick in enumerate(options.steps):
        found += pick.problems(("steps", index), offered)
    verify = options.verify
    if verify.judge is not None:
        found += Pick(names=(verify.judge.model,)).problems(("verify", "judge", "model"), offered)
    if verify.agree is not None and verify.agree.model:
        found += Pick(names=(verify.agree.model,)).problems(("verify", "agree", "model"), offered)
    return found


def live(options: CascadeOptions) -> tuple[Live, ...]:
    """Whether it pays. One with other steps or checks has to show it anew."""
    return () if options.always else (Live(what="cascade", name=options.name, version=options.model_dump_json(exclude={"by"})),)
