"""`faregate keys`: make, list, rotate and revoke the keys of clients."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import msgspec
import typer

from router.adapters.choose import choose_store, must_exist, visiting
from router.commands.changes import Why, operator
from router.commands.options import Books, Names, Store
from router.controls import Desk
from router.domain import keys
from router.domain.controls import Known
from router.domain.store_address import without_password
from router.errors import ConfigError, RouterError
from router.inputs import parse_expiry
from router.keyring import MAX_OVERLAP_SECONDS, Keyring
from router.known import unknown
from router.ports import StoredKey
from router.settings import load_snapshot
from router.settings.env import CONFIG
from router.settings.findings import one_of
from router.settings.units import parse_duration

T = TypeVar("T")

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Make, list, rotate and revoke the keys of clients.")


def parse_tags(pairs: list[str]) -> dict[str, str]:
    """`name=value` pairs.

    Raises:
        ValueError: one has no `=` or no name.
    """
    tags = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise ValueError(f"{pair!r} is no tag: write name=value")
        tags[name] = value
    return tags


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose key it is; shown in lists.")],
    team: Annotated[str, typer.Option(help="Team that it belongs to.")] = "",
    models: Annotated[str, typer.Option(help="Routes and models it may ask for, joined by commas; default: all.")] = "",
    expires: Annotated[str | None, typer.Option(help="When it ends: 2027-01-01, 12h, 30d, 8w; default: never.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="name=value, given to all its requests; may be repeated.")] = None,
    store: Store = None,
    config: Names = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Do not store it: print an entry for the configuration.")] = False,
) -> None:
    """Make a key and show it, once: only its hash is kept."""
    now = datetime.now(UTC)
    try:
        expires_ms = None if expires is None else parse_expiry(expires, now=now)
        tags = parse_tags(tag or [])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    allowed = [m.strip() for m in models.split(",") if m.strip()]
    checked = _check_names(config, team, allowed)
    minted = keys.mint(secrets.token_bytes(keys.RANDOM_BYTES))
    stored = StoredKey(
        key_id=minted.key_id,
        secret_hmac="",
        name=name,
        team=team,
        models=allowed,
        tags=tags,
        created_ms=int(now.timestamp() * 1000),
        expires_ms=expires_ms,
    )
    books = choose_store(store, config)
    first = asyncio.run(_hash_and_keep(books, stored, minted.text, keep=not as_yaml, check=not checked and not as_yaml))
    if as_yaml:
        print(yaml_entry(stored), end="")
    # Apart from the entry, which is meant for a file.
    print(minted.text, file=sys.stderr if as_yaml else sys.stdout)
    print("This is the only time that the key is shown.", file=sys.stderr)
    _say_where(books, named=bool(store or config or os.environ.get(CONFIG)), kept=not as_yaml)
    if first:
        said = "a router on it that let everybody in until now asks every request for a key"
        print(f"It is the first minted key in this ledger: {said}.", file=sys.stderr)


def _say_where(books: str, *, named: bool, kept: bool) -> None:
    """Name the ledger: a router that is served from another one does not know the key."""
    place = without_password(books) if "://" in books else os.path.abspath(books)
    print(f"{'Kept in' if kept else 'Hashed for'} {place}.", file=sys.stderr)
    if not named:
        print("No configuration was named (--config): a router whose banner names another ledger refuses this key.", file=sys.stderr)


def _check_names(config: str | None, team: str, models: Sequence[str]) -> bool:
    """Refuse a team or model that the configuration does not have: the key would never work, or escape its team's limits.

    Returns whether there was one to look into.
    """
    path = config or os.environ.get(CONFIG)
    if not path:
        return False
    if not (team or models):
        return True
    snapshot = load_snapshot(path)
    if team and team not in snapshot.teams:
        raise typer.BadParameter(f'{path} has no team "{team}"{one_of(team, snapshot.teams)}', param_hint="--team")
    for name in models:
        if name not in snapshot.routes:
            known = [route for route in snapshot.routes if "/" not in route]
            raise typer.BadParameter(f'{path} has no route or model "{name}"{one_of(name, known)}', param_hint="--models")
    return True


def _check_served(known: Known | None, key: StoredKey) -> None:
    """The same by what was served last from the ledger."""
    if known is None:
        if key.team or key.models:
            print("Names are not checked: no configuration was given (--config), and none was served from here yet.", file=sys.stderr)
        return
    asked = [("team", key.team, known.team)] if key.team else []
    for what, name, names in [*asked, *(("model", model, known.model) for model in key.models)]:
        if name not in names:
            said = f"{unknown(what, name, names)} (as served last from this ledger; --config names a newer file)"
            raise typer.BadParameter(said, param_hint="--team" if what == "team" else "--models")


async def _hash_and_keep(store: str, key: StoredKey, text: str, *, keep: bool, check: bool = False) -> bool:
    """Whether it is the first key that is kept there."""
    async with visiting(store) as ledger:
        if check:
            _check_served((await Desk(ledger.control_store(), who="", via="").state()).known, key)
        first = keep and not await ledger.list_keys()
        key.secret_hmac = keys.digest(await ledger.pepper(), text)
        if keep:
            await ledger.put_key(key)
            desk = Desk(ledger.control_store(), who=operator(), via="command")
            await desk.keys_changed("key.mint", key.key_id, after=f"{key.name} of team {key.team}" if key.team else key.name)
    return first


def yaml_entry(key: StoredKey) -> str:
    """The key as an entry of the configuration. Its hash fits only the ledger whose pepper made it."""
    lines = ["keys:", f"  {_quoted(key.name)}:", f"    id: {_quoted(key.key_id)}", f"    secret_hash: {_quoted(key.secret_hmac)}"]
    if key.team:
        lines.append(f"    team: {_quoted(key.team)}")
    if key.expires_ms is not None:
        lines.append(f"    expires: {_quoted(_moment(key.expires_ms))}")
    if key.models:
        lines.append(f"    models: [{', '.join(map(_quoted, key.models))}]")
    if key.tags:
        lines.append("    tags: {" + ", ".join(f"{_quoted(n)}: {_quoted(v)}" for n, v in key.tags.items()) + "}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A YAML string: JSON's are YAML's. Unquoted, an id of digits would be a number."""
    return msgspec.json.encode(text).decode()


def _moment(moment_ms: int) -> str:
    return datetime.fromtimestamp(moment_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@app.command("list")
def list_(
    store: Store = None,
    config: Books = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the keys in the ledger. Their secrets are not there."""
    found = asyncio.run(_list(must_exist(choose_store(store, config))))
    if as_json:
        shown = [
            {name: value for name, value in msgspec.to_builtins(key).items() if not name.endswith("_hmac")} | {"state": _state(key)}
            for key in found
        ]
        print(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
        return
    rows = [("ID", "NAME", "TEAM", "STATE", "EXPIRES", "MODELS")]
    for key in found:
        ends = "never" if key.expires_ms is None else _moment(key.expires_ms)
        rows.append((key.key_id, key.name, key.team or "-", _state(key), ends, ",".join(key.models) or "all"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


async def _list(store: str) -> list[StoredKey]:
    async with visiting(store) as ledger:
        return list(await ledger.list_keys())


def _state(key: StoredKey) -> str:
    if key.revoked_ms is not None:
        return "revoked"
    if key.expires_ms is not None and key.expires_ms <= time.time() * 1000:
        return "expired"
    return "active"


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The 8 characters after `sk-fg-`.")],
    reason: Why = "",
    store: Store = None,
    config: Books = None,
) -> None:
    """Revoke a key: refused everywhere within a second, for good."""
    key = asyncio.run(_revoke(must_exist(choose_store(store, config)), _id_of(key_id), reason))
    print(f"Key {key.key_id} ({key.name or 'without a name'}) is revoked.")


def _id_of(text: str) -> str:
    """The id, also of a whole key."""
    return text.removeprefix("sk-fg-").partition("-")[0] if text.startswith("sk-fg-") else text


async def _revoke(store: str, key_id: str, reason: str) -> StoredKey:
    return await _at_ring(store, key_id, lambda ring: ring.revoke(key_id, now_ms=_now_ms(), reason=reason))


@app.command()
def rotate(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The 8 characters after `sk-fg-`.")],
    overlap: Annotated[str, typer.Option(help="How long the secret before is good, too: 0s, 15m, 24h, 7d.")] = "24h",
    reason: Why = "",
    store: Store = None,
    config: Books = None,
) -> None:
    """Give a key another secret and show it, once: its id, and so its budgets and what it spent, stay."""
    try:
        seconds = parse_duration(overlap)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--overlap") from None
    if seconds > MAX_OVERLAP_SECONDS:
        raise typer.BadParameter(f"at most {MAX_OVERLAP_SECONDS // 86_400}d", param_hint="--overlap")
    books = must_exist(choose_store(store, config))

    def work(ring: Keyring) -> Awaitable[tuple[StoredKey, str]]:
        return ring.rotate(_id_of(key_id), overlap_seconds=seconds, now_ms=_now_ms(), reason=reason)

    key, text = asyncio.run(_at_ring(books, key_id, work))
    print(text)
    print("This is the only time that the key is shown.", file=sys.stderr)
    if seconds:
        print(f"The secret before is good until {_moment(key.previous_until_ms)}.", file=sys.stderr)


async def _at_ring(store: str, key_id: str, work: Callable[[Keyring], Awaitable[T]]) -> T:
    """Change a key of the ledger. One that is called by its name is told its id: names need not be unique."""
    async with visiting(store) as ledger:
        try:
            return await work(Keyring(ledger, Desk(ledger.control_store(), who=operator(), via="command")))
        except RouterError as error:
            named = ", ".join(key.key_id for key in await ledger.list_keys() if key.name == key_id)
            hint = f"A key of that name has the id: {named}." if named else "`faregate keys list` shows them."
            raise ConfigError(f"{error.message} {hint}") from None


def _now_ms() -> int:
    return int(time.time() * 1000)


@app.command("hash")
def hash_(store: Store = None, config: Books = None) -> None:
    """Read a key from standard input and print the `secret_hash` for a configuration that uses this ledger."""
    text = sys.stdin.readline().strip()
    parsed = keys.parse(text)
    if parsed is None:
        raise ConfigError("This is not a whole key of Faregate: sk-fg-, 8 characters, a dash, 38 characters.")
    key = StoredKey(key_id=parsed[0], secret_hmac="")
    asyncio.run(_hash_and_keep(choose_store(store, config), key, text, keep=False))
    print(f"id: {_quoted(key.key_id)}")
    print(f"secret_hash: {_quoted(key.secret_hmac)}")
