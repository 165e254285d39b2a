"""`faregate budget shares`: what each ledger has of the budgets that span several."""

from __future__ import annotations

import asyncio

import msgspec
import typer

from router.adapters.choose import must_exist, visiting
from router.commands.changes import moment_text, operator, print_rows
from router.controls import ControlError
from router.domain.controls import amount_text
from router.domain.shares import Register
from router.errors import ConfigError
from router.settings import load_snapshot
from router.shares import forget, read_register
from router.snapshot import Snapshot


def print_shares(config: str | None, *, gone: str | None, reason: str | None, as_json: bool) -> None:
    """Show all shares, after freeing those of the ledger `gone`."""
    snapshot = load_snapshot(config)
    store = snapshot.server.shared_store
    if not store:
        raise ConfigError("This configuration has no server.shared_store: its budgets are all its own.")
    if gone and not reason:
        raise typer.BadParameter("say why", param_hint="--reason")
    try:
        register = asyncio.run(_look(store, gone, reason or ""))
    except ControlError as error:
        raise typer.BadParameter(str(error), param_hint="--forget") from None
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(register.budgets), indent=2).decode())
    else:
        _print(register, snapshot)


async def _look(store: str, gone: str | None, reason: str) -> Register:
    async with visiting(must_exist(store), register=True) as ledger:
        controls = ledger.control_store()
        if gone:
            await forget(controls, gone, who=operator(), reason=reason)
        return await read_register(controls)


def _print(register: Register, snapshot: Snapshot) -> None:
    units = {budget.name: budget.unit for budget in snapshot.budgets}
    rows: list[tuple[str, ...]] = [("BUDGET", "LEDGER", "SHARE", "USED", "WANTS", "LIMIT OF ALL", "TOLD")]
    for budget, shares in sorted(register.budgets.items()):
        unit = units.get(budget, "usd")
        for name, share in sorted(shares.items()):
            amounts = (amount_text(amount, unit) for amount in (share.limit, share.used, share.wants, share.whole))
            rows.append((budget, name, *amounts, moment_text(share.at_ms)))
    print_rows(rows)
