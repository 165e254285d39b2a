"""Whatever is in the file: it loads, or it is a `ConfigError` with places. Never a traceback."""

from __future__ import annotations

import re
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.errors import ConfigError
from router.settings import loader
from router.settings.load import load_text
from router.settings.schema import build_schema
from tests.settings_help import BASE, ENVIRON, book

SCHEMA = build_schema()
FIELDS = sorted({field for part in (SCHEMA, *SCHEMA["$defs"].values()) for field in part.get("properties", ())})
NAMES = ("big", "tiny", "home", "openai", "ollama", "openai/large", "small", "open", "local", "closed", "team", "session", "chat")
UNITS = ("free", "$5/month", "$5", "8s", "20MB", "5%", "400k", "day", "5xx", "timeout", ">400", "1..2", "2027-01-01", "UTC")
MODES = ("cost", "weighted", "lease", "hard", "refuse", "http://h/v1")
REFERENCES = ("$OPENAI_API_KEY", "$UNSET", "${UNSET:-x}", "file:/no", "sk-0123456789abcdef", "*", "", "ü", "a b", "a\rb")
WORDS = st.sampled_from([*NAMES, *UNITS, *MODES, *REFERENCES])
SCALARS = st.one_of(WORDS, st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.sampled_from(FIELDS), WORDS, st.text(max_size=4)), inner, max_size=4)
    ),
    max_leaves=8,
)
LINE = re.compile(r"^r\.yaml:[0-9]+:[0-9]+: |^r\.yaml: and [0-9]+ more$")


def check(text: str | bytes) -> None:
    findings = ""
    try:
        load_text(text, source="r.yaml", environ=ENVIRON, price_book=book)
    except ConfigError as exc:
        findings = str(exc) or "an error without a message"
    assert [line for line in findings.split("\n") if findings and not LINE.match(line)] == []
    assert ENVIRON["OPENAI_API_KEY"] not in findings


@given(st.one_of(st.text(), st.binary()))
@settings(max_examples=100, deadline=None)
def test_any_text_loads_or_is_refused_with_a_place(text: str | bytes) -> None:
    """Files come from editors, templates and merges."""
    check(text)


@given(st.dictionaries(st.sampled_from(sorted(SCHEMA["properties"])), VALUES, max_size=6))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_data_under_the_known_sections_loads_or_is_refused_with_a_place(data: dict[str, Any]) -> None:
    """Values of every shape at every place."""
    check(yaml.safe_dump({"version": 1, **data}, allow_unicode=True))


@given(
    st.sampled_from(["server", "budgets", "teams", "keys", "routes"]),
    st.sampled_from(["a", "big"]),
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_fields_of_an_entry_load_or_are_refused_with_a_place(section: str, name: str, entry: dict[str, Any]) -> None:
    """Known fields in the wrong place, with values of the wrong kind."""
    part = entry if section == "server" else {name: entry}
    check(BASE + yaml.safe_dump({section: part}, allow_unicode=True))


@given(VALUES)
@settings(max_examples=100, deadline=None)
def test_what_is_written_is_read_with_a_place_for_every_value(data: Any) -> None:
    """Each value has a line; the Python parser gives the same as the C parser."""
    text = yaml.safe_dump({"top": data}, allow_unicode=True)
    try:
        document = loader.parse(text, "r.yaml")
    except loader.DocumentError:
        return
    lines = text.count("\n") + 1
    assert all(1 <= mark.line <= lines and mark.column >= 1 for mark in document.values.values())
    slow = loader.parse_with(loader.PurePythonParser, text, "r.yaml")
    assert repr(slow.data) == repr(document.data)
    assert slow.values == document.values
