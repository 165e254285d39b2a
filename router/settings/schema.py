"""The JSON schema of the configuration, for editors and for the reference page."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from router.settings.model import Settings
from router.settings.types import Section, format_duration, format_money, format_size

SCHEMA_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_WRITTEN: Final[Mapping[str, Callable[[Any], str]]] = {"seconds": format_duration, "bytes": format_size, "USD": format_money}
_HINTS: Final[Mapping[str, str]] = {
    "seconds": "Unit: a duration, `500ms`, `8s`, `1m30s`.",
    "bytes": "Unit: a size, `512KiB`, `20MB`.",
    "USD": "Unit: USD, `$2.10`.",
    "USD per window": "Unit: USD per window.",
}


def build_schema() -> dict[str, Any]:
    """The schema. Defaults stand in it as they are written in YAML; shorthand forms are allowed."""
    schema = Settings.model_json_schema(mode="validation", by_alias=True)
    _describe(schema, Settings)
    for section in _below(Section):
        _describe(schema["$defs"].get(section.__name__, {}), section)
    _finish(schema)
    # Names in docstrings are enough; titles that pydantic derives from field names only repeat them.
    return {"$schema": SCHEMA_DIALECT, "title": "Faregate configuration", **{k: v for k, v in schema.items() if k != "title"}}


def schema_text() -> str:
    """The schema as it is kept in `config/router.schema.json`."""
    return json.dumps(build_schema(), indent=2, ensure_ascii=False) + "\n"


def _below(section: type[Section]) -> Iterator[type[Section]]:
    for each in section.__subclasses__():
        yield each
        yield from _below(each)


def _describe(part: dict[str, Any], section: type[Section]) -> None:
    """Put the texts below the fields of a section, its bases' too, into its schema."""
    texts: dict[str, str] = {}
    for each in reversed(section.__mro__):
        if issubclass(each, Section):
            texts.update(_texts_below_fields(each))
    # A field whose name in the file is a word that Python keeps for itself.
    texts.update({field.alias: texts[name] for name, field in section.model_fields.items() if field.alias and name in texts})
    for name, field in part.get("properties", {}).items():
        if name in texts:
            field.setdefault("description", texts[name])
            part["properties"][name] = dict(sorted(field.items()))


def _texts_below_fields(section: type[Section]) -> Iterator[tuple[str, str]]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(section)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    for field, below in itertools.pairwise(body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, text


def _finish(part: Any) -> None:
    """Take derived titles out, say how values are written, and write defaults as people do; everywhere below."""
    if isinstance(part, list):
        for each in part:
            _finish(each)
        return
    if not isinstance(part, dict):
        return
    if isinstance(part.get("title"), str):
        del part["title"]
    if isinstance(part.get("description"), str):
        part["description"] = _described(part["description"], _unit(part))
    _write_default(part)
    for value in part.values():
        _finish(value)


def _described(text: str, unit: str) -> str:
    one_line = " ".join(text.split())
    hint = _HINTS.get(unit)
    return one_line if hint is None or "Unit:" in one_line else f"{one_line} {hint}"


def _write_default(part: dict[str, Any]) -> None:
    default, unit = part.get("default"), _unit(part)
    if unit in _WRITTEN and isinstance(default, int | float) and not isinstance(default, bool):
        part["default"] = _WRITTEN[unit](default)
    if "default" in part and part["default"] in (None, {}):
        del part["default"]


def _unit(part: Mapping[str, Any]) -> str:
    if "x-unit" in part:
        return str(part["x-unit"])
    return next((str(option["x-unit"]) for option in part.get("anyOf", ()) if "x-unit" in option), "")
