"""`faregate explain`: where a request would go, why, and what it could cost."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from router.adapters.choose import must_exist, store_of, visiting
from router.admission import fresh, principal_of_entry
from router.call import Principal
from router.commands.explain_past import explain_past
from router.commands.in_force import rolled_back
from router.commands.in_force import told as told_of
from router.commands.options import Config, Store
from router.controls import Desk
from router.domain.controls import ControlState, Freezes, closed_deployments, limits_in_force
from router.domain.experience import Experience
from router.edge.headers import TAGS
from router.errors import ConfigError, RouterError
from router.experience import read_all
from router.explain import as_text, explain
from router.explain_budgets import Spent
from router.fleet import Fleet
from router.settings import load_snapshot
from router.snapshot import KeyEntry, Snapshot
from router.versions import Versions

EXIT_REFUSED: Final = 1


def command(
    file: Annotated[str, typer.Argument(help="File with the JSON body of a request; `-`: standard input.")] = "-",
    config: Config = None,
    model: Annotated[str | None, typer.Option(help="Route or model to ask for, in place of the body's.")] = None,
    team: Annotated[str | None, typer.Option(help="Ask as a key of this team.")] = None,
    key: Annotated[str | None, typer.Option(help="Ask as this key of the configuration, by name or id.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="name=value that the request carries; may be given again.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="name=value of a request header; may be given again.")] = None,
    record: Annotated[
        str | None,
        typer.Option(
            help="Id of a request of the past, in place of FILE: told from the ledger's log, with what every candidate would have cost."
        ),
    ] = None,
    draw: Annotated[float, typer.Option(min=0.0, max=0.999999, help="Number that stands for chance.")] = 0.5,
    store: Store = None,
    no_store: Annotated[bool, typer.Option("--no-store", help="Do not look into the ledger.")] = False,
    in_force: Annotated[
        bool,
        typer.Option("--in-force", help="By the version that the service was rolled back to, if it was, whatever the file says."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print for machines; amounts in nano-USD.")] = False,
) -> None:
    """Decide on a request as the server would, without sending it, and say why: every candidate, its cost, and its reason.

    What is spent, and what is frozen or drained now, is read from the ledger if there is one. Otherwise nothing is taken for
    spent, and all deployments as up, idle and not seen yet. If the service was rolled back to another version, that is said.
    Exit 1 if the request would be refused.
    """
    if in_force and (no_store or record is not None):
        raise typer.BadParameter("the ledger says what is in force now: not with --no-store or --record", param_hint="--in-force")
    snapshot = _loaded(config, store, in_force=in_force)
    if record is not None:
        explain_past(snapshot, record, store, as_json=as_json)
        return
    headers = {name.lower().encode(): value.encode() for name, value in map(_pair, header or [])}
    if tag:
        headers[TAGS] = ",".join("=".join(_pair(item)) for item in tag).encode()
    now = None if no_store else _now(snapshot, store)
    if now is not None and (elsewhere := told_of(now[0].pin, snapshot)):
        if in_force:
            snapshot = _rolled_back(snapshot, store, now[0])
        else:
            typer.echo(f"note: {elsewhere}; --in-force explains by that one", err=True)
    fleet, freezes = _as_it_is(snapshot, (ControlState(), None, Experience()) if now is None else now)
    body = sys.stdin.buffer.read() if file == "-" else _read(file)
    try:
        told = explain(
            snapshot,
            body,
            model=model,
            principal=fresh(_principal(snapshot, team, key), time.time()),
            headers=headers,
            fleet=fleet,
            freezes=freezes,
            draw=draw,
            spent=None if now is None else now[1],
        )
    except RouterError as error:
        typer.echo(f"error {error.spec.http_status} {error.spec.code}: {error}", err=True)
        raise typer.Exit(EXIT_REFUSED) from None
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(told, enc_hook=dict), indent=2).decode())
    else:
        typer.echo(as_text(told))
    if snapshot.keys and not (team or key):
        typer.echo("note: decided as for a key without a team; the server answers 401 to a request without a key (--key, --team)", err=True)
    if told.error:
        raise typer.Exit(EXIT_REFUSED)


def _loaded(config: str | None, store: str | None, *, in_force: bool) -> Snapshot:
    """The file's configuration; `in_force`: if that has errors, what is served all the same."""
    try:
        return load_snapshot(config)
    except ConfigError as exc:
        if not in_force:
            raise
        return rolled_back(config, exc, store=store)


def _now(snapshot: Snapshot, store: str | None) -> tuple[ControlState, Spent, Experience] | None:
    """What people changed, what is spent, and what was learned; None without a ledger."""
    # What steers is told with the candidates.
    logging.getLogger("faregate.steering").setLevel(logging.ERROR)
    try:
        return asyncio.run(_look(must_exist(store or store_of(snapshot))))
    except ConfigError as error:
        if store:
            raise
        if not str(error).startswith("There is no ledger"):
            typer.echo(f"What is spent, frozen or drained is not known: {error}", err=True)
        return None


async def _look(store: str) -> tuple[ControlState, Spent, Experience]:
    async with visiting(store) as ledger:
        state = await Desk(ledger.control_store(), who="", via="").state()
        spent = Spent(states=await ledger.bucket_states(), now_ms=time.time_ns() // 1_000_000, limits=limits_in_force(state))
        return state, spent, await read_all(ledger.experience_store())


def _rolled_back(snapshot: Snapshot, store: str | None, state: ControlState) -> Snapshot:
    """The version that is served. `state` has a pin."""

    async def load(version: str) -> Snapshot:
        async with visiting(must_exist(store or store_of(snapshot))) as ledger:
            return await Versions(ledger.shelf()).load(version, snapshot.source)

    return snapshot if state.pin is None else asyncio.run(load(state.pin.version))


def _as_it_is(snapshot: Snapshot, now: tuple[ControlState, Spent | None, Experience]) -> tuple[Fleet, Freezes]:
    """The deployments and who is refused, as people want it now, and with what all processes have learned."""
    state, _, learned = now
    fleet = Fleet(time.monotonic)
    deployments = {name: (each.model, each.provider.name) for name, each in snapshot.deployments.items()}
    fleet.close_deployments(closed_deployments(state.controls, deployments))
    fleet.memory.experiments.take(state.controls, state.runs)
    fleet.memory.go_by(learned)
    return fleet, Freezes(state.controls)


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="FILE") from None


def _pair(item: str) -> tuple[str, str]:
    name, sign, value = item.partition("=")
    if not sign or not name.strip():
        raise typer.BadParameter(f"{item!r} is not name=value")
    return name.strip(), value.strip()


def _principal(snapshot: Snapshot, team: str | None, key: str | None) -> Principal:
    """Who asks. A key brings its own team; both may be given only if they agree."""
    if team is not None and team not in snapshot.teams:
        raise typer.BadParameter(f"there is no team {team!r}; known: {', '.join(snapshot.teams) or 'none'}", param_hint="--team")
    if key is None:
        entry = KeyEntry(key_id="", name="anonymous", team=team or "", secret_hmac=None, secret_digest=None)
        return principal_of_entry(entry, snapshot.teams)
    found = next((entry for entry in snapshot.keys.values() if key in (entry.key_id, entry.name)), None)
    if found is None:
        known = ", ".join(entry.name for entry in snapshot.keys.values()) or "none"
        raise typer.BadParameter(f"the configuration has no key {key!r}; known: {known}", param_hint="--key")
    if team is not None and team != found.team:
        raise typer.BadParameter(f"key {key!r} is of team {found.team!r}, not {team!r}", param_hint="--team")
    return principal_of_entry(found, snapshot.teams)
