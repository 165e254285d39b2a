"""Names in policy tests that the configuration does not have: a test that forbids what does not exist would always pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from router.settings.findings import one_of
from router.settings.model_tests import Expect, TestFile
from router.snapshot import Snapshot


def unknown_names(snapshot: Snapshot, path: str, tests: TestFile, lines: list[int]) -> list[str]:
    """What the tests of a file expect of things that there are not, each with file and line, and what was probably meant."""
    found = []
    for number, (case, line) in enumerate(zip(tests.tests, lines, strict=True)):
        for field, kind, name, known in _expected(snapshot, case.expect):
            if name not in known:
                found.append(f'{path}:{line}: tests[{number}].expect.{field}: there is no {kind} "{name}"{one_of(name, sorted(known))}')
    return found


def _expected(snapshot: Snapshot, expect: Expect) -> Iterator[tuple[str, str, str, set[str]]]:
    """(Field, what it names, name, all such names)."""
    deployments = set(snapshot.deployments)
    models = {one.model for one in snapshot.deployments.values()}
    providers = set(snapshot.providers)
    either = deployments | models
    rules = {rule.name for route in snapshot.routes.values() for rule in route.policy.rules}
    rules |= {route.policy.default.rule for route in snapshot.routes.values()}
    named: tuple[tuple[str, str, Iterable[str | None], set[str]], ...] = (
        ("rule", "rule", [expect.rule], rules),
        ("model", "model", [expect.model], models),
        ("deployment", "deployment", [expect.deployment], deployments),
        ("provider", "provider", [expect.provider], providers),
        ("order", "deployment or model", expect.order or (), either),
        ("never", "deployment, model or provider", expect.never or (), either | providers),
        ("rejected", "deployment or model", expect.rejected, either),
    )
    for field, kind, names, known in named:
        yield from ((field, kind, name, known) for name in names if name is not None)
