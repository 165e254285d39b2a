"""What is wrong with a request to the admin API, in words. What was sent is not repeated: it may be a secret in the wrong field."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from router.settings.findings import looks_like_secret, one_of

VERSION_PATTERN: Final = r"^[0-9a-f]{12}$"

_WORDS: Final[Mapping[str, str]] = {
    "missing": "is missing",
    "json_invalid": "is not JSON",
    "string_type": "must be text",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
}
_BOUNDS: Final[Mapping[str, str]] = {
    "string_too_short": "must have {min_length} characters or more",
    "string_too_long": "must have {max_length} characters at most",
    "too_long": "must have {max_length} entries at most",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}
_PATTERNS: Final[Mapping[str, str]] = {
    VERSION_PATTERN: "must be 12 digits of 0-9 and a-f, as GET /admin/v1/config/versions lists them",
}


def described(finding: Mapping[str, Any], fields: Callable[[], Iterable[str]]) -> str:
    """One finding of pydantic, without the place. `fields`: names that the body may have."""
    kind, context = str(finding["type"]), finding.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown field{one_of(finding['loc'][-1], fields())}"
    if kind in _BOUNDS:
        return _BOUNDS[kind].format(**context)
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(str(context.get("pattern")), "has characters that cannot stand there")
    return _WORDS.get(kind) or str(finding["msg"]).removeprefix("Value error, ")


def place(finding: Mapping[str, Any]) -> str:
    """The field that is meant; the whole body is nothing."""
    return ".".join("(not shown)" if looks_like_secret(str(part)) else str(part) for part in finding["loc"][1:])
