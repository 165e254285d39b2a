"""Every metric: its name, type, help and labels in one table, and the calls that count.

Labels come from bounded sets only: names in the configuration, or words of the program itself. Anything else, in
particular what a client made up, becomes `unknown`. Keys, users and prompts are never labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Final

from router.alerts.events import KINDS as ALERT_KINDS
from router.domain.prices import Price
from router.errors import ALL as ALL_ERRORS
from router.metrics_labels import UNKNOWN, LabelGuard, names_of
from router.metrics_series import AttemptSeries, RequestSeries, Times
from router.metrics_store import Cell, Family, Labels, Scrape, State, Store, decode, encode, merge_states, render_state
from router.snapshot import Snapshot

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


_ADMIN_OUTCOMES: Final = {401: "unknown_credential", 403: "role_not_allowed", 429: "throttled"}

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

_GEN_AI_OPERATION: Final = {"chat": "chat", "completions": "text_completion", "embeddings": "embeddings"}
_CODES: Final = frozenset(spec.code for spec in ALL_ERRORS)

FOLD_EVERY: Final = 500
"""Requests whose values are kept before they are counted: bounds their memory, 0.4 KB each, and the pause to count them, 1 ms."""


class Metrics:
    """Counts what happens in this process. Used from the event loop's thread only."""

    def __init__(self) -> None:
        self._stores = {name: Store(family) for name, family in FAMILIES.items() if not family.alias_of}
        self._guard = LabelGuard()
        self._callbacks: list[Callable[[Scrape], None]] = []
        self._rejections: dict[Labels, Cell] = {}
        self._requests: dict[Labels, RequestSeries] = {}
        self._attempts: dict[Labels, AttemptSeries] = {}
        self._store_times: dict[str, Times] = {}
        self.in_flight = self._stores["faregate_requests_in_flight"].cell()
        """Requests being served: whoever serves one adds it and takes it off again."""
        self.fold_due: Callable[[], bool] = cycle([False] * (FOLD_EVERY - 1) + [True]).__next__
        """To be asked once per request: whether it is time to `fold`."""
        # A counter that appears with its first event hides that event from `rate()`.
        self._add("faregate_holds_swept_total", 0)
        self._add("faregate_ledger_resets_total", 0)

    def configure(self, snapshot: Snapshot) -> None:
        """Accept the names of this configuration as labels, and count how its prices were found. What was counted before stays."""
        self._guard.names = names_of(snapshot)
        for deployment in snapshot.deployments.values():
            self.price_lookup(_price_result(deployment.price))
        for budget in snapshot.budgets:
            self._add("faregate_budget_refusals_total", 0, budget.name, self._guard.word("action", "refuse"))
        for kind in ALERT_KINDS if snapshot.receivers else ():
            self._add("faregate_alerts_total", 0, self._guard.word("kind", kind), self._guard.word("outcome", "dropped"))

    def on_scrape(self, callback: Callable[[Scrape], None]) -> None:
        """Call this whenever somebody looks, to set gauges. It must not wait for anything."""
        self._callbacks.append(callback)

    def request_series(self, *, route: str, team: str, operation: str, stream: bool, outcome: str, status: int) -> RequestSeries:
        """What requests of this kind count in, once each has been answered or given up. Good for as long as this object is."""
        known_route, known_team = self._guard.names_in(route=route, team=team)
        op, out = self._guard.word("operation", operation), self._guard.word("outcome", outcome)
        streamed, code = "true" if stream else "false", str(status) if 100 <= status <= 599 else UNKNOWN
        labels = (known_route, known_team, op, streamed, out, code)
        series = self._requests.get(labels)
        if series is None:
            stores = self._stores
            series = self._requests[labels] = RequestSeries(
                stores["faregate_requests_total"].cell(labels),
                stores["faregate_overhead_seconds"].histogram((op, streamed)),
                stores["faregate_request_seconds"].histogram((known_route, streamed)),
                stores["faregate_request_attempts"].histogram((known_route,)),
                stores["faregate_decision_seconds"].histogram((known_route,)),
            )
        return series

    def attempt_series(
        self, *, route: str, rule: str, model: str, deployment: str, provider: str, team: str, operation: str, outcome: str
    ) -> AttemptSeries:
        """What calls of this kind to a provider count in, once each has been settled or voided. Good for as long as this object is."""
        where = self._guard.names_in(route=route, rule=rule, model=model, deployment=deployment, provider=provider, team=team)
        op, out = self._guard.word("operation", operation), self._guard.word("outcome", outcome)
        labels = (*where, op, out)
        series = self._attempts.get(labels)
        if series is None:
            series = self._attempts[labels] = self._new_attempt_series(where, op, out)
        return series

    def store_times(self, call: str) -> Times:
        """What calls to the budget store count in that were answered; `call` is the name of the port's method."""
        known = self._guard.word("call", call)
        times = self._store_times.get(known)
        if times is None:
            times = self._store_times[known] = Times(self._stores["faregate_store_seconds"].histogram((known,)))
        return times

    def fold(self) -> None:
        """Count the values that series have kept."""
        for request in self._requests.values():
            request.fold()
        for attempt in self._attempts.values():
            attempt.fold()
        for times in self._store_times.values():
            times.fold()

    def rejected(self, *, deployment: str, reason: str) -> None:
        """Count a deployment that a decision left out."""
        cell = self._rejections.get((deployment, reason))
        if cell is None:
            labels = (self._guard.name("deployment", deployment), self._guard.word("reason", reason))
            cell = self._stores["faregate_rejections_total"].cell(labels)
            if labels == (deployment, reason):
                self._rejections[labels] = cell
        cell.value += 1

    def refused(self, *, budget: str, action: str) -> None:
        """Count a reservation that a budget had no room for, by what was done: `refuse`, `cheaper`, `wait`, `clamp`, `cut`, `shadow`."""
        self._add("faregate_budget_refusals_total", 1, self._guard.name("budget", budget), self._guard.word("action", action))

    def stepped(self, *, budget: str, action: str) -> None:
        """Count a budget that has filled so far that it leaves models out: `downgrade`, `refuse`."""
        self._add("faregate_budget_steps_total", 1, self._guard.name("budget", budget), self._guard.word("action", action))

    def experimented(self, *, experiment: str, arm: str, outcome: str) -> None:
        """Count a request of an arm: `ok` or `failed`."""
        known = arm if arm in self._guard.names.deployment else self._guard.word("arm", arm)
        self._add("faregate_experiment_calls_total", 1, self._guard.word("experiment", experiment), known, outcome)

    def experiment_stopped(self, *, experiment: str, reason: str) -> None:
        """Count an arm that was taken back, by what was worse: `errors`, `first_token`, `cost`."""
        self._add("faregate_experiment_stops_total", 1, self._guard.word("experiment", experiment), self._guard.word("reason", reason))

    def cascaded(self, *, cascade: str, step: str, verdict: str) -> None:
        """Count an answer of a step: `accepted`, `last`, `failed`, or the check that it did not pass."""
        word = self._guard.word
        known = step if step in self._guard.names.model else word("step", step)
        self._add("faregate_cascade_answers_total", 1, word("cascade", cascade), known, word("verdict", verdict))

    def hedged(self, *, hedge: str, outcome: str) -> None:
        """Count a second call: who answered, `first`, `second` or `none`."""
        self._add("faregate_hedges_total", 1, self._guard.word("hedge", hedge), outcome)

    def shadowed(self, *, shadow: str, outcome: str, cost_ratio: float | None = None, length_ratio: float | None = None) -> None:
        """Count a copy of a request: `same_finish`, `other_finish`, `failed`, `refused`, `busy`; and how it compares."""
        name = self._guard.word("shadow", shadow)
        self._add("faregate_shadows_total", 1, name, self._guard.word("shadow_outcome", outcome))
        for family, ratio in (("faregate_shadow_cost_ratio", cost_ratio), ("faregate_shadow_length_ratio", length_ratio)):
            if ratio is not None:
                self._stores[family].histogram((name,)).observe_all([ratio])

    def ran_away(self, *, signal: str, action: str) -> None:
        """Count a request of a session that runs away: what said so, and what was done."""
        self._add("faregate_runaway_total", 1, self._guard.word("signal", signal), self._guard.word("action", action))

    def signal_read(self, *, signal: str, outcome: str, seconds: float) -> None:
        """Count a signal that was worked out: `ok`, `unknown` (the text does not tell), `timeout`."""
        name = self._guard.word("signal_name", signal)
        self._add("faregate_signals_total", 1, name, self._guard.word("signal_outcome", outcome))
        self._add("faregate_signal_seconds_total", int(seconds * 1e9), name)

    def rate_limited(self, *, kind: str, limit: str, action: str) -> None:
        """Count a call that a rate limit had no room for, and what was done: `refuse`, `next`."""
        word = self._guard.word
        self._add("faregate_rate_limited_total", 1, word("limit_kind", kind), word("limit", limit), word("action", action))

    def guarded(self, *, guard: str, action: str) -> None:
        """Count a request that asked for more than one request may, and what was done: `refuse`, `clamp`."""
        self._add("faregate_guarded_requests_total", 1, self._guard.word("guard", guard), self._guard.word("action", action))

    def feedback(self, *, outcome: str) -> None:
        """Count a call of `POST /v1/feedback`: `stored`, `refused`, or `failed` because of the store."""
        self._add("faregate_feedback_total", 1, self._guard.word("outcome", outcome))

    def rejected_request(self, *, code: str) -> None:
        """Count a request that was answered with an error of `router.errors`."""
        self._add("faregate_rejected_requests_total", 1, code if code in _CODES else UNKNOWN)

    def fell_back(self, *, from_deployment: str, to_deployment: str, reason: str) -> None:
        """Count a move to the next deployment."""
        from_, to = self._guard.name("deployment", from_deployment), self._guard.name("deployment", to_deployment)
        self._add("faregate_fallbacks_total", 1, from_, to, self._guard.word("reason", reason))

    def retried(self, *, deployment: str, reason: str) -> None:
        """Count a second call of the same deployment."""
        self._add("faregate_retries_total", 1, self._guard.name("deployment", deployment), self._guard.word("reason", reason))

    def store_call(self, *, call: str, seconds: float, ok: bool) -> None:
        """Count a call to the budget store, by the name of the port's method."""
        self.store_times(call).observe(seconds)
        if not ok:
            self._add("faregate_store_errors_total", 1, self._guard.word("call", call))
        # A store that comes back gets what waited for it, without a request that would ask.
        if self.fold_due():
            self.fold()

    def served_alone(self, *, mode: str) -> None:
        """Count an attempt while the store was away: `lease`, `open`, `free`, or `refused`."""
        self._add("faregate_store_away_calls_total", 1, self._guard.word("mode", mode))

    def overran(self, *, cause: str, nusd: int) -> None:
        """Count what was charged above a reservation, nano-USD."""
        self._add("faregate_overshoot_usd_total", nusd, self._guard.word("cause", cause))

    def answer_clamped(self, *, model: str, cause: str) -> None:
        """Count an answer that ended at a cap of ours: `learned`, or `shortage`."""
        self._add("faregate_answers_clamped_total", 1, self._guard.name("model", model), self._guard.word("cause", cause))

    def alert(self, *, kind: str, outcome: str) -> None:
        """Count an alert to one receiver: `sent` or `dropped`."""
        self._add("faregate_alerts_total", 1, self._guard.word("kind", kind), self._guard.word("outcome", outcome))

    def counted(self, name: str) -> Mapping[Labels, float]:
        """A counter of this process now, by its labels. Of what is counted in bulk, what was folded."""
        return {labels: cell.value for labels, cell in self._stores[name].cells.items()}

    def reloaded(self, *, outcome: str) -> None:
        """Count a try to load a configuration that changed: `ok`, `refused` or `store_away`."""
        self._add("faregate_config_reloads_total", 1, self._guard.word("outcome", outcome))

    def administered(self, *, status: int) -> None:
        """Count a request to the admin API by its status."""
        outcome = _ADMIN_OUTCOMES.get(status, "ok" if status < 400 else "refused" if status < 500 else "failed")
        self._add("faregate_admin_requests_total", 1, self._guard.word("admin", outcome))

    def price_lookup(self, result: str) -> None:
        """Count a lookup in the price book: `found`, `free`, `assumed` or `missing`. `configure` does so for its deployments."""
        self._add("faregate_price_lookups_total", 1, self._guard.word("result", result))

    def ledger_reset(self) -> None:
        """Count a ledger that was emptied or replaced."""
        self._add("faregate_ledger_resets_total", 1)

    def swept(self, n: int) -> None:
        """Count reservations of dead instances that were turned into charges."""
        self._add("faregate_holds_swept_total", n)

    def state(self) -> State:
        """All series of this process now. Use or encode it before anything else counts."""
        self.fold()
        scrape = Scrape(FAMILIES)
        scrape.set("faregate_workers", 1)
        for callback in self._callbacks:
            callback(scrape)
        state = {name: points for name, store in self._stores.items() if (points := store.points())}
        for name, values in scrape.values.items():
            state[name] = [*state.get(name, []), *values.items()]
        return state

    def dump(self) -> bytes:
        """All series of this process, packed for the worker that answers a scrape."""
        return encode(self.state())

    def render(self) -> bytes:
        """All series of this process in Prometheus' text format."""
        return render(self.state())

    def _add(self, name: str, amount: int, *labels: str) -> None:
        self._stores[name].cell(labels).value += amount

    def _new_attempt_series(self, where: Labels, operation: str, outcome: str) -> AttemptSeries:
        stores = self._stores
        _, _, model, deployment, provider, _ = where
        gen_ai = (_GEN_AI_OPERATION.get(operation, operation), provider, model, deployment.partition("/")[2] or deployment)
        series = AttemptSeries()
        series.where = where[2:]
        series.count = stores["faregate_attempts_total"].cell((*where, operation, outcome))
        series.cost = stores["faregate_cost_usd_total"].cell(where)
        series.gen_ai_cost = stores["gen_ai_client_cost_usd_total"].cell(gen_ai)
        series.avoided = stores["faregate_avoided_cost_usd_total"].cell(where)
        series.extra = stores["faregate_extra_cost_usd_total"].cell(where)
        series.ratio = stores["faregate_reserved_to_charged_ratio"].histogram((model,))
        series.duration = stores["gen_ai_client_operation_duration_seconds"].histogram((*gen_ai, "" if outcome == "ok" else outcome))
        series.first_token = stores["gen_ai_client_operation_time_to_first_chunk_seconds"].histogram(gen_ai)
        series.per_token = stores["gen_ai_server_time_per_output_token_seconds"].histogram(gen_ai)
        series.input_usage = stores["gen_ai_client_token_usage"].histogram((*gen_ai, "input"))
        series.output_usage = stores["gen_ai_client_token_usage"].histogram((*gen_ai, "output"))
        series.estimated = stores["faregate_estimated_usage_total"]
        series.tokens = tokens = stores["faregate_tokens_total"]
        series.input_tokens = tokens.cell((*where[2:], "input"))
        series.output_tokens = tokens.cell((*where[2:], "output"))
        return series


def _price_result(price: Price | None) -> str:
    if price is None:
        return "missing"
    if price.free:
        return "free"
    return "assumed" if price.source == "assumed" else "found"


def merge(dumps: Sequence[bytes], *, ended: Sequence[bytes] = ()) -> State:
    """Make one state of the dumps of several workers.

    `ended` are the last dumps of workers that are gone: what they counted stays in the sums, what they measured
    (memory, calls in progress) does not.

    Raises:
        msgspec.DecodeError: one of them is not a dump.
    """
    counted = (
        {name: points for name, points in decode(dump).items() if name in FAMILIES and FAMILIES[name].kind != "gauge"} for dump in ended
    )
    return merge_states((*map(decode, dumps), *counted), FAMILIES)


def render(state: State) -> bytes:
    """Write a state in Prometheus' text format; its media type is `text/plain; version=0.0.4`."""
    return render_state(state, FAMILIES)
