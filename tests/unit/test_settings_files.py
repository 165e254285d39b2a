"""The files that come with the program load, and say what the code says."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from router.domain.money import from_usd
from router.settings import load_snapshot
from router.settings.load import load_file
from router.settings.loader import DocumentError, parse
from router.settings.schema import build_schema, schema_text

CONFIG = Path(__file__).parents[2] / "config"
KEYS = {
    "OPENAI_API_KEY": "sk-proj-0123456789abcdefghij",
    "ANTHROPIC_API_KEY": "a-0123456789",
    "UPSTAGE_API_KEY": "u-0123456789",
    "CI_BOT_KEY": "ci-bot-0123456789abc",
    "CI_BOT_KEY_HASH": "0" * 64,
    "FAREGATE_ADMIN_SECRET": "admin-0123456789-0123456789",
    "REDIS_URL": "redis://127.0.0.1:1",
    "SLACK_WEBHOOK": "https://chat.example.com/hook",
}


@cache
def schema() -> dict[str, Any]:
    """Built once: it takes a while, and nobody changes it."""
    return build_schema()


def read(name: str) -> Any:
    return parse((CONFIG / name).read_bytes(), name).data


@pytest.mark.parametrize("name", ["minimal.yaml", "router.yaml", "demo.yaml", "tour.yaml"])
def test_each_file_loads_without_a_warning(name: str) -> None:
    """What we show must be what we would write ourselves."""
    assert load_snapshot(str(CONFIG / name), environ=KEYS).warnings == ()


def test_the_smallest_file_means_what_it_says() -> None:
    """Nine lines: two providers, two models, one route by cost, one hard budget."""
    snapshot = load_snapshot(str(CONFIG / "minimal.yaml"), environ=KEYS)
    assert set(snapshot.routes) == {"auto", "small", "large", "ollama/qwen3:8b", "openai/gpt-5.6"}
    assert snapshot.routes["auto"].policy.default.kind == "cost"
    assert snapshot.routes["auto"].deployments == ("ollama/qwen3:8b", "openai/gpt-5.6")
    (budget,) = snapshot.budgets
    assert (budget.limit_nusd, budget.window, budget.hard) == (from_usd(50), "month", True)
    price = snapshot.deployments["openai/gpt-5.6"].price
    assert price is not None
    assert price.rates.output > price.rates.input > 0
    local = snapshot.deployments["ollama/qwen3:8b"].price
    assert local is not None
    assert local.free


def test_the_schema_in_the_repository_is_that_of_the_code() -> None:
    """Editors read the file; `make schema` writes it."""
    assert (CONFIG / "router.schema.json").read_text(encoding="utf-8") == schema_text()


@pytest.mark.parametrize("name", ["minimal.yaml", "router.yaml", "demo.yaml", "tour.yaml"])
def test_each_file_fits_the_schema(name: str) -> None:
    """An editor must not underline what the program accepts, shorthand included."""
    validator = jsonschema.Draft202012Validator(schema())
    assert [f"{list(e.absolute_path)}: {e.message}" for e in validator.iter_errors(read(name))] == []


def test_the_schema_itself_is_valid() -> None:
    """An invalid schema would be passed over by editors in silence."""
    jsonschema.Draft202012Validator.check_schema(schema())


def test_the_full_file_shows_every_field() -> None:
    """A field that is not there is not found by people."""
    text = (CONFIG / "router.yaml").read_text(encoding="utf-8")
    # `names` is what the list in `use: [...]` is called.
    missing = [f"{section}.{field}" for section, field in every_field() if f"{field}:" not in text and field != "names"]
    assert missing == []


def test_every_field_says_what_it_means() -> None:
    """The reference page and the editor have nothing else to show."""
    definitions = {"Settings": schema(), **schema()["$defs"]}
    silent = [
        f"{name}.{field}"
        for name, field in every_field()
        if field != "kind" and not definitions[name]["properties"][field].get("description")
    ]
    assert silent == []


def every_field() -> list[tuple[str, str]]:
    sections = {"Settings": schema(), **schema()["$defs"]}
    return [(name, field) for name, part in sections.items() for field in part.get("properties", ())]


def test_what_is_effective_can_be_loaded_again_and_means_the_same() -> None:
    """`check --effective` shows shorthand written out; it would mislead if it meant something else."""
    from router.settings.effective import effective_yaml
    from router.settings.load import load_text, price_book

    first = load_file(str(CONFIG / "router.yaml"), environ=KEYS)
    text = effective_yaml(first.settings, first.snapshot)
    second = load_text(text, source="effective", environ=KEYS, price_book=price_book())
    assert second.snapshot.deployments.keys() == first.snapshot.deployments.keys()
    assert second.snapshot.budgets == first.snapshot.budgets
    assert second.snapshot.teams == first.snapshot.teams
    assert second.snapshot.keys == first.snapshot.keys
    assert [r.fallback for r in second.snapshot.routes.values()] == [r.fallback for r in first.snapshot.routes.values()]
    assert effective_yaml(second.settings, second.snapshot) == text


@pytest.mark.parametrize("text", ["version: 1\nserver:\n\tport: 1", "version: 1\nserver: {port: 1}\n\tx: 1"])
def test_a_tab_is_called_a_tab(text: str) -> None:
    """It looks like spaces, and YAML calls it a character."""
    with pytest.raises(DocumentError, match="a tab, which YAML does not take in front of a field: indent with spaces"):
        parse(text, "r.yaml")
