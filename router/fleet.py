"""What this process has seen of each deployment: load, health, latency, answer length. In memory, synchronous."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

from router.domain.learning import Learned
from router.figures import STALE_SECONDS, Outcomes
from router.fleet_state import DeploymentState
from router.fleet_state import FleetView as FleetView
from router.memory import Memory

CONSECUTIVE_FAILURES: Final = 3
"""So many failures in a row start a cooldown."""
COOLDOWN_SECONDS: Final = 5.0
"""The first cooldown after failures. It doubles each time the probe fails."""
LONGEST_COOLDOWN_SECONDS: Final = 60.0
AUTH_COOLDOWN_SECONDS: Final = 30.0
"""After 401 from a provider: its key is wrong, and only a person can mend that."""
RATE_LIMIT_COOLDOWN_SECONDS: Final = 5.0
"""After a 429 without Retry-After."""
SHORTEST_RETRY_AFTER_SECONDS: Final = 1.0
LONGEST_RETRY_AFTER_SECONDS: Final = 600.0
PROBE_SECONDS: Final = 30.0
"""After so long without an outcome a probe is given up, and another call may try."""
RETRY_SHARE: Final = 0.2
"""Retries allowed per call."""
RETRY_BURST: Final = 20.0
"""Most retries that calls can save up."""
RETRY_FLOOR_PER_SECOND: Final = 3.0
"""Retries allowed however few calls there are."""
LEARN_EVERY: Final = 16
"""Of a deployment that has answered so often, answers are learned from in lots of so many ..."""
LEARN_SECONDS: Final = 1.0
"""... or after so long, whichever is first."""
LENGTH_WEIGHT: Final = 0.1
"""Weight of the newest answer in the moving average of lengths."""
USUAL_LENGTH: Final = 300
"""Output tokens of an answer as long as nothing was learned. Median of chat answers in the field, 2026-11."""

NEUTRAL_CAUSES: Final = frozenset({"client", "context_length_exceeded", "too_large", "total_timeout"})
"""Failures that a client can bring about at will; they must not take a deployment from all others."""


def cause_of_status(status: int) -> str:
    """The `cause` to report for an HTTP status other than 2xx from a provider.

    5xx, 408, 409 and redirects count as failures; 429 and 401 cool at once. 402 and 403 are about the
    account too, but count as failures: some providers answer them to a prompt that they refuse or to a cap
    that is too high, and one such request must not cool a deployment for everybody. Every other 4xx is
    the client's own mistake.
    """
    if status >= 500:
        return "5xx"
    if status < 400:
        return "redirect"
    return _CAUSES.get(status, "client")


_CAUSES: Final = {401: "auth", 402: "payment", 403: "forbidden", 408: "408", 409: "409", 429: "429"}


Closed = tuple[Literal["drained", "frozen"], str]
"""How people took a deployment out, and the reason that they gave."""

Borrowed = tuple[Sequence[float], float]
"""Milliseconds of calls, and when the newest came."""


class _States(dict[str, DeploymentState]):
    """States by deployment; names come from the configuration, so they are few."""

    def __missing__(self, name: str) -> DeploymentState:
        state = self[name] = DeploymentState(name)
        return state


class Fleet:
    """State of all deployments as this process sees them.

    A deployment is *up*; *cooling down* after failures, a rate limit or a refused key; then *half-open*:
    one call at a time may probe it, a success puts it up again, a failure cools it for twice as long. What a
    call of before the cooldown still reports during it changes nothing, but for a longer Retry-After.
    """

    def __init__(self, clock: Callable[[], float], *, quantile: float = 0.5) -> None:
        """`clock` gives monotonic seconds; `quantile` is the one reported of latencies, 0 to 1."""
        self.clock = self._clock = clock
        self._quantile = quantile
        self._states = _States()
        self._cooling: set[DeploymentState] = set()
        self._closed: dict[DeploymentState, Closed] = {}
        self.calm = True
        """Whether all deployments are up, but for those that are `busy`: each may be called."""
        self.troubles: dict[str, tuple[str, float]] = {}
        """Cause and time of the last failure, by deployment."""
        self.unsliced: dict[str, str] = {}
        """Deployments whose streams cannot be held slice by slice, and why; see `router.slices`."""
        self.memory = Memory(quantile=self.first_token_quantile)
        """What policy kinds learn."""
        self.learned = Learned()
        """What answers teach holds."""
        self.offered: dict[int, Any] = {}
        """What `router.offers` has found of the branches of policies."""
        self.shown: object = None
        """The configuration whose traits the views have."""
        self._averages: dict[int, float] = {}
        """Moving averages of answer lengths of all deployments, by size of the input."""
        self._learn_at = 0.0
        self._saved_retries = 0.0
        self._floor = RETRY_FLOOR_PER_SECOND
        self._floor_at = clock()

    # -- reading

    def look(self) -> Mapping[str, DeploymentState]:
        """Bring all views up to date and return what holds them, by deployment, for routing.

        What calls told is in them at the latest `LEARN_EVERY` calls or `LEARN_SECONDS` later; failures are at once.
        """
        self.refresh()
        return self._states

    def refresh(self) -> bool:
        """Bring all views up to date; return `calm`."""
        now = self._clock()
        if not self.calm:
            for state in self._cooling:
                self._look_at_cooldown(state, now)
            for state, (why, reason) in self._closed.items():
                state.view.health, state.view.closed_for = why, reason
        if now >= self._learn_at:
            self._learn_at = now + LEARN_SECONDS
            for state in self._states.values():
                self._learn(state)
                self._forget(state, now)
        return self.calm

    def seen(self, name: str) -> FleetView:
        """The deployment as the last `look` or `view` showed it; nothing is brought up to date."""
        return self._states[name].view

    def usual_length(self, size: int) -> int:
        """Output tokens to expect of a deployment that has not answered inputs of this size yet.

        The same for all of them, so that none looks cheaper or dearer because it was never used: what the fleet as a
        whole answered to such inputs, else to any, else `USUAL_LENGTH`.
        """
        averages = self._averages
        return int(averages.get(size) or averages.get(_ALL_SIZES) or USUAL_LENGTH)

    def likely_length(self, name: str, input_tokens: int) -> int:
        """Output tokens to expect of a deployment for an input of so many tokens."""
        size = size_class(input_tokens)
        return self._states[name].view.lengths.get(size) or self.usual_length(size)

    def view(self, name: str, max_in_flight: int | None = None, *, input_tokens: int = 0) -> FleetView:
        """The deployment now, everything learned that is known. The object is reused by the next call for the same name."""
        state, now = self._states[name], self._clock()
        view, size = state.view, size_class(input_tokens)
        self._learn(state)
        self._forget(state, now)
        if state.cooled_until is not None:
            self._look_at_cooldown(state, now)
        else:
            bound_by(view, max_in_flight)
        if state.closed:
            view.health, view.closed_for = self._closed[state]
        averages = self._averages
        view.expected_output_tokens = state.averages.get(size, averages.get(size, averages.get(_ALL_SIZES)))
        return view

    def error_rate(self, names: Sequence[str]) -> float | None:
        """Share of failures among the calls of these deployments in the last `FAILURE_WINDOW_SECONDS`; None: there was no call."""
        now = self._clock()
        calls = failures = 0
        for name in names:
            of_one = self._states[name].outcomes.sums(now)
            calls, failures = calls + of_one[0], failures + of_one[1]
        return failures / calls if calls else None

    def states(self) -> Mapping[str, str]:
        """`up`, `cooldown` or `probe` (half-open) by deployment, for metrics."""
        now = self._clock()
        return {name: _state_word(state, now) for name, state in self._states.items()}

    def close_deployments(self, closed: Mapping[str, Closed]) -> None:
        """Take these deployments out, with the reason that people gave, and let all others in again."""
        before, self._closed = self._closed, {self._states[name]: told for name, told in closed.items()}
        for state in before:
            state.closed = False
            # What the health would be without; a cooldown is looked at anew in any case.
            state.view.health, state.view.closed_for = "up", ""
        for state, (why, reason) in self._closed.items():
            state.closed = True
            state.view.health, state.view.closed_for = why, reason
        self.calm = not (self._cooling or self._closed)

    def first_token_quantile(self, name: str, quantile: float, least: int) -> float | None:
        """Milliseconds until this share of recent calls had begun to answer; None: fewer than `least` are known."""
        return self._states[name].first_token.quantile(quantile, least)

    def total_quantile(self, name: str, quantile: float, least: int) -> float | None:
        """The same of whole calls."""
        return self._states[name].total.quantile(quantile, least)

    def assume_failures(self, name: str, *, calls: int, failures: int) -> None:
        """Take these for all calls of late, whatever was seen. They start no cooldown."""
        state = self._states[name]
        self._learn(state)
        state.outcomes = Outcomes()
        state.outcomes.add(self._clock(), calls=calls, failures=failures)

    # -- load

    def began(self, name: str) -> None:
        """A call to the deployment starts. Exactly one `ended` must follow."""
        self._states[name].view.in_flight += 1

    def ended(self, name: str) -> None:
        """The call is over, however it went. With the last one, a probe without outcome is free again."""
        state = self._states[name]
        view = state.view
        view.in_flight -= 1
        if state.probe_until and not view.in_flight:
            state.probe_until = 0.0

    # -- outcomes

    def succeeded(
        self, name: str, *, first_token_ms: float | None, total_ms: float, output_tokens: int | None, input_tokens: int = 0
    ) -> None:
        """A call was answered. None: not known, and then not counted."""
        state = self._states[name]
        news = state.news
        news.append((self._clock(), total_ms, first_token_ms, output_tokens, input_tokens))
        if state.learn_at_once or len(news) >= LEARN_EVERY:
            self._answered(state, news[-1][0])

    def failed(self, name: str, *, cause: str, retry_after_seconds: float | None = None) -> None:
        """A call failed. `cause`: an `UpstreamFault` or the word of `cause_of_status`."""
        state = self._states[name]
        if cause in NEUTRAL_CAUSES:
            state.probe_until = 0.0
            return
        now = self._clock()
        self.troubles[name] = (cause, now)
        self._learn(state)
        state.learn_at_once = True
        if cause == "429":
            self._cool(state, now, _bounded(retry_after_seconds))
        elif state.cooled_until is not None and now < state.cooled_until:
            return
        elif cause == "auth":
            self._cool(state, now, AUTH_COOLDOWN_SECONDS)
        elif self._too_many(state, now):
            state.cooldown_seconds = min(max(COOLDOWN_SECONDS, 2 * state.cooldown_seconds), LONGEST_COOLDOWN_SECONDS)
            self._cool(state, now, state.cooldown_seconds)

    def claim_probe(self, name: str) -> bool:
        """Whether a call may go to the deployment now. Half-open: True for one caller until its outcome is known."""
        state = self._states[name]
        if state.closed:
            return False
        if state.cooled_until is None:
            return True
        now = self._clock()
        if now < state.cooled_until or now < state.probe_until:
            return False
        state.probe_until = now + PROBE_SECONDS
        return True

    def release_probe(self, name: str) -> None:
        """Give a claim back that led to no call, so that the next caller may probe."""
        self._states[name].probe_until = 0.0

    # -- what other processes saw

    def borrow(self, name: str, *, first_token: Borrowed | None, total: Borrowed | None) -> None:
        """Go by these times of a deployment where this process has none of its own of late."""
        state, now = self._states[name], self._clock()
        self._learn(state)
        for own, told in ((state.first_token, first_token), (state.total, total)):
            if told is not None and (own.borrowed or not own.at or now - own.at > STALE_SECONDS):
                own.borrow(*told, self._quantile)
        state.view.first_token_ms, state.view.total_ms = state.first_token.value, state.total.value
        self._forget(state, now)

    def cool(self, name: str, cause: str, failed_at: float, until: float, cooldown_seconds: float) -> float | None:
        """Take over a cooldown; one that is over leaves it half-open. The end; None: an answer came since, or it cools as long anyway."""
        state = self._states[name]
        self._learn(state)
        if (not state.total.borrowed and state.total.at > failed_at) or (state.cooled_until or 0.0) >= until:
            return None
        self.troubles[name] = (cause, failed_at)
        state.cooldown_seconds, state.learn_at_once = max(state.cooldown_seconds, cooldown_seconds), True
        self._cool(state, until, 0.0)
        return state.cooled_until

    # -- retries

    def request_started(self) -> None:
        """A client's request is served: earns a share of a retry."""
        if self._saved_retries < RETRY_BURST:
            self._saved_retries = min(self._saved_retries + RETRY_SHARE, RETRY_BURST)

    def retry_allowed(self) -> bool:
        """Take one retry out of the budget. False: retrying now would add to an outage."""
        if self._saved_retries >= 1.0:
            self._saved_retries -= 1.0
            return True
        now = self._clock()
        self._floor = min(self._floor + (now - self._floor_at) * RETRY_FLOOR_PER_SECOND, RETRY_FLOOR_PER_SECOND)
        self._floor_at = now
        if self._floor >= 1.0:
            self._floor -= 1.0
            return True
        return False

    def usual_ms(self, name: str) -> float | None:
        """How long whole answers of a deployment usually take, ms; None: nobody knows, or not lately."""
        state = self._states.get(name)
        if state is None:
            return None
        self._learn(state)
        self._forget(state, self._clock())
        return state.view.total_ms

    # -- inside

    def _answered(self, state: DeploymentState, now: float) -> None:
        self._learn(state)
        if state.cooled_until is None:
            state.failed_in_a_row = 0
        elif now >= state.cooled_until:
            self._close(state)
        state.learn_at_once = state.cooled_until is not None or state.known < LEARN_EVERY

    def _learn(self, state: DeploymentState) -> None:
        """Work what answers told into the figures that routing goes by."""
        if not state.news:
            return
        news, state.news = state.news, []
        state.known += len(news)
        times, totals, firsts, outputs, inputs = zip(*news, strict=True)
        view, quantile = state.view, self._quantile
        state.total.add(totals, times[-1], quantile)
        view.total_ms = state.total.value
        # Only streams have one: counting is done in C.
        if firsts.count(None) < len(firsts):
            state.first_token.add([ms for ms in firsts if ms is not None], times[-1], quantile)
            view.first_token_ms = state.first_token.value
        if state.cooled_until is None:
            state.outcomes.add(times[-1], calls=len(times))
        self._learn_lengths(state, inputs, outputs)

    def _learn_lengths(self, state: DeploymentState, inputs: Sequence[int], outputs: Sequence[int | None]) -> None:
        found: dict[int, list[int]] = {}
        for input_tokens, output_tokens in zip(inputs, outputs, strict=True):
            # Embeddings have none, and would make every answer look short.
            if output_tokens:
                size = (input_tokens.bit_length() + 1) >> 1  # As `size_class`.
                if size in found:
                    found[size].append(output_tokens)
                else:
                    found[size] = [output_tokens]
        ours = self._averages
        for prepared in self.offered.values():
            prepared.sizes.clear()
        for size, lengths in found.items():
            ours[_ALL_SIZES] = _moved(ours.get(_ALL_SIZES), lengths)
            ours[size] = _moved(ours.get(size), lengths)
            # A deployment's own average starts from everybody's: one odd first answer must not rule it out.
            state.averages[size] = average = _moved(state.averages.get(size, ours[size]), lengths)
            state.view.lengths[size] = int(average)

    @staticmethod
    def _forget(state: DeploymentState, now: float) -> None:
        if now - state.total.at > STALE_SECONDS:
            state.view.total_ms = None
        if now - state.first_token.at > STALE_SECONDS:
            state.view.first_token_ms = None

    @staticmethod
    def _look_at_cooldown(state: DeploymentState, now: float) -> None:
        view, until = state.view, state.cooled_until or 0.0
        if now < until:
            view.health, view.available_in_seconds = "cooldown", until - now
        elif now < state.probe_until:
            view.health, view.available_in_seconds = "cooldown", state.probe_until - now
        else:
            view.health, view.available_in_seconds = "probe", None

    def _cool(self, state: DeploymentState, now: float, seconds: float) -> None:
        state.cooled_until = max(now + seconds, state.cooled_until or 0.0)
        state.probe_until = 0.0
        state.failed_in_a_row = 0
        state.outcomes = Outcomes()
        self._cooling.add(state)
        self.calm = False

    def _close(self, state: DeploymentState) -> None:
        """Half-open no more: up."""
        state.cooled_until = None
        state.probe_until = 0.0
        state.cooldown_seconds = 0.0
        state.view.health, state.view.available_in_seconds = "up", None
        self._cooling.discard(state)
        self.calm = not (self._cooling or self._closed)

    @staticmethod
    def _too_many(state: DeploymentState, now: float) -> bool:
        """Count a failure. True if the deployment has to cool down."""
        state.failed_in_a_row += 1
        state.outcomes.add(now, calls=1, failures=1)
        if state.cooled_until is not None or state.failed_in_a_row >= CONSECUTIVE_FAILURES:
            return True
        return state.outcomes.mostly_failed()


_ALL_SIZES: Final = -1


def size_class(input_tokens: int) -> int:
    """Inputs are of one size within a factor of four: 0, 1 to 3, 4 to 15, 16 to 63, ..."""
    return (input_tokens.bit_length() + 1) >> 1


def bound_by(view: FleetView, max_in_flight: int | None) -> None:
    """Mark a deployment that is up as busy if it has all the calls that it may have."""
    if view.health in ("up", "busy"):
        view.health = "busy" if max_in_flight is not None and view.in_flight >= max_in_flight else "up"


def _moved(average: float | None, lengths: Sequence[int]) -> float:
    """The average after these lengths; those of one lot weigh alike."""
    mean = sum(lengths) / len(lengths)
    return mean if average is None else mean + (average - mean) * (1 - LENGTH_WEIGHT) ** len(lengths)


def _bounded(retry_after_seconds: float | None) -> float:
    """What a provider asked us to wait, within reason."""
    if retry_after_seconds is None:
        return RATE_LIMIT_COOLDOWN_SECONDS
    # In this order a value that is not a number ends as the shortest wait.
    return min(max(SHORTEST_RETRY_AFTER_SECONDS, retry_after_seconds), LONGEST_RETRY_AFTER_SECONDS)


def _state_word(state: DeploymentState, now: float) -> str:
    if state.cooled_until is None:
        return "up"
    return "cooldown" if now < state.cooled_until else "probe"
