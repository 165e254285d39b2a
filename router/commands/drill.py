"""`faregate drill`: what if this vendor is gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Final

import msgspec
import typer

from policies.ranges import ENDLESS, RangeError, read_share
from router.commands.options import Config
from router.commands.replaying import Replay, Since, Until, read_log
from router.errors import ConfigError
from router.replay.drill import Drill, drill, notes_of, tables_of
from router.replay.observed import Observed
from router.replay.report import as_markdown, as_text
from router.replay.requests import Asked
from router.replay.simulate import World
from router.settings.findings import one_of
from router.settings.offline import load_offline
from router.settings.units import parse_duration
from router.snapshot import Snapshot

EXIT_BROKEN: Final = 1
LONGEST_SECONDS: Final = 24 * 3600


def command(
    without: Annotated[list[str], typer.Option(help="Provider, model or deployment that is gone; may be given again.")],
    config: Config = None,
    replay: Replay = None,
    since: Since = "30d",
    until: Until = None,
    most: Annotated[
        list[str] | None, typer.Option(help="provider=60%: exit 1 if it gets more of the spending; may be given again.")
    ] = None,
    fail_on_stranded: Annotated[bool, typer.Option("--fail-on-stranded", help="Exit 1 if a request or a rule has nothing left.")] = False,
    live: Annotated[
        str | None, typer.Option(help="After that, take it out of the running service for so long, such as 5m, and say what became of it.")
    ] = None,
    reason: Annotated[str, typer.Option(help="With --live: why; goes into the audit log.")] = "",
    least: Annotated[str, typer.Option(help="With --live: end it at once, exit 1, if a smaller share of requests is answered.")] = "95%",
    anyway: Annotated[bool, typer.Option("--anyway", help="With --live: although rules have nothing left without it.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; money in nano-USD.")] = False,
) -> None:
    """Replay the requests of a log without a vendor: what is left without a deployment, what it costs, which budgets break.

    Without a log, only the configuration is looked at. Nothing is sent and nothing is changed, unless --live is given.
    """
    snapshot = load_offline(config)
    _check(snapshot, without)
    outage = None if live is None else _outage(live, reason, least, text=not (as_json or markdown))
    limits = dict(map(_limit, most or []))
    try:
        requests = read_log(snapshot, replay, since, until)
    except ConfigError as error:
        if replay is not None or not str(error).startswith("There is no ledger"):
            raise
        requests = []
    _check_most(snapshot, limits, requests)
    observed = Observed(requests)
    told = drill(snapshot, without, requests, World(snapshot, observed), World(snapshot, observed, without=frozenset(without)))
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
    elif markdown:
        typer.echo(as_markdown(f"Drill: without {', '.join(without)}", notes_of(told), tables_of(told)))
    else:
        typer.echo(as_text(notes_of(told), tables_of(told)))
    found = _beyond(told, limits, stranded=fail_on_stranded)
    if outage is not None:
        found += _lived(snapshot, told, outage, anyway=anyway)
    for line in found:
        typer.echo(line, err=True)
    if found:
        raise typer.Exit(EXIT_BROKEN)


def _outage(live: str, reason: str, least: str, *, text: bool) -> tuple[float, str, float]:
    """(Seconds, reason, least share of answers) of a live drill."""
    if not text:
        raise typer.BadParameter("a live drill prints text", param_hint="--live")
    if not reason.strip():
        raise typer.BadParameter("a live drill changes the running service: say why", param_hint="--reason")
    try:
        seconds, share = parse_duration(live), read_share(least)
    except (ValueError, RangeError) as error:
        raise typer.BadParameter(str(error)) from None
    if not 1 <= seconds <= LONGEST_SECONDS or not 0 <= share <= 1:
        raise typer.BadParameter(f"from 1s to {LONGEST_SECONDS // 3600}h, and a share from 0 to 100%", param_hint="--live, --least")
    return seconds, reason.strip(), share


def _lived(snapshot: Snapshot, told: Drill, outage: tuple[float, str, float], *, anyway: bool) -> list[str]:
    """Do it, print what came of it, and say what was bad about it."""
    if told.dependencies and not anyway:
        return ["not done live: rules have nothing left without it, and their requests would be refused (--anyway does it all the same)"]
    from router.commands.drill_live import live, report

    seconds, reason, least = outage
    lived = live(snapshot, told.gone, seconds=seconds, reason=reason, least=least)
    typer.echo(report(lived))
    share = lived.during.answered_share
    return [f"{share:.1%} of the requests were answered, less than {least:.1%}"] if share is not None and share < least else []


def _check(snapshot: Snapshot, without: list[str]) -> None:
    known = {name for one in snapshot.deployments.values() for name in (one.name, one.model, one.provider.name, one.provider.kind)}
    for name in without:
        if name not in known:
            raise typer.BadParameter(f"there is no {name!r}; known: {', '.join(sorted(known))}", param_hint="--without")


def _check_most(snapshot: Snapshot, limits: Mapping[str, float], requests: Iterable[Asked]) -> None:
    """A limit for what is not there would always hold. Providers of the log count, too: they may be gone from the configuration."""
    known = {*snapshot.providers, *(part.provider for asked in requests for part in asked.parts)} - {""}
    for name in limits:
        if name not in known:
            raise typer.BadParameter(f"there is no provider {name!r}{one_of(name, sorted(known))}", param_hint="--most")


def _limit(text: str) -> tuple[str, float]:
    name, sign, share = text.partition("=")
    if not sign:
        raise typer.BadParameter(f"{text!r} is not provider=60%", param_hint="--most")
    try:
        most = read_share(share.strip())
    except RangeError:
        most = ENDLESS
    if most > 1:
        raise typer.BadParameter(f"{share.strip()!r} is not a share of the spending, 0 to 1; write 60% or 0.6", param_hint="--most")
    return name.strip(), most


def _beyond(told: Drill, limits: dict[str, float], *, stranded: bool) -> list[str]:
    shares = {one.provider: one.recorded for one in told.shares}
    found = [
        f"{name} gets {share:.1%} of the spending, more than {limit:.0%}"
        for name, limit in limits.items()
        if (share := shares.get(name)) is not None and share > limit
    ]
    if stranded and (told.stranded or told.dependencies):
        found.append("requests or rules have nothing left")
    return found
