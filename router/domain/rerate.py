"""The price calculation of a record, done again: with the rates that the record names, or with other ones."""

from __future__ import annotations

from typing import Final

from router.domain.extras import price_at_tier, with_search
from router.domain.money import MAX_NUSD
from router.domain.prices import Price, Rates
from router.domain.pricing import charge, rates_for
from router.domain.records import SpendRecord
from router.domain.usage import Usage

REASON: Final = "rerate"
"""`reason` of a record that corrects a charge after prices were changed."""
FREE_OUTCOMES: Final = frozenset({"refused_upstream", "voided"})
"""Calls that the provider did not bill, at whatever price."""

KEPT: Final = (
    *("attempt_id", "request_id", "operation", "route", "rule", "model", "deployment", "provider", "served_model", "team", "org"),
    *("key_id", "user", "session", "tags", "http_status", "attempt_number", "stream", "evidence", "doubt", "service_tier"),
)
"""What a correction has of the record that it corrects: whose call it was, and how well its use is known."""


def price_of(record: SpendRecord) -> Price | None:
    """The price that the record names, with the rates that were used; None if none was known."""
    if not record.price_source:
        return None
    rates = Rates(
        input=record.price_input or 0,
        output=record.price_output or 0,
        cache_read=record.price_cache_read,
        cache_write=record.price_cache_write,
        audio_input=record.price_audio_input,
        reasoning=record.price_reasoning,
        audio_output=record.price_audio_output,
    )
    return Price(
        rates=rates,
        per_request_nusd=record.price_request,
        per_image_nusd=record.price_image,
        per_hour_nusd=record.price_hour,
        concurrency=record.price_concurrency,
        web_search_nusd=(record.price_web_search,) * 3 if record.price_web_search else None,
        source=record.price_source,
        date=record.price_date,
    )


def charge_at(record: SpendRecord, price: Price) -> int | None:
    """What the attempt costs at a price, nano-USD. None: the record does not say, because no answer was counted.

    The service tier that served it counts if the price has rates for it. For an attempt whose whole hold was charged
    without a count, `charged_hold`, the hold stays what it costs, unless the count makes more.
    """
    if record.outcome in FREE_OUTCOMES:
        return 0
    if record.outcome == "swept":
        return None
    amount = min(charge(price_for(record, price), usage_of(record), images=record.images, duration_ms=record.duration_ms), MAX_NUSD)
    return max(amount, record.hold_nusd) if record.charged_hold else amount


def price_for(record: SpendRecord, price: Price) -> Price:
    """Of a price, what holds for the service tier that served the attempt, with the fee of its web search."""
    return with_search(price_at_tier(price, record.service_tier) or price, price, record.web_search)


def correction_of(record: SpendRecord, price: Price, *, by_nusd: int, at_ms: int) -> SpendRecord:
    """The record that changes the charge of an attempt: whose it was, the price, and the difference; it used nothing itself.

    `record` is the one that says what the attempt used; `at_ms`: when the correction is booked.
    """
    in_force = price_for(record, price)
    rates = rates_for(in_force, record.input_tokens)
    return SpendRecord(
        **{name: getattr(record, name) for name in KEPT},
        at_ms=at_ms,
        reason=REASON,
        outcome="corrected",
        price_source=price.source,
        price_date=price.date or "",
        price_input=rates.input,
        price_cache_read=rates.cache_read,
        price_cache_write=rates.cache_write,
        price_audio_input=rates.audio_input,
        price_output=rates.output,
        price_reasoning=rates.reasoning,
        price_audio_output=rates.audio_output,
        price_request=in_force.per_request_nusd,
        price_image=in_force.per_image_nusd,
        price_hour=in_force.per_hour_nusd,
        price_concurrency=in_force.concurrency,
        charge_nusd=by_nusd,
        # The baseline would have cost what it would have: only the charge changes.
        baseline_nusd=None if record.baseline_nusd is None else 0,
    )


def usage_of(record: SpendRecord) -> Usage:
    """The tokens of a record."""
    return Usage(
        input_tokens=record.input_tokens,
        cache_read_tokens=record.cache_read_tokens,
        cache_write_tokens=record.cache_write_tokens,
        audio_input_tokens=record.audio_input_tokens,
        output_tokens=record.output_tokens,
        reasoning_tokens=record.reasoning_tokens,
        audio_output_tokens=record.audio_output_tokens,
        evidence="exact",
    )
