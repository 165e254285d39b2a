"""Helpers of the tests of the configuration: load a text, and get what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import dedent

from router.domain.money import from_usd
from router.domain.prices import Price, Rates
from router.errors import ConfigError
from router.settings.load import Loaded, load_text

ENVIRON = {"OPENAI_API_KEY": "sk-proj-0123456789abcdefghij", "BOT_KEY": "bot-secret-0123456789"}


@dataclass(frozen=True)
class Entry:
    """A row of a price book."""

    price: Price
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    capabilities: frozenset[str] | None = None


BOOK = {
    ("openai", "large"): Entry(
        Price(rates=Rates(input=from_usd(5), output=from_usd(30), cache_read=from_usd("0.5")), source="book", date="2026-11-01"),
        context_tokens=400_000,
        max_output_tokens=128_000,
        capabilities=frozenset({"chat", "tools", "stream"}),
    ),
    ("openai", "small"): Entry(
        Price(rates=Rates(input=from_usd("0.1"), output=from_usd("0.4")), source="book"), context_tokens=8000, max_output_tokens=2000
    ),
    ("bedrock", "nova"): Entry(Price(rates=Rates(input=from_usd(1), output=from_usd(2)), source="book")),
}


def book(kind: str, model: str) -> Entry | None:
    """A price book of three models."""
    return BOOK.get((kind, model))


def load(text: str, environ: Mapping[str, str] = ENVIRON) -> Loaded:
    """Load a text that must be right."""
    return load_text(dedent(text), source="r.yaml", environ=environ, price_book=book)


def wrong(text: str | bytes, environ: Mapping[str, str] = ENVIRON) -> list[str]:
    """All findings of a text that must be wrong, without the file's name."""
    plain = dedent(text) if isinstance(text, str) else text
    try:
        load_text(plain, source="r.yaml", environ=environ, price_book=book)
    except ConfigError as exc:
        return [line.removeprefix("r.yaml:") for line in str(exc).splitlines()]
    raise AssertionError("the configuration was accepted")


BASE = """\
version: 1
providers: [openai, ollama]
models:
  big: openai/large
  tiny: openai/small
  home: {at: ollama/qwen3, size: small}
"""
"""Six lines that are right; what a test adds begins on line 7."""


def warnings(text: str, environ: Mapping[str, str] = ENVIRON) -> list[str]:
    """The warnings of a text that is right, without the file's name."""
    return [line.removeprefix("r.yaml:") for line in load(text, environ).snapshot.warnings]
