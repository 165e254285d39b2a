"""Whom calls are counted for."""

from __future__ import annotations

import pytest

from router.call import Call, Principal
from router.domain.windows import scope_of
from router.errors import ConfigError
from router.routing import find_route
from router.scopes import COPIES_KEY, dims_of_caller
from tests.settings_help import BASE, load

CONFIG = BASE + "budgets: {per-key: {limit: $1, each: key}, all: $9}\n"


def test_copies_for_a_shadow_are_nobodys_key() -> None:
    """A client's key of the same name would pay for requests of others."""
    snapshot = load(CONFIG).snapshot
    call = Call(request_id="r", operation="chat", headers={}, snapshot=snapshot, began=0.0)
    call.route = find_route(snapshot, "big", None)
    budgets = {budget.name: budget for budget in snapshot.budgets}
    found = {}
    for key in ("shadow", COPIES_KEY):
        call.principal = Principal(key_id=key)
        found[key] = [scope_of(budgets[name], dims=dims_of_caller(call), tags={}) for name in ("per-key", "all")]
    assert found == {"shadow": ["key=shadow", ""], COPIES_KEY: [None, ""]}
    with pytest.raises(ConfigError):
        load(f"{CONFIG}keys: {{'{COPIES_KEY}': {{secret: $OPENAI_API_KEY}}}}\n")
