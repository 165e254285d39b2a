"""The figures of a run as one Markdown table: a row per figure, a column per target."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.overhead.measure import PHASES, Figures, Phase, cpu_us

Rounds = Mapping[str, Mapping[str, Sequence[Figures]]]
"""target -> phase -> one measurement a round."""
Row = tuple[str, list[str]]


def median(values: Iterable[float | None]) -> float | None:
    """Of the values that are known; None if none is."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def shown(value: float | None, digits: int = 0, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign},.{digits}f}"


class Table:
    """Builds the table. Ratios and differences are taken within a round; then the median is shown."""

    def __init__(self, rounds: Rounds, targets: Sequence[Mapping[str, Any]]) -> None:
        """`targets` have `name`, `note`, `start_seconds` and `memory`."""
        self._rounds = rounds
        self._targets = targets
        self._names = [target["name"] for target in targets]

    def _each(self, phase: Phase, figure: Callable[[Figures], float | None]) -> dict[str, list[float | None]]:
        return {name: [figure(one) for one in self._rounds.get(name, {}).get(phase.name, ())] for name in self._names}

    def _plain(self, phase: Phase, figure: Callable[[Figures], float | None], digits: int = 0) -> list[str]:
        return [shown(median(values), digits) for values in self._each(phase, figure).values()]

    def _ratio(self, phase: Phase, figure: Callable[[Figures], float | None]) -> list[str]:
        each = self._each(phase, figure)
        base = each.get("nginx", [])
        return [
            shown(median(own / other if own and other else None for own, other in zip(values, base, strict=False)), 2)
            for values in each.values()
        ]

    def _added(self, phase: Phase, kind: str, quantile: str) -> list[str]:
        each = self._each(phase, lambda one: float(one[kind][quantile]) if one["answered"] else None)
        base = each.get("direct", [])
        columns = []
        for name, values in each.items():
            added = median(own - other for own, other in zip(values, base, strict=False) if own is not None and other is not None)
            columns.append("–" if name == "direct" else shown(added, 2, "+"))
        return columns

    def _of_phase(self, phase: Phase) -> list[Row]:
        what = "event" if phase.gap_ms else "request"
        rows = [
            (f"CPU-µs per {what}", self._plain(phase, lambda one: cpu_us(phase, one), 1)),
            ("… × nginx", self._ratio(phase, lambda one: cpu_us(phase, one))),
        ]
        if not phase.rate and not phase.gap_ms:
            rows.append(("streams/s" if phase.stream else "requests/s", self._plain(phase, lambda one: one["answered"] / one["seconds"])))
        if phase.name == "json":
            rows.append(("CPU-µs of Redis per request", self._plain(phase, lambda one: cpu_us(phase, one, "service"), 1)))
        if phase.name in ("rate", "single"):
            rows.append(("added p50, ms", self._added(phase, "latency_ms", "p50")))
        if phase.name == "rate":
            rows.append(("added p99, ms", self._added(phase, "latency_ms", "p99")))
        if phase.name == "first":
            rows.append(("added time to first event, p50, ms", self._added(phase, "first_byte_ms", "p50")))
        if phase.gap_ms:
            rows.append(("reads per event", self._plain(phase, lambda one: one["reads"] / one["events"] if one["events"] else None, 2)))
        return rows

    def _of_programs(self) -> list[Row]:
        def memory(place: int) -> list[str]:
            return [shown(target["memory"][place] if len(target["memory"]) > place else None) for target in self._targets]

        counts = max((len(target["memory"]) for target in self._targets), default=0)
        labels = ["memory at start, MiB", "… after the phases", "… after the soak", "… after the second soak"][:counts]
        rows: list[Row] = [("start to first 200, s", [shown(target["start_seconds"], 2) for target in self._targets])]
        rows += [(label, memory(place)) for place, label in enumerate(labels)]
        wrong = [
            sum(one["bad_status"] + one["broken"] for phase in self._rounds.get(name, {}).values() for one in phase) for name in self._names
        ]
        rows.append(("failed requests", [shown(count) for count in wrong]))
        if any(target["changed"] for target in self._targets):
            rows.append(("lost on the way", [target["changed"] or "–" for target in self._targets]))
        return rows

    def markdown(self) -> str:
        """The table."""
        lines = ["| | " + " | ".join(self._names) + " |", "|---|" + "---:|" * len(self._names)]
        empty = " |" * len(self._names)
        ran = {phase for phases in self._rounds.values() for phase in phases}
        for phase in PHASES:
            if phase.name in ran:
                lines.append(f"| **{phase.label}** |{empty}")
                lines += [_line(row) for row in self._of_phase(phase)]
        lines.append(f"| **The process** |{empty}")
        lines += [_line(row) for row in self._of_programs()]
        return "\n".join(lines)


def _line(row: Row) -> str:
    return f"| {row[0]} | " + " | ".join(row[1]) + " |"
