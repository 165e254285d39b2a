"""Conditions of rules: compiled, with the place of each mistake, and what they read of the moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from zoneinfo import ZoneInfo

from policies.figures import figure_of
from policies.matchers import Matcher, MatcherError, compile_matcher, places_of
from router.settings.compile_context import Context
from router.settings.compile_figures import check_read, figures_of, members
from router.settings.findings import Finding, Path
from router.settings.model_conditions import WhenSettings
from router.snapshot import Deployment, Watch


def condition(context: Context, path: Path, given: WhenSettings) -> Matcher | None:
    """Compile a condition; None: it has an error, which is noted."""
    try:
        matcher = compile_matcher(given.spec())
    except MatcherError as exc:
        before = (given.cel or "")[: exc.at] if exc.path == ("cel",) else ""
        context.findings.append(Finding((*path, *exc.path), str(exc).replace("'", '"'), before=before))
        return None
    for place, read in _places(given, matcher):
        check_read(context, (*path, *place), read)
    return matcher


def _places(given: WhenSettings, matcher: Matcher) -> Iterator[tuple[Path, str]]:
    """What a condition reads, and where in it that stands."""
    if matcher.expression is not None:
        yield from ((("cel",), read) for read in sorted(matcher.expression.reads))
    for field, value in given.spec().items():
        yield from places_of(field, value)


def watch_of(reads: Iterable[str], timezone: str, deployments: Mapping[str, Deployment]) -> Watch | None:
    """What has to be filled in before the rules of a route are asked; None: nothing."""
    wanted = frozenset(reads)
    if not wanted:
        return None
    states = {}
    for read in sorted(wanted):
        section, sign, name = read.partition(":")
        if sign and figure_of(read) is None:
            states[read] = members(section, name, deployments)
    zone = ZoneInfo(timezone) if "time" in wanted else None
    return Watch(timezone=zone, budgets="budget" in wanted, states=states, figures=figures_of(wanted, deployments))
