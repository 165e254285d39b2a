"""Tags, limits and deadlines as requests tell them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from router.domain.labels import MAX_TAGS, joined_tags, read_deadline, read_max_cost, read_pairs
from router.domain.money import GRAMMAR
from router.domain.request import parse_request
from router.errors import RouterError
from router.inputs import parse_amount, parse_expiry
from router.settings.units import parse_usd

NOW = datetime(2026, 11, 1, tzinfo=UTC)
MANY = {f"t{number}": "v" for number in range(MAX_TAGS + 1)}
ODD = [
    "1e3",
    "+5",
    " 5",
    "5 ",
    "٥",
    "5,00",
    "5,0000",
    "1,000_000",
    "0x10",
    "nan",
    "inf",
    "-0",
    "-1",
    "5.",
    "1e-12",
    "0.0000000001",
    "9" * 300,
    "",
]


@pytest.mark.parametrize(
    ("member", "tags", "says"),
    [
        ("metadata", MANY, "at most 32 tags"),
        ("metadata", {"n": 5}, "the value of 'n' must be a text"),
        ("metadata", {"n": None}, "the value of 'n' must be a text"),
        ("metadata", {"n": "v" * 257}, "longer than 256 characters"),
        ("faregate", MANY, "at most 32 tags"),
        ("faregate", {"n" * 257: "v"}, "longer than 256 characters"),
        ("faregate", {"n": 5}, "Expected `str`"),
    ],
)
def test_a_tag_that_cannot_be_kept_is_refused(member: str, tags: dict[str, object], says: str) -> None:
    """Left out, it would open a budget that is split by it, or skip a rule about it."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], member: {"tags": tags}}
    with pytest.raises(RouterError, match=says) as caught:
        parse_request(json.dumps(body).encode(), "chat")
    assert (caught.value.spec.http_status, caught.value.spec.code) == (400, "invalid_request")


@pytest.mark.parametrize("text", ["c", "=3", "a=1,a=2", "a=" + "v" * 257, ",".join(f"{name}=v" for name in MANY)])
def test_tags_of_a_header_that_cannot_be_kept_are_refused(text: str) -> None:
    """What is no pair is not guessed, and not left out."""
    with pytest.raises(RouterError, match="'x-faregate-tags'"):
        read_pairs(text, "x-faregate-tags")


def test_tags_of_a_header() -> None:
    """Spaces around them are the list's; an empty value is one."""
    assert read_pairs("a=1, b = 2 ,d=,e=f=g,", "h") == {"a": "1", "b": "2", "d": "", "e": "f=g"}


def test_tags_of_headers_and_body_count_together() -> None:
    """Else each would allow as many again."""
    half = dict(list(MANY.items())[:20])
    assert len(joined_tags(half, half, "h")) == 20
    with pytest.raises(RouterError, match="at most 32 tags, in headers and body together, not 40"):
        joined_tags(half, {f"x{name}": "v" for name in half}, "h")


@pytest.mark.parametrize("odd", ODD)
def test_every_place_reads_amounts_by_one_grammar(odd: str) -> None:
    """What one of them took for a hundred, another must not take for an error, or for nothing."""
    with pytest.raises(RouterError) as caught:
        read_max_cost(odd, "x")
    told = [caught.value.message]
    for read in (lambda: parse_usd(f"${odd}"), lambda: parse_usd(odd, bare=True), lambda: parse_amount(f"{odd}usd", "usd")):
        # `$ 5` and `5 usd` have a space between amount and unit, `+5usd` is the other way to say `5usd`.
        if odd not in (" 5", "5 ", "+5"):
            with pytest.raises(ValueError, match=r"amount|zero|exactly") as wrong:
                read()
            told.append(str(wrong.value))
    assert all(GRAMMAR in text or "below zero" in text or "exactly" in text for text in told)


@pytest.mark.parametrize(
    ("text", "nusd"), [("0.05", 50_000_000), ("1,250.50", 1_250_500_000_000), ("1_000", 10**12), (".5", 5 * 10**8), ("007", 7 * 10**9)]
)
def test_every_place_reads_the_same_amount(text: str, nusd: int) -> None:
    """One text, one amount."""
    read = {read_max_cost(text, "x"), parse_usd(f"${text}"), parse_usd(text, bare=True), parse_amount(f"{text}usd", "usd")}
    assert read == {nusd}


@pytest.mark.parametrize(("number", "nusd"), [(0.1 + 0.2, 300_000_000), (1e3, 10**12), (0.0, 0), (1e-9, 1), (2.9e-9, 2)])
def test_a_limit_that_is_a_number_of_json_is_rounded_down(number: float, nusd: int) -> None:
    """JSON has exponents of its own, and sums of fractions have many decimals; a limit is never made larger."""
    assert read_max_cost(number, "x") == nusd


@pytest.mark.parametrize("number", [-0.0, -1.0, 1e-12, 9_007_200.0, 1e300])
def test_a_limit_that_is_no_amount_is_refused(number: float) -> None:
    """Nothing is as good as a sign that somebody erred."""
    with pytest.raises(RouterError, match="from 0 to 9,007,199"):
        read_max_cost(number, "x")


@pytest.mark.parametrize("text", ["1e3", " 5", "+5", "٥", "1_000", "nan", "inf", "0x10", "0", "86400001"])
def test_a_deadline_is_written_in_digits(text: str) -> None:
    """As an amount is."""
    with pytest.raises(RouterError, match="milliseconds from 1 to 86,400,000"):
        read_deadline(text, "x")


@pytest.mark.parametrize("text", ["٥d", "²d", "9999999d", "1e3d"])
def test_a_time_from_now_is_written_in_digits(text: str) -> None:
    """And what is none is told so."""
    with pytest.raises(ValueError, match="is no time"):
        parse_expiry(text, now=NOW)
