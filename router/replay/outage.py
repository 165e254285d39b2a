"""What became of the requests while a vendor was out, beside what became of those just before."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from router.replay.report import Table, usd
from router.replay.requests import Asked
from router.replay.statistics import quantile


class Stretch(msgspec.Struct, kw_only=True):
    """The requests that began in a stretch of time."""

    requests: int = 0
    """With a call to a provider at least: what was refused before that is in no record."""
    answered: int = 0
    calls: int = 0
    """Of all requests together; more than these: some had to be tried again."""
    cost_nusd: int = 0
    first_ms: float | None = None
    """Median time to the first byte, milliseconds; None: nothing was answered."""
    p95_ms: float | None = None
    """95 % of the answers were whole within so many milliseconds."""
    shares: dict[str, float] = {}
    """Of the spending, by provider, 0 to 1."""

    @property
    def answered_share(self) -> float | None:
        """Of the requests, 0 to 1; None: there were none."""
        return self.answered / self.requests if self.requests else None


def stretch_of(requests: Sequence[Asked], begin_ms: int, end_ms: int) -> Stretch:
    """What is known of the requests that began from `begin_ms` on, and before `end_ms`."""
    here = [asked for asked in requests if begin_ms <= asked.starts_ms < end_ms]
    answered = [asked for asked in here if asked.answered]
    spent: dict[str, int] = {}
    for asked in here:
        for part in asked.parts:
            spent[part.provider] = spent.get(part.provider, 0) + part.charge_nusd
    total = sum(spent.values())
    return Stretch(
        requests=len(here),
        answered=len(answered),
        calls=sum(len(asked.parts) for asked in here),
        cost_nusd=sum(asked.charge_nusd for asked in here),
        first_ms=quantile([float(asked.first_byte_ms) for asked in answered if asked.first_byte_ms is not None], 0.5),
        p95_ms=quantile([float(asked.duration_ms) for asked in answered], 0.95),
        shares={name: value / total for name, value in sorted(spent.items()) if value} if total > 0 else {},
    )


def table_of(before: Stretch, during: Stretch) -> Table:
    """Both beside each other."""
    rows = [(name, show(before), show(during)) for name, show in _LINES]
    for provider in sorted({*before.shares, *during.shares}):
        rows.append((f"spending at {provider}", f"{before.shares.get(provider, 0.0):.1%}", f"{during.shares.get(provider, 0.0):.1%}"))
    return Table(title="", columns=("", "before", "without"), rows=rows)


def _share(stretch: Stretch) -> str:
    return "-" if stretch.answered_share is None else f"{stretch.answered_share:.2%}"


def _each(stretch: Stretch) -> str:
    return usd(stretch.cost_nusd / stretch.answered) if stretch.answered else "-"


def _calls(stretch: Stretch) -> str:
    return f"{stretch.calls / stretch.requests:.2f}" if stretch.requests else "-"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f} ms"


_LINES = (
    ("requests", lambda one: f"{one.requests:,}"),
    ("answered", _share),
    ("calls per request", _calls),
    ("USD per answer", _each),
    ("first byte, median", lambda one: _ms(one.first_ms)),
    ("whole answer, p95", lambda one: _ms(one.p95_ms)),
)
