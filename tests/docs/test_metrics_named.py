"""Metrics that the pages name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from router.metrics_families import FAMILIES

DOCS = Path(__file__).resolve().parents[2] / "docs"
NAMED = re.compile(r"\b(?:faregate|gen_ai)_(?:client|server|[a-z]+)_[a-z_]+\b")


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_a_page_names_metrics_and_labels_that_exist(page: Path) -> None:
    """A reader copies the query; an unknown name answers nothing, for ever."""
    labels = {label for family in FAMILIES.values() for label in family.labels}
    named = set(NAMED.findall(page.read_text(encoding="utf-8")))
    assert {re.sub(r"_(?:bucket|sum|count)$", "", name) for name in named} - set(FAMILIES) - labels == set()
