"""Every metric: its name, type, help and labels in one table.

Labels come from bounded sets only: names in the configuration, or words of the program itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from router.metrics_store import Family

_SHORT: Final = (0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""For what the proxy itself does: 50 µs to 1 s."""
_LONG: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0)
_RATIOS: Final = (0.5, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
# Bounds of the OpenTelemetry semantic conventions for generative AI, metrics section, read 2026-11.
_OTEL_DURATION: Final = tuple([0.01 * 2**n for n in range(14)])
_OTEL_TOKENS: Final = tuple([4**n for n in range(14)])
_OTEL_FIRST: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_OTEL_PER_TOKEN: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)

_WHERE: Final = ("route", "rule", "model", "deployment", "provider", "team")
_GEN_AI: Final = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_response_model")
_GEN_AI_ERROR: Final = (*_GEN_AI, "error_type")


def _counter(name: str, text: str, *labels: str, nano: bool = False, alias_of: str = "") -> Family:
    return Family(name=name, kind="counter", help=text, labels=labels, nano=nano, alias_of=alias_of)


def _histogram(name: str, text: str, bounds: tuple[float, ...], *labels: str, alias_of: str = "") -> Family:
    return Family(name=name, kind="histogram", help=text, labels=labels, bounds=bounds, alias_of=alias_of)


def _sum(name: str, text: str, *labels: str) -> Family:
    return Family(name=name, kind="gauge", help=text, labels=labels, aggregation="sum")


def _max(name: str, text: str, *labels: str) -> Family:
    return Family(name=name, kind="gauge", help=text, labels=labels, aggregation="max")


def _min(name: str, text: str, *labels: str) -> Family:
    return Family(name=name, kind="gauge", help=text, labels=labels, aggregation="min")


_TABLE: Final = (
    # Requests: one per call of a client.
    _counter("faregate_requests_total", "Requests answered.", "route", "team", "operation", "stream", "outcome", "status"),
    _histogram("faregate_request_seconds", "Time from a request's first byte to the end of its answer.", _LONG, "route", "stream"),
    _histogram("faregate_overhead_seconds", "Time the proxy itself added to a request.", _SHORT, "operation", "stream"),
    _histogram("faregate_decision_seconds", "Time taken to choose the order of deployments.", _SHORT, "route"),
    _histogram("faregate_request_attempts", "Calls to providers made for one request.", (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0), "route"),
    _sum("faregate_requests_in_flight", "Requests being served."),
    _sum("faregate_connections", "Open connections of clients."),
    _counter("faregate_rejected_requests_total", "Requests answered with an error of the proxy, by error code.", "code"),
    # Attempts: one per call to a provider; retries and fallbacks are attempts of their own.
    _counter("faregate_attempts_total", "Calls to providers.", *_WHERE, "operation", "outcome"),
    _counter(
        "faregate_tokens_total",
        "Tokens by class; the classes do not overlap, their sum is all tokens.",
        "model",
        "deployment",
        "provider",
        "team",
        "class",
    ),
    _counter("faregate_cost_usd_total", "Charged, in USD.", *_WHERE, nano=True),
    _counter("faregate_avoided_cost_usd_total", "Less charged than the baseline deployment would have cost, in USD.", *_WHERE, nano=True),
    _counter("faregate_extra_cost_usd_total", "More charged than the baseline deployment would have cost, in USD.", *_WHERE, nano=True),
    _counter("faregate_estimated_usage_total", "Attempts whose usage is not the provider's own count.", "deployment", "evidence"),
    _counter("faregate_price_lookups_total", "Prices of deployments looked up as a configuration was loaded, by result.", "result"),
    # Where a request went, and why not elsewhere.
    _counter("faregate_rejections_total", "Deployments left out of a decision, by reason.", "deployment", "reason"),
    _counter("faregate_fallbacks_total", "Moves to the next deployment, by cause.", "from", "to", "reason"),
    _counter("faregate_retries_total", "Calls of the same deployment again, by cause.", "deployment", "reason"),
    _max(
        "faregate_deployment_state",
        "1 for the state a deployment is in; several workers may see different ones.",
        "deployment",
        "state",
    ),
    _sum("faregate_deployment_in_flight", "Calls in progress.", "deployment"),
    # Money.
    _max("faregate_budget_limit_usd", "Limit of a budget, in USD; of one instance if it is split.", "budget"),
    _max("faregate_budget_spent_usd", "Charged in the current window, in USD; all instances of a split budget.", "budget"),
    _max("faregate_budget_held_usd", "Set aside for calls in progress, in USD; all instances of a split budget.", "budget"),
    _max("faregate_budget_used_ratio", "Charged and held, by limit; of a split budget's fullest instance.", "budget"),
    _max("faregate_budget_instances", "Instances of a budget with charges or holds in the current window.", "budget"),
    _max("faregate_budget_exhausted_instances", "Instances of a budget that are used up.", "budget"),
    _max("faregate_budget_reset_timestamp_seconds", "End of the current window, Unix time.", "budget"),
    _max("faregate_shared_budget_limit_usd", "Limit of a budget that spans several ledgers, in USD; each has a share of it.", "budget"),
    _max("faregate_shared_budget_used_usd", "Charged and held in all of its ledgers, as they told last, in USD.", "budget"),
    _max("faregate_shared_store_up", "1 if the store where ledgers agree on their shares answers, as the first worker sees it."),
    _max("faregate_controls", "Changes in force that people made: limits, freezes, drains.", "kind"),
    _counter("faregate_budget_refusals_total", "Reservations that a budget had no room for, by what was done.", "budget", "action"),
    _sum("faregate_holds_open", "Reservations of this instance that are not settled."),
    _counter("faregate_holds_swept_total", "Reservations of dead instances that were turned into charges."),
    _histogram(
        "faregate_reserved_to_charged_ratio",
        "Reserved by charged, of attempts with a charge.",
        _RATIOS,
        "model",
    ),
    _counter("faregate_overshoot_usd_total", "Charged above the reservation, in USD, by cause.", "cause", nano=True),
    _counter(
        "faregate_answers_clamped_total",
        "Answers that ended at a cap of ours below the default: one learned from lengths, or one for a shortage.",
        "model",
        "cause",
    ),
    _min(
        "faregate_budget_usable_ratio",
        "Share of a budget that was spent at its first refusal in the latest window that had one; the least of all instances.",
        "budget",
    ),
    _max("faregate_ledger_drift_usd", "Difference between counters and log at the last verification, in USD.", "budget"),
    _counter("faregate_budget_steps_total", "Times that a budget began to leave models out, by what it does.", "budget", "action"),
    # Policy kinds that do more than order.
    _counter("faregate_experiment_calls_total", "Requests by arm of an experiment, or choice of a bandit.", "experiment", "arm", "outcome"),
    _counter("faregate_experiment_stops_total", "Arms that were taken back because they were worse than allowed.", "experiment", "reason"),
    _counter("faregate_cascade_answers_total", "Answers of a cascade's steps, by what was done with them.", "cascade", "step", "verdict"),
    _max("faregate_cascade_saving_ratio", "What a cascade saves of the price of its last step alone; below 0: it costs more.", "cascade"),
    _max("faregate_vendor_spend_ratio", "What a provider has had of the money under a cap on providers, as a share.", "cap", "provider"),
    _counter("faregate_hedges_total", "Second calls of a hedge, by who answered.", "hedge", "outcome"),
    _counter("faregate_shadows_total", "Copies of requests to another model, by what came of them.", "shadow", "outcome"),
    _counter(
        "faregate_shadow_answers_total",
        "Copies by whether they say the same: JSON, a choice or a number that both answers come to; `unclear`: neither does.",
        "shadow",
        "verdict",
    ),
    _histogram(
        "faregate_shadow_time_ratio", "Time until a copy was answered, or its stream began, by that of the answer.", _RATIOS, "shadow"
    ),
    _histogram("faregate_shadow_cost_ratio", "Charge of a copy by that of the answer.", _RATIOS, "shadow"),
    _histogram("faregate_shadow_length_ratio", "Output tokens of a copy by those of the answer.", _RATIOS, "shadow"),
    # Limits on speed and on single requests.
    _counter("faregate_rate_limited_total", "Calls that a rate limit had no room for, by what was done.", "kind", "limit", "action"),
    _counter("faregate_feedback_total", "Ratings that clients sent, by what became of them.", "outcome"),
    _counter("faregate_guarded_requests_total", "Requests that asked for more than one request may, by what was done.", "guard", "action"),
    _counter("faregate_runaway_total", "Requests of sessions that ran away, by what said so and what was done.", "signal", "action"),
    # What was read in prompts, because a rule asked.
    _counter("faregate_signals_total", "Signals worked out because a rule read them, by what came of it.", "signal", "outcome"),
    _counter("faregate_signal_seconds_total", "Time that requests waited for signals.", "signal", nano=True),
    # The store of the budgets.
    _histogram("faregate_store_seconds", "Time of a call to the budget store.", _SHORT, "call"),
    _counter("faregate_store_errors_total", "Calls to the budget store that failed.", "call"),
    _counter("faregate_ledger_resets_total", "Times that a process found the ledger emptied or replaced: budgets are full again."),
    _min("faregate_store_up", "1 if the budget store answers."),
    _counter("faregate_store_away_calls_total", "Attempts while the budget store was away, by what paid for them, or refused.", "mode"),
    _sum("faregate_store_advances_usd", "Set aside for calls while the budget store is away, and not taken yet, in USD."),
    _sum("faregate_store_open_usd", "Let through unguarded while the budget store is away, of the fullest budget, in USD."),
    _sum("faregate_outbox_entries", "Settlements waiting for the budget store to come back."),
    # People who are told.
    _counter("faregate_alerts_total", "Alerts to receivers: sent, or dropped after the last try.", "kind", "outcome"),
    # People who change a running service.
    _counter("faregate_admin_requests_total", "Requests to the admin API, by what came of them.", "outcome"),
    # The process.
    _counter("faregate_log_lines_dropped_total", "Lines of the request log that nobody read in time."),
    _counter("faregate_config_reloads_total", "Tries to load a configuration that changed, by what came of them.", "outcome"),
    _min("faregate_config_last_reload_successful", "1 if the configuration could be loaded the last time that was tried."),
    _max("faregate_config_last_reload_success_timestamp_seconds", "When a configuration was last loaded, Unix time."),
    _max("faregate_config_info", "1 for the configuration in force.", "version"),
    _max("faregate_build_info", "1 for the release that runs.", "version", "python"),
    _sum("faregate_workers", "Worker processes that answered this scrape."),
    # OpenTelemetry's names, so that dashboards for them work. One observation per attempt.
    _histogram("gen_ai_client_operation_duration_seconds", "GenAI operation duration.", _OTEL_DURATION, *_GEN_AI_ERROR),
    _histogram("gen_ai_client_operation_time_to_first_chunk_seconds", "Time to the first chunk of a stream.", _OTEL_FIRST, *_GEN_AI),
    _histogram("gen_ai_client_token_usage", "Input and output tokens used.", _OTEL_TOKENS, *_GEN_AI, "gen_ai_token_type"),
    _counter(
        "gen_ai_client_cost_usd_total",
        "Charged, in USD.",
        *_GEN_AI,
        nano=True,
    ),
    _histogram(
        "gen_ai_server_request_duration_seconds",
        "GenAI server request duration.",
        _OTEL_DURATION,
        *_GEN_AI_ERROR,
        alias_of="gen_ai_client_operation_duration_seconds",
    ),
    _histogram(
        "gen_ai_server_time_to_first_token_seconds",
        "Time to the first token of a stream.",
        _OTEL_FIRST,
        *_GEN_AI,
        alias_of="gen_ai_client_operation_time_to_first_chunk_seconds",
    ),
    _histogram("gen_ai_server_time_per_output_token_seconds", "Time per output token after the first.", _OTEL_PER_TOKEN, *_GEN_AI),
    # What the client library's collectors say about processes, platform and garbage collection.
    _counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds."),
    _sum("process_resident_memory_bytes", "Resident memory size in bytes."),
    _sum("process_virtual_memory_bytes", "Virtual memory size in bytes."),
    _sum("process_open_fds", "Number of open file descriptors."),
    _min("process_max_fds", "Maximum number of open file descriptors."),
    _min("process_start_time_seconds", "Start time of the process since unix epoch in seconds."),
    _counter("python_gc_objects_collected_total", "Objects collected during gc.", "generation"),
    _counter("python_gc_objects_uncollectable_total", "Uncollectable objects found during GC.", "generation"),
    _counter("python_gc_collections_total", "Number of times this generation was collected.", "generation"),
    _max("python_info", "Python platform information.", "implementation", "major", "minor", "patchlevel", "version"),
)

FAMILIES: Final[Mapping[str, Family]] = {family.name: family for family in _TABLE}
