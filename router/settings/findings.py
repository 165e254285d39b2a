"""What is wrong with a configuration: findings with a path, shown with file, line, column and a guess at what was meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

Path = tuple[str | int, ...]
"""Keys and list indexes from the top of the document to a value."""

SHOWN_CHARACTERS: Final = 60
"""Longest excerpt of a value in a message."""

# What keys of the known providers, of this proxy and of cloud accounts begin with (their documentation, read 2026-11).
_KEY_PREFIX: Final = re.compile(
    r"(Bearer\s+)?(sk-|sk_|pk-|rk-|gsk_|xai-|up_|AIza|AKIA|ASIA|ABSK|hf_|nvapi-|pplx-|csk-|fw_|flp_|tgp_|ghp_|glpat-|xox[abp]-|eyJ)",
    re.IGNORECASE,
)
_QUOTED: Final = re.compile(r'"([^"]*)"')
_RANDOM_RUN: Final = re.compile(r"[A-Za-z0-9_]{20,}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or doubtful."""

    path: Path
    message: str
    at_key: bool = False
    """True: the field's name is meant, not its value."""
    before: str = ""
    """What stands in the value before the place that is meant."""


class InvalidSettings(Exception):
    """The settings contradict each other or name what does not exist. Carries all findings."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("\n".join(described(f) for f in findings))
        self.findings = tuple(findings)


def described(finding: Finding) -> str:
    """`field: what is wrong`, without credentials."""
    return f"{field_name(finding.path)}: {scrubbed(finding.message)}"


def field_name(path: Path) -> str:
    """Write a path as people do: `routes.auto.rules[0].use`; the whole document is `configuration`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{_shown_key(part)}"
    return text.removeprefix(".") or "configuration"


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """`; did you mean "x"?` if one of the known words is close, else an empty string."""
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def one_of(word: object, known: Iterable[str]) -> str:
    """`; did you mean ...` or, if nothing is close, the list of what is known."""
    names = list(known)
    return did_you_mean(word, names) or (f"; known: {', '.join(names)}" if names else "")


def looks_like_secret(text: str) -> bool:
    """Whether a literal looks like a credential: a known prefix, or a long run of letters and digits, or a UUID."""
    if _KEY_PREFIX.match(text) and len(text) >= 12:
        return True
    run = _RANDOM_RUN.search(text)
    return run is not None and sum(c.isdigit() for c in run[0]) >= 3 and sum(c.isalpha() for c in run[0]) >= 3


def shown(value: object) -> str:
    """A value for a message: quoted, cut, never a credential and never what came from the environment."""
    reference = getattr(value, "reference", None)
    if reference is not None:
        return f"the value of {reference}"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = str(value)
    if looks_like_secret(text):
        return "a value that looks like a key (not shown)"
    return f'"{_cut(text)}"' if isinstance(value, str) else _cut(text)


def scrubbed(message: str) -> str:
    """A message on one line, without anything in quotes that looks like a credential."""
    return _QUOTED.sub(lambda match: '"(not shown)"' if looks_like_secret(match[1]) else match[0], _printable(message))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _cut(text: str) -> str:
    printable = _printable(text)
    return printable if len(printable) <= SHOWN_CHARACTERS else printable[:SHOWN_CHARACTERS] + "..."


def _shown_key(key: str) -> str:
    return "(not shown)" if looks_like_secret(key) else _cut(key)
