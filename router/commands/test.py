"""`faregate test`: policy tests in YAML, beside the configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final
from xml.etree.ElementTree import Element, SubElement, tostring

import msgspec
import typer

from router.commands.files import write_file
from router.commands.options import Config
from router.errors import ConfigError
from router.policy_test_names import unknown_names
from router.policy_tests import Coverage, Result, run_file
from router.settings.env import CONFIG
from router.settings.model_tests import ENDING, config_of, read_tests
from router.settings.offline import load_offline
from router.snapshot import Snapshot
from router.spend import printable

EXIT_FAILED: Final = 1
MOST_MISSED: Final = 20


def command(
    files: Annotated[
        list[str] | None, typer.Argument(help="Files of tests. Default: all *.test.yaml beside the configuration.", show_default=False)
    ] = None,
    config: Config = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=100, help="Exit 1 if fewer percent of the rules are reached.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Name the tests that passed, too.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Write the results as JUnit XML, too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Decide on every request of the tests, and compare with what they expect. Sends nothing; exit 1 if one fails.

    Secrets of the configuration need not be set.
    """
    chosen = config or os.environ.get(CONFIG)
    paths = files or _beside(chosen)
    results, coverage = _run(paths, chosen)
    if junit is not None:
        write_file(junit, junit_xml(results))
    share = coverage.share * 100
    low = threshold is not None and share < threshold
    failed = sum(bool(result.failures) for result in results)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(_as_data(results, coverage)), indent=2).decode())
    else:
        _print(results, coverage, verbose=verbose)
    if low:
        typer.echo(f"{share:.0f} % of the rules are reached, fewer than {threshold:g} %", err=True)
    if failed or low:
        raise typer.Exit(EXIT_FAILED)


def _beside(config: str | None) -> list[str]:
    folder = Path(config).parent if config else Path()
    found = sorted(str(path) for path in folder.glob(f"*{ENDING}"))
    if not found:
        raise ConfigError(f"There is no file *{ENDING} in {folder.resolve()}: name the files of tests.")
    return found


def _run(paths: list[str], chosen: str | None) -> tuple[list[Result], Coverage]:
    """All tests; every file is read before the first one is run."""
    read = []
    errors = []
    snapshots: dict[str, Snapshot] = {}
    for path in paths:
        try:
            tests, lines = read_tests(path)
            named = config_of(path, tests, chosen)
            if named not in snapshots:
                snapshots[named] = load_offline(named)
            errors += unknown_names(snapshots[named], path, tests, lines)
            read.append((path, tests, lines, named))
        except ConfigError as error:
            errors.append(str(error))
    if errors:
        raise ConfigError("\n".join(errors))
    coverages: dict[str, Coverage] = {}
    results: list[Result] = []
    for path, tests, lines, named in read:
        results += run_file(snapshots[named], path, tests, lines, coverages.setdefault(named, Coverage()))
    if len(coverages) == 1:
        return results, next(iter(coverages.values()))
    whole = Coverage()
    for named, one in coverages.items():
        name = Path(named).name
        whole.all += [(f"{name}: {route}", rule) for route, rule in one.all]
        whole.reached |= {(f"{name}: {route}", rule) for route, rule in one.reached}
    return results, whole


def _print(results: list[Result], coverage: Coverage, *, verbose: bool) -> None:
    for result in results:
        if result.failures:
            typer.echo(f"FAILED {result.file}:{result.line} {printable(result.name)}")
            for failure in result.failures:
                typer.echo(f"  {failure}")
        elif verbose:
            typer.echo(f"passed {result.file}:{result.line} {printable(result.name)}")
    failed = sum(bool(result.failures) for result in results)
    typer.echo(f"{len(results) - failed} passed, {failed} failed")
    missed = coverage.missed
    if missed:
        named = ", ".join(f"{route}/{rule}" for route, rule in missed[:MOST_MISSED]) + (", ..." if len(missed) > MOST_MISSED else "")
        typer.echo(f"{len(missed)} of {len(coverage.all)} rules never matched: {named}")
    else:
        typer.echo(f"all {len(coverage.all)} rules matched")


def _as_data(results: list[Result], coverage: Coverage) -> dict[str, object]:
    return {
        "tests": [
            {"file": one.file, "line": one.line, "name": one.name, "failures": one.failures, "rule": one.rule, "seconds": one.seconds}
            for one in results
        ],
        "failed": sum(bool(one.failures) for one in results),
        "rules": len(coverage.all),
        "missed": [f"{route}/{rule}" for route, rule in coverage.missed],
        "coverage": coverage.share,
    }


def junit_xml(results: list[Result]) -> bytes:
    """The results as most services that run pipelines read them."""
    failed = sum(bool(one.failures) for one in results)
    suite = Element("testsuite", name="faregate test", tests=str(len(results)), failures=str(failed), errors="0")
    for one in results:
        case = SubElement(suite, "testcase", classname=one.file, name=printable(one.name), file=one.file, line=str(one.line))
        case.set("time", f"{one.seconds:.4f}")
        if one.failures:
            failure = SubElement(case, "failure", message=printable(one.failures[0]))
            failure.text = "\n".join(map(printable, one.failures))
    text: bytes = tostring(suite, encoding="utf-8", xml_declaration=True)
    return text
