"""Ready-made policies in a rule: `{when: {team: agents}, policy: local-private}`.

What a ready-made route does with its requests, a rule does with those for which it holds: the rules of the ready-made route come in its
place, each with the rule's own conditions beside its own, and then the rule with the rest. That happens before anything is validated: what
follows knows rules only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from router.settings.findings import Finding, Path, one_of, shown
from router.settings.preset import WHERE_THE_REST_GOES, presets

_OF_RULES: Final = frozenset({"rules", *WHERE_THE_REST_GOES})
Moved = Mapping[str, tuple[int, ...]]
"""By route, where each of its rules stands in the file."""


def with_rule_presets(data: dict[str, Any], findings: list[Finding]) -> tuple[dict[str, Any], Moved, list[Finding]]:
    """A configuration without ready-made policies in rules, where the rules came from, and what is doubtful.

    Adds what is wrong to `findings`, with the places in the file.
    """
    routes = data.get("routes")
    moved: dict[str, tuple[int, ...]] = {}
    doubts: list[Finding] = []
    if not isinstance(routes, dict):
        return data, moved, doubts
    changed = {}
    for name, route in routes.items():
        rules = route.get("rules") if isinstance(route, dict) else None
        if isinstance(rules, list) and any(isinstance(rule, dict) and rule.get("policy") is not None for rule in rules):
            made = _Rules(("routes", name, "rules"), findings, doubts)
            for index, rule in enumerate(rules):
                made.add(index, rule)
            changed[name], moved[name] = {**route, "rules": made.rules}, tuple(made.places)
    return {**data, "routes": {**routes, **changed}} if changed else data, moved, doubts


def in_file(finding: Finding, moved: Moved) -> Finding:
    """A finding with the place in the file of the rule that it is about."""
    match finding.path:
        case ("routes", str(name), "rules", int(index), *rest) if name in moved and index < len(moved[name]):
            return replace(finding, path=("routes", name, "rules", moved[name][index], *rest))
    return finding


class _Rules:
    """The rules of one route, with those of ready-made policies in them."""

    def __init__(self, path: Path, findings: list[Finding], doubts: list[Finding]) -> None:
        self._path = path
        self._findings = findings
        self._doubts = doubts
        self.rules: list[Any] = []
        self.places: list[int] = []

    def add(self, index: int, rule: Any) -> None:
        """One rule of the file, or what its ready-made policy makes of it."""
        ready = rule.get("policy") if isinstance(rule, dict) else None
        if isinstance(rule, dict):
            # A rule is called by its place in the file, whatever comes before it.
            rule = {"name": f"rule-{index + 1}", **{field: value for field, value in rule.items() if field != "policy"}}
        place: Path = (*self._path, index, "policy")
        known = presets()
        if ready is not None and (not isinstance(ready, str) or ready not in known):
            self._findings.append(Finding(place, f"{shown(ready)} is not a ready-made policy{one_of(str(ready), known)}"))
            return
        made = [rule] if ready is None else self._made(place, rule, ready, known[ready]["route"])
        self.rules += made
        self.places += [index] * len(made)

    def _made(self, place: Path, rule: dict[str, Any], ready: str, route: Mapping[str, Any]) -> list[dict[str, Any]]:
        beyond = [field for field in route if field not in _OF_RULES]
        if beyond:
            what = f'a rule takes the models of "{ready}" and their order'
            self._doubts.append(Finding(place, f"{what}; its {' and '.join(beyond)} hold for a whole route: set that there"))
        made = []
        for inner in route.get("rules", ()):
            when, clash = _both(rule.get("when"), inner["when"])
            if clash:
                message = f'"{ready}" looks at {clash} itself, as `when` does; write its rules out, or leave that out of `when`'
                self._findings.append(Finding(place, message))
                return []
            made.append({**inner, "name": f"{rule['name']}-{inner['name']}", "when": when})
        rest = {**{field: value for field, value in route.items() if field in WHERE_THE_REST_GOES}, **route.get("default", {})}
        rest.pop("default", None)
        return [*made, {**rest, **rule}]


def _both(own: Any, ready: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Conditions that hold where both do; and what both look at, if that cannot be written as one."""
    given = {} if own is None else {"cel": own} if isinstance(own, str) else own
    if not isinstance(given, dict):
        return {}, ""
    merged = dict(given)
    for field, value in ready.items():
        before = merged.get(field)
        if isinstance(before, dict) and isinstance(value, dict) and not _clash(before, value):
            merged[field] = {**before, **value}
        elif field in merged and before != value:
            return {}, field
        else:
            merged[field] = value
    return merged, ""


def _clash(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> Iterable[Any]:
    """What stands in both, and is not the same."""
    return [key for key in one if key in other and one[key] != other[key]]
