"""The end of the demonstration: the books beside the provider's bill, and where to go from here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from router.demo.show import Figure, Outcome
from router.demo.watch import Watch
from router.domain.money import format_usd, to_usd
from router.ports import Books
from router.sim.bill import Bill

NEXT_STEPS: Final = (
    "export OPENAI_API_KEY=...                    # or any other provider's key, or start a local server",
    "faregate init --dir mine                     # writes a commented configuration from what it finds",
    "faregate serve --config mine/router.yaml     # the same router, with your models and your budgets",
)


async def closing(watch: Watch, books: Books, billed: Bill) -> Outcome:
    """Compare what the ledger booked with what the simulated provider billed."""
    await watch.refresh()
    totals = watch.totals()
    difference = totals.charge_nusd - billed.nusd
    drift = len(await books.verify())
    held = sum(state.held_nusd for state in watch.buckets)
    outcome = Outcome(title="The books")
    outcome.figures |= {
        "requests": len(watch.seen),
        "booked_nusd": totals.charge_nusd,
        "billed_nusd": billed.nusd,
        "difference_nusd": difference,
        "avoided_nusd": totals.avoided_nusd,
        "held_nusd": held,
        "drift": drift,
        "estimated_records": totals.unsure,
    }
    outcome.lines += [
        f"{len(watch.seen)} requests, {totals.calls} charged calls.",
        f"By team:  {_listed(totals.by_team)}.",
        f"By model: {_listed(totals.by_model)}.",
        f"Avoided:  {format_usd(totals.avoided_nusd)} USD against the frontier model's {format_usd(totals.baseline_nusd)} USD.",
        f"Booked:   {to_usd(totals.charge_nusd):.9f} USD by the router's ledger; {drift} counters differ from its log.",
        f"Billed:   {to_usd(billed.nusd):.9f} USD by the simulated provider's own count.",
        f"Difference {to_usd(difference):.9f} USD.{_explained(watch, billed, difference)}",
    ]
    return outcome


def figures_of(outcomes: Mapping[str, Outcome]) -> dict[str, dict[str, Figure]]:
    """All figures, by act, for machines."""
    return {name: outcome.figures for name, outcome in outcomes.items()}


def _listed(amounts: Mapping[str, int]) -> str:
    ranked = sorted(((nusd, name) for name, nusd in amounts.items() if nusd), reverse=True)
    return ", ".join(f"{name} {to_usd(nusd):.6f} USD" for nusd, name in ranked) or "nothing"


def _explained(watch: Watch, billed: Bill, difference: int) -> str:
    """Where a difference comes from: calls that did not end as they began."""
    if not difference:
        return ""
    unsure = [record for record in watch.records if record.evidence != "exact"]
    cut = sum(bill.incomplete_calls for bill in billed.models.values())
    booked = sum(record.charge_nusd for record in unsure)
    return f" {len(unsure)} records ({to_usd(booked):.9f} USD) rest on an estimate, {cut} answers did not end; the ledger names each."
