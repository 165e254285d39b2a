"""What pydantic found, in words of the configuration: what is wrong, and what was probably meant."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from policies.ranges import SURELY_PERCENT
from router.settings.findings import Finding, Path, one_of, shown
from router.settings.loader import step_into

_QUOTED: Final = re.compile(r"'([^']*)'")
_WITH_UNIT: Final = re.compile(r"\$\s*([0-9]+(?:\.[0-9]+)?)")
_TYPES: Final = {
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number",
    "decimal_type": "a number",
    "decimal_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}
_BOUNDS: Final = {
    "greater_than": ("gt", "must be more than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
}


def is_second_hand(error: Mapping[str, Any]) -> bool:
    """Whether it only follows from another one: a list is too short because what is wrong in it was not counted."""
    least = error.get("ctx", {}).get("min_length", 1)
    return error["type"] == "too_short" and isinstance(error["input"], list | tuple | dict) and len(error["input"]) >= least


def explain(error: Mapping[str, Any], root: Any, data: Any) -> Finding:
    """One error of pydantic as a finding. `root` is the type that was asked for."""
    loc: Path = tuple(error["loc"])
    at_key = bool(loc) and loc[-1] == "[key]"
    if at_key:
        loc = loc[:-1]
    kind = str(error["type"])
    if kind == "extra_forbidden":
        known = _fields_at(root, loc[:-1])
        return Finding(written(loc, data), f"unknown field{one_of(loc[-1], known)}", at_key=True)
    if kind == "missing":
        return Finding(written(loc, data, missing=True), "is missing")
    return Finding(written(loc, data), _message(kind, error), at_key)


def _message(kind: str, error: Mapping[str, Any]) -> str:
    value, context = error.get("input"), error.get("ctx", {})
    if kind == "value_error":
        return str(context.get("error", error["msg"]))
    if kind in _TYPES:
        return f"{shown(value)} is not {_TYPES[kind]}{_bare(value, _TYPES[kind])}"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{words} {_plain(context.get(name))}{_forgotten_percent(value, context.get(name), below=name == 'lt')}"
    if kind in ("literal_error", "enum"):
        return _not_known(value, str(context.get("expected", "")))
    if kind == "too_short":
        least, given = context.get("min_length", 1), context.get("actual_length", 0)
        return f"needs {least} or more" if least > 1 or given else "is empty"
    return str(error["msg"])


def _bare(value: object, wanted: str) -> str:
    """The number alone, if the unit that the field's name has already stands beside it."""
    if wanted != "a number" or not isinstance(value, str):
        return ""
    found = _WITH_UNIT.fullmatch(value.strip())
    return f"; write {found[1]}" if found else ""


def _plain(bound: object) -> object:
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _forgotten_percent(value: object, bound: object, *, below: bool) -> str:
    """A number from 1 to 100 where 1 is the most was probably a percentage. What must be below 1 is no share, and takes no `%`."""
    if not isinstance(value, int | float) or isinstance(value, bool) or bound != 1 or not 1 < value <= 100:
        return ""
    if below:
        return f"; write {value / 100:g}" if SURELY_PERCENT <= value < 100 else ""
    return f"; write {value:g}%"


def _not_known(value: object, expected: str) -> str:
    words = _QUOTED.findall(expected)
    return f"{shown(value)} is not known here{one_of(value, words)}" if words else f"{shown(value)} is not {expected}"


def written(loc: Path, data: Any, *, missing: bool = False) -> Path:
    """The path as the file has it: parts that only validation adds are left out, but for a missing field's own name."""
    kept: list[str | int] = []
    here = data
    for index, part in enumerate(loc):
        step = step_into(here, part)
        if step is not None:
            # A name in a list, such as a provider's, says more than its index.
            kept.append(part)
            here = here[step]
        elif missing and index == len(loc) - 1:
            kept.append(part)
    return tuple(kept)


def _fields_at(root: Any, loc: Path) -> list[str]:
    """The fields of the section at a path."""
    here: Any = root
    for part in loc:
        here = _descend(here, part)
    model = _model_of(here)
    return [] if model is None else list(model.model_fields)


def _descend(annotation: Any, part: str | int) -> Any:
    model = _model_of(annotation)
    if model is not None and isinstance(part, str) and part in model.model_fields:
        return model.model_fields[part].annotation
    for option in _options(annotation):
        origin, args = typing.get_origin(option), typing.get_args(option)
        if origin is dict:
            return args[1]
        if origin in (list, tuple) and isinstance(part, int):
            return args[0]
        if isinstance(option, type) and issubclass(option, BaseModel) and _tag_of(option) == part:
            return option
    return annotation


def _tag_of(model: type[BaseModel]) -> object:
    field = model.model_fields.get("kind")
    args = typing.get_args(field.annotation) if field is not None else ()
    return args[0] if args else None


def _model_of(annotation: Any) -> type[BaseModel] | None:
    models = [option for option in _options(annotation) if isinstance(option, type) and issubclass(option, BaseModel)]
    return models[0] if models else None


def _options(annotation: Any) -> list[Any]:
    """The parts of a union, without wrappers."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _options(typing.get_args(annotation)[0])
    if origin is typing.Union or str(origin) == "<class 'types.UnionType'>":
        return [part for option in typing.get_args(annotation) for part in _options(option)]
    return [annotation]
