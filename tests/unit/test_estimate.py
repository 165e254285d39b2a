"""What a request could cost: the worst case is held, and nothing a client writes can make it too small."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.estimate import Estimate, estimate, expected_nusd, fitting_output, worst_case_nusd, worst_of
from router.domain.learning import LEAST_ANSWERS, Habits, Learned
from router.domain.money import MAX_NUSD
from router.domain.request import Operation, ParsedRequest, parse_request
from router.fleet import USUAL_LENGTH
from router.snapshot import Deployment, Snapshot
from tests.running import compiled

CONFIG = """
version: 1
server: {unpriced: refuse}
providers:
  one: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: $PROVIDER_KEY}
models:
  plain: {at: one/unheard-of, price: {input: 1, output: 10}, default_max_output: 500}
  media: {at: one/media, price: {input: 1, output: 10, audio_input: 100, per_image: $0.01}}
  hourly: {at: one/hourly, price: {per_hour: $3.60}}
  unpriced: {at: one/never-heard-of-it}
  dear: {at: one/dear, price: {input: 900000, output: 900000}}
"""


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    return compiled(CONFIG)


def request(operation: Operation = "chat", **more: object) -> ParsedRequest:
    given: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "input": "Hello", "prompt": "Hello"}
    name = {"chat": "messages", "completions": "prompt", "embeddings": "input"}[operation]
    return parse_request(json.dumps({"model": "m", name: given[name], **more}).encode(), operation)


class Priced(NamedTuple):
    """All that is said of a request before it is sent."""

    estimate: Estimate
    worst_nusd: int | None
    expected_nusd: int | None


def price(snapshot: Snapshot, deployment: Deployment, asked: ParsedRequest, likely: int = USUAL_LENGTH) -> Priced:
    return Priced(
        estimate(asked, deployment, snapshot.server), worst_case_nusd(asked, deployment), expected_nusd(asked, deployment, likely)
    )


def priced(snapshot: Snapshot, model: str, asked: ParsedRequest, likely: int = USUAL_LENGTH) -> Priced:
    (name,) = snapshot.routes[model].deployments
    return price(snapshot, snapshot.deployments[name], asked, likely)


def test_the_worst_case_is_the_whole_cap_for_every_choice(snapshot: Snapshot) -> None:
    """Eight answers of a hundred tokens are eight hundred tokens."""
    one, eight = priced(snapshot, "plain", request(max_tokens=100)), priced(snapshot, "plain", request(max_tokens=100, n=8))
    assert (one.estimate.output_cap, one.estimate.output_tokens) == (100, 100)
    assert (eight.estimate.output_cap, eight.estimate.output_tokens) == (100, 800)
    assert one.worst_nusd is not None
    assert eight.worst_nusd is not None
    assert 7 * 100 * 10_000 <= eight.worst_nusd - one.worst_nusd <= 7 * 100 * 10_000 + 10_000
    assert eight.estimate.hold_nusd == eight.worst_nusd


def test_without_a_cap_the_configured_one_is_held_and_sent(snapshot: Snapshot) -> None:
    """A hold without a cap behind it is a guess."""
    assert priced(snapshot, "plain", request()).estimate.output_cap == 500
    assert priced(snapshot, "plain", request()).estimate.output_tokens == 500


def test_a_cap_of_zero_is_sent_as_it_is_but_not_trusted(snapshot: Snapshot) -> None:
    """Scoring a prompt needs it; a server that reads it as "no cap" must not write for free."""
    found = priced(snapshot, "plain", request(max_tokens=0))
    assert (found.estimate.output_cap, found.estimate.output_tokens) == (0, 500)


def test_embeddings_have_no_output(snapshot: Snapshot) -> None:
    """And no cap to send."""
    found = priced(snapshot, "plain", request("embeddings"))
    assert (found.estimate.output_cap, found.estimate.output_tokens) == (None, 0)
    assert found.worst_nusd is not None
    assert found.worst_nusd > 0


def test_a_stream_holds_a_slice_first(snapshot: Snapshot) -> None:
    """A cap of a hundred thousand tokens must not lock a budget that a short answer will leave almost untouched."""
    found = priced(snapshot, "plain", request(stream=True, max_tokens=100_000))
    assert found.worst_nusd is not None
    assert found.estimate.held_output_tokens == snapshot.server.slice_tokens
    assert found.estimate.hold_nusd < found.worst_nusd / 10
    whole = priced(snapshot, "plain", request(stream=False, max_tokens=100_000))
    assert whole.estimate.hold_nusd == whole.worst_nusd


def thinker(snapshot: Snapshot, *, beyond_cap: bool) -> Deployment:
    """A deployment known to reason, inside its cap or beside it."""
    plain = snapshot.deployments["one/unheard-of"]
    traits = msgspec.structs.replace(plain.traits, capabilities=plain.traits.capabilities | {"reasoning"})
    provider = replace(plain.provider, quirks=replace(plain.provider.quirks, cap_includes_reasoning=not beyond_cap))
    return replace(plain, traits=traits, provider=provider)


def test_output_that_a_stream_hides_is_held_whole(snapshot: Snapshot) -> None:
    """Slices are counted by what is seen; thoughts are not."""
    asked = request(stream=True, max_tokens=100_000)
    known = price(snapshot, thinker(snapshot, beyond_cap=False), asked)
    assert known.estimate.hold_nusd == known.worst_nusd
    told = priced(snapshot, "plain", request("chat", stream=True, max_tokens=100_000, reasoning_effort="high"))
    assert told.estimate.hold_nusd == told.worst_nusd


def taught(asked: ParsedRequest, tokens: int) -> Habits:
    """What is known after enough answers of this length."""
    habits = Learned().habits(route="plain", model="plain", deployment="one/unheard-of", strict=False)
    lengths = habits.lengths(asked)
    assert lengths is not None
    for _ in range(LEAST_ANSWERS):
        lengths.add(tokens)
    return habits


def test_a_learned_length_lowers_the_cap_and_the_hold_but_never_raises_them(snapshot: Snapshot) -> None:
    """The configured cap is what the operator allows; answers that often reach it do not move it."""
    plain, asked = snapshot.deployments["one/unheard-of"], request()
    usual = estimate(asked, plain, snapshot.server)
    short = estimate(asked, plain, snapshot.server, habits=taught(asked, 50))
    assert short.output_cap == short.own_cap == short.held_output_tokens
    assert 50 < short.own_cap < 100
    assert short.hold_nusd < usual.hold_nusd / 4
    long = estimate(asked, plain, snapshot.server, habits=taught(asked, 490))
    assert (long.output_cap, long.own_cap, long.output_tokens, long.hold_nusd) == (500, 0, 500, usual.hold_nusd)


def test_a_stream_holds_what_most_answers_need_first_and_keeps_its_cap(snapshot: Snapshot) -> None:
    """More is held while it goes on: it need not be cut."""
    plain = replace(snapshot.deployments["one/unheard-of"], default_max_output_tokens=50_000)
    asked = request(stream=True)
    lengths = taught(asked, 600).lengths(asked)
    assert lengths is not None
    assert 600 <= lengths.first_slice < snapshot.server.slice_tokens
    made = estimate(asked, plain, snapshot.server, habits=taught(asked, 600))
    assert (made.output_cap, made.own_cap) == (50_000, 0)
    assert made.held_output_tokens == made.slice_tokens == lengths.first_slice
    whole = estimate(asked, plain, snapshot.server, habits=taught(asked, 600), whole=True)
    assert whole.held_output_tokens == 50_000


def test_thoughts_beside_the_cap_double_what_may_come(snapshot: Snapshot) -> None:
    """Some providers bound only what they show."""
    found = price(snapshot, thinker(snapshot, beyond_cap=True), request(max_tokens=100))
    assert (found.estimate.output_cap, found.estimate.output_tokens) == (100, 200)


def test_what_is_likely_is_never_more_than_the_cap(snapshot: Snapshot) -> None:
    """The cheapest model is chosen by it."""
    short = priced(snapshot, "plain", request(max_tokens=10))
    usual = priced(snapshot, "plain", request(max_tokens=10_000))
    learned = priced(snapshot, "plain", request(max_tokens=10_000), likely=2000)
    assert short.expected_nusd is not None
    assert usual.expected_nusd is not None
    assert learned.expected_nusd is not None
    assert usual.expected_nusd - short.expected_nusd == (USUAL_LENGTH - 10) * 10_000
    assert learned.expected_nusd - usual.expected_nusd == (2000 - USUAL_LENGTH) * 10_000
    assert short.worst_nusd is not None
    assert short.expected_nusd <= short.worst_nusd


def test_media_are_priced_as_media(snapshot: Snapshot) -> None:
    """A fee per picture and a rate for sound."""
    image = request(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a"}}] * 2}])
    sound = request(messages=[{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "A" * 50_000}}]}])
    text = priced(snapshot, "media", request())
    assert text.worst_nusd is not None
    for asked, least in ((image, 20_000_000), (sound, 1000 * 100_000)):
        found = priced(snapshot, "media", asked)
        assert found.worst_nusd is not None
        assert found.worst_nusd - text.worst_nusd >= least


def test_a_machine_by_the_hour_is_held_for_the_longest_call(snapshot: Snapshot) -> None:
    """A dollar is reserved for every thousand seconds that the call may last."""
    (name,) = snapshot.routes["hourly"].deployments
    deployment = snapshot.deployments[name]
    found = priced(snapshot, "hourly", request())
    assert found.worst_nusd == int(deployment.timeouts.total_seconds * 1_000_000)


def test_without_a_price_nothing_is_promised(snapshot: Snapshot) -> None:
    """Unknown is not zero."""
    found = priced(snapshot, "unpriced", request(max_tokens=5))
    assert (found.worst_nusd, found.expected_nusd, found.estimate.output_tokens) == (None, None, 5)
    (name,) = snapshot.routes["unpriced"].deployments
    with pytest.raises(ValueError, match="no price"):
        worst_of(request(), snapshot.deployments[name], 5)


def test_no_hold_is_larger_than_a_counter_can_hold(snapshot: Snapshot) -> None:
    """Absurd caps times absurd prices end at the most that is counted exactly."""
    assert priced(snapshot, "dear", request(max_tokens=10_000_000, n=128)).worst_nusd == MAX_NUSD


@given(st.sampled_from(("plain", "media")), st.integers(min_value=0, max_value=20_000_000), st.integers(min_value=1, max_value=500))
def test_the_longest_answer_that_fits_is_found(snapshot: Snapshot, model: str, room_nusd: int, least: int) -> None:
    """One token more would overspend, one less would leave money unused."""
    asked = request(max_tokens=400)
    deployment = snapshot.deployments[snapshot.routes[model].deployments[0]]
    made = estimate(asked, deployment, snapshot.server)
    found = fitting_output(asked, deployment, made, room_nusd, at_least=least)
    if found is None:
        assert least > made.output_tokens or worst_of(asked, deployment, least) > room_nusd
    else:
        assert least <= found <= made.output_tokens
        assert worst_of(asked, deployment, found) <= room_nusd
        assert found == made.output_tokens or worst_of(asked, deployment, found + 1) > room_nusd
