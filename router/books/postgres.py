"""A table of spend records in PostgreSQL, for those who keep years: every record once, whatever is sent again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, get_args, get_origin

import msgspec

from router.books.columns import plain_row, plain_types
from router.domain.records import SpendRecord
from router.errors import ConfigError

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from psycopg.sql import Composed

VERSION: Final = 1
"""Of the tables. Columns for new fields of a record are added without a new version."""
CONNECT_SECONDS: Final = 10
LOCK: Final = 4_670_125_861_309_001
"""Number of the lock under which tables are made and changed."""


def _types() -> dict[str, str]:
    known = {int: "bigint", str: "text", bool: "boolean"}
    types = {name: known[kind] for name, kind in plain_types().items()} | {"day": "date"}
    for field in msgspec.structs.fields(SpendRecord):
        kinds = [get_origin(kind) or kind for kind in (field.type, *get_args(field.type))]
        if field.name in types and kinds[0] in (dict, list):
            types[field.name] = "jsonb"
    return types | {"ledger": "text"}


COLUMNS: Final[Mapping[str, str]] = _types()
"""Of table `spend`, with their types. Money is nano-USD."""


class Table:
    """The tables `spend` and `sink` in one schema. Raises `ConfigError` from every method: the database cannot be used."""

    def __init__(self, address: str, schema: str, ledger: str) -> None:
        """`ledger`: tells apart ledgers that go into one table."""
        self._address = address
        self._schema = schema
        self._ledger = ledger
        self._db: AsyncConnection[Any] | None = None

    async def __aenter__(self) -> Table:
        try:
            import psycopg
        except ImportError:
            raise ConfigError("The sink needs psycopg: pip install 'faregate[postgres]'.") from None
        try:
            self._db = await psycopg.AsyncConnection.connect(self._address, autocommit=True, connect_timeout=CONNECT_SECONDS)
            await self._prepare()
        except psycopg.Error as error:
            await self.__aexit__(None, None, None)
            raise _failed(error) from None
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if self._db is not None:
            await self._db.close()
            self._db = None

    @property
    def db(self) -> AsyncConnection[Any]:
        """The connection, while it is open."""
        if self._db is None:
            raise ConfigError("The database is not open.")
        return self._db

    def _sql(self, text: str, *more: Composed) -> Composed:
        """A statement; `{}` stands for the schema first."""
        from psycopg import sql

        return sql.SQL(text).format(sql.Identifier(self._schema), *more)

    async def _prepare(self) -> None:
        """Make what is missing. Who may only write finds everything there, and changes nothing."""
        found = "SELECT column_name FROM information_schema.columns WHERE table_schema=%s AND table_name='spend'"
        have = {row[0] for row in await (await self.db.execute(found, (self._schema,))).fetchall()}
        if not have:
            await self._refuse_a_lost_table()
        if have < {*COLUMNS} or not have:
            await self._make(have)
        newest = await (await self.db.execute(self._sql("SELECT max(version) FROM {}.sink"))).fetchone()
        if newest and (newest[0] or 0) > VERSION:
            raise ConfigError(f"The tables in {self._schema} are of version {newest[0]}, this program knows {VERSION}: use a newer one.")

    async def _refuse_a_lost_table(self) -> None:
        """Where records were taken in, a missing table is no new one: made again it would lack all that is behind the cursor."""
        found = "SELECT to_regclass(quote_ident(%(schema)s) || '.spend'), to_regclass(quote_ident(%(schema)s) || '.sink')"
        spend, cursors = await (await self.db.execute(found, {"schema": self._schema})).fetchone() or (None, None)
        if spend is not None or cursors is None:
            return
        row = await (await self.db.execute(self._sql("SELECT sum(records) FROM {}.sink"))).fetchone()
        if row and row[0]:
            raise ConfigError(
                f"Table {self._schema}.spend is missing, but {self._schema}.sink says that {row[0]:,} records are in it. Bring it back "
                f"from a backup; or drop {self._schema}.sink, too: then everything that the log still has is taken in again."
            )

    async def _make(self, have: set[str]) -> None:
        from psycopg import sql

        async with self.db.transaction():
            await self.db.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            for statement in (
                "CREATE SCHEMA IF NOT EXISTS {}",
                "CREATE TABLE IF NOT EXISTS {}.sink (ledger text PRIMARY KEY, version int NOT NULL, position text NOT NULL,"
                " records bigint NOT NULL, at timestamptz NOT NULL)",
                "CREATE TABLE IF NOT EXISTS {}.spend (entry_id text PRIMARY KEY)",
            ):
                await self.db.execute(self._sql(statement))
            for name, kind in COLUMNS.items():
                if name not in have:
                    column = sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind))
                    await self.db.execute(self._sql("ALTER TABLE {}.spend ADD COLUMN IF NOT EXISTS {}", column))
            await self.db.execute(self._sql("CREATE INDEX IF NOT EXISTS spend_at_ms ON {}.spend (at_ms)"))

    async def position(self) -> str:
        """How far the log has been taken in; empty: not begun."""
        import psycopg

        try:
            found = await self.db.execute(self._sql("SELECT position FROM {}.sink WHERE ledger=%s"), (self._ledger,))
            row = await found.fetchone()
        except psycopg.Error as error:
            raise _failed(error) from None
        return row[0] if row else ""

    async def write(self, records: Sequence[SpendRecord], *, after: str, position: str) -> int:
        """Take in records and move the cursor from `after` to `position`, in one transaction. Returns how many were new."""
        import psycopg

        try:
            async with self.db.transaction():
                await self._move(after, position, len(records))
                return await self._copy(records)
        except psycopg.Error as error:
            raise _failed(error) from None

    async def _move(self, after: str, position: str, count: int) -> None:
        """Also keeps others of the same ledger waiting until the transaction has ended."""
        moved = await self.db.execute(
            self._sql(
                "INSERT INTO {}.sink AS s VALUES (%(ledger)s, %(version)s, %(to)s, %(count)s, now()) ON CONFLICT (ledger) DO UPDATE"
                " SET version=excluded.version, position=excluded.position, records=s.records+excluded.records, at=now()"
                " WHERE s.position=%(from)s"
            ),
            {"ledger": self._ledger, "version": VERSION, "to": position, "count": count, "from": after},
        )
        if moved.rowcount != 1:
            raise ConfigError("Another sink of this ledger writes to the same table. Its records are there; nothing is lost.")

    async def _copy(self, records: Sequence[SpendRecord]) -> int:
        from psycopg import sql

        names = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
        await self.db.execute(self._sql("CREATE TEMP TABLE incoming ON COMMIT DROP AS SELECT {1} FROM {0}.spend WITH NO DATA", names))
        async with self.db.cursor() as cursor:
            async with cursor.copy(sql.SQL("COPY incoming ({}) FROM STDIN").format(names)) as copy:
                for record in records:
                    row = plain_row(record) | {"ledger": self._ledger}
                    await copy.write_row([_value(row[name], kind) for name, kind in COLUMNS.items()])
            await cursor.execute(self._sql("INSERT INTO {0}.spend ({1}) SELECT {1} FROM incoming ON CONFLICT (entry_id) DO NOTHING", names))
            return cursor.rowcount


def _value(value: object, kind: str) -> object:
    """A value as PostgreSQL can keep it: it knows no NUL in texts, and names come from clients."""
    if not isinstance(value, str) or kind not in ("text", "jsonb"):
        return value
    if kind == "text":
        return value.replace("\0", "\ufffd")
    return msgspec.json.encode(_without_nul(msgspec.json.decode(value))).decode() if "\\u0000" in value else value


def _without_nul(value: Any) -> Any:
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_nul(each) for each in value]
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _failed(error: Exception) -> ConfigError:
    return ConfigError(f"The database cannot be used: {str(error).strip()}")
