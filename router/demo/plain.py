"""The demonstration as lines of text, for pipes and logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO

from router.demo.show import Outcome
from router.demo.watch import Seen, Watch


class PlainScreen:
    """One line per request, one paragraph per act."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._acts = 0

    def begin(self, title: str, text: str) -> None:
        self._acts += 1
        self._write(f"\nAct {self._acts}: {title}\n  {text}")

    def saw(self, one: Seen) -> None:
        where = one.model or f"refused ({one.status})" if one.status else "no answer"
        cost = one.headers.get("x-faregate-cost-usd")
        shown = "streamed" if one.ask.stream and one.status == 200 else "-" if cost is None else f"{cost} USD"
        self._write(f"  {one.number:4d}  {one.ask.team:8s} {one.ask.route:8s} -> {where:14s} {one.why:28s} {shown}")

    def draw(self, watch: Watch, states: Mapping[str, str]) -> None:
        """Nothing: lines do not change once they are written."""

    def end(self, outcome: Outcome) -> None:
        for line in outcome.lines:
            self._write(f"  * {line}")

    def _write(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()
