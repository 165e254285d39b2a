"""The fleet: who is up, who cools down, who may probe, and what was seen of each."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import fleet as fleet_module
from router.figures import FAILURE_WINDOW_SECONDS, STALE_SECONDS
from router.fleet import Fleet, cause_of_status


class FakeClock:
    """Monotonic seconds that move only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def fleet(clock: FakeClock) -> Fleet:
    return Fleet(clock)


def succeed(fleet: Fleet, name: str = "a", times: int = 1) -> None:
    for _ in range(times):
        fleet.succeeded(name, first_token_ms=None, total_ms=10.0, output_tokens=None)


def fail(fleet: Fleet, name: str = "a", cause: str = "connect", times: int = 1) -> None:
    for _ in range(times):
        fleet.failed(name, cause=cause)


def cool(fleet: Fleet, name: str = "a") -> None:
    fail(fleet, name, times=3)


def health(fleet: Fleet, name: str = "a") -> str:
    return fleet.view(name).health


def test_a_new_deployment_is_up_and_nothing_is_known_of_it(fleet: Fleet) -> None:
    """Unknown is None: a deployment that was never called is neither fast nor slow."""
    view = fleet.view("a")
    assert (view.health, view.in_flight, view.available_in_seconds) == ("up", 0, None)
    assert (view.first_token_ms, view.total_ms, view.expected_output_tokens) == (None, None, None)


def test_calls_in_flight_are_counted(fleet: Fleet) -> None:
    """`least_busy` orders by this number."""
    fleet.began("a")
    fleet.began("a")
    fleet.began("b")
    fleet.ended("a")
    assert (fleet.view("a").in_flight, fleet.view("b").in_flight) == (1, 1)


def test_a_deployment_at_its_limit_is_busy(fleet: Fleet) -> None:
    """A small machine of one's own must not get more calls than it can serve."""
    fleet.began("a")
    assert fleet.view("a", 2).health == "up"
    assert fleet.view("a", 1).health == "busy"
    fleet.ended("a")
    assert fleet.view("a", 1).health == "up"


def test_three_failures_in_a_row_cool_for_five_seconds(fleet: Fleet, clock: FakeClock) -> None:
    """A deployment that is down must not cost every request a timeout."""
    fail(fleet, times=2)
    assert health(fleet) == "up"
    fail(fleet)
    assert health(fleet) == "cooldown"
    clock.now += 2
    assert fleet.view("a").available_in_seconds == 3.0
    clock.now += 3
    assert health(fleet) == "probe"


def test_a_success_between_failures_starts_the_count_anew(fleet: Fleet) -> None:
    """Single failures are noise."""
    for _ in range(4):
        fail(fleet, times=1)
        succeed(fleet, times=2)
    fail(fleet, times=2)
    assert health(fleet) == "up"


def test_more_than_half_failed_of_ten_cools(fleet: Fleet) -> None:
    """A deployment that fails every other call never fails three times in a row."""
    for failing in (True, True, False, True, True, False, True, True, False):
        (fail if failing else succeed)(fleet)
    assert health(fleet) == "up"
    fail(fleet)
    assert health(fleet) == "cooldown"


def test_half_failed_does_not_cool(fleet: Fleet) -> None:
    """More than half, not half: the rule is strict so that it can be predicted."""
    for _ in range(20):
        succeed(fleet)
        fail(fleet)
    assert health(fleet) == "up"


def test_failures_older_than_the_window_are_forgotten(fleet: Fleet, clock: FakeClock) -> None:
    """An outage of a minute ago says nothing about now."""
    for _ in range(3):
        fail(fleet, times=2)
        succeed(fleet)
    clock.now += FAILURE_WINDOW_SECONDS
    fail(fleet, times=2)
    assert health(fleet) == "up"


def test_the_window_slides(fleet: Fleet, clock: FakeClock) -> None:
    """Failures spread over the window count together."""
    for _ in range(5):
        fail(fleet, times=2)
        succeed(fleet)
        clock.now += 5
    fail(fleet)
    assert health(fleet) == "cooldown"


def test_one_probe_at_a_time(fleet: Fleet, clock: FakeClock) -> None:
    """A machine that comes back must not get the whole traffic at once."""
    cool(fleet)
    assert not fleet.claim_probe("a")
    clock.now += 5
    assert health(fleet) == "probe"
    assert fleet.claim_probe("a")
    assert not fleet.claim_probe("a")
    assert health(fleet) == "cooldown"


def test_anyone_may_call_a_deployment_that_is_up(fleet: Fleet) -> None:
    """Callers need not know the state: they claim, and are told."""
    assert fleet.claim_probe("a")
    assert fleet.claim_probe("a")


def test_a_successful_probe_puts_the_deployment_up(fleet: Fleet, clock: FakeClock) -> None:
    """Half-open ends with the first proof of health."""
    cool(fleet)
    clock.now += 5
    assert fleet.claim_probe("a")
    succeed(fleet)
    view = fleet.view("a")
    assert (view.health, view.available_in_seconds) == ("up", None)
    assert fleet.claim_probe("a")
    assert fleet.claim_probe("a")


def test_each_failed_probe_doubles_the_cooldown_up_to_a_minute(fleet: Fleet, clock: FakeClock) -> None:
    """A long outage is not probed every five seconds."""
    cool(fleet)
    seen = []
    for _ in range(6):
        left = fleet.view("a").available_in_seconds
        assert left is not None
        seen.append(left)
        clock.now += left
        assert fleet.claim_probe("a")
        fail(fleet)
    assert seen == [5, 10, 20, 40, 60, 60]


def test_after_a_success_cooldowns_are_short_again(fleet: Fleet, clock: FakeClock) -> None:
    """The length of an outage that is over must not lengthen the next one."""
    cool(fleet)
    clock.now += 5
    fail(fleet)
    clock.now += 10
    succeed(fleet)
    cool(fleet)
    assert fleet.view("a").available_in_seconds == 5


def test_failures_of_calls_begun_before_the_cooldown_do_not_lengthen_it(fleet: Fleet) -> None:
    """Fifty calls in flight that fail together are one outage, not five doublings."""
    cool(fleet)
    fail(fleet, times=50)
    assert fleet.view("a").available_in_seconds == 5


def test_a_success_of_a_call_begun_before_the_cooldown_does_not_end_it(fleet: Fleet) -> None:
    """A provider that said `Retry-After: 20` means it, though an older stream ends well meanwhile."""
    fleet.failed("a", cause="429", retry_after_seconds=20)
    succeed(fleet)
    assert fleet.view("a").available_in_seconds == 20


@pytest.mark.parametrize(
    ("asked", "cooled"), [(None, 5), (20, 20), (0, 1), (0.2, 1), (599, 599), (86_400, 600), (float("nan"), 1), (-3, 1)]
)
def test_a_rate_limit_cools_as_long_as_the_provider_asks_within_bounds(fleet: Fleet, asked: float | None, cooled: float) -> None:
    """One 429 is enough: the provider itself said when to come back."""
    fleet.failed("a", cause="429", retry_after_seconds=asked)
    assert fleet.view("a").available_in_seconds == cooled


def test_a_longer_retry_after_extends_a_cooldown_and_a_shorter_one_does_not_cut_it(fleet: Fleet) -> None:
    """The latest time that any answer named holds."""
    fleet.failed("a", cause="429", retry_after_seconds=20)
    fleet.failed("a", cause="429", retry_after_seconds=30)
    fleet.failed("a", cause="429", retry_after_seconds=2)
    assert fleet.view("a").available_in_seconds == 30


def test_a_refused_key_cools_for_thirty_seconds(fleet: Fleet) -> None:
    """Every call would be refused until a person mends it."""
    fail(fleet, cause="auth")
    assert fleet.view("a").available_in_seconds == 30


@pytest.mark.parametrize("cause", sorted(fleet_module.NEUTRAL_CAUSES))
def test_what_a_client_can_bring_about_never_counts(fleet: Fleet, cause: str) -> None:
    """One client's bad requests must not take a deployment from all others."""
    fail(fleet, cause=cause, times=100)
    assert health(fleet) == "up"


def test_a_probe_that_ends_in_the_clients_mistake_frees_the_probe(fleet: Fleet, clock: FakeClock) -> None:
    """It proved nothing, so another call may try."""
    cool(fleet)
    clock.now += 5
    assert fleet.claim_probe("a")
    fail(fleet, cause="client")
    assert fleet.claim_probe("a")


def test_a_claim_that_led_to_no_call_can_be_given_back(fleet: Fleet, clock: FakeClock) -> None:
    """A budget may refuse the call after the probe was claimed."""
    cool(fleet)
    clock.now += 5
    assert fleet.claim_probe("a")
    fleet.release_probe("a")
    assert fleet.claim_probe("a")


def test_a_probe_whose_call_ends_without_outcome_is_free_again(fleet: Fleet, clock: FakeClock) -> None:
    """A client that hangs up during a probe must not keep the deployment out for ever."""
    cool(fleet)
    clock.now += 5
    assert fleet.claim_probe("a")
    fleet.began("a")
    fleet.ended("a")
    assert fleet.claim_probe("a")


def test_a_probe_is_given_up_after_a_while_though_other_calls_still_run(fleet: Fleet, clock: FakeClock) -> None:
    """With an old stream in flight, the end of the probing call cannot be told from the stream's."""
    fleet.began("a")
    cool(fleet)
    clock.now += 5
    assert fleet.claim_probe("a")
    fleet.began("a")
    fleet.ended("a")
    assert not fleet.claim_probe("a")
    clock.now += fleet_module.PROBE_SECONDS
    assert fleet.claim_probe("a")


def test_states_are_words_for_metrics(fleet: Fleet, clock: FakeClock) -> None:
    """The dashboard shows the same states that routing uses."""
    fleet.failed("cold", cause="429", retry_after_seconds=60)
    cool(fleet, "half")
    fleet.began("fine")
    clock.now += 6
    assert fleet.states() == {"cold": "cooldown", "half": "probe", "fine": "up"}


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (302, "redirect"),
        (400, "client"),
        (401, "auth"),
        (402, "payment"),
        (403, "forbidden"),
        (404, "client"),
        (408, "408"),
        (409, "409"),
        (413, "client"),
        (422, "client"),
        (429, "429"),
        (500, "5xx"),
        (503, "5xx"),
        (529, "5xx"),
    ],
)
def test_a_status_has_one_cause(status: int, cause: str) -> None:
    """4xx other than 401, 402, 403, 408, 409 and 429 are the client's own mistakes."""
    assert cause_of_status(status) == cause


def test_one_forbidden_answer_does_not_cool(fleet: Fleet) -> None:
    """Some providers answer 403 to a prompt that they refuse; a single client could cool them for all."""
    fail(fleet, cause="forbidden", times=2)
    assert health(fleet) == "up"


# -- latencies


def test_the_median_is_reported_from_the_first_call_on(fleet: Fleet) -> None:
    """The `latency` kind needs a figure soon."""
    for ms in (30.0, 10.0, 20.0):
        fleet.succeeded("a", first_token_ms=ms, total_ms=ms * 10, output_tokens=None)
    view = fleet.view("a")
    assert (view.first_token_ms, view.total_ms) == (20.0, 200.0)


def test_calls_without_first_token_time_leave_it_unknown(fleet: Fleet) -> None:
    """A call that was not streamed has no such time, and 0 would make it the fastest."""
    succeed(fleet, times=3)
    assert fleet.view("a").first_token_ms is None


def answer_fast(fleet: Fleet, ms: float, times: int = 1) -> None:
    for _ in range(times):
        fleet.succeeded("a", first_token_ms=None, total_ms=ms, output_tokens=10)


def test_a_deployment_is_learned_from_in_lots_once_it_is_known(fleet: Fleet) -> None:
    """Sorting after every call would cost more than the rest; sixteen calls are soon made."""
    view = fleet.look()["a"].view
    answer_fast(fleet, 10.0, fleet_module.LEARN_EVERY)
    assert view.total_ms == 10.0
    answer_fast(fleet, 90.0, fleet_module.LEARN_EVERY - 1)
    assert fleet.look()["a"].view.total_ms == 10.0
    answer_fast(fleet, 90.0)
    assert fleet.look()["a"].view.total_ms == 90.0


def test_nothing_learned_is_held_back_for_long(fleet: Fleet, clock: FakeClock) -> None:
    """With few calls, each must count before the next is routed; who asks for the view gets everything at once."""
    view = fleet.look()["a"].view
    answer_fast(fleet, 10.0, fleet_module.LEARN_EVERY)
    fleet.succeeded("a", first_token_ms=5.0, total_ms=10.0, output_tokens=10)
    assert fleet.look()["a"].view.first_token_ms is None
    clock.now += fleet_module.LEARN_SECONDS
    assert fleet.look()["a"].view.first_token_ms == 5.0
    fleet.succeeded("a", first_token_ms=7.0, total_ms=10.0, output_tokens=10)
    assert view.first_token_ms == 5.0
    assert fleet.view("a").first_token_ms == 7.0


def test_old_latencies_are_forgotten(fleet: Fleet, clock: FakeClock) -> None:
    """A deployment that was slow once gets no traffic, so nothing but time can clear it."""
    fleet.succeeded("a", first_token_ms=5000.0, total_ms=9000.0, output_tokens=None)
    clock.now += STALE_SECONDS + 1
    view = fleet.view("a")
    assert (view.first_token_ms, view.total_ms) == (None, None)
    fleet.succeeded("a", first_token_ms=50.0, total_ms=90.0, output_tokens=None)
    view = fleet.view("a")
    assert (view.first_token_ms, view.total_ms) == (50.0, 90.0)


def test_another_quantile_can_be_asked_for(clock: FakeClock) -> None:
    """The slow tail may matter more than the median."""
    fleet = Fleet(clock, quantile=1.0)
    for ms in (1.0, 99.0, 2.0):
        fleet.succeeded("a", first_token_ms=None, total_ms=ms, output_tokens=None)
    assert fleet.view("a").total_ms == 99.0


# -- retries


def test_a_quiet_system_may_retry_three_times_a_second(fleet: Fleet, clock: FakeClock) -> None:
    """With one request a minute a share of calls would never allow a retry."""
    assert [fleet.retry_allowed() for _ in range(4)] == [True, True, True, False]
    clock.now += 1
    assert [fleet.retry_allowed() for _ in range(4)] == [True, True, True, False]
    clock.now += 3600
    assert [fleet.retry_allowed() for _ in range(4)] == [True, True, True, False]


def test_beyond_that_one_call_in_five_may_be_retried(fleet: Fleet) -> None:
    """In an outage, retries must not multiply the load."""
    while fleet.retry_allowed():
        pass
    allowed = 0
    for _ in range(1000):
        fleet.request_started()
        allowed += fleet.retry_allowed()
    assert allowed == pytest.approx(200, abs=1)


def test_saved_retries_are_bounded(fleet: Fleet) -> None:
    """A day of good traffic must not pay for a minute of nothing but retries."""
    for _ in range(100_000):
        fleet.request_started()
    allowed = 0
    while fleet.retry_allowed():
        allowed += 1
    assert allowed == fleet_module.RETRY_BURST + fleet_module.RETRY_FLOOR_PER_SECOND


# -- any history

STEPS = st.lists(
    st.one_of(
        st.just(("claim", 0.0)),
        st.just(("succeeded", 0.0)),
        st.tuples(st.just("wait"), st.floats(0.01, 40)),
        st.tuples(st.just("failed"), st.sampled_from([0.0, 1.0, 2.0, 3.0])),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(STEPS)
def test_no_history_locks_a_deployment_out_or_lets_two_probe(steps: list[tuple[str, float]]) -> None:
    """Whatever happened, after the longest cooldown one caller may try, and only one."""
    clock = FakeClock()
    fleet = Fleet(clock)
    for step, amount in steps:
        if step == "claim":
            may = health(fleet) in ("up", "probe")
            assert fleet.claim_probe("a") is may
        elif step == "succeeded":
            succeed(fleet)
        elif step == "wait":
            clock.now += amount
        else:
            fail(fleet, cause=("connect", "5xx", "auth", "429")[int(amount)])
        if health(fleet) == "cooldown":
            assert not fleet.claim_probe("a")
            assert 0 < (fleet.view("a").available_in_seconds or 0) <= fleet_module.LONGEST_COOLDOWN_SECONDS
    clock.now += fleet_module.LONGEST_COOLDOWN_SECONDS
    assert fleet.claim_probe("a")
    if health(fleet) != "up":
        assert not fleet.claim_probe("a")


def test_calm_says_that_every_deployment_may_be_called(fleet: Fleet, clock: FakeClock) -> None:
    """A call asks for a probe only where it is not: whatever takes a deployment out or lets it in again must tell."""

    def agrees() -> bool:
        fleet.refresh()
        return fleet.calm is all(state.view.health == "up" for state in fleet.look().values())

    for name in ("a", "b"):
        fleet.succeeded(name, first_token_ms=None, total_ms=1.0, output_tokens=1)
    assert fleet.calm
    fleet.failed("a", cause="auth")
    assert not fleet.calm
    assert agrees()
    fleet.close_deployments({"b": ("drained", "new keys")})
    clock.now += 1000
    assert fleet.claim_probe("a")
    fleet.succeeded("a", first_token_ms=None, total_ms=1.0, output_tokens=1)
    assert not fleet.calm
    assert agrees()
    fleet.close_deployments({})
    assert fleet.calm
    assert agrees()
