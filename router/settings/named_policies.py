"""Policies that have a name of their own: `policies: {careful: {kind: cascade, ...}}`, and `by: careful` wherever a kind may stand.

They are put in place before anything is validated: what follows knows kinds only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from policies.registry import KINDS
from router.settings.findings import Finding, Path, one_of
from router.settings.model_routing import DEFAULT_KIND

SECTION: Final = "policies"
_FIELD: Final = "by"
_FIELDS: Final = (_FIELD, "to_by")
MOST_PLACED: Final = 1000
"""Definitions that names stand for, in all. Names of names can be of any number in a few lines."""
_OTHERS: Final = ("when", "use")
"""Fields that hold no policy: a tag may be called `by`."""


def with_policies(data: dict[str, Any], findings: list[Finding]) -> tuple[dict[str, Any], list[Finding]]:
    """A configuration whose routes say what their policies are, not how they are called; and a warning for each that no route uses.

    Adds what is wrong with names to `findings`.
    """
    named = data.get(SECTION)
    if not isinstance(named, dict):
        return data, []
    for name in named:
        if name in KINDS:
            findings.append(Finding((SECTION, name), f'"{name}" is a policy kind; give the policy another name', at_key=True))
    names = _Names(named, findings)
    changed = {**data, SECTION: {name: names.put_in(names.top(given), (SECTION, name), (str(name),)) for name, given in named.items()}}
    routes = data.get("routes")
    names.used.clear()
    if isinstance(routes, dict):
        changed["routes"] = {name: names.put_in(route, ("routes", name), ()) for name, route in routes.items()}
    unused = [name for name in named if name not in names.used]
    return changed, [Finding((SECTION, name), f'no route uses the policy "{name}"', at_key=True) for name in unused]


class _Names:
    """The named policies, as they are written."""

    def __init__(self, named: Mapping[str, Any], findings: list[Finding]) -> None:
        self._named = named
        self._findings = findings
        self._placed = 0
        self.used: set[str] = set()

    def top(self, given: Any) -> Any:
        """A definition that is nothing but the name of another one is that one; `put_in` finds circles."""
        return {_FIELD: given} if isinstance(given, str) and given in self._named else given

    def put_in(self, value: Any, path: Path, within: tuple[str, ...]) -> Any:
        """The same with definitions in place of names. `within`: the names that it is part of."""
        if isinstance(value, list):
            return [self.put_in(each, (*path, index), within) for index, each in enumerate(value)]
        if not isinstance(value, dict):
            return value
        if within and value.keys() == {_FIELD}:
            return self._meant(value[_FIELD], path, within)
        return {name: each if name in _OTHERS else self._in_field(name, each, (*path, name), within) for name, each in value.items()}

    def _in_field(self, name: object, value: Any, path: Path, within: tuple[str, ...]) -> Any:
        return self._meant(value, path, within) if name in _FIELDS and value is not None else self.put_in(value, path, within)

    def _meant(self, given: Any, path: Path, within: tuple[str, ...]) -> Any:
        if not isinstance(given, str) or given in KINDS:
            return self.put_in(given, path, within)
        if given not in self._named:
            self._findings.append(Finding(path, f'there is no policy "{given}"{one_of(given, [*self._named, *KINDS])}'))
            return DEFAULT_KIND
        if given in within:
            self._findings.append(Finding(path, f"leads back to itself: {' -> '.join([*within[within.index(given) :], given])}"))
            return DEFAULT_KIND
        self._placed += 1
        if self._placed > MOST_PLACED:
            if self._placed == MOST_PLACED + 1:
                self._findings.append(Finding(path, f"names stand for more than {MOST_PLACED:,} policies in all, one within the other"))
            return DEFAULT_KIND
        self.used.add(given)
        return self.put_in(self.top(self._named[given]), path, (*within, given))
