"""`faregate ledger`: show budgets, and compare the counters with the log."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
import typer

from router.adapters.choose import choose_store, must_exist, visiting
from router.commands.changes import ending
from router.commands.options import Books, Store
from router.commands.rerate import command as rerate
from router.controls import Desk
from router.domain.budgets import BucketState, Unit
from router.domain.controls import ControlState, change_text
from router.domain.money import format_amount, format_usd
from router.domain.windows import unit_of
from router.ports import Drift

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Show budgets, and compare the counters with the log.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; money in nano-USD.")]

_NAMED: Final = 5
"""Most budgets that are named as not shown."""


@app.command()
def show(
    budget: Annotated[str | None, typer.Option(help="Only this budget.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also windows that are over, and removed budgets.")] = False,
    store: Store = None,
    config: Books = None,
    as_json: AsJson = False,
) -> None:
    """Show every budget: its limit, what is spent and held, and when it starts anew."""
    states, changes = asyncio.run(_states(must_exist(choose_store(store, config)), budget, current_only=not everything))
    if budget is None and not everything:
        states = _configured(states)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode([_fields(state) for state in states]), indent=2).decode())
        return
    rows: list[tuple[str, ...]] = [("BUDGET", "SCOPE", "WINDOW", "LIMIT USD", "SPENT USD", "HELD USD", "LEFT USD", "RESETS")]
    rows += [_row(state) for state in states]
    _print_rows(rows)
    _print_changes(changes)


def _print_changes(changes: ControlState) -> None:
    """Below the table: which limits are not the configuration's, and why."""
    for control in changes.of_kind("limit"):
        if control.target in changes.base:
            name = f"{control.target} ({control.scope})" if control.scope else control.target
            how = change_text(control, changes.base[control.target].unit)
            print(f"{name}: {how}{ending(control.until_ms)} by {control.by}: {control.reason}")


async def _states(store: str, budget: str | None, *, current_only: bool) -> tuple[Sequence[BucketState], ControlState]:
    async with visiting(store) as ledger:
        changes = await Desk(ledger.control_store(), who="", via="").state()
        return await ledger.bucket_states(budget=budget, current_only=current_only), changes


def _configured(states: Sequence[BucketState]) -> Sequence[BucketState]:
    """Without what is left of budgets that the configuration which was served last does not have; says how many there are."""
    kept = [state for state in states if state.limit_nusd is not None]
    gone = {state.budget for state in states if state.limit_nusd is None}
    if gone:
        listed = ", ".join(sorted(gone)[:_NAMED]) + (", ..." if len(gone) > _NAMED else "")
        print(f"Not shown: {listed}. The configuration that was served last has no such budget; --all shows them.", file=sys.stderr)
    return kept


def _fields(state: BucketState) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(state)
    fields["left_nusd"] = _left(state)
    fields["resets"] = _resets(state)
    return fields


def _left(state: BucketState) -> int | None:
    return None if state.limit_nusd is None else max(0, state.limit_nusd - state.spent_nusd - state.held_nusd)


def _resets(state: BucketState) -> str | None:
    at_ms = state.resets_ms
    return None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _row(state: BucketState) -> tuple[str, ...]:
    left = _left(state)
    return (
        state.budget,
        state.scope or "-",
        state.window,
        "removed" if state.limit_nusd is None else _amount(state.limit_nusd, state.unit),
        _amount(state.spent_nusd, state.unit),
        _amount(state.held_nusd, state.unit),
        "-" if left is None else _amount(left, state.unit),
        _resets(state) or "never",
    )


def _amount(value: int, unit: Unit) -> str:
    """Money without its unit, which the heading names; other amounts with it."""
    return format_usd(value) if unit == "usd" else format_amount(value, unit)


def _print_rows(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def verify(store: Store = None, config: Books = None, as_json: AsJson = False) -> None:
    """Recompute every counter from the log and the open holds; exit 1 if one disagrees."""
    drifts = asyncio.run(_drifts(must_exist(choose_store(store, config))))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(drifts), indent=2).decode())
    elif drifts:
        rows: list[tuple[str, ...]] = [("BUCKET", "FIELD", "COUNTER USD", "LOG USD")]
        _print_rows(rows + [(d.bucket, d.field, *(_amount(n, unit_of(d.bucket)) for n in (d.counter_nusd, d.log_nusd))) for d in drifts])
    else:
        print("Counters and log agree.")
    if drifts:
        sys.exit(1)


async def _drifts(store: str) -> Sequence[Drift]:
    async with visiting(store) as ledger:
        return await ledger.verify()


app.command("rerate")(rerate)
