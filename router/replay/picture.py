"""The frontier as SVG: points in a plane of cost and quality, and the line that nothing lies above."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from html import escape
from typing import Any, Final

from router.errors import ConfigError
from router.replay.evaluation import Point
from router.replay.report import usd
from router.spend import printable

WIDTH: Final = 720
HEIGHT: Final = 440
LEFT: Final = 64
RIGHT: Final = 24
TOP: Final = 32
BOTTOM: Final = 56
_COLOURS: Final = {"model": "#2563eb", "policy": "#dc2626", "oracle": "#6b7280"}


def frontier_svg(points: Sequence[Point], *, title: str) -> str:
    """Cost on a logarithmic scale to the right, quality upwards."""
    costs = [max(point.cost_nusd, 1.0) for point in points] or [1.0, 10.0]
    low, high = math.log10(min(costs)) - 0.15, math.log10(max(costs)) + 0.35
    worst = min([point.quality for point in points], default=0.0)
    floor = max(0.0, math.floor((worst - 0.05) * 10) / 10)

    def place(point: Point) -> tuple[float, float]:
        x = LEFT + (math.log10(max(point.cost_nusd, 1.0)) - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (point.quality - floor) / (1.0 - floor or 1.0) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(printable(title))}</text>',
        *_axes(low, high, floor),
    ]
    line = " ".join(f"{x},{y}" for x, y in sorted(place(point) for point in points if point.on_frontier))
    if line:
        parts.append(f'<polyline points="{line}" fill="none" stroke="{_COLOURS["model"]}" stroke-width="1.5" stroke-dasharray="5 3"/>')
    for point in points:
        x, y = place(point)
        part = "" if point.of_traffic is None or point.of_traffic == 1 else f", {point.of_traffic:.0%} of the log"
        label = escape(printable(f"{point.name} ({usd(point.cost_nusd)} USD, {point.quality:.3f}{part})"))
        parts.append(f'<circle cx="{x}" cy="{y}" r="5" fill="{_COLOURS[point.kind]}"/>')
        beside, anchor = (x - 8, "end") if x > WIDTH * 0.7 else (x + 8, "start")
        parts.append(f'<text x="{beside:.1f}" y="{y - 8}" text-anchor="{anchor}">{label}</text>')
    return "\n".join([*parts, "</svg>", ""])


def as_png(svg: str) -> bytes:
    """The picture in pixels, twice as many to either side. Its labels need a font on the machine.

    Raises:
        ConfigError: the extra `png` is not installed.
    """
    try:
        drawer: Any = importlib.import_module("resvg_py")
    except ImportError:
        raise ConfigError("a picture as PNG needs resvg-py: pip install 'faregate[png]'; --svg needs nothing") from None
    return bytes(drawer.svg_to_bytes(svg_string=svg, width=2 * WIDTH))


def _axes(low: float, high: float, floor: float) -> list[str]:
    base, end = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<path d="M{LEFT} {TOP}V{base}H{end}" fill="none" stroke="#374151"/>']
    for step in range(round((1.0 - floor) * 10) + 1):
        value = floor + step / 10
        y = base - (value - floor) / (1.0 - floor or 1.0) * (base - TOP)
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.1f}</text>')
    for power in range(math.ceil(low), math.floor(high) + 1):
        x = LEFT + (power - low) / (high - low) * (end - LEFT)
        parts.append(f'<text x="{x:.1f}" y="{base + 18}" text-anchor="middle">{usd(10.0**power)}</text>')
    parts.append(f'<text x="{(LEFT + end) / 2}" y="{HEIGHT - 12}" text-anchor="middle">USD per request (logarithmic)</text>')
    return parts
