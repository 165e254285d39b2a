"""Budgets that span several ledgers, as they are written: what is missing, and what cannot be shared."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.domain.controls import BaseLimit, ControlState, base_limits, limits_in_force
from router.domain.shares import OwnShare
from router.domain.windows import bucket_at
from router.errors import ConfigError
from router.settings.load import load_text, price_book
from router.snapshot import Snapshot

SERVER = "server: {store: a.sqlite, shared_store: b.sqlite, ledger: eu}\n"


def load(text: str, folder: Path | None = None) -> Snapshot:
    return load_text(f"version: 1\n{text}", source="r.yaml", environ={}, price_book=price_book(), folder=folder).snapshot


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("budgets: {all: {limit: $5, shared: true}}\n", "r.yaml:2:36: budgets.all.shared: needs server.shared_store"),
        ("server: {shared_store: b.sqlite}\n", "server.shared_store: needs server.ledger, too"),
        ("server: {ledger: eu}\n", "server.ledger: needs server.shared_store, too"),
        ("server: {store: x.sqlite, shared_store: x.sqlite, ledger: eu}\n", "is the file of server.store"),
        ("server: {shared_store: 'localhost:6379', ledger: eu}\n", 'did you mean "redis://localhost:6379"?'),
        (SERVER + "budgets: {all: {limit: $5, shared: true, each: team}}\n", "cannot have each"),
        (SERVER + "budgets: {all: {limit: $5/session, shared: true}}\n", "cannot have each"),
        (SERVER + "budgets: {all: {limit: $5/day, shared: true, carry_over: true, mode: soft}}\n", "carry_over or mode: soft"),
        (SERVER + "budgets: {all: {limit: $5/day, shared: true, at: {80%: downgrade}}}\n", "steps in at"),
        (SERVER + "budgets: {all: {limit: 5 concurrent, shared: true}}\n", "concurrent calls"),
    ],
)
def test_what_cannot_be_shared_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """Before anything is spent from a limit that nobody keeps."""
    with pytest.raises(ConfigError) as raised:
        load(text, tmp_path)
    assert said in str(raised.value)


def test_a_shared_budget_has_no_limit_of_its_own_until_it_has_a_share(tmp_path: Path) -> None:
    """A ledger that has not asked yet, or was emptied, must not spend what others have."""
    config = load(SERVER + "budgets: {all: {limit: $5/day, shared: true}}\n", tmp_path)
    assert (config.server.shared_store, config.server.ledger) == (str(tmp_path / "b.sqlite"), "eu")
    (budget,) = config.budgets
    assert budget.alert_at == ()
    assert bucket_at(budget, "", 0).limit_nusd == 0
    base = base_limits([budget])
    assert base == {"all": BaseLimit(5_000_000_000, shared=True)}
    assert limits_in_force(ControlState(base=base))["all"].limit == 0
    assert limits_in_force(ControlState(base=base, shares={"all": OwnShare(7, 1)}))["all"].limit == 7
