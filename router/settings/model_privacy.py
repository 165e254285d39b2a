"""The fields of privacy: which requests are private, and which models may see them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from router.settings.model_conditions import WhenEntry
from router.settings.model_select import UseEntry
from router.settings.types import Name, Section

PRIVATE = "private"
"""Name of the class if only one is given, without a name."""


class PrivacySettings(Section):
    """A class of private requests. It holds for every route, model and deployment that can be asked for."""

    when: WhenEntry
    """Which requests are private: as the `when` of a rule. Where it cannot be told, they are."""
    only: UseEntry
    """Models that may see them, names or classes such as `{locality: [local, edge]}`. No other one is called for such a request,
    whatever fails, is spent, or is asked for."""


def _classes(value: object) -> object:
    if value is None:
        return {}
    return {PRIVATE: value} if isinstance(value, dict) and not value.keys().isdisjoint(("when", "only")) else value


Privacy = Annotated[
    dict[Name, PrivacySettings],
    BeforeValidator(_classes, json_schema_input_type=PrivacySettings | dict[str, PrivacySettings]),
]
