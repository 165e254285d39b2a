"""Writes `overview.json`, the dashboard "Faregate overview": `python deploy/grafana/build.py [--check]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).with_name("overview.json")
_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
_ALL: Final = 'route=~"$route", team=~"$team"'
_RATE: Final = "[$__rate_interval]"
_RANGE: Final = "[$__range]"
_FAILED: Final = ', status=~"5.."'
_GRID: Final = 24
_MONEY: Final = "currencyUSD"


def _total(metric: str, span: str = _RATE, more: str = "") -> str:
    """The sum of a counter's growth per second, or over a span; of the chosen routes and teams."""
    function = "rate" if span == _RATE else "increase"
    return f"sum({function}({metric}{{{_ALL}{more}}}{span}))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel: what it answers, and the queries behind it."""

    title: str
    queries: Sequence[tuple[str, str]]
    """(PromQL, legend) pairs."""
    about: str
    """What a reader learns from it; shown when pointing at the title."""
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    height: int = 7
    options: dict[str, Any] = field(default_factory=dict)
    custom: dict[str, Any] = field(default_factory=dict)
    thresholds: Sequence[tuple[float | None, str]] = ((None, "green"),)
    instant: bool = False


def _stat(title: str, query: str, about: str, unit: str = "short", *thresholds: tuple[float | None, str]) -> Panel:
    return Panel(
        title=title,
        queries=((query, ""),),
        about=about,
        kind="stat",
        unit=unit,
        width=4,
        height=4,
        options={"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area", "colorMode": "value"},
        thresholds=thresholds or ((None, "blue"),),
    )


def _quantiles(metric: str, by: str, *quantiles: float) -> list[tuple[str, str]]:
    legend = f" {{{{{by}}}}}" if by else ""
    groups = f"{by}, le" if by else "le"
    return [(f"histogram_quantile({q}, sum by ({groups}) (rate({metric}_bucket{_RATE})))", f"p{round(q * 100)}{legend}") for q in quantiles]


def _stacked(fill: int = 40) -> dict[str, Any]:
    return {"stacking": {"mode": "normal"}, "fillOpacity": fill, "lineWidth": 1}


NOW: Final = (
    _stat("Requests", _total("faregate_requests_total"), "Answered per second.", "reqps"),
    _stat(
        "Failed",
        f"({_total('faregate_requests_total', more=_FAILED)} or vector(0)) / {_total('faregate_requests_total')}",
        "Share of requests answered with a status of 500 or above.",
        "percentunit",
        (None, "green"),
        (0.01, "orange"),
        (0.05, "red"),
    ),
    _stat("Cost", _total("faregate_cost_usd_total", _RANGE), "Charged in the time shown.", _MONEY),
    _stat(
        "Avoided",
        f"{_total('faregate_avoided_cost_usd_total', _RANGE)} - {_total('faregate_extra_cost_usd_total', _RANGE)}",
        "What the same usage would have cost on the baseline deployment, less what it cost. Empty without `server.baseline`.",
        _MONEY,
    ),
    _stat(
        "Refused for money",
        "sum(increase(faregate_budget_refusals_total[$__range]))",
        "Reservations that a budget had no room for, in the time shown.",
        "short",
        (None, "green"),
        (1, "orange"),
    ),
    _stat(
        "Added, p99",
        f"histogram_quantile(0.99, sum by (le) (rate(faregate_overhead_seconds_bucket{_RATE})))",
        "Time that the proxy itself adds to 99 of 100 requests at most.",
        "s",
        (None, "green"),
        (0.01, "orange"),
        (0.05, "red"),
    ),
)

TRAFFIC: Final = (
    Panel(
        title="Requests by route",
        queries=((f"sum by (route) (rate(faregate_requests_total{{{_ALL}}}{_RATE}))", "{{route}}"),),
        about="What clients ask for. `unknown`: a name that the configuration does not have.",
        unit="reqps",
        custom=_stacked(),
    ),
    Panel(
        title="Requests by outcome",
        queries=((f"sum by (outcome, status) (rate(faregate_requests_total{{{_ALL}}}{_RATE}))", "{{outcome}} {{status}}"),),
        about="How requests ended.",
        unit="reqps",
        custom=_stacked(),
    ),
    Panel(
        title="Tokens by class",
        queries=((f'sum by (class) (rate(faregate_tokens_total{{team=~"$team"}}{_RATE}))', "{{class}}"),),
        about="The classes do not overlap: their sum is all tokens.",
        unit="short",
        custom=_stacked(),
    ),
)

ROUTING: Final = (
    Panel(
        title="Calls by deployment",
        queries=((f"sum by (deployment) (rate(faregate_attempts_total{{{_ALL}}}{_RATE}))", "{{deployment}}"),),
        about="Where requests went, retries and fallbacks included.",
        unit="reqps",
        custom=_stacked(),
    ),
    Panel(
        title="Calls by rule",
        queries=((f"sum by (route, rule) (rate(faregate_attempts_total{{{_ALL}}}{_RATE}))", "{{route}}: {{rule}}"),),
        about="Why they went there: the rule that matched.",
        unit="reqps",
        custom=_stacked(),
    ),
    Panel(
        title="Left out, by reason",
        queries=((f"sum by (deployment, reason) (rate(faregate_rejections_total{_RATE}))", "{{deployment}}: {{reason}}"),),
        about="Why they did not go elsewhere: deployments that a decision left out.",
        unit="ops",
    ),
    Panel(
        title="Fallbacks",
        queries=((f"sum by (from, to, reason) (rate(faregate_fallbacks_total{_RATE}))", "{{from}} → {{to}}: {{reason}}"),),
        about="Moves to the next deployment, before anything was sent to the client.",
        unit="ops",
    ),
    Panel(
        title="Retries",
        queries=((f"sum by (deployment, reason) (rate(faregate_retries_total{_RATE}))", "{{deployment}}: {{reason}}"),),
        about="Second calls of the same deployment. Limited to a share of live calls.",
        unit="ops",
    ),
    Panel(
        title="State of deployments",
        queries=(('max by (deployment) (faregate_deployment_state{state=~"cooldown|probe"})', "{{deployment}}"),),
        about="Red: left out after failures, or tried with one call.",
        kind="state-timeline",
        options={"mergeValues": True, "showValue": "never"},
        thresholds=((None, "green"), (1, "red")),
    ),
)

COST: Final = (
    Panel(
        title="Cost by model",
        queries=((f"sum by (model) (rate(faregate_cost_usd_total{{{_ALL}}}{_RATE})) * 3600", "{{model}}"),),
        about="USD per hour at the present pace.",
        unit=_MONEY,
        custom=_stacked(),
    ),
    Panel(
        title="Cost by team",
        queries=((f"sum by (team) (rate(faregate_cost_usd_total{{{_ALL}}}{_RATE})) * 3600", "{{team}}"),),
        about="USD per hour at the present pace. `none`: keys without a team.",
        unit=_MONEY,
        custom=_stacked(),
    ),
    Panel(
        title="Against the baseline",
        queries=(
            (f"{_total('faregate_cost_usd_total')} * 3600", "charged"),
            (
                f"({_total('faregate_cost_usd_total')} + {_total('faregate_avoided_cost_usd_total')}"
                f" - {_total('faregate_extra_cost_usd_total')}) * 3600",
                "on the baseline",
            ),
        ),
        about="USD per hour, and what the same usage would have cost on the baseline deployment.",
        unit=_MONEY,
    ),
    Panel(
        title="Cost by deployment",
        queries=((f"sort_desc(sum by (deployment, model) (increase(faregate_cost_usd_total{{{_ALL}}}[$__range])))", ""),),
        about="USD in the time shown.",
        kind="table",
        unit=_MONEY,
        instant=True,
    ),
    Panel(
        title="Reserved for one charged",
        queries=_quantiles("faregate_reserved_to_charged_ratio", "model", 0.5, 0.95),
        about="How much larger holds are than charges. High: lower `max_tokens`, or budgets refuse long before they are used up.",
        unit="none",
    ),
    Panel(
        title="Estimated",
        queries=((f"(sum(rate(faregate_estimated_usage_total{_RATE})) or vector(0)) / {_total('faregate_attempts_total')}", "share"),),
        about="Share of calls whose usage is not the provider's own count.",
        unit="percentunit",
    ),
)

BUDGETS: Final = (
    Panel(
        title="Used",
        queries=(("max by (budget) (faregate_budget_used_ratio)", "{{budget}}"),),
        about="Charged and held, by limit; of a split budget, its fullest instance.",
        kind="bargauge",
        unit="percentunit",
        options={"orientation": "horizontal", "displayMode": "gradient", "reduceOptions": {"calcs": ["lastNotNull"]}},
        thresholds=((None, "green"), (0.8, "orange"), (1, "red")),
    ),
    Panel(
        title="Spent and held",
        queries=(
            ("max by (budget) (faregate_budget_spent_usd)", "{{budget}} spent"),
            ("max by (budget) (faregate_budget_held_usd)", "{{budget}} held"),
            ("max by (budget) (faregate_budget_limit_usd)", "{{budget}} limit"),
        ),
        about="In the current window. A split budget shows the sum of its instances beside the limit of one.",
        unit=_MONEY,
    ),
    Panel(
        title="Refusals",
        queries=((f"sum by (budget, action) (rate(faregate_budget_refusals_total{_RATE}))", "{{budget}}: {{action}}"),),
        about="Reservations without room, and what was done instead.",
        unit="ops",
    ),
    Panel(
        title="Used-up instances",
        queries=(("max by (budget) (faregate_budget_exhausted_instances)", "{{budget}}"),),
        about="Keys, teams or sessions of a split budget that have nothing left.",
    ),
    Panel(
        title="Starts anew",
        queries=(("max by (budget) (faregate_budget_reset_timestamp_seconds) * 1000", "{{budget}}"),),
        about="When the current window ends. A lifetime budget has no such moment.",
        kind="stat",
        unit="dateTimeFromNow",
        options={"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none", "textMode": "value_and_name"},
    ),
    Panel(
        title="Charged above the hold",
        queries=(("sum by (cause) (increase(faregate_overshoot_usd_total[$__range])) or vector(0)", "{{cause}}"),),
        about="USD in the time shown; booked as debt. 0 unless a provider bills more than its own bound.",
        unit=_MONEY,
    ),
)

LATENCY: Final = (
    Panel(
        title="Added by the proxy",
        queries=_quantiles("faregate_overhead_seconds", "", 0.5, 0.95, 0.99),
        about="Everything but waiting for providers: parsing, deciding, reserving, settling.",
        unit="s",
    ),
    Panel(
        title="Deciding",
        queries=_quantiles("faregate_decision_seconds", "route", 0.5, 0.99),
        about="Choosing the order of deployments.",
        unit="s",
    ),
    Panel(
        title="Budget store",
        queries=_quantiles("faregate_store_seconds", "call", 0.5, 0.99),
        about="Calls to Redis or SQLite.",
        unit="s",
    ),
    Panel(
        title="Providers: whole call",
        queries=_quantiles("gen_ai_client_operation_duration_seconds", "gen_ai_response_model", 0.5, 0.95),
        about="From the call to the end of its answer.",
        unit="s",
    ),
    Panel(
        title="Providers: first token",
        queries=_quantiles("gen_ai_client_operation_time_to_first_chunk_seconds", "gen_ai_response_model", 0.5, 0.95),
        about="From the call to the first chunk of a stream.",
        unit="s",
    ),
    Panel(
        title="Providers: per token",
        queries=_quantiles("gen_ai_server_time_per_output_token_seconds", "gen_ai_response_model", 0.5, 0.95),
        about="Time per output token after the first.",
        unit="s",
    ),
)

HEALTH: Final = (
    Panel(
        title="Errors of the proxy",
        queries=((f"sum by (code) (rate(faregate_rejected_requests_total{_RATE}))", "{{code}}"),),
        about="By error code; `docs/errors.md` tells what each means.",
        unit="reqps",
    ),
    Panel(
        title="Failed calls to providers",
        queries=(
            (
                f'sum by (deployment, outcome) (rate(faregate_attempts_total{{{_ALL}, outcome!="ok"}}{_RATE}))',
                "{{deployment}}: {{outcome}}",
            ),
        ),
        about="Calls that did not end well, whether or not the client noticed.",
        unit="reqps",
    ),
    Panel(
        title="Store and books",
        queries=(
            ("min(faregate_store_up)", "store answers"),
            ("sum(faregate_outbox_entries)", "settlements waiting"),
            ("max(faregate_ledger_drift_usd) or vector(0)", "drift, USD"),
            ("sum(increase(faregate_holds_swept_total[$__range]))", "holds swept"),
        ),
        about="1, 0, 0 and 0 when all is well.",
        unit="none",
    ),
    Panel(
        title="Advances and open calls",
        queries=(
            ("sum(faregate_store_advances_usd) or vector(0)", "set aside in advances"),
            ("sum(faregate_store_open_usd) or vector(0)", "let through unguarded"),
        ),
        about="For calls while the store is away (`server.when_store_is_down`). Advances shrink as calls take them.",
        unit=_MONEY,
    ),
    Panel(
        title="Attempts without the store",
        queries=((f"sum by (mode) (rate(faregate_store_away_calls_total{_RATE})) or vector(0)", "{{mode}}"),),
        about="By what paid for them: an advance (`lease`), nothing (`open`), no budget to ask (`free`); or `refused`.",
        unit="ops",
    ),
    Panel(
        title="In progress",
        queries=(
            ("sum(faregate_requests_in_flight)", "requests"),
            ("sum(faregate_holds_open)", "holds"),
            ("sum by (deployment) (faregate_deployment_in_flight)", "{{deployment}}"),
        ),
        about="Requests, reservations and calls to each deployment at this moment.",
    ),
    Panel(
        title="Processes",
        queries=(("sum by (instance) (process_resident_memory_bytes) / sum by (instance) (faregate_workers)", "{{instance}}"),),
        about="Memory per worker process.",
        unit="bytes",
    ),
    Panel(
        title="CPU",
        queries=((f"sum by (instance) (rate(process_cpu_seconds_total{_RATE}))", "{{instance}}"),),
        about="Cores in use. One worker fills one core.",
        unit="none",
    ),
    Panel(
        title="Configuration in force",
        queries=(("count by (version) (faregate_config_info)", ""), ("count by (version, python) (faregate_build_info)", "")),
        about="More than one version: a roll-out is under way, or one instance was forgotten.",
        kind="table",
        instant=True,
    ),
    Panel(
        title="Lost log lines",
        queries=(("sum(increase(faregate_log_lines_dropped_total[$__range]))", "lines"),),
        about="Lines of the request log that nobody read in time. The ledger's records are complete.",
    ),
)

ROWS: Final = (
    ("Now", NOW),
    ("Traffic", TRAFFIC),
    ("Where it went, and why", ROUTING),
    ("Cost", COST),
    ("Budgets", BUDGETS),
    ("Latency", LATENCY),
    ("Health", HEALTH),
)


def _target(number: int, query: str, legend: str, panel: Panel) -> dict[str, Any]:
    target: dict[str, Any] = {"refId": chr(ord("A") + number), "datasource": _SOURCE, "expr": query, "legendFormat": legend or "__auto"}
    if panel.instant:
        target |= {"instant": True, "range": False, "format": "table"}
    return target


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    steps = [{"value": value, "color": color} for value, color in panel.thresholds]
    made: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "targets": [_target(n, query, legend, panel) for n, (query, legend) in enumerate(panel.queries)],
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "custom": panel.custom, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": panel.options,
    }
    if panel.kind == "timeseries":
        made["fieldConfig"]["defaults"]["min"] = 0
        made["options"] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    return made


def _panels() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    y = 0
    for title, panels in ROWS:
        made.append(
            {"id": len(made) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": {"x": 0, "y": y, "w": _GRID, "h": 1}}
        )
        y += 1
        x = 0
        for panel in panels:
            if x + panel.width > _GRID:
                x, y = 0, y + panel.height
            made.append(_panel(panel, len(made) + 1, x, y))
            x += panel.width
        y += panels[-1].height
    return made


def _choice(name: str, metric: str) -> dict[str, Any]:
    query = f"label_values({metric}, {name})"
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def build() -> str:
    """The dashboard as JSON text."""
    source = {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus", "hide": 2}
    dashboard = {
        "uid": "faregate-overview",
        "title": "Faregate overview",
        "description": "Where requests go and why, what they cost and what was avoided, what budgets have left, what the proxy adds.",
        "tags": ["faregate"],
        "schemaVersion": 41,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [source, _choice("route", "faregate_requests_total"), _choice("team", "faregate_requests_total")]},
        "panels": _panels(),
    }
    return json.dumps(dashboard, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the file; with `--check`, only tell whether it is up to date."""
    text = build()
    if sys.argv[1:] == ["--check"]:
        current = FILE.exists() and FILE.read_text(encoding="utf-8") == text
        if not current:
            sys.stderr.write("overview.json is out of date: python deploy/grafana/build.py\n")
        return 0 if current else 1
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
