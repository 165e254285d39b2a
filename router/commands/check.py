"""`faregate check`: is the configuration right, and what does it mean."""

from __future__ import annotations

import asyncio
import json
import os
import re
from typing import Annotated, Any

import typer

from router.commands.options import Config, File, one_file
from router.errors import ConfigError
from router.settings.env import CONFIG

_LINE = re.compile(r"(?P<file>.*?):(?P<line>\d+):(?P<column>\d+): (?P<field>.*?): (?P<message>.*)")


def command(
    file: File = None,
    config: Config = None,
    effective: Annotated[
        bool, typer.Option("--effective", help="Print it with shorthand written out, defaults filled in and secrets as references.")
    ] = False,
    no_store: Annotated[bool, typer.Option("--no-store", help="Do not ask the ledger whether another version is in force.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print for machines.")] = False,
) -> None:
    """Check a configuration: all errors at once with line and column, warnings for prices, budgets and rules. Exit 1 on an error.

    If its ledger can be reached, a note says so where the service was rolled back to another version.
    """
    path = one_file(file, config) or os.environ.get(CONFIG)
    try:
        report = _report(path)
    except ConfigError as exc:
        _print_errors(str(exc), as_json=as_json)
        raise typer.Exit(1) from None
    report.notes += [] if no_store else report.not_in_force()
    if as_json:
        print(json.dumps(report.as_data(effective=effective), indent=2, ensure_ascii=False))
        return
    if effective:
        print(report.effective, end="")
    for word, lines in (("warning", report.warnings), ("note", report.notes)):
        for line in lines:
            typer.echo(f"{word}: {line}", err=True)
    typer.echo(report.summary, err=effective)


def _print_errors(text: str, *, as_json: bool) -> None:
    if not as_json:
        typer.echo(text, err=True)
        count = len(text.splitlines())
        typer.echo(f"{count} error{'s' if count > 1 else ''}", err=True)
        return
    errors = [_parsed(line) for line in text.splitlines()]
    print(json.dumps({"ok": False, "errors": errors}, indent=2, ensure_ascii=False))


def _parsed(line: str) -> dict[str, Any]:
    match = _LINE.fullmatch(line)
    if match is None:
        return {"message": line}
    found: dict[str, Any] = match.groupdict()
    return {**found, "line": int(found["line"]), "column": int(found["column"])}


class _Report:
    """What there is to say about a configuration without errors."""

    def __init__(self, settings: Any, snapshot: Any, notes: list[str]) -> None:
        self._settings = settings
        self._snapshot = snapshot
        self.warnings: tuple[str, ...] = snapshot.warnings
        self.notes = [*snapshot.notes, *notes]

    def not_in_force(self) -> list[str]:
        """Another version is served, as the ledger says."""
        from router.commands.in_force import pin_of, told

        text = told(asyncio.run(pin_of(self._snapshot)), self._snapshot)
        return [text] if text else []

    @property
    def effective(self) -> str:
        from router.settings.effective import effective_yaml

        return effective_yaml(self._settings, self._snapshot)

    @property
    def summary(self) -> str:
        snapshot = self._snapshot
        own = sum(not route.aliases_model for route in snapshot.routes.values())
        counts = (
            (len(snapshot.providers), "provider"),
            (len(self._settings.models), "model"),
            (len(snapshot.deployments), "deployment"),
            (own, "route"),
            (len(snapshot.budgets), "budget"),
            (len(snapshot.teams), "team"),
            (len(snapshot.keys), "key"),
        )
        listed = ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts)
        return f"{snapshot.source}: no errors; {listed}; version {snapshot.version}"

    def as_data(self, *, effective: bool) -> dict[str, Any]:
        from router.settings.effective import deployment_data, effective_data

        data: dict[str, Any] = {
            "ok": True,
            "source": self._snapshot.source,
            "version": self._snapshot.version,
            "errors": [],
            "warnings": [_parsed(line) for line in self.warnings],
            "notes": list(self.notes),
        }
        if effective:
            data["effective"] = effective_data(self._settings)
            data["deployments"] = [deployment_data(d) for d in self._snapshot.deployments.values()]
        return data


def _report(path: str | None) -> _Report:
    from router.settings.lint import notes

    if path is None:
        from router.settings.discover import discover_settings

        settings, snapshot = discover_settings(environ=os.environ)
        return _Report(settings, snapshot, [])
    from router.settings.load import load_file, shower

    loaded = load_file(path)
    show = shower(loaded.document)
    lines = [show(finding) for finding in notes(loaded.settings, loaded.snapshot)]
    return _Report(loaded.settings, loaded.snapshot, lines)
