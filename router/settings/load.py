"""A configuration file to a snapshot; everything that is wrong with it at once, each with its place."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any, Final

from pydantic import ValidationError

from router.errors import ConfigError
from router.settings import loader
from router.settings.compile import compile_settings
from router.settings.compile_context import PriceLookup
from router.settings.findings import Finding, InvalidSettings, Path, field_name
from router.settings.messages import explain, is_second_hand, written
from router.settings.model import Settings
from router.settings.named_policies import with_policies
from router.settings.references import hidden_texts, resolve
from router.settings.rule_presets import in_file, with_rule_presets
from router.snapshot import Snapshot

SECTIONS: Final = ("providers", "models", "routes", "experiments", "budgets", "teams", "keys", "admins", "notify")
TRIMMED: Final = ("models", "routes", "experiments", "budgets", "teams", "keys")
"""Sections whose entries are checked further without the field that is wrong. A provider's fields depend on each other."""
_MAX_ROUNDS: Final = 4


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file that holds no error."""

    settings: Settings
    snapshot: Snapshot
    document: loader.Document


def read_file(path: str) -> bytes:
    """The bytes of a configuration file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(loader.MAX_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror or exc}") from None


def load_file(path: str, *, environ: Mapping[str, str] = os.environ) -> Loaded:
    """Read, validate and compile a file with the prices of the price book.

    Raises:
        ConfigError: it cannot be read, or has errors.
    """
    return load_text(read_file(path), source=path, environ=environ, price_book=price_book(), folder=FilePath(path).parent)


def price_book() -> PriceLookup:
    """The lookup of the price book that is part of the program."""
    from router.prices import lookup

    return lookup


def load_text(
    text: str | bytes, *, source: str, environ: Mapping[str, str], price_book: PriceLookup, folder: FilePath | None = None
) -> Loaded:
    """Read, validate and compile.

    Raises:
        ConfigError: all findings, one a line, in the order of the file.
    """
    try:
        document = loader.parse(text, source)
    except loader.DocumentError as exc:
        where = "" if not exc.path else f"{field_name(exc.path)}: "
        raise ConfigError(f"{source}:{exc.mark.line}:{exc.mark.column}: {where}{exc.message}") from None
    if not isinstance(document.data, dict):
        raise ConfigError(f"{source}:1:1: configuration: is not a mapping; the smallest begins with `version: 1`")
    findings: list[Finding] = []
    data = resolve(document.data, environ, folder=folder or FilePath(), findings=findings)
    document.hidden = dict(hidden_texts(data))
    unresolved = {finding.path for finding in findings}
    data, doubts = _with_names_put_in(document, data, findings)
    checked = _validate(data)
    settings = checked.settings
    found = [in_file(f, document.moved) for f in checked.findings]
    findings += [f for f in found if not any(f.path[: len(path)] == path for path in unresolved)]
    snapshot: Snapshot | None = None
    if settings is not None:
        try:
            broken = {section: frozenset(names) for section, names in checked.broken.items()}
            snapshot = compile_settings(
                settings, price_book=price_book, source=source, environ=environ, broken=broken, show=shower(document), folder=folder
            )
        except InvalidSettings as exc:
            findings += [_as_written(f, document) for f in exc.findings if _is_said(f, checked, unresolved)]
    if findings or document.findings or settings is None or snapshot is None:
        raise ConfigError(document.report(findings))
    if doubts:
        snapshot = replace(snapshot, warnings=(*snapshot.warnings, *map(document.describe, doubts)))
    return Loaded(settings, snapshot, document)


def _with_names_put_in(document: loader.Document, data: dict[str, Any], findings: list[Finding]) -> tuple[dict[str, Any], list[Finding]]:
    """The data with what names of policies stand for in their place; what is doubtful of the names. Adds what is wrong to `findings`."""
    data, document.moved, doubts = with_rule_presets(data, findings)
    wrong: list[Finding] = []
    data, unused = with_policies(data, wrong)
    findings += [in_file(finding, document.moved) for finding in wrong]
    return data, [*unused, *doubts]


def shower(document: loader.Document) -> Callable[[Finding], str]:
    """Writes findings with their place in the document."""
    return lambda finding: document.describe(_as_written(finding, document))


def _as_written(finding: Finding, document: loader.Document) -> Finding:
    finding = in_file(finding, document.moved)
    path = written(finding.path, document.data)
    return replace(finding, path=path, message=finding.message + _ready_made(finding.path, path, document.data))


def _ready_made(meant: Path, path: Path, data: Any) -> str:
    """What is said of a budget that a route does not name itself: the ready-made policy does that it names."""
    route = data["routes"].get(meant[1]) if meant[:1] == ("routes",) and path == meant[:2] != meant else None
    if not isinstance(route, dict) or not isinstance(name := route.get("policy"), str) or meant[-1] != "budget":
        return ""
    own = next(iter(data.get("budgets") or ()), "month")
    return f"; `policy: {name}` reads it: name yours so, or write `by: {{kind: pace, budget: {own}}}` beside `policy`"


@dataclass(slots=True)
class _Checked:
    """What validation leaves for the compiler."""

    settings: Settings | None = None
    findings: list[Finding] = field(default_factory=list)
    broken: dict[str, set[str]] = field(default_factory=dict)
    """Section -> names of entries that were taken out as a whole."""
    trimmed: dict[Path, set[Path]] = field(default_factory=dict)
    """Entries that lack fields which were wrong, and these fields: nothing can be said that has to do with them."""


def _validate(data: dict[str, Any]) -> _Checked:
    """Validate; what is wrong is taken out, as little as can be, so that the rest can still be checked."""
    checked = _Checked()
    left = loader.copied(data)
    for _ in range(_MAX_ROUNDS):
        try:
            checked.settings = Settings.model_validate(left)
            return checked
        except ValidationError as exc:
            errors = [error for error in exc.errors(include_url=False) if not is_second_hand(error)]
        found = [explain(error, Settings, data) for error in errors]
        # What an entry lacks since a field of it was taken out is not its writer's mistake.
        checked.findings += [f for error, f in zip(errors, found, strict=True) if not _is_consequence(f, error["loc"], checked)]
        trimmed: dict[Path, set[Path]] = {}
        for error in errors:
            loc = error["loc"]
            if str(loc[0] if loc else "") in TRIMMED and (removed := _trim(left, loc)):
                trimmed.setdefault(loc[:2], set()).add(removed)
            elif not _take_out(left, loc, checked.broken):
                return checked
        for entry, fields in trimmed.items():
            checked.trimmed.setdefault(entry, set()).update(fields)
    return checked


def _is_consequence(finding: Finding, loc: Path, checked: _Checked) -> bool:
    """Whether a finding may only come from a field that was taken out: it names the field, or stands around it in the entry."""
    for removed in checked.trimmed.get(loc[:2], ()):
        name = str(removed[-1])
        around = len(loc) > 2 and removed[: len(loc)] == loc
        if around or name in finding.path[2:] or re.search(rf"\b{re.escape(name)}\b", finding.message):
            return True
    return False


def _trim(data: Any, loc: Path) -> Path:
    """Remove the field of an entry that an error is in, and nothing else. Empty: that would be the entry itself."""
    last: Path = ()
    found = data
    for number, part in enumerate(loc, start=1):
        step = loader.step_into(found, part)
        if step is None:
            break
        # An item that is taken out of a list would shift the others' places.
        if isinstance(found, dict) and number > 2:
            last = loc[:number]
        found = found[step]
    loader.prune(data, last)
    return last


def _take_out(data: dict[str, Any], loc: Path, broken: dict[str, set[str]]) -> bool:
    """Remove the entry that an error is in. False: nothing can be checked without it."""
    if not loc or loc == ("version",):
        return False
    section = str(loc[0])
    if section in SECTIONS and len(loc) > 1 and isinstance(data.get(section), dict):
        broken.setdefault(section, set()).add(str(loc[1]))
        loader.prune(data, loc[:2])
    elif section in SECTIONS:
        return False
    elif section == "server" and len(loc) > 1 and isinstance(data.get("server"), dict):
        loader.prune(data, loc[:2])
    else:
        loader.prune(data, loc[:1])
    return True


def _is_said(finding: Finding, checked: _Checked, unresolved: set[Path]) -> bool:
    if finding.path in unresolved:
        return False
    return finding.message.startswith("there is no ") or not _is_consequence(finding, finding.path, checked)
