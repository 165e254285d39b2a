"""Whom a call is counted for: what budgets and limits can be split by and applied to."""

from __future__ import annotations

from typing import Final

from router.call import Call
from router.snapshot import Deployment

NO_TEAM: Final = "default"
"""Team of a key without one: budgets split by team count it too."""
NO_KEY: Final = "anonymous"
COPIES_KEY: Final = "@shadow"
"""Key id of copies that a shadow makes: no key can be named so, for names begin with a letter or digit. A team pays for them."""


def dims_of_caller(call: Call) -> dict[str, str]:
    """The value of each dimension that does not depend on who serves a call. Empty: there is none."""
    principal = call.principal
    key = principal.key_id or NO_KEY
    return {
        "org": principal.org,
        "team": principal.team or NO_TEAM,
        "key": "" if key == COPIES_KEY else key,
        "user": call.user,
        "session": call.session,
        "route": call.route.name,
    }


def dims_of(call: Call, deployment: Deployment) -> dict[str, str]:
    """The value of each dimension but tags, for a call of this deployment. Empty: there is none."""
    return dims_of_caller(call) | {"model": deployment.model, "provider": deployment.provider.name, "deployment": deployment.name}
