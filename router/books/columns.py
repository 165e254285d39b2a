"""The columns of an export: all fields of a record, flat, and those of FOCUS, the open format of cloud bills."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType, UnionType
from typing import Any, Final, get_args

import msgspec

from router.domain.money import format_usd
from router.domain.records import SpendRecord

TRACE: Final = "trace"
"""The one field of a record that is no figure of a bill."""


def entry_id(record: SpendRecord) -> str:
    """An id of this line of the log that stays the same whenever it is exported: an attempt may have a sweep and a correction."""
    return f"{record.attempt_id}:{record.outcome}:{record.at_ms}" if record.outcome in ("swept", "corrected") else record.attempt_id


def plain_types() -> dict[str, type]:
    """The columns of a plain export in their order, with their types: `int`, `str` or `bool`; labels and buckets are JSON."""
    types: dict[str, type] = {"entry_id": str, "day": str}
    for field in msgspec.structs.fields(SpendRecord):
        if field.name == TRACE:
            continue
        kind = next((each for each in get_args(field.type) if each is not type(None)), field.type)
        types[field.name] = kind if kind in (int, str, bool) and not isinstance(kind, UnionType) else str
    return types


def plain_row(record: SpendRecord) -> dict[str, Any]:
    """One record, flat."""
    row: dict[str, Any] = {"entry_id": entry_id(record), "day": day_of(record)}
    for name in record.__struct_fields__:
        if name == TRACE:
            continue
        value = getattr(record, name)
        row[name] = msgspec.json.encode(value, order="deterministic").decode() if isinstance(value, dict | list) else value
    return row


def day_of(record: SpendRecord) -> str:
    """The day, in UTC, on which the record was booked."""
    return _moment(record).strftime("%Y-%m-%d")


def _moment(record: SpendRecord) -> datetime:
    return datetime.fromtimestamp(record.at_ms / 1000, UTC)


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _billing_month(record: SpendRecord) -> tuple[datetime, datetime]:
    start = _moment(record).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return start, (start + timedelta(days=32)).replace(day=1)


def _cost(record: SpendRecord) -> str:
    return format_usd(record.charge_nusd)


def _quantity(record: SpendRecord) -> str | None:
    tokens = record.input_tokens + record.output_tokens
    return None if record.outcome == "corrected" else str(tokens)


def _unit(record: SpendRecord) -> str | None:
    return None if record.outcome == "corrected" else "Tokens"


def _tags(record: SpendRecord) -> str:
    more = {"route": record.route, "rule": record.rule, "user": record.user, "session": record.session, "key": record.key_id}
    own = {f"faregate/{name}": value for name, value in (more | {"evidence": record.evidence, "entry": entry_id(record)}).items() if value}
    return msgspec.json.encode(record.tags | own, order="deterministic").decode()


def _category(record: SpendRecord) -> str:
    return "Adjustment" if record.outcome == "corrected" else "Usage"


def _provider(record: SpendRecord) -> str:
    return record.provider or "unknown"


def _sku(record: SpendRecord) -> str:
    parts = (record.deployment or "unknown", record.operation, record.service_tier)
    return "/".join(part for part in parts if part)


def _price_id(record: SpendRecord) -> str:
    """The same for all lines that were charged at the same rates."""
    rates = [
        value for name, value in zip(record.__struct_fields__, msgspec.structs.astuple(record), strict=True) if name.startswith("price_")
    ]
    return f"{_sku(record)}#{hashlib.sha256(msgspec.json.encode(rates)).hexdigest()[:12]}"


FOCUS: Final[Mapping[str, Callable[[SpendRecord], str | None]]] = MappingProxyType(
    {
        "AvailabilityZone": lambda _: None,
        "BilledCost": _cost,
        "BillingAccountId": lambda record: record.org or "faregate",
        "BillingAccountName": lambda record: record.org or "faregate",
        "BillingCurrency": lambda _: "USD",
        "BillingPeriodEnd": lambda record: _stamp(_billing_month(record)[1]),
        "BillingPeriodStart": lambda record: _stamp(_billing_month(record)[0]),
        "ChargeCategory": _category,
        "ChargeClass": lambda _: None,
        "ChargeDescription": lambda record: f"{record.operation} on {record.deployment or 'unknown'}: {record.outcome}",
        "ChargeFrequency": lambda _: "Usage-Based",
        "ChargePeriodEnd": lambda record: _stamp(_moment(record) + timedelta(seconds=1)),
        "ChargePeriodStart": lambda record: _stamp(_moment(record)),
        "ChargeType": _category,
        "CommitmentDiscountCategory": lambda _: None,
        "CommitmentDiscountId": lambda _: None,
        "CommitmentDiscountName": lambda _: None,
        "CommitmentDiscountStatus": lambda _: None,
        "CommitmentDiscountType": lambda _: None,
        "ConsumedQuantity": _quantity,
        "ConsumedUnit": _unit,
        "ContractedCost": _cost,
        "ContractedUnitPrice": lambda _: None,
        "EffectiveCost": _cost,
        "InvoiceIssuer": _provider,
        "InvoiceIssuerName": _provider,
        "ListCost": _cost,
        "ListUnitPrice": lambda _: None,
        "PricingCategory": lambda record: None if record.outcome == "corrected" else "Standard",
        "PricingQuantity": _quantity,
        "PricingUnit": _unit,
        "Provider": _provider,
        "ProviderName": _provider,
        "Publisher": _provider,
        "PublisherName": _provider,
        "RegionId": lambda _: None,
        "RegionName": lambda _: None,
        "ResourceID": lambda record: record.deployment or None,
        "ResourceName": lambda record: record.model or None,
        "ResourceType": lambda record: "Model" if record.deployment else None,
        "ServiceCategory": lambda _: "AI and Machine Learning",
        "ServiceName": _provider,
        "SkuId": _sku,
        "SkuPriceId": _price_id,
        "SubAccountId": lambda record: record.team or None,
        "SubAccountName": lambda record: record.team or None,
        "Tags": _tags,
    }
)
"""FOCUS 1.0. A line is a record, so costs are booked once; all four costs are the charge, because no discounts are known here.

focus-validator 1.0.0 (read 2026-11) asks for five columns by the names that they had in the draft: `InvoiceIssuer`, `Provider`,
`Publisher`, `ChargeType` and `ResourceID`. They are there beside those of the release; only `ResourceId`, which is optional, is
written as in the draft: databases take two names that differ by case for the same.
"""


def focus_row(record: SpendRecord) -> dict[str, str | None]:
    """One record as a line of a FOCUS file."""
    return {name: column(record) for name, column in FOCUS.items()}
