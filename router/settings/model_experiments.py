"""The fields of experiments."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, field_validator

from policies.kinds.fields import Share, StickyBy
from policies.kinds.split import RampStep, StopIf, rising
from router.settings.findings import shown
from router.settings.types import Section, Text


class ExperimentSettings(Section):
    """Models in the place of others, for a share of the requests of a route."""

    route: Text
    """The route. Rules and policy kinds in it stay as they are."""
    kind: Literal["canary"] = "canary"
    """`canary`: the new models get a small, growing share, and none once they turn out to be worse; without `stop_if`, the share stays."""
    swap: Annotated[dict[Text, Text], Field(min_length=1)]
    """What comes in the place of what: `{solar: upstage/solar-pro5}`. Left a model or deployment that the route uses; right another one,
    or a `provider/id` that is no model of this file: it is taken for as large and as good, and no rule chooses it by its classes."""
    share: Share = 0.05
    """Share of the requests that would go to the model on the left. Unit: 0 to 1 or a percentage."""
    ramp: tuple[RampStep, ...] = ()
    """Larger shares later on: `[{after: 1h, share: 10%}]`. Default: none."""
    begins: datetime | None = None
    """Beginning of the ramp. Unit: a date or moment, UTC unless it says so. Default: when a process first goes by it."""
    sticky: StickyBy = "session"
    """Who stays on a side: `session`, `user`, `key`, `team` or `none`. A request that names none is drawn."""
    stop_if: StopIf | None = None
    """When it is taken back: `{errors: +2%, first_token: +30%, cost: +20%}` more than the others. Default: never."""

    _rises = field_validator("ramp")(rising)

    @field_validator("swap")
    @classmethod
    def _one_way(cls, swap: dict[str, str]) -> dict[str, str]:
        for new in swap.values():
            if new in swap:
                raise ValueError(f"{shown(new)} cannot both come and be replaced")
        return swap
