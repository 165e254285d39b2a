"""The kinds of values that options of several kinds have: shares, durations, and which candidates are meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, SerializeAsAny

from policies.engine import Order
from policies.types import Candidate, Ranked, RequestFacts, Traits

if TYPE_CHECKING:
    from policies.registry import Kind

Path = tuple[str | int, ...]
Problem = tuple[Path, str]
"""Where in the options, and what is wrong."""

_PERCENT: Final = re.compile(r"\+?(\d+(?:\.\d+)?)\s*%")
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _no_switch(value: object, what: str) -> None:
    # Taken for 1, it would be all requests, or a second.
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not {what}")


def _share(value: object) -> object:
    _no_switch(value, "a share; write 5% or 0.05")
    if isinstance(value, str):
        found = _PERCENT.fullmatch(value.strip())
        if found is None:
            raise ValueError(f'"{value}" is not a share; write 5% or 0.05')
        # Through the shortest decimal, so that 5% is 0.05.
        return float(f"{found[1]}e-2")
    return value


def _seconds(value: object) -> object:
    _no_switch(value, "a duration; write 800ms, 30s, 5m, 2h or 7d")
    if isinstance(value, int | float):
        raise ValueError(f"{value:g} has no unit; write {value:g}ms or {value:g}s")
    if isinstance(value, str):
        found = _DURATION.fullmatch(value.strip())
        if found is None:
            raise ValueError(f'"{value}" is not a duration; write 800ms, 30s, 5m, 2h or 7d')
        return float(found[1]) * _SECONDS[found[2]]
    return value


def _milliseconds(value: object) -> object:
    _no_switch(value, "a duration; write 800ms")
    # The name of the field says the unit of a bare number.
    return round(float(str(_seconds(value))) * 1000, 6) if isinstance(value, str) else value


def written_seconds(value: float) -> str:
    """Seconds as they are written in YAML."""
    for unit in ("d", "h", "m", "s"):
        if value and value % _SECONDS[unit] == 0:
            return f"{value / _SECONDS[unit]:.0f}{unit}"
    return f"{value * 1000:.10g}ms"


def _names(value: object) -> object:
    return {"names": [value] if isinstance(value, str) else value} if isinstance(value, str | list | tuple) else value


Share = Annotated[float, BeforeValidator(_share, json_schema_input_type=float | str), Field(ge=0, le=1, allow_inf_nan=False)]
Excess = Annotated[float, BeforeValidator(_share, json_schema_input_type=float | str), Field(gt=0, le=100, allow_inf_nan=False)]
Seconds = Annotated[
    float,
    BeforeValidator(_seconds, json_schema_input_type=str),
    PlainSerializer(written_seconds, return_type=str, when_used="json"),
    Field(ge=0, le=3_660 * 86400, allow_inf_nan=False),
]
Milliseconds = Annotated[float, BeforeValidator(_milliseconds, json_schema_input_type=float | str), Field(gt=0, allow_inf_nan=False)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


def inner(value: object) -> object:
    """A kind inside a kind: its name is short for it without options."""
    value = {"kind": value} if isinstance(value, str) else value
    if isinstance(value, BaseModel):
        return value
    kind = value.get("kind") if isinstance(value, dict) else None
    from policies.registry import KINDS

    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f'"{kind}" is not a policy kind; there are {", ".join(sorted(KINDS))}')
    return value


if TYPE_CHECKING:
    Inner = BaseModel
else:
    # Any kind that there is; the registry, which names them all, fills it in.
    Inner = "AnyKind"

# UP007: the name of a type that is not there yet cannot be joined with |.
InnerEntry = Annotated[SerializeAsAny[Inner], BeforeValidator(inner, json_schema_input_type=Union[str, Inner])]  # noqa: UP007


class Pick(BaseModel):
    """Which candidates are meant: names of models, deployments or providers, or classes that must all fit."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    names: tuple[str, ...] = Field(default=(), description="Models, deployments or providers. A name or a list is short for it.")
    size: Literal["small", "medium", "large"] | None = Field(default=None, description="Class by size. Default: any.")
    weights: Literal["open", "closed"] | None = Field(default=None, description="Class by licence of the weights. Default: any.")
    locality: Literal["cloud", "local", "edge"] | None = Field(default=None, description="Class by where it runs. Default: any.")
    region: str | None = Field(default=None, description="Class by where it runs, in words of your own. Default: any.")
    domain: str | None = Field(default=None, description="What it is good at. Default: any.")
    language: str | None = Field(default=None, description="Strong in it: a code of ISO 639-1 such as `ko`. Default: any.")
    quality: Share | None = Field(default=None, description="Usual quality at least. Unit: 0 to 1 or a percentage. Default: any.")

    def fits(self, traits: Traits) -> bool:
        """Whether a deployment is meant."""
        if self.names:
            return not {traits.deployment, traits.model, traits.provider}.isdisjoint(self.names)
        wanted = ((self.size, traits.size), (self.weights, traits.weights), (self.locality, traits.locality), (self.region, traits.region))
        within = ((self.domain, traits.domain), (self.language, traits.languages))
        return (
            all(want is None or want == has for want, has in wanted)
            and all(want is None or want in has for want, has in within)
            and (self.quality is None or (traits.quality is not None and traits.quality >= self.quality))
        )

    def problems(self, path: Path, offered: Sequence[Traits]) -> Iterable[Problem]:
        """Names that nothing in `use` has, and classes that nothing fits."""
        for name in self.names:
            if not any(name in (one.deployment, one.model, one.provider) for one in offered):
                yield path, f'"{name}" is not among the models that `use` leads to{_meant(name, offered)}'
        if not self.names and not any(map(self.fits, offered)):
            yield path, "no model that `use` leads to has these classes"


def _meant(name: str, offered: Sequence[Traits]) -> str:
    """What is there instead."""
    known = list(dict.fromkeys(word for one in offered for word in (one.model, one.deployment, one.provider)))
    close = difflib.get_close_matches(name, known, n=1)
    # A beginning of a name says enough.
    close = close or [word for word in known if name and word.startswith(name)][:1]
    models = ", ".join(dict.fromkeys(one.model for one in offered))
    return f'; did you mean "{close[0]}"?' if close else f"; it leads to {models}"


PickEntry = Annotated[Pick, BeforeValidator(_names, json_schema_input_type=str | list[str] | Pick)]

StickyBy = Literal["session", "user", "key", "team", "none"]


def point_of(facts: RequestFacts, sticky: StickyBy, salt: str) -> float | None:
    """Where in [0, 1) a session, user, key or team falls: always at the same place. None: the request names none."""
    value = {"session": facts.session, "user": facts.user, "key": facts.key_id, "team": facts.team, "none": ""}[sticky]
    if not value:
        return None
    digest = blake2b(f"{salt}\0{value}".encode(), digest_size=7).digest()
    return int.from_bytes(digest) / 2.0**56


def kind_of(options: BaseModel) -> Kind:
    """The kind that options belong to. The registry names all kinds, so it is looked at last."""
    from policies.registry import KINDS

    name: Any = getattr(options, "kind", "")
    return KINDS[name]


def bound(options: BaseModel) -> Order:
    """The order function of a kind inside another."""
    return kind_of(options).bind(options)


def inside(options: BaseModel) -> tuple[BaseModel, ...]:
    """The kinds that stand inside one."""
    branches: Any = getattr(options, "branches", None)
    found = [getattr(options, name, None) for name in ("by", "to_by")] if branches is None else [branch.by for branch in branches]
    return tuple([one for one in found if one is not None])


def in_order(kept: Sequence[Candidate]) -> tuple[Ranked, ...]:
    """As written, without a score: those that are only tried if all before them fail."""
    return tuple([Ranked(c.traits.deployment) for c in kept])
