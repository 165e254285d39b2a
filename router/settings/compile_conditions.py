"""Conditions of rules: compiled, with the place of each mistake, and what they read of the moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from zoneinfo import ZoneInfo

from policies.matchers import Matcher, MatcherError, compile_matcher
from router.settings.compile_context import Context
from router.settings.findings import Finding, Path, one_of
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
    for read in sorted(matcher.reads):
        section, sign, name = read.partition(":")
        if sign:
            _check_name(context, (*path, "cel"), f"{section}s", name)
    return matcher


def _check_name(context: Context, path: Path, section: str, name: str) -> None:
    known: Mapping[str, object] = context.settings.providers if section == "providers" else context.settings.models
    if name not in known and not context.is_broken(section, name):
        context.wrong(path, f'there is no {section[:-1]} "{name}"{one_of(name, context.names(section, known))}')


def watch_of(reads: Iterable[str], timezone: str, deployments: Mapping[str, Deployment]) -> Watch | None:
    """What has to be filled in before the rules of a route are asked; None: nothing."""
    wanted = frozenset(reads)
    if not wanted:
        return None
    states = {}
    for read in sorted(wanted):
        section, sign, name = read.partition(":")
        if sign:
            own = (d for d in deployments.values() if (d.provider.name if section == "provider" else d.model) == name)
            states[read] = tuple(d.name for d in own)
    return Watch(timezone=ZoneInfo(timezone) if "time" in wanted else None, budgets="budget" in wanted, states=states)
