"""What the books say, for tests that compare them with what a provider saw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from router.domain.records import SpendRecord


def typed(records: Iterable[Mapping[str, Any]]) -> list[SpendRecord]:
    """Spend records with their defaults filled in."""
    return [msgspec.json.decode(msgspec.json.encode(record), type=SpendRecord) for record in records]
