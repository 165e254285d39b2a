"""The calls that count; the metrics themselves stand in `metrics_families`.

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
from router.metrics_families import FAMILIES
from router.metrics_labels import UNKNOWN, LabelGuard, names_of
from router.metrics_series import AttemptSeries, RequestSeries, Times
from router.metrics_store import Cell, Labels, Scrape, State, Store, decode, encode, merge_states, render_state
from router.snapshot import Snapshot

_ADMIN_OUTCOMES: Final = {401: "unknown_credential", 403: "role_not_allowed", 429: "throttled"}

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

    def shadowed(
        self,
        *,
        shadow: str,
        outcome: str,
        verdict: str = "",
        cost_ratio: float | None = None,
        length_ratio: float | None = None,
        time_ratio: float | None = None,
    ) -> None:
        """Count a copy of a request: `same_finish`, `other_finish`, `failed`, `refused`, `busy`; and how it compares.

        `verdict`: `same`, `other` or `unclear`; empty: there is no answer to compare.
        """
        name = self._guard.word("shadow", shadow)
        if verdict:
            self._add("faregate_shadow_answers_total", 1, name, self._guard.word("shadow_verdict", verdict))
        self._add("faregate_shadows_total", 1, name, self._guard.word("shadow_outcome", outcome))
        for what, ratio in (("cost", cost_ratio), ("length", length_ratio), ("time", time_ratio)):
            if ratio is not None:
                self._stores[f"faregate_shadow_{what}_ratio"].histogram((name,)).observe_all([ratio])

    def ran_away(self, *, signal: str, action: str) -> None:
        """Count a request of a session that runs away: what said so, and what was done."""
        self._add("faregate_runaway_total", 1, self._guard.word("signal", signal), self._guard.word("action", action))

    def signal_read(self, *, signal: str, outcome: str, seconds: float) -> None:
        """Count a signal that was worked out: `ok`, `unknown` (the text does not tell), `timeout`, `error` (of a plug-in)."""
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
