"""The demonstration as a live view of the terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from router.demo.show import Outcome
from router.demo.watch import Seen, Watch
from router.domain.budgets import BucketState
from router.domain.money import format_usd, to_usd

_BAR: Final = 22
_MOST_ROWS: Final = 14
_LEAST_ROWS: Final = 4
_OTHER_LINES: Final = 18
"""Lines of the screen that are not requests: heading, budgets, providers, totals."""
_STYLES: Final = {"frontier": "magenta", "mid": "cyan", "open": "green", "pocket": "yellow"}


class LiveScreen:
    """Requests, budgets, providers and totals, several times a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._recent: deque[Seen] = deque(maxlen=_MOST_ROWS)
        self._act = 0
        self._title = ""
        self._text = ""

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def begin(self, title: str, text: str) -> None:
        self._act += 1
        self._title, self._text = f"Act {self._act}: {title}", text

    def saw(self, one: Seen) -> None:
        self._recent.append(one)

    def draw(self, watch: Watch, states: Mapping[str, str]) -> None:
        parts = (self._headline(), self._requests(), self._budgets(watch), _providers(states), _totals(watch))
        self._live.update(Group(*parts), refresh=True)

    def end(self, outcome: Outcome) -> None:
        """Observations stay on the screen, above the live part."""
        self._live.console.print(Text(f"Act {self._act}: {outcome.title}", style="bold"))
        for line in outcome.lines:
            self._live.console.print(Text(f"  * {line}"))

    def _headline(self) -> Panel:
        return Panel(Text(self._text), title=Text(self._title, style="bold"), title_align="left")

    def _requests(self) -> Table:
        table = Table(expand=True, box=None, header_style="dim", pad_edge=False)
        for name, width in (("team", 8), ("asked for", 8), ("went to", 11), ("why", 12)):
            table.add_column(name, min_width=width, no_wrap=True)
        for name in ("cost USD", "on frontier USD"):
            table.add_column(name, justify="right", no_wrap=True)
        rows = max(_LEAST_ROWS, min(_MOST_ROWS, self._console.size.height - _OTHER_LINES))
        for one in list(self._recent)[-rows:]:
            where = Text(one.model, style=_STYLES.get(one.model, "")) if one.model else Text(f"refused {one.status}", style="bold red")
            table.add_row(one.ask.team, one.ask.route, where, one.why, _amount(one.charge_nusd), _amount(one.baseline_nusd))
        for _ in range(rows - len(self._recent)):
            table.add_row("", "", "", "", "", "")
        return table

    def _budgets(self, watch: Watch) -> Panel:
        table = Table.grid(padding=(0, 2))
        for state in _shown(watch.buckets):
            limit = state.limit_nusd or 1
            bar = _bar(state.spent_nusd, state.held_nusd, limit)
            table.add_row(_budget_name(state), bar, f"{to_usd(state.spent_nusd):.4f}", f"of {format_usd(limit)} USD")
        return Panel(table, title="budgets", title_align="left")


def _providers(states: Mapping[str, str]) -> Text:
    text = Text("providers  ", style="dim")
    for deployment, state in states.items():
        style = "green" if state == "up" else "bold red" if state == "cooldown" else "yellow"
        text.append(f"{deployment.partition('/')[0]} ", style="default").append(state, style=style).append("   ")
    return text


def _totals(watch: Watch) -> Text:
    totals = watch.totals()
    share = 100 * totals.avoided_nusd / totals.baseline_nusd if totals.baseline_nusd else 0.0
    text = Text(f"{len(watch.seen)} requests   spent {to_usd(totals.charge_nusd):.6f} USD   ")
    avoided = f"avoided {to_usd(totals.avoided_nusd):.6f} USD ({share:.0f} % of what the frontier model would cost)"
    return text.append(avoided, style="green")


def _shown(buckets: Sequence[BucketState]) -> list[BucketState]:
    """Team and company budgets, and the two sessions that spent the most."""
    fixed = [state for state in buckets if state.budget != "session"]
    sessions = sorted((state for state in buckets if state.budget == "session"), key=lambda state: -state.spent_nusd)
    return [*fixed, *sessions[:2]]


def _budget_name(state: BucketState) -> str:
    return f"{state.budget} {state.scope.partition('=')[2]}".strip()


def _bar(spent: int, held: int, limit: int) -> Text:
    full = min(_BAR, round(_BAR * spent / limit))
    extra = min(_BAR - full, round(_BAR * held / limit))
    style = "red" if spent > 0.9 * limit else "yellow" if spent > 0.7 * limit else "green"
    return Text("█" * full, style=style).append("▒" * extra, style="blue").append("·" * (_BAR - full - extra), style="dim")


def _amount(nusd: int | None) -> str:
    return "" if nusd is None else f"{to_usd(nusd):.6f}"
