"""A provider's own account of a span: OpenAI's and Anthropic's reports as JSON, and CSV of any make.

Sources: the API references of OpenAI (organization costs, organization usage) and Anthropic (cost report, messages usage
report), read 2026-11.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec

from router.domain.money import MAX_NUSD, NUSD_PER_USD
from router.errors import ConfigError

CENTS: Final = 100
AMOUNT: Final = re.compile(r"[-+]?\$?[-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?")
"""`1,234.56`, `$5`, `1e-05`. Not `1.234,56`: read wrongly, that is a thousandth."""
MEASURES: Final = ("cost", "input", "output", "requests")
COLUMNS: Final = ("day", "model", *MEASURES)
"""What a column of a CSV file can stand for."""


@dataclass(slots=True)
class Told:
    """One line of a provider's account. None: it does not say."""

    day: str
    """UTC, ISO date."""
    model: str
    """Empty if it is not split by model."""
    cost_nusd: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    requests: int | None = None


def read_account(path: Path, columns: Mapping[str, str]) -> list[Told]:
    """The lines of a file: JSON by what is in it, else CSV with these columns (by `COLUMNS`).

    Raises:
        ConfigError: it cannot be read, is a part only, or is of no known form; the message names the place.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        if text.lstrip()[:1] in (b"{", b"["):
            return list(_json(msgspec.json.decode(text)))
        return list(_csv(text.decode("utf-8-sig"), columns))
    except (msgspec.MsgspecError, ArithmeticError, AttributeError, KeyError, TypeError) as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"{path}: is not an account of a known form: {said}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _json(decoded: Any) -> Iterator[Told]:
    """One page, or a list of them."""
    pages: Sequence[dict[str, Any]] = decoded if isinstance(decoded, list) else [decoded]
    for number, page in enumerate(pages, 1):
        if page.get("has_more") and number == len(pages):
            raise ValueError("there are more pages (has_more): save all of them as a list")
        for bucket in page["data"]:
            day = _day(bucket.get("start_time", bucket.get("starting_at")))
            for result in bucket["results"]:
                yield _result(day, result)


def _day(moment: object) -> str:
    if isinstance(moment, int):
        return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")
    read = datetime.fromisoformat(str(moment))
    return (read if read.tzinfo is None else read.astimezone(UTC)).strftime("%Y-%m-%d")


def _result(day: str, result: dict[str, Any]) -> Told:
    amount = result.get("amount")
    if isinstance(amount, dict):
        # OpenAI's costs: USD, by line item, such as `gpt-4o-2024-08-06, input`.
        _must_be_usd(amount.get("currency"))
        model = str(result.get("line_item") or "").partition(",")[0].strip()
        return Told(day, model, cost_nusd=_nusd(str(amount["value"])))
    if amount is not None:
        # Anthropic's cost report: cents, as text.
        _must_be_usd(result.get("currency"))
        return Told(day, result.get("model") or "", cost_nusd=_nusd(str(amount)) // CENTS)
    model = result.get("model") or ""
    if "num_model_requests" in result:
        return Told(
            day, model, input_tokens=result["input_tokens"], output_tokens=result["output_tokens"], requests=result["num_model_requests"]
        )
    # Anthropic's usage report: parts of the input beside each other.
    written = result.get("cache_creation") or {}
    parts = (result["uncached_input_tokens"], result.get("cache_read_input_tokens", 0), *written.values())
    return Told(day, model, input_tokens=sum(parts), output_tokens=result["output_tokens"])


def _must_be_usd(currency: object) -> None:
    if str(currency or "usd").lower() != "usd":
        raise ValueError(f"amounts are in {currency}, not USD")


def _nusd(text: str) -> int:
    if not AMOUNT.fullmatch(text.strip()):
        raise ValueError(f"{text!r} is not an amount: digits, thousands by commas, decimals after a point")
    amount = Decimal(text.replace("$", "").replace(",", "").strip())
    # Before it is multiplied: an exponent can ask for more digits than there is memory.
    if abs(amount) > MAX_NUSD / NUSD_PER_USD:
        raise ValueError(f"{text!r} is more than a ledger can hold")
    return round(amount * NUSD_PER_USD)


def _csv(text: str, columns: Mapping[str, str]) -> Iterator[Told]:
    reader = csv.DictReader(text.splitlines())
    named = {name: columns.get(name, name) for name in COLUMNS}
    present = {name: column for name, column in named.items() if column in (reader.fieldnames or ())}
    absent = [column for name, column in named.items() if name not in present and name in columns]
    if absent or "day" not in present or not present.keys() & set(MEASURES):
        lacking = ", ".join(absent) or "day, and one of cost, input, output, requests"
        raise ValueError(f"there is no column {lacking} among {', '.join(reader.fieldnames or ())}; name columns with --columns")
    for row in reader:
        values = {name: row[column] or "" for name, column in present.items()}
        yield Told(
            _day(values["day"]),
            values.get("model", ""),
            cost_nusd=_nusd(values["cost"]) if values.get("cost") else None,
            input_tokens=_count(values.get("input")),
            output_tokens=_count(values.get("output")),
            requests=_count(values.get("requests")),
        )


def _count(text: str | None) -> int | None:
    return None if text is None else int(text.replace(",", "") or 0)
