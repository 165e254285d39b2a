"""Names in policy tests that the configuration does not have: a test that forbids what does not exist would always pass."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from router import errors
from router.settings.findings import one_of
from router.settings.model_tests import Ask, Case, Expect, Given, TestFile
from router.snapshot import Snapshot

STATUS: Final = re.compile(r"[0-9]{3}")
"""A number of three digits is a status, and no part of an amount."""

Named = tuple[str, str, str, set[str]]
"""(Field, what it names, name, all such names)."""


def unknown_names(snapshot: Snapshot, path: str, tests: TestFile, lines: list[int]) -> list[str]:
    """What the tests of a file name of things that there are not, each with file and line, and what was probably meant."""
    found = [f"{path}: {_told(one)}" for one in _given(snapshot, tests.given) if one[2] not in one[3]]
    for number, (case, line) in enumerate(zip(tests.tests, lines, strict=True)):
        found += [f"{path}:{line}: tests[{number}].{_told(one)}" for one in _all(snapshot, case) if one[2] not in one[3]]
    return found


def _told(one: Named) -> str:
    field, kind, name, known = one
    names = sorted(known)
    # A number that is like another one says nothing of what was meant.
    meant = f"; known: {', '.join(names)}" if STATUS.fullmatch(name) else one_of(name, names)
    return f'{field}: there is no {kind} "{name}"{meant}'


def _all(snapshot: Snapshot, case: Case) -> Iterator[Named]:
    yield from _given(snapshot, case.given)
    # What is expected to be refused may be for what there is not.
    yield from _asked(snapshot, case.ask, may_be_unknown=case.expect.refused is not None)
    yield from _expected(snapshot, case.expect)


def _given(snapshot: Snapshot, given: Given) -> Iterator[Named]:
    places = {name for one in snapshot.deployments.values() for name in (one.name, one.model, one.provider.name)}
    budgets = {budget.name for budget in snapshot.budgets}
    yield from (("given.fleet", "deployment, model or provider", name, places) for name in given.fleet)
    yield from (("given.budgets", "budget", name, budgets) for name in given.budgets)


def _asked(snapshot: Snapshot, ask: Ask, *, may_be_unknown: bool) -> Iterator[Named]:
    if not may_be_unknown and "model" not in ask.body:
        yield "ask.model", "route or model", ask.model, set(snapshot.routes)
    if ask.team is not None:
        yield "ask.team", "team", ask.team, set(snapshot.teams)
    if ask.key is not None:
        yield "ask.key", "key", ask.key, {name for entry in snapshot.keys.values() for name in (entry.key_id, entry.name)}


def _expected(snapshot: Snapshot, expect: Expect) -> Iterator[Named]:
    deployments = set(snapshot.deployments)
    models = {one.model for one in snapshot.deployments.values()}
    providers = set(snapshot.providers)
    either = deployments | models
    rules = {rule.name for route in snapshot.routes.values() for rule in route.policy.rules}
    rules |= {route.policy.default.rule for route in snapshot.routes.values()}
    statuses = {str(spec.http_status) for spec in errors.ALL}
    status = expect.refused if expect.refused is not None and STATUS.fullmatch(expect.refused) else None
    named: tuple[tuple[str, str, Iterable[str | None], set[str]], ...] = (
        ("rule", "rule", [expect.rule], rules),
        ("model", "model", [expect.model], models),
        ("deployment", "deployment", [expect.deployment], deployments),
        ("provider", "provider", [expect.provider], providers),
        ("order", "deployment or model", expect.order or (), either),
        ("never", "deployment, model or provider", expect.never or (), either | providers),
        ("rejected", "deployment or model", expect.rejected, either),
        ("refused", "refusal with status", [status], statuses),
    )
    for field, kind, names, known in named:
        yield from ((f"expect.{field}", kind, name, known) for name in names if name is not None)
