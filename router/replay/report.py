"""A plan for people: text for a terminal, or Markdown for a pull request, of the same tables."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec

from router.replay.compare import Comparison, Figure, OffPolicy, Row
from router.spend import printable

MOST_MOVES = 12


class Table(msgspec.Struct, kw_only=True):
    """A heading, and rows of words; the first column is aligned left, the others right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def as_text(notes: Sequence[str], tables: Sequence[Table]) -> str:
    """Notes and tables for a terminal."""
    parts = list(notes)
    for table in tables:
        if table.rows:
            parts += ["", table.title, *_lines(table)]
    return "\n".join(parts)


def as_markdown(title: str, notes: Sequence[str], tables: Sequence[Table]) -> str:
    """Notes and tables for a pull request."""
    parts = [f"## {title}", "", *(f"- {_escaped(note)}" for note in notes)]
    for table in tables:
        if table.rows:
            parts += ["", f"### {table.title}", "", _cells(table.columns), _cells(["---", *["---:"] * (len(table.columns) - 1)])]
            parts += [_cells(row) for row in table.rows]
    return "\n".join(parts)


def _cells(row: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, row))} |"


def _escaped(text: str) -> str:
    return printable(text).replace("|", "\\|").replace("<", "&lt;") if not text.startswith("---") else text


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _lines(table: Table) -> list[str]:
    rows = [[printable(cell) for cell in row] for row in (table.columns, *table.rows)]
    widths = [max(_width(row[place]) for row in rows) for place in range(len(table.columns))]
    lines = []
    for row in rows:
        cells = []
        for place, cell in enumerate(row):
            space = " " * (widths[place] - _width(cell))
            cells.append(space + cell if place else cell + space)
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def usd(value: float | None) -> str:
    """Nano-USD as people read it, to four figures or cents."""
    if value is None:
        return "-"
    amount = value / 1e9
    return f"{amount:,.2f}" if abs(amount) >= 100 else f"{amount:.4g}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def changed(figure: Figure) -> str:
    """By how much, and between what."""
    if figure.change is None:
        return "-"
    text = f"{figure.change:+.1%}"
    return text if figure.between is None else f"{text} ({figure.between[0]:+.1%} to {figure.between[1]:+.1%})"


def notes_of(told: Comparison) -> list[str]:
    """What the reader must know of how the figures came about."""
    if not told.requests:
        return ["The log has no requests in this time."]
    notes = [
        f"{told.requests:,} requests from {_day(told.since_ms)} to {_day(told.until_ms)}, charged {usd(told.recorded_nusd)} USD.",
        *short_of(told.since_ms, told.until_ms),
        f"{told.total.changed:,} ({told.total.changed / told.requests:.1%}) change.",
        f"The old configuration, replayed, sends {told.as_recorded / told.requests:.1%} to the model that served them.",
        *_kept(told),
        *_unread(told),
    ]
    if told.unpriced:
        notes.append(f"{told.unpriced:,} requests would go where no price is known: their cost is missing from the sums.")
    if told.estimated_steps:
        notes.append(
            f"{told.estimated_steps:,} requests would go to another cascade: its cost follows from how often answers of its first model "
            "passed in the cascades of this log, with their checks."
        )
    if told.unknown_steps:
        share = told.unknown_steps_nusd / told.recorded_nusd if told.recorded_nusd else 0.0
        notes.append(
            f"{told.unknown_steps:,} requests ({share:.1%} of the charges) would go to another plan of several steps: "
            "what its steps beyond the first cost is not known, so the new cost is not to be relied on."
        )
    if told.off_policy is not None:
        notes.append(_off_policy(told.off_policy))
    return notes


def _kept(told: Comparison) -> list[str]:
    """How much of the log is known, not guessed."""
    others = told.requests - told.exact
    unknown = "tools, caps and headers are not known"
    if not told.exact:
        return [f"No decisions were kept: {unknown}."]
    notes = [
        f"Decisions were kept of {told.exact:,} requests; of the other {others:,}, {unknown}." if others else "All decisions were kept."
    ]
    same, made = told.reproduced
    elsewhere = told.exact - made
    if made:
        notes.append(f"{same:,} of {made:,} kept decisions begin at the same deployment again.")
    if elsewhere:
        notes.append(f"{elsewhere:,} kept decisions were made under other versions of the configuration: whether they repeat is not known.")
    return notes


def _unread(told: Comparison) -> list[str]:
    """Rules that could not be asked, because nobody has read the prompts."""
    if not told.unread:
        return []
    return [
        f"Of {told.unread:,} requests ({told.unread / told.requests:.1%}) nobody has read what the new configuration's rules ask of the "
        f"prompts: {', '.join(told.unread_signals)}. For these no such rule holds here, and nothing is personal, so the new figures are "
        "not theirs. --prompts FILE, of server.keep_prompts, has them read."
    ]


def short_of(since_ms: int, until_ms: int) -> list[str]:
    """A warning, if sums by the month come from less than a day."""
    hours = (until_ms - since_ms) / 3_600_000
    if hours >= 24:
        return []
    length = f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
    return [f"The log spans {length}: sums by the month are that span times {730.5 / max(hours, 1 / 3600):,.0f}, hardly more than a guess."]


def _off_policy(told: OffPolicy) -> str:
    if told.cost_nusd is None:
        return (
            f"Chance tried too little of the new configuration to check it: {told.effective:.0f} effective requests of {told.requests:,}."
        )
    between = "" if told.cost_between is None else f" ({usd(told.cost_between[0])} to {usd(told.cost_between[1])})"
    slow = "" if told.total_ms is None else f", {told.total_ms:,.0f} ms"
    if told.ms_between is not None:
        slow += f" ({told.ms_between[0]:,.0f} to {told.ms_between[1]:,.0f})"
    good = "" if told.quality is None else f", rated {told.quality:.3f}"
    return (
        f"By what chance tried already (SNIPS, {told.effective:,.0f} effective requests of {told.requests:,}), "
        f"a request under the new one costs {usd(told.cost_nusd)} USD{between}{slow}{good}."
    )


def _day(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M}"


def tables_of(told: Comparison) -> list[Table]:
    """The tables of a plan."""
    if not told.requests:
        return []
    return [
        Table(title="Over all", columns=("", "old", "new", "change (95 %)"), rows=_overall(told)),
        Table(
            title="By team",
            columns=("team", "requests", "change", "USD/month old", "new", "change (95 %)", "ms", "quality", "refused old", "new"),
            rows=[_team(row) for row in told.teams],
        ),
        Table(
            title="By model",
            columns=("model", "requests old", "new", "USD/month old", "new", "change (95 %)"),
            rows=[
                (
                    row.name,
                    f"{row.requests_old:,}",
                    f"{row.requests_new:,}",
                    *_two(row.cost_per_month_nusd, usd),
                    changed(row.cost_per_month_nusd),
                )
                for row in told.models
            ],
        ),
        Table(
            title="Moves",
            columns=("from", "to", "requests"),
            rows=[(old or "(refused)", new or "(refused)", f"{count:,}") for old, new, count in told.moves[:MOST_MOVES]],
        ),
        Table(title="Refusals", columns=("why", "old", "new"), rows=[(name, f"{old:,}", f"{new:,}") for name, old, new in told.refusals]),
        Table(title="Rules", columns=("rule", "old", "new"), rows=[(name, f"{old:,}", f"{new:,}") for name, old, new in told.rules]),
    ]


def _two(figure: Figure, form: Callable[[float | None], str]) -> tuple[str, str]:
    return form(figure.old), form(figure.new)


def _overall(told: Comparison) -> list[Sequence[str]]:
    total = told.total
    rows: list[tuple[str, Figure, Callable[[float | None], str]]] = [
        ("USD per month", total.cost_per_month_nusd, usd),
        ("ms per call, mean", total.total_ms, _ms),
        ("ms per call, 95 % below", told.p95_ms, _ms),
        ("ms to the first byte", told.first_ms, _ms),
        ("quality, 0 to 1", total.quality, _share),
    ]
    shown: list[Sequence[str]] = [(name, *_two(figure, form), changed(figure)) for name, figure, form in rows]
    return [*shown, ("refused", f"{total.refused_old:,}", f"{total.refused_new:,}", f"{total.refused_new - total.refused_old:+,}")]


def _team(row: Row) -> Sequence[str]:
    return (
        row.name,
        f"{row.requests:,}",
        f"{row.changed:,}",
        *_two(row.cost_per_month_nusd, usd),
        changed(row.cost_per_month_nusd),
        changed(row.total_ms),
        changed(row.quality),
        f"{row.refused_old:,}",
        f"{row.refused_new:,}",
    )
