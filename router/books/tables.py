"""Reports of spending as tables for machines."""

from __future__ import annotations

import csv
import io
from typing import Any

from router.domain.money import format_usd
from router.spend import Report, Sums, printable


def row_of(sums: Sums) -> dict[str, Any]:
    """The figures of one row, by name."""
    return {
        "requests": len(sums.requests),
        "calls": sums.calls,
        "input_tokens": sums.input_tokens,
        "cached_tokens": sums.cached_tokens,
        "output_tokens": sums.output_tokens,
        "cost_nusd": sums.charge_nusd,
        "cost_usd": format_usd(sums.charge_nusd),
        "avoided_estimate_nusd": sums.avoided_nusd,
        "avoided_estimate_usd": None if sums.avoided_nusd is None else format_usd(sums.avoided_nusd),
        "estimated_nusd": sums.estimated_nusd,
        "estimated_share": sums.estimated_share,
    }


def csv_text(report: Report) -> str:
    """The report as CSV, without a row of totals, so that a column can be summed."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((*report.by, *row_of(report.total)))
    for group, sums in report.sorted_rows():
        values = ["" if value is None else value for value in row_of(sums).values()]
        writer.writerow((*map(cell, group), *values))
    return out.getvalue()


def cell(text: str) -> str:
    """A text as a cell."""
    # Users' names come from clients. A spreadsheet runs a cell that begins like a formula.
    return f"'{printable(text)}" if text.startswith(("=", "+", "-", "@")) else printable(text)
