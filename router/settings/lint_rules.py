"""Rules that can never match, and those that leave nothing for what follows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from policies.fact_matchers import RANGES, ranges_of
from policies.ranges import Range, read_count, read_range
from router.settings.findings import Finding, Path
from router.settings.model import Settings
from router.settings.model_routing import RouteSettings, RuleSettings

if TYPE_CHECKING:
    from policies.expressions.compiled import Expression


def rules(settings: Settings) -> Iterator[Finding]:
    """All that is doubtful of rules."""
    for route, given in settings.routes.items():
        yield from _unreachable(("routes", route), given)
    for name, given_class in settings.privacy.items():
        expression = _expression(given_class.when.spec())
        if expression is not None and expression.constant is False:
            yield Finding(("privacy", name, "when"), "never holds: no request is in this class")


def _unreachable(path: Path, given: RouteSettings) -> Iterator[Finding]:
    for index, rule in enumerate(given.rules):
        here: Path = (*path, "rules", index)
        expression = _expression(rule.when.spec())
        if expression is not None and expression.constant is False:
            yield Finding((*here, "when"), "never holds: the rule is never reached")
            continue
        for earlier_index, earlier in enumerate(given.rules[:index]):
            if covers(earlier, rule):
                name = earlier.name or f"rule-{earlier_index + 1}"
                yield Finding(here, f'is never reached: rule "{name}" matches all that it matches')
                break
        if not asked(rule) and index == len(given.rules) - 1 and (given.use or given.default):
            yield Finding(here, "has no condition, so the default of the route is never reached")


@lru_cache(maxsize=256)
def _compiled(text: str) -> Expression:
    from policies.expressions.compiled import compile_expression

    return compile_expression(text)


def _expression(spec: Mapping[str, Any]) -> Expression | None:
    # Rules whose expressions are wrong have been refused before.
    return _compiled(spec["cel"]) if "cel" in spec else None


def asked(rule: RuleSettings) -> dict[str, object]:
    """The conditions of a rule, without one that always holds."""
    spec = rule.when.spec()
    expression = _expression(spec)
    if expression is not None and expression.constant:
        del spec["cel"]
    return spec


def covers(earlier: RuleSettings, later: RuleSettings) -> bool:
    """Whether all that the later rule matches is matched by the earlier one, as far as plain values and ranges tell."""
    return spec_covers(asked(earlier), asked(later))


def spec_covers(wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    """The same of conditions."""
    return all(name in narrow and _includes(name, value, narrow[name]) for name, value in wide.items())


def _includes(name: str, wide: Any, narrow: Any) -> bool:
    if wide == narrow:
        return True
    if name == "cel":
        one, other = _compiled(wide), _compiled(narrow)
        return one.all_of <= other.all_of or other.any_of <= one.any_of
    if isinstance(wide, dict):
        return all(key in narrow and _includes("", value, narrow[key]) for key, value in wide.items())
    if isinstance(wide, tuple):
        return _includes_values(name, wide, narrow)
    return False


def _includes_values(name: str, wide: tuple[Any, ...], narrow: tuple[Any, ...]) -> bool:
    if name == "pii" and wide == (True,):
        return False not in narrow
    if name == "input_tokens" or name in RANGES:
        ranges = _ranges(name, wide)
        return all(any(one.within(each) for each in ranges) for one in _ranges(name, narrow))
    return set(narrow) <= set(wide)


def _ranges(name: str, values: tuple[Any, ...]) -> tuple[Range, ...]:
    return tuple(read_range(str(value), read_count) for value in values) if name == "input_tokens" else ranges_of(name, values)
