"""`faregate budget`: the limits in force, and changes of them that count at once for all replicas."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import msgspec
import typer

from router.commands.changes import AsJson, Reason, Until, change, ending, moment_text, print_rows, until_ms
from router.commands.options import Books, Config, Store
from router.controls import Desk, How, LimitChange, find_budget
from router.domain.controls import Control, ControlState, amount_text, change_text, limit_in_force
from router.inputs import parse_amount

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Show the limits of budgets, and change them while the service runs.")

Name = Annotated[str, typer.Argument(help="Budget; `search` also finds that of team or key `search`.", show_default=False)]
Amount = Annotated[str, typer.Argument(help="50usd or '$50'; 100k of a budget in requests or tokens.", show_default=False)]
Scope = Annotated[str, typer.Option(help="Only this instance of a split budget: team=search. Default: all.")]


@app.command("list")
def show(store: Store = None, config: Books = None, as_json: AsJson = False) -> None:
    """Show every limit: the configuration's, the one in force, and who changed it until when and why."""
    state = change(store, config, lambda desk: desk.state())
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(_as_fields(state)), indent=2).decode())
        return
    rows: list[tuple[str, ...]] = [("BUDGET", "SCOPE", "CONFIGURED", "IN FORCE", "UNTIL", "BY", "REASON")]
    for name, base in state.base.items():
        rows.append((name, "-", amount_text(base.limit, base.unit), amount_text(limit_in_force(state, name), base.unit), "-", "-", "-"))
        rows += [_row(state, control) for control in state.of_kind("limit") if control.target == name]
    print_rows(rows)


def _row(state: ControlState, control: Control) -> tuple[str, ...]:
    unit = state.base[control.target].unit
    limit = amount_text(limit_in_force(state, control.target, control.scope), unit) if control.scope else ""
    return (f"  {change_text(control, unit)}", control.scope or "-", "", limit, moment_text(control.until_ms), control.by, control.reason)


def _as_fields(state: ControlState) -> list[dict[str, Any]]:
    return [
        {
            "budget": name,
            "unit": base.unit,
            "each": list(base.each),
            "configured": base.limit,
            "limit": limit_in_force(state, name),
            "changes": [
                msgspec.to_builtins(control) | {"limit": limit_in_force(state, name, control.scope)}
                for control in state.of_kind("limit")
                if control.target == name
            ],
        }
        for name, base in state.base.items()
    ]


@app.command("raise")
def raise_(
    budget: Name, amount: Amount, reason: Reason, until: Until = None, scope: Scope = "", store: Store = None, config: Books = None
) -> None:
    """Raise a limit by an amount."""
    _change("raise", budget, amount, reason, until, scope, store, config)


@app.command()
def lower(
    budget: Name, amount: Amount, reason: Reason, until: Until = None, scope: Scope = "", store: Store = None, config: Books = None
) -> None:
    """Lower a limit by an amount, at most to nothing."""
    _change("lower", budget, amount, reason, until, scope, store, config)


@app.command("set")
def set_(
    budget: Name, amount: Amount, reason: Reason, until: Until = None, scope: Scope = "", store: Store = None, config: Books = None
) -> None:
    """Set a limit to an amount."""
    _change("set", budget, amount, reason, until, scope, store, config)


@app.command("reset-override")
def reset_override(budget: Name, reason: Reason, scope: Scope = "", store: Store = None, config: Books = None) -> None:
    """Take changes of a limit back: all of the budget, or with --scope those of one instance."""
    _print(change(store, config, lambda desk: desk.reset_limit(budget, scope=scope or None, reason=reason)))


@app.command()
def shares(
    config: Config = None,
    gone: Annotated[str | None, typer.Option("--forget", help="Free what this ledger has: it is gone for ever.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why, with --forget; goes into the audit log of the shared store.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what each ledger has of the budgets that span several, at `server.shared_store` of the configuration."""
    from router.commands.budget_shares import print_shares

    print_shares(config, gone=gone, reason=reason, as_json=as_json)


# One parameter for each of the command's own.
def _change(how: How, budget: str, amount: str, reason: str, until: str | None, scope: str, store: str | None, config: str | None) -> None:
    ends_ms = until_ms(until)
    asked = 0

    async def work(desk: Desk) -> LimitChange:
        nonlocal asked
        _, base = find_budget(await desk.state(), budget)
        try:
            wanted = asked = parse_amount(amount, base.unit)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="AMOUNT") from None
        return await desk.change_limit(budget, how, wanted, scope=scope, reason=reason, until_ms=ends_ms)

    made = change(store, config, work)
    _print(made)
    if how == "lower" and asked > made.before:
        print("There was less than that to take: nothing is left, until the limit is raised or the change ends.", file=sys.stderr)


def _print(made: LimitChange) -> None:
    name = f"{made.budget} ({made.scope})" if made.scope else made.budget
    print(f"{name}: {amount_text(made.before, made.unit)} -> {amount_text(made.after, made.unit)}{ending(made.until_ms)}")
